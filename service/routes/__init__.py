"""HTTP in, HTTP out: each module one group of paths."""
