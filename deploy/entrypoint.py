"""The image's process 1: the server, and before that an ear for SIGTERM.

A container's first process gets no default action for SIGTERM, so one that comes while Python still
imports would be lost, and the container killed after its grace period. The server puts its own
handler, which drains, in this one's place.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def leave(*_: object) -> NoReturn:
    """Nothing was started, so nothing is left to drain."""
    sys.exit(0)


def main() -> int:
    """The server's exit status."""
    signal.signal(signal.SIGTERM, leave)
    from server.__main__ import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
