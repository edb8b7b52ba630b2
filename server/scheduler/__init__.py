"""Continuous batching: pending rows of many sessions become one run when the engine is free."""
