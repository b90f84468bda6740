"""Score to ids and back."""
