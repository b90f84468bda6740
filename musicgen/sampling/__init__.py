"""One tune at a time, in NumPy."""
