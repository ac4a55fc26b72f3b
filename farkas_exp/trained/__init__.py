"""A run that has been trained, in Python and on the command line: load, evaluate, predict, export."""
