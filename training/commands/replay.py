"""Stream a bundle's held-out sessions through a server: are the figures those measured offline?

Status 0, or 1 where outputs or figures part.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from tidegate.cli.common import Failure, client_options, seconds
from training.errors import TrainingError
from training.insight.evaluation import Evaluation, evaluate
from training.replay.parting import Parting, partings, scale_of
from training.replay.streaming import Place, Streamed, stream
from training.scoring.held_out import HeldOut, scores_on, subject_on
from training.scoring.words import name_of, told_interval

SHOWN = 10
"""Sessions that part, told one by one."""


class Parted(TrainingError):
    """What the server answers is not what was measured."""

    status = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE, TABLE, the server, how near is the same."""
    add = parser.add_argument
    add("bundle", type=Path, help="its folder, .../NAME/VERSION")
    add("table", type=Path, nargs="?", help="a file like the one it was trained on (that one)")
    add("--server", dest="address", required=True, metavar="HOST:PORT", help="it serves the bundle")
    add("--served", metavar="NAME/VERSION", help="by another name there than the bundle's own")
    add("--tolerance", type=_share, default=1e-4, help="how far outputs and figures may be "
        "apart, of 1 for probabilities, of the largest value otherwise (%(default)s)")  # fmt: skip
    add("--timeout", type=seconds, default=10.0, help="seconds a call may take (%(default)s)")
    add("--tls-ca", type=Path, metavar="FILE", help="PEM: encrypt, and trust whom it signed")
    add("--tls-cert", type=Path, metavar="FILE", help="PEM: this client's own")
    add("--tls-key", type=Path, metavar="FILE", help="PEM: its key")
    add("--token-file", type=Path, metavar="FILE", help="has the token that says who calls")
    parser.set_defaults(shards=1)


def run(arguments: argparse.Namespace) -> None:
    """Print the figures of both ways.

    Raises:
        TrainingError: the bundle, the table or the server; `Parted` where the two ways part.
    """
    held = subject_on(arguments.bundle, arguments.table)
    place = _place(arguments, held)
    offline = evaluate(held.subject)
    streamed = stream(place, held.subject.manifest, offline.sessions)
    online = Evaluation(offline.part, offline.target, offline.sessions, tuple(streamed.outputs))
    _tell(held, place, offline, streamed)
    gap = _tell_figures(held, offline, online)
    apart = _apart(held, offline, streamed, arguments.tolerance)
    if apart:
        raise Parted(_sentence(place, apart, len(offline.sessions)))
    if not gap <= arguments.tolerance:
        raise Parted(f"{place.address}: figures are {gap:.2g} apart")
    print(f"the same within {arguments.tolerance:g}, output by output and figure by figure")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below 1")
    return value


def _place(arguments: argparse.Namespace, held: HeldOut) -> Place:
    try:
        options = client_options(arguments)
    except Failure as error:
        raise TrainingError(str(error)) from error
    name, _, version = (arguments.served or held.subject.name).rpartition("/")
    if not name or not version.isdecimal():
        raise TrainingError(f"--served must be NAME/VERSION, not {arguments.served!r}")
    return Place(arguments.address, name, int(version), options)


def _tell(held: HeldOut, place: Place, offline: Evaluation, streamed: Streamed) -> None:
    steps = sum(map(len, offline.sessions))
    print(f"{held.subject.name} on the {held.part}: {len(offline.sessions):,} sessions, {steps:,} "
          f"steps, side by side through {place.name}/{place.version} at {place.address} "
          f"in {streamed.seconds:.1f} s")  # fmt: skip


def _tell_figures(held: HeldOut, offline: Evaluation, online: Evaluation) -> float:
    """Print both ways' figures; returns the largest difference, as a share of 1 or of the error."""
    ours, theirs = scores_on(offline, held.part), scores_on(online, held.part)
    gaps = [0.0]
    for name, figure in ours.figures.items():
        other = theirs.figures.get(name)
        value = math.nan if other is None else other.value
        gaps.append(abs(value - figure.value) / max(1.0, abs(figure.value)))
        shown = "–" if other is None else told_interval(other)
        print(f"{name_of(name)}: {shown} streamed, {told_interval(figure)} offline")
    return math.inf if any(map(math.isnan, gaps)) else max(gaps)


def _apart(
    held: HeldOut, offline: Evaluation, streamed: Streamed, tolerance: float
) -> list[Parting]:
    outputs = held.subject.manifest["outputs"]
    names = [
        f"{output['name']}={label}" if "labels" in output else output["name"]
        for output in outputs
        for label in output.get("labels", range(output["size"]))
    ]
    kinds = [output["kind"] for output in outputs for _ in range(output["size"])]
    limit = tolerance * scale_of(offline.outputs, kinds)
    sessions = [session.name for session in offline.sessions]
    return partings(sessions, names, streamed.outputs, offline.outputs, limit)


def _sentence(place: Place, apart: list[Parting], sessions: int) -> str:
    lines = [f"  {each.told()}" for each in apart[:SHOWN]]
    if len(apart) > SHOWN:
        lines.append(f"  and {len(apart) - SHOWN:,} sessions more")
    first = f"{place.address} answers otherwise in {len(apart):,} of {sessions:,} sessions:"
    return "\n".join([first, *lines])
