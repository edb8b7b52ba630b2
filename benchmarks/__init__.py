"""Side-by-side measurements: what the server costs beside its engine, and a GPU beside the CPU."""
