"""A bare echo over our transport: what gRPC costs with nothing behind it.

`python -m benchmarks.echo` answers `/echo` with the bytes it is sent, until it is told to end.
"""

from __future__ import annotations

import signal
import sys
from contextlib import AbstractContextManager

from benchmarks.machine import ServerProcess, started
from server.transport.http2.call import Call
from server.transport.http2.loop import Loop


def serving(on: int) -> AbstractContextManager[ServerProcess]:
    """The echo in a process of its own, on a core."""
    return started([sys.executable, "-m", "benchmarks.echo"], on)


def _answer(call: Call) -> None:
    call.receive(lambda packed: call.answer(packed or b""))


def main() -> None:
    """Serve."""
    echo = Loop(_answer, nothing, nothing, largest_message=2**20, most_calls=4_096)
    port = echo.listen("127.0.0.1", 0)
    print(f"serving grpc=127.0.0.1:{port} ", file=sys.stderr, flush=True)
    echo.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def nothing() -> None:
    """There is nothing to settle."""


if __name__ == "__main__":
    main()
