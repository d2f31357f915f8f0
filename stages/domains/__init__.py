"""Stage folder: domains."""
