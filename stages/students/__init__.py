"""Stage folder: students."""
