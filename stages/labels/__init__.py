"""Stage folder: labels."""
