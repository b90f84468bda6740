"""What a tune is: notes, marks, keys, meters, bars and runs."""
