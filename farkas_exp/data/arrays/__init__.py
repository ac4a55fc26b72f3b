"""Data sets that are loaded into memory as a whole, a module each."""
