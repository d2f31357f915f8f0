"""Stage folder: teachers."""
