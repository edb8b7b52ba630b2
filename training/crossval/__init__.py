"""Held out in turn: each fold's fit, settings chosen within folds, and figures of all of them."""
