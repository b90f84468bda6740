"""The score card: how well a model predicts tunes, and how its tunes compare with real ones."""
