"""gRPC over HTTP/2, served by one thread: all that has come is taken in before anything is stepped.

`loop` waits for sockets, `connection` speaks frames, `call` carries messages, `headers` and
`frames` are the formats (RFC 9113, RFC 7541, gRPC's PROTOCOL-HTTP2).
"""
