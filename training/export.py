"""From a trained network to a proven bundle: ways to compute each output must agree first.

Torch over the whole session, the single-step graph one observation at a time, the ragged graph in
chunks of random lengths, and the NumPy reference in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime

from server.engine.device import Device, choose
from server.errors import BadModel
from training.bundle import write_bundle
from training.errors import TrainingError
from training.export_proof import prove, truth_of
from training.graphs.choice import choose_form
from training.graphs.form import PRECISIONS, Form
from training.graphs.served import MAX_CHUNK
from training.network import Floats, Network
from training.precision import form_for, measure_precisions
from training.table.session import Session, Target


def export(
    folder: Path,
    network: Network,
    *,
    features: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    sessions: Sequence[Session],
    target: Target,
    torch_outputs: Callable[[Floats], Floats] | None,
    precision: str = "float32",
    description: str,
    story: Mapping[str, Any],
) -> dict[str, float]:
    """Prove the float32 export on held-out sessions, choose form and opset by measurement, measure
    the precisions, and write the bundle; returns the largest differences from the reference.

    Args:
        torch_outputs: a whole session [T, F] to its outputs [T, O], from a fresh state.
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
        training=story,
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
