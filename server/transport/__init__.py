"""gRPC, and the only part that knows it: requests to submissions, completions to replies."""
