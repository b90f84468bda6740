"""The score card: tunes compared with real ones, each figure with a band and a verdict."""
