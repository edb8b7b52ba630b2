"""All proofs, one after the other. One that raises has failed; the next is tried all the same."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu.arenas import check_in_place, check_rows
from benchmarks.gpu.hardware import the_device
from benchmarks.gpu.options import Options, Say
from benchmarks.gpu.parity import Finding, check_ahead, check_captured, check_outputs
from benchmarks.gpu.sharing import check_memory, check_thread, check_together
from benchmarks.gpu.subjects import APART, Subject
from server.bundle.manifest import SINGLE, SINGLE_CUDA
from server.engine.device import Device

ROWS = ("begun", "rows", "others", "forecast")
"""What `check_rows` finds, in this order."""
IN_ALL_FORMS = 2
"""So many of the models are proven with the other graph and in float16, too."""
STATES = 512 << 20
"""Bytes of states, about, of the model that comes and goes."""


@dataclass(frozen=True)
class Proof:
    """Its name, what it is about, and what does it; each finding must be good."""

    name: str
    about: str
    finds: Callable[[], Iterator[Finding]]
    names: tuple[str, ...] = ()
    """One for each finding, where they are of different kinds."""


def run(options: Options, say: Say) -> None:
    """Say each finding; at the end, that the proofs are through."""
    device = the_device(options)
    for proof in proofs(options, device):
        started = time.perf_counter()
        for name, good, told in _findings(proof):
            seconds, started = time.perf_counter() - started, time.perf_counter()
            say("proof", proof=name, about=proof.about, good=good, told=told, seconds=seconds)
    if device.kind == "cpu":
        say("left out", part="proofs", why="threads and memory are proven on a GPU alone")
    say("proven")


def _findings(proof: Proof) -> Iterator[tuple[str, bool, str]]:
    at = 0
    try:
        for good, told in proof.finds():
            yield (proof.names[at] if proof.names else proof.name), bool(good), told
            at += 1
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        last = str(error).splitlines()[-1:] or [""]
        yield proof.name, False, f"{type(error).__name__}: {last[0][:300]}"
        return
    if at < max(1, len(proof.names)):
        yield proof.name, False, f"{at} findings where there should be more"


def proofs(options: Options, device: Device) -> Iterator[Proof]:
    """Those of a run, the quick and telling ones first."""
    most, first = options.most, Subject(options.models[0])
    for each in subjects(options.models):
        yield Proof("outputs", each.name, partial(check_outputs, each, device))
        yield Proof("captured", each.name, partial(check_captured, each, device, most))
        yield Proof("rows", each.name, partial(check_rows, each, device, most), ROWS)
        yield Proof("ahead", each.name, partial(check_ahead, each, device, most))
    if device.kind == "cuda":
        yield Proof("thread", first.name, partial(check_thread, first, device, most))
    together = [Subject(name) for name in options.models] * (1 if options.models[1:] else 2)
    yield Proof(
        "together",
        ", ".join(each.model for each in together),
        partial(check_together, together, device, most),
    )
    if device.kind == "cuda":
        slots = min(max(options.slots), STATES // first.state_bytes)
        yield Proof("memory", first.name, partial(check_memory, first, device, most, slots))
    yield Proof("in place", first.name, partial(check_in_place, first, device, options.slots))


def subjects(models: Sequence[str]) -> list[Subject]:
    """Each model as it is usually served; the first ones in other forms as well."""
    others = ((SINGLE, "float32"), (SINGLE_CUDA, "float16"))
    return [
        *(Subject(model) for model in models),
        *(Subject(model, *how) for model in models[:IN_ALL_FORMS] for how in others),
        *(Subject(model, APART) for model in models[:1]),
    ]
