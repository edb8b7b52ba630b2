"""One part's process: does the part and says each record as a line of JSON.

    python -m benchmarks.gpu.part NAME OPTIONS

Whatever else is printed goes to stderr. A package that is missing is said and no failure; any other
exception ends the process with a traceback.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from benchmarks.gpu.options import Options, Unusable, unpacked

MODULES = {
    "machine": "hardware",
    "proofs": "proofs",
    "floor": "floor",
    "steps": "steps",
    "torch": "torch_steps",
    "served": "served",
    "sessions": "residents",
}
"""Each has `run(options, say)`; imported only here, for each needs other packages."""


def main(name: str, options: Options) -> int:
    """Exit status 0: done, or said why not."""
    say = _records()
    try:
        _prepared(options.prepare)
        importlib.import_module(f"benchmarks.gpu.{MODULES[name]}").run(options, say)
    except Unusable as error:
        say("left out", part=name, why=str(error))
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith(("benchmarks", "server", "tests", "training")):
            raise
        say("left out", part=name, why=f"the package {error.name} is not installed")
    return 0


def _records() -> Any:
    """Standard output is for records alone: libraries print what they like."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(kind: str, **figures: Any) -> None:
        channel.write(json.dumps({"kind": kind, **figures}) + "\n")

    return say


def _prepared(named: str) -> None:
    if named:
        module, _, function = named.partition(":")
        getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], unpacked(sys.argv[2])))
