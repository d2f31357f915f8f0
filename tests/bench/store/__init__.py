"""`make bench-store`: the soft-label store against its peers, on size, and on how its cost grows."""
