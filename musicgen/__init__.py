"""Learn from a folder of tunes and write new ones."""
