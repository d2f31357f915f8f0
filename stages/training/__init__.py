"""Stage folder: training."""
