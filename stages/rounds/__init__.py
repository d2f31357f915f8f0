"""Rounds, measured: what policies are told. The policies themselves are in `pipeline/rounds`."""
