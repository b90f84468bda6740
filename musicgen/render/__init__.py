"""From a score to what a person hears and sees: sound, piano roll, HTML page."""
