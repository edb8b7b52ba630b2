"""Servers and commands without the second that each takes to import what it needs: forked from a
process that has imported it all. `harness.start` and `tests.cli.running` have them made here.

What is forked runs the program's own `main`, and is a child of the process that asked, as if that
had started it: it alone may wait for it, and sees its true end.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36
LONGEST = 65_536
ONE_AT_A_TIME = threading.Lock()
OTHERS = (
    "apsw", "cryptography.x509", "encodings.idna", "grpc.aio", "grpc_health.v1.health_pb2_grpc",
    "numpy.ma", "numpy.random", "onnxruntime", "opentelemetry.sdk.trace", "prometheus_client",
    "pydantic_settings", "redis",
)  # fmt: skip
"""What a server has imported once it serves, and is not its own."""
MODULES = {
    "-c": OTHERS,
    "server": (*OTHERS, "server.program", "server.store.redis", "server.store.sqlite"),
    "tidegate": (
        "grpc.aio", "numpy.ma", "rich.live", "rich.table", "tidegate.cli.bench",
        "tidegate.cli.models", "tidegate.cli.run", "tidegate.cli.server", "tidegate.cli.sessions",
        "tidegate.cli.stream", "tidegate.cli.token", "tidegate.cli.top", "tidegate.cli.versions",
    ),
}  # fmt: skip
"""By program, what a process has imported that it is forked from."""


class Forked(subprocess.Popen[bytes]):
    """As `python -m` with the first of the arguments, in this environment and folder; or as
    `python -c`: such code may change modules before others import them."""

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        standard = [k if fd < 0 else fd for k, fd in enumerate((rest[9], rest[12], rest[14]))]
        self.pid = _fork(args, rest[4] or Path.cwd(), standard)
        self._child_created = True
        self._close_pipe_fds(*rest[9:15])  # type: ignore[attr-defined]


def _fork(arguments: Sequence[str], folder: Path | str, standard: list[int]) -> int:
    asked = {"arguments": arguments, "folder": str(folder), "environment": dict(os.environ)}
    with ONE_AT_A_TIME:
        nest = _nest(os.getpid(), MODULES[arguments[0]])
        socket.send_fds(nest, [json.dumps(asked).encode()], standard)
        told = nest.recv(LONGEST)
    if not told:
        raise RuntimeError("the process that others are forked from has died")
    return int(told)


@cache
def _nest(owner: int, modules: Sequence[str]) -> socket.socket:
    """Starts a process that others are forked from; once for each process that asks."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.forked", str(its.fileno()), *modules]
    process = subprocess.Popen(command, pass_fds=[its.fileno()], cwd=ROOT)
    its.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(asking: socket.socket, modules: Sequence[str]) -> None:
    """Fork a process for each message, until nobody is left to send any."""
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each would look through it all, and have a copy of its own
    while (come := socket.recv_fds(asking, LONGEST, 3))[0]:
        told, tells = os.pipe()
        middle = os.fork()
        if not middle:
            if not (child := os.fork()):
                for each in (asking.detach(), told, tells):
                    os.close(each)
                _become(json.loads(come[0]), come[1])
            os.write(tells, str(child).encode())
            os._exit(0)
        os.waitpid(middle, 0)  # with it gone, its child belongs to the process that asked
        asking.send(os.read(told, LONGEST))
        for each in (told, tells, *come[1]):
            os.close(each)


def _become(asked: dict[str, Any], standard: Sequence[int]) -> None:
    status = 1
    try:
        for k, each in enumerate(standard):
            os.dup2(each, k)
            os.close(each)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        status = _run(*asked["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(program: str, *arguments: str) -> int:
    sys.argv = [program, *arguments]
    if program == "-c":
        code, *sys.argv[1:] = arguments
        exec(code, {"__name__": "__main__"})
        return 0
    starting = importlib.import_module(
        "tidegate.cli" if program == "tidegate" else "server.__main__"
    )
    return int(starting.main())


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
