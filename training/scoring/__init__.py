"""How good predictions are, by session: figures, intervals, baselines, two side by side."""
