"""The transport over grpc.aio: one event loop; both protocols, health, reflection on one port."""
