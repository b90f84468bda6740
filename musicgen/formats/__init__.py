"""Files to Score and back: read(path), write(score, path) by suffix."""
