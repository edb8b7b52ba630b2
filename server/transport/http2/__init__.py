"""gRPC over HTTP/2, served by one thread: all that has come is taken in before anything is stepped.

A turn of `loop` waits (`polling`, `timers`), and takes in: a connection's bytes to frames
(`framing`), its frames to calls (`connection`), a call's bytes to messages (`incoming`). Replies go
back by `call` and `outgoing`; `lookout` closes what is silent. `headers` and `frames` are the
formats (RFC 9113, RFC 7541, gRPC's PROTOCOL-HTTP2).
"""
