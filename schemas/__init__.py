"""crossdistill: what crosses a boundary. Pydantic models only: no torch, no ray."""
