"""crossdistill: the work. One folder per stage; nothing here imports `pipeline`."""
