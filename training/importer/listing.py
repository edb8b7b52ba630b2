"""What a graph takes and gives, and what looks like a state of it: for whoever is to say which is
which. Guesses are shown, never taken.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from training.importer.original import Edge, Original, main_opset
from training.importer.plan import State

Pair = tuple[Edge, Edge]


def listing(original: Original) -> str:
    """The tensors with types and shapes, and a command to begin with."""
    inputs, outputs = list(original.inputs.values()), list(original.outputs.values())
    wide = max(len(each.name) for each in [*inputs, *outputs])
    lines = [f"{original.name}, opset {main_opset(original.model)}"]
    for what, edges in (("inputs", inputs), ("outputs", outputs)):
        lines.append(what)
        lines += [f"  {each.name:<{wide}}  {each.dtype:<8} {each.told()}" for each in edges]
    return "\n".join([*lines, "a guess, for you to correct:", f"  {_command(original)}"])


def _command(original: Original) -> str:
    inputs, outputs = list(original.inputs.values()), list(original.outputs.values())
    pairs = _pairs(inputs, outputs)
    entering, leaving = ({each[k].name for each in pairs} for k in (0, 1))
    left = [each for each in inputs if each.name not in entering]
    sent = max(left, key=_likely_input, default=None)
    words = [f"--state {_quoted(a.name, b.name)}{_axis(a)}" for a, b in pairs] or ["--state IN=OUT"]
    words.append(f"--input {shlex.quote(sent.name) if sent else 'NAME'}{_axis(sent)}")
    words += [f"--output {shlex.quote(each.name)}{_axis(each)}" for each in outputs
              if each.name not in leaving] or ["--output NAME"]  # fmt: skip
    words += [f"--const {shlex.quote(each.name)}=VALUE" for each in left if each is not sent]
    stem = original.name.partition(".")[0]
    return " ".join(["tidegate-train import", shlex.quote(original.name), *words,
                     f"--out models/{shlex.quote(stem)}/1"])  # fmt: skip


def _quoted(enters: str, leaves: str) -> str:
    return shlex.quote(f"{enters}={leaves}")


def _axis(edge: Edge | None) -> str:
    """The batch's: the one that the graph names, or the only one that it leaves open."""
    if edge is None or edge.sizes is None:
        return ""
    return f":{edge.open_axis}" if edge.open_axis else ""


def _likely_input(edge: Edge) -> tuple[bool, bool]:
    """What callers send is seldom a scalar, and seldom whole numbers."""
    return edge.sizes is None or len(edge.sizes) > 0, edge.dtype.startswith("float")


def _pairs(inputs: Sequence[Edge], outputs: Sequence[Edge]) -> list[Pair]:
    """Inputs and outputs of one type and shape, those of the likest names first; a graph's last
    output-like input and output are left to callers."""
    every = [(a, b) for a in inputs for b in outputs if _may_be(a, b)]
    every.sort(key=lambda pair: -likeness(pair[0].name, pair[1].name))
    found, used = list[Pair](), set[str]()
    most = min(len(inputs), len(outputs)) - 1
    for a, b in every:
        if len(found) < most and f"in {a.name}" not in used and f"out {b.name}" not in used:
            found.append((a, b))
            used |= {f"in {a.name}", f"out {b.name}"}
    order = [each.name for each in inputs]
    return sorted(found, key=lambda pair: order.index(pair[0].name))


def _may_be(enters: Edge, leaves: Edge) -> bool:
    if enters.dtype != leaves.dtype or enters.sizes == ():
        return False
    if enters.sizes is None or leaves.sizes is None:
        return True
    return len(enters.sizes) == len(leaves.sizes) and all(
        a == b or None in (a, b) for a, b in zip(enters.sizes, leaves.sizes, strict=True)
    )


def likeness(enters: str, leaves: str) -> float:
    """How alike two names are, from 0 to 1."""
    return SequenceMatcher(None, enters.lower(), leaves.lower()).ratio()


def swappable(states: Sequence[State]) -> Iterable[tuple[State, State]]:
    """Pairs of states that would fit as well the other way round, and by their names no worse: what
    the probe cannot tell."""
    for k, one in enumerate(states):
        for other in states[k + 1 :]:
            alike = (one.row, one.dtype, one.axis) == (other.row, other.dtype, other.axis)
            given = likeness(one.enters, one.leaves) + likeness(other.enters, other.leaves)
            swapped = likeness(one.enters, other.leaves) + likeness(other.enters, one.leaves)
            if alike and swapped >= given:
                yield one, other
