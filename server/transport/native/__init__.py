"""The transport over gRPC's completion queue: one thread takes in all that is ready, in one run."""
