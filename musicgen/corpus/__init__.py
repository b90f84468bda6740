"""Many files to a split, checked, encoded data set."""
