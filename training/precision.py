"""What float32, float16 and int8 cost and bring: measured on held-out sessions at every export."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from server.engine.device import Device
from server.errors import BadModel
from training.export_proof import Truth, figures
from training.graphs.choice import measure
from training.graphs.form import PRECISIONS, SCAN, Form
from training.graphs.served import serve
from training.graphs.walks import by_chunks, by_single_steps, neighbour_difference
from training.network import Network
from training.table.session import Target

BATCHES = (1, 16, 128)
NEIGHBOURS, STEPS = 16, 100


def form_for(network: Network, form: Form, precision: str) -> Form:
    """The form chosen in float32 at another precision, or the one way that precision allows."""
    wanted = replace(form, precision=precision)
    return wanted if wanted.allows(network) else Form(SCAN, "gemm", form.opset, precision)


def measure_precisions(
    network: Network, form: Form, truth: Truth, target: Target, device: Device
) -> dict[str, dict[str, Any]]:
    """For each precision its differences from the float64 reference (as `Truth` has them), the
    sessions' figures, how much neighbours matter, and steps a second; or why it cannot run."""
    forms = [form_for(network, form, precision) for precision in PRECISIONS]
    found = {form.precision: _cost(network, form, truth, target, device) for form in forms}
    running = [form for form in forms if "error" not in found[form.precision]]
    for each, times in measure(network, running, device, BATCHES, (1,)).items():
        speeds = {str(batch): round(batch / seconds) for (batch, _), seconds in times.items()}
        found[each.precision]["steps_per_second"] = speeds
    return found


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
        **figures(single, truth, target),
    }
