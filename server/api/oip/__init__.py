"""The Open Inference Protocol v2 with Triton's sequence extension, over the same sessions.

A request is one step of one sequence, and a sequence is a session like any other. `docs/oip.md`
says what is served and where it differs from Triton.
"""
