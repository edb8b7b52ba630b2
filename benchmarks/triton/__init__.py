"""The peer to measure against: tritonserver with its sequence batcher, and its official client."""
