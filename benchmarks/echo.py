"""A bare echo over the completion queue: what gRPC costs with nothing behind it.

`python -m benchmarks.echo` answers `/echo` with the bytes it is sent, until it is told to end.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.machine import ServerProcess, started
from server.config import Config
from server.transport.cq import core
from server.transport.cq.core import Call, Core, Event, nothing
from server.transport.listening import options


def serving(on: int) -> AbstractContextManager[ServerProcess]:
    """The echo in a process of its own, on a core."""
    return started([sys.executable, "-m", "benchmarks.echo"], on)


def _answer(call: Call) -> None:
    def answer(event: Event) -> None:
        call.answer(core.message(event) or b"")

    call.receive(answer)


def main() -> None:
    """Serve."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(model_repository=Path(folder))
        echo = Core(options(config), _answer, lambda: None, lambda: nothing(None))
        print(f"serving grpc=127.0.0.1:{echo.listen('127.0.0.1:0')} ", file=sys.stderr, flush=True)
        echo.start()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
