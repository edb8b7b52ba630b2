"""Writes held-out sessions as CSV, as a caller's own data might look: for demo and tests."""

from __future__ import annotations

import csv
from pathlib import Path

from training.data import FEATURES, LABELS, Recording, read_recordings
from training.split import HELD_OUT, by_person


def write_examples(file: Path, sessions: int = 8) -> list[str]:
    """Write some sessions of the held-out people, of every exercise and both arms.

    Returns the names of the sessions.
    """
    _, held_out = by_person(read_recordings(), HELD_OUT)
    chosen = _choose(held_out, sessions)
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["session", "label", *FEATURES])
        for recording in chosen:
            for row in recording.signal:
                values = [f"{value:.6g}" for value in row]
                writer.writerow([recording.name, LABELS[recording.label], *values])
    return [recording.name for recording in chosen]


def _choose(recordings: list[Recording], count: int) -> list[Recording]:
    """The k-th session does exercise k modulo 7; people and arms alternate."""
    chosen = []
    for k in range(count):
        person = HELD_OUT[k % len(HELD_OUT)]
        arm = float(k // 2 % 2)
        label = k % len(LABELS)
        chosen += [
            r
            for r in recordings
            if (r.person, r.label, float(r.signal[0, -1])) == (person, label, arm)
            and r not in chosen
        ][:1]
    return chosen
