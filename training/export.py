"""From a trained network to a proven bundle: ways to compute each output must agree first.

Torch over the whole session, the single-step graph one observation at a time, the ragged graph in
chunks of random lengths, and the NumPy reference in float64. What float32, float16 and int8 cost
and bring is measured on the same held-out sessions, at every export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from server.bundle.manifest import SINGLE, SINGLE_CUDA
from server.engine.device import Device, choose
from server.errors import BadModel
from training.bundle import write_bundle
from training.errors import TrainingError
from training.figures import step_figures
from training.graphs.choice import Times, choose_form, measure
from training.graphs.stepping import (
    MAX_CHUNK,
    by_chunks,
    by_single_steps,
    neighbour_difference,
    serve,
    with_cuda_single,
    with_single,
)
from training.graphs.whole import PRECISIONS, SCAN, Form, graphs
from training.network import Floats, Network, ascending
from training.reference import Array, NumpyNetwork
from training.table.session import Session, Target

TOLERANCE, MOST_STEPS = 1e-5, 50_000
BATCHES = (1, 16, 128)
NEIGHBOURS, STEPS = 16, 100

Torch = Callable[[Floats], Floats]
"""A whole session [T, F] to its outputs [T, O], from a fresh state."""


def export(
    folder: Path,
    network: Network,
    *,
    features: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    sessions: Sequence[Session],
    target: Target,
    torch_outputs: Torch | None,
    precision: str = "float32",
    description: str,
    provenance: Mapping[str, Any],
) -> dict[str, float]:
    """Prove the float32 export on held-out sessions, choose form and opset by measurement, measure
    the precisions, and write the bundle; returns the largest differences from the reference.

    Args:
        torch_outputs: the network that was trained, as torch computes it.
        provenance: the manifest's `training`.
        precision: what the written graphs compute in: "float32", "float16" or "int8".

    Raises:
        ParityError: an implementation differs by more than 1e-5; nothing is written.
        TrainingError: there is no session, or the precision cannot run here.
    """
    if precision not in PRECISIONS:
        raise TrainingError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    device, truth = choose("auto"), truth_of(network, sessions)
    try:
        form, measured = choose_form(network, device)
        parity = prove(network, form, truth, torch_outputs, device)
        costs = measure_precisions(network, form, truth, target, device)
    except BadModel as error:
        raise TrainingError(f"the exported graphs do not run: {error}") from error
    if "error" in costs[precision]:
        raise TrainingError(f"precision {precision} cannot run here: {costs[precision]['error']}")
    chosen = form_for(network, form, precision)
    write_bundle(
        folder,
        network,
        features=features,
        outputs=outputs,
        max_chunk=MAX_CHUNK,
        description=description,
        training=provenance,
        parity=parity,
        form=chosen,
        more={"export": _told(chosen, device) | {"measured": measured}, "precisions": costs},
    )
    return parity


def _told(form: Form, device: Device) -> dict[str, Any]:
    return {
        "form": asdict(form),
        "device": device.name,
        "onnxruntime": onnxruntime.__version__,
    }


class ParityError(TrainingError):
    """The exported graphs do not compute what was trained; nothing was written."""


@dataclass(frozen=True)
class Truth:
    """Sessions and the outputs [T, O] of the NumPy reference in float64 on them.

    Differences are in shares of `scale` [O]: 1 for probabilities, else the largest value.
    """

    signals: tuple[Floats, ...]
    targets: tuple[Floats, ...]
    outputs: tuple[Array, ...]
    scale: Array

    def differences(self, found: Sequence[Floats]) -> Array:
        """|found - outputs| / scale [steps, O]; infinite where something is not finite."""
        apart = np.abs(np.concatenate(found) - np.concatenate(self.outputs)) / self.scale
        return np.where(np.isfinite(apart), apart, np.inf)


def truth_of(network: Network, sessions: Sequence[Session]) -> Truth:
    """Whole sessions, as many as fit into 50,000 steps, and at least a part of one.

    Raises:
        TrainingError: there is no session.
    """
    if not sessions:
        raise TrainingError("there is no session to prove the export on")
    bounded = _bounded(sessions)
    reference = NumpyNetwork(network, np.float64)
    outputs = tuple(reference.run(each.x, reference.initial())[0] for each in bounded)
    return Truth(
        tuple(each.x for each in bounded),
        tuple(each.y for each in bounded),
        outputs,
        scale_of(network, np.concatenate(outputs)),
    )


def scale_of(network: Network, outputs: Array) -> Array:
    """What differences of outputs [steps, O] are shares of, [O]."""
    if network.softmax:
        return np.ones(network.outputs)
    largest = np.abs(outputs).max(axis=0)
    return np.where(largest > 0, largest, 1.0)


def prove(
    network: Network, form: Form, truth: Truth, torch_outputs: Torch | None, device: Device
) -> dict[str, float]:
    """The largest difference of each implementation from the reference.

    Raises:
        ParityError: one is above 1e-5, or puts out quantiles that cross.
    """
    files = graphs(network, form)
    engine = serve(network, form, len(truth.signals), device, with_single(files, SINGLE))
    found = {
        "single_steps": by_single_steps(engine, truth.signals),
        "ragged_chunks": by_chunks(engine, truth.signals, np.random.default_rng(0)),
    }
    if SINGLE_CUDA in files:
        files = with_cuda_single(files, network.states(), device)
        own = serve(network, form, len(truth.signals), device, files)
        found["cuda_single_steps"] = by_single_steps(own, truth.signals)
    if torch_outputs is not None:
        found["torch"] = [torch_outputs(signal) for signal in truth.signals]
    for name, outputs in found.items():
        _check_order(network, name, np.concatenate(outputs))
    errors = {name: float(truth.differences(each).max()) for name, each in found.items()}
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise ParityError(f"{name} differs from the reference by {error:.2e}")
    return errors


def _check_order(network: Network, name: str, outputs: Floats) -> None:
    if network.fan is None:
        return
    fans = ascending(outputs, network.fan.levels)
    if crossing := int((np.diff(fans, axis=-1) < 0).any(axis=(1, 2)).sum()):
        raise ParityError(f"{name} puts out quantiles that cross, at {crossing:,} steps")


def _bounded(sessions: Sequence[Session]) -> list[Session]:
    taken, left = list[Session](), MOST_STEPS
    for session in sessions:
        if len(session) <= left:
            taken.append(session)
            left -= len(session)
    return taken or [sessions[0].part(0, MOST_STEPS)]


def form_for(network: Network, form: Form, precision: str) -> Form:
    """The form chosen in float32 at another precision, or the one way that precision allows."""
    wanted = replace(form, precision=precision)
    return wanted if wanted.allows(network) else Form(SCAN, "gemm", form.opset, precision)


def measure_precisions(
    network: Network, form: Form, truth: Truth, target: Target, device: Device
) -> dict[str, dict[str, Any]]:
    """For each precision its differences from the float64 reference (as `Truth` has them), the
    sessions' figures, how much neighbours matter, and steps a second; or why it cannot run. All on
    the device, but for int8, which is for the CPU alone."""
    forms = [form_for(network, form, precision) for precision in PRECISIONS]
    places = {form: Device("cpu") if form.precision == "int8" else device for form in forms}
    found = {form.precision: _cost(network, form, truth, target, at) for form, at in places.items()}
    for place in dict.fromkeys(places.values()):
        here = [f for f, at in places.items() if at == place and "error" not in found[f.precision]]
        for each, times in _measured(network, here, place).items():
            speeds = {str(batch): round(batch / seconds) for (batch, _), seconds in times.items()}
            found[each.precision]["steps_per_second"] = speeds
    return found


def _measured(network: Network, forms: Sequence[Form], device: Device) -> dict[Form, Times]:
    return measure(network, forms, device, BATCHES, (1,)) if forms else {}


def _cost(
    network: Network, form: Form, truth: Truth, target: Target, device: Device
) -> dict[str, Any]:
    try:
        engine = serve(network, form, len(truth.signals), device)
        single = by_single_steps(engine, truth.signals)
        chunks = by_chunks(engine, truth.signals, np.random.default_rng(0))
        few = [signal[:STEPS] for signal in truth.signals[:NEIGHBOURS]]
        neighbours = neighbour_difference(engine, few)
    except (BadModel, RuntimeError, ValueError) as error:
        return {"error": str(error)}
    if not all(np.isfinite(each).all() for each in (*single, *chunks)):
        return {"error": "an output is not finite"}
    apart = np.stack([truth.differences(single), truth.differences(chunks)])
    return {
        "difference": {"max": float(apart.max()), "mean": float(apart.mean())},
        "neighbours": neighbours,
        **step_figures(single, truth.targets, target),
    }
