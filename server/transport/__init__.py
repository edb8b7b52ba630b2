"""Transports: they carry messages between callers and `server.api`, and know nothing else."""
