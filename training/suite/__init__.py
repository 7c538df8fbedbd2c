"""Every experiment that can be run again: what it needs, and one after the other."""
