"""One tune or many from a checkpoint, with NumPy alone."""
