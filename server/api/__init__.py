"""Messages of both protocols to submissions and calls, outcomes to messages, for every transport.

It knows the core and protobuf, and no gRPC library. What may take long is a generator that yields
now and then, so that a transport can let others have their turn.
"""
