"""What the watcher knows of a folder of the repository: whether it changes yet, and if it failed.

A bundle whose files are still being copied does not verify. That is no news as long as it changes;
if it stays so from one look to the next, it is broken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

Signature = tuple[tuple[str, int, int, int], ...]


class State(Enum):
    """What to do about a folder that is not served."""

    TRY = "try"
    """It is new, or has changed: look whether it can be served."""
    STUCK = "stuck"
    """It failed, and has not changed since then: it is broken."""
    KNOWN = "known"
    """It has been told to be broken already, and has not changed."""


def signature(folder: Path) -> Signature:
    """Which files lie in a folder, and all that changes with them: size, times, identity."""
    found = []
    for file in folder.iterdir():
        try:
            told = file.stat()
        except OSError:  # it goes or comes just now, or is a link to nothing
            found.append((file.name, -1, 0, 0))
        else:
            found.append((file.name, told.st_size, told.st_ctime_ns, told.st_ino))
    return tuple(sorted(found))


@dataclass
class Folder:
    """A NAME/VERSION folder that could not be served when it was last looked at."""

    seen: Signature = ()
    why: str = ""
    told: bool = field(default=False)

    def state(self, now: Signature) -> State:
        """What to do, now that the folder looks like this."""
        if now != self.seen:
            return State.TRY
        return State.KNOWN if self.told else State.STUCK
