"""Active learning from a pool that also holds what is none of the classes."""
