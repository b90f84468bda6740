"""The data model of a tune: notes, marks, keys, meters, bars, voices and melodic runs."""
