"""crossdistill: the order of the work. Spec to graph, runner, command line."""
