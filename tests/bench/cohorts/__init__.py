"""`make bench-students`: cohorts that train from the store against students that ask their teacher in every step."""
