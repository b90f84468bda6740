"""Score to what a person hears and sees: sound, score, piano roll, page."""
