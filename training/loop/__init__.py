"""Trains a network on a dataset, window by window: what the gradient sees, and who drives it."""
