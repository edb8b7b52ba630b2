"""Servers without the second that each takes to import what it needs: forked from a process that
has imported it all. `harness.start` has them made here.

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
    "numpy.ma", "onnxruntime", "opentelemetry.sdk.trace", "prometheus_client", "pydantic_settings",
    "redis",
)  # fmt: skip
"""What a server has imported once it serves, and is not its own."""
ALL = (*OTHERS, "server.program", "server.store.redis", "server.store.sqlite")


class ForkedServer(subprocess.Popen[bytes]):
    """As `python -m server` with these arguments, in this environment; or where the first of them
    is no flag, as `python -c` with them: such code may change modules before others import them."""

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        errors = rest[14]  # the file descriptor that is to be its standard error
        self.pid = _fork(args, os.dup(2) if errors < 0 else os.dup(errors))
        self._child_created = True


def _fork(arguments: Sequence[str], errors: int) -> int:
    asked = json.dumps({"arguments": list(arguments), "environment": dict(os.environ)})
    try:
        with ONE_AT_A_TIME:
            nest = _nest(os.getpid(), OTHERS if _is_code(arguments) else ALL)
            socket.send_fds(nest, [asked.encode()], [errors])
            told = nest.recv(LONGEST)
    finally:
        os.close(errors)
    if not told:
        raise RuntimeError("the process that servers are forked from has died")
    return int(told)


def _is_code(arguments: Sequence[str]) -> bool:
    return not arguments[0].startswith("--")


@cache
def _nest(owner: int, modules: Sequence[str]) -> socket.socket:
    """Starts a process that servers are forked from; once for each process that asks."""
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
    """Fork a server for each message, until nobody is left to send any."""
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each server would look through it all, and have a copy of its own
    while (come := socket.recv_fds(asking, LONGEST, 1))[0]:
        told, tells = os.pipe()
        middle = os.fork()
        if not middle:
            if not (child := os.fork()):
                asked = json.loads(come[0])
                for each in (asking.detach(), told, tells):
                    os.close(each)
                _be_a_server(asked["arguments"], asked["environment"], come[1][0])
            os.write(tells, str(child).encode())
            os._exit(0)
        os.waitpid(middle, 0)  # with it gone, its child belongs to the process that asked
        asking.send(os.read(told, LONGEST))
        for each in (told, tells, come[1][0]):
            os.close(each)


def _be_a_server(arguments: list[str], environment: dict[str, str], errors: int) -> None:
    status = 1
    try:
        os.dup2(errors, 2)
        os.close(errors)
        os.environ.clear()
        os.environ.update(environment)
        status = _run_code(*arguments) if _is_code(arguments) else _run_main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _run_main(arguments: Sequence[str]) -> int:
    from server.__main__ import main

    sys.argv = ["server", *arguments]
    return main()


def _run_code(code: str, *arguments: str) -> int:
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
    return 0


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
