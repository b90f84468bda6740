"""Overlap with the training tunes: note index, copy receipt, copy filter."""
