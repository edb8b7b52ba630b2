"""The client's machinery: calls, and the stream of steps. Callers need none of its names."""
