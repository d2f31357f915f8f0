"""Stage folder: evaluation."""
