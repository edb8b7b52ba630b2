"""The image's health check: asks the server's gRPC health service, and exits 0 when it serves.

Runs inside the container beside the server and reads the same TIDEGATE_HEALTH_PORT, which is not
encrypted, or TIDEGATE_PORT.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 2.0


def main() -> int:
    """0 when the server says SERVING, 1 with the reason on stderr otherwise."""
    port = os.environ.get("TIDEGATE_HEALTH_PORT") or os.environ.get("TIDEGATE_PORT", "50051")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            print(f"no answer from port {port}: {error.code().name}", file=sys.stderr)
            return 1
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
