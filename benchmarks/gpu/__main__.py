"""All parts of the GPU's proof, each in a process of its own, within a time limit.

`make gpu-proof`, or `python -m benchmarks.gpu [PART ...]`. The engine's parts need onnxruntime-gpu,
onnx and numpy alone; a part that needs a package which is not there says so and is left out. Each
record is printed and saved as it comes: `results.json` and RESULTS.md hold whatever was done.

Exit status: 0, all is well; 1, a proof failed or was not finished, or a part died; 2, the device
cannot be used.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.options import PARTS, SHAPES, Options
from benchmarks.gpu.report import line, report

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(__file__).resolve().parent
MACHINE_SECONDS = 60.0
CUT_OFF = "cut off"


class Results:
    """What was said so far; each time it grows, it is written down whole."""

    def __init__(self, folder: Path, command: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.records: list[dict[str, Any]] = []
        self.add({"kind": "run", "command": command, "when": f"{datetime.now(UTC):%F %H:%M} UTC"})

    def add(self, record: dict[str, Any]) -> None:
        """Print a record and save it with all before."""
        self.records.append(record)
        print(line(record), flush=True)
        self._write("results.json", json.dumps(self.records, indent=1) + "\n")
        self._write("RESULTS.md", report(self.records))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All of a kind."""
        return [each for each in self.records if each["kind"] == kind]

    def _write(self, name: str, text: str) -> None:
        new = self._folder / f".{name}.new"
        new.write_text(text)
        new.replace(self._folder / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    given, options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = Results(given.out, " ".join(["python -m benchmarks.gpu", *_told(arguments)]))
    end = time.monotonic() + given.minutes * 60
    run_part("machine", options, MACHINE_SECONDS, results)
    if not results.of("machine"):
        why = [each["why"] for each in results.of("left out")] or ["see above"]
        print(f"gpu-proof: {why[0]}", file=sys.stderr)
        return 2
    for part in given.parts:
        run_part(part, options, min(PARTS[part], end - time.monotonic()), results)
    verdict = _verdict(results, given.parts)
    results.add({"kind": "verdict", "good": not verdict, "told": verdict})
    return 1 if verdict else 0


def run_part(part: str, options: Options, seconds: float, results: Results) -> None:
    """Take a part's records until it ends or its time is up; then nothing of it is left."""
    if seconds <= 1:
        results.add({"kind": CUT_OFF, "part": part, "seconds": 0})
        return
    command = [sys.executable, "-m", "benchmarks.gpu.part", part, options.packed()]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        over = threading.Event()
        watch = threading.Timer(seconds, lambda: _cut_off(process, over))
        watch.start()
        try:
            assert process.stdout is not None
            for told in process.stdout:
                results.add(json.loads(told))
            status = process.wait()
        finally:
            watch.cancel()
            _kill(process)
    if over.is_set():
        results.add({"kind": CUT_OFF, "part": part, "seconds": round(seconds)})
    elif status:
        results.add({"kind": "died", "part": part, "status": status})


def _cut_off(process: subprocess.Popen[str], over: threading.Event) -> None:
    over.set()
    _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """With the servers that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _verdict(results: Results, parts: Sequence[str]) -> str:
    """What is wrong, if anything."""
    wrong = [
        f"{each['proof']} ({each['about']})" for each in results.of("proof") if not each["good"]
    ]
    if "proofs" in parts and not results.of("proven"):
        wrong.append("the proofs were not finished")
    wrong += [f"the part {each['part']} died" for each in results.of("died")]
    return "; ".join(dict.fromkeys(wrong))


def _options(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    add, usual = parser.add_argument, Options()
    add("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is given")
    add("--device", choices=("cuda", "cpu"), default=usual.device)
    add("--out", type=Path, help="folder for RESULTS.md and results.json")
    add("--minutes", type=float, default=8.0, help="after which what is left is left out")
    add("--models", nargs="+", choices=tuple(SHAPES), default=usual.models)
    add("--batches", nargs="+", type=int, default=usual.batches)
    add("--most", type=int, default=usual.most, help="rows of the largest batch that is proven")
    add("--slots", nargs="+", type=int, default=usual.slots, help="arenas to be probed")
    add("--sessions", nargs="+", type=int, default=usual.sessions, help="in a server")
    add("--table-slots", type=int, default=usual.table_slots, help="of arenas in the table")
    add("--seconds", type=float, default=usual.seconds, help="for each line of the table of runs")
    add("--prepare", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    given.parts = given.parts or list(PARTS)
    given.out = given.out or (FOLDER if given.device == "cuda" else ROOT / "runs" / "gpu-on-cpu")
    return given, Options(
        given.device, tuple(given.models), tuple(given.batches), given.most, tuple(given.slots),
        tuple(given.sessions), given.table_slots, given.seconds, given.prepare,
    )  # fmt: skip


def _told(arguments: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if arguments is None else arguments


if __name__ == "__main__":
    sys.exit(main())
