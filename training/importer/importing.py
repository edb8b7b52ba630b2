"""The whole way from a model file to a bundle: nothing is written before all is proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.engine.probe import probe as server_probe
from server.errors import BadModel
from training.bundle import FORMAT, write_files
from training.errors import TrainingError
from training.importer.merge import merged
from training.importer.original import Original, main_opset, read_original
from training.importer.plan import Plan
from training.importer.probe import Candidate, Frames, Probe, make_engine, probe_steps, why_alone
from training.importer.resolve import Request, resolve

MAX_BATCH = 4096
SESSIONS, MANY, FEW = 16, 4096, 8


@dataclass(frozen=True)
class Imported:
    """What came of it. `difference` is the largest from the original, as a share of the largest
    value; `alone` says why sessions are stepped one at a time, where they are."""

    plan: Plan
    difference: float
    alone: str


def import_model(
    path: Path,
    request: Request,
    folder: Path,
    *,
    features: Sequence[str] = (),
    span: tuple[float, float] | None = None,
    description: str = "",
) -> Imported:
    """Write the bundle `folder`, named .../NAME/VERSION, of the model in `path`.

    Args:
        features: a name for each value that callers send; else the input's name with a number.
        span: between which values to draw random inputs.

    Raises:
        TrainingError: the file, the request, or what the probe found; nothing is written then.
    """
    original = read_original(path)
    plan = resolve(request, original, Frames(span))
    names = list(features) or [f"{plan.input.name}_{k}" for k in range(plan.sent)]
    if len(names) != plan.sent or len(set(names)) != len(names):
        raise TrainingError(f"--features must be {plan.sent} different names, not {len(names)}")
    files = _merged(original, plan)
    manifest = _manifest(folder, original, plan, names, Frames(span), description)
    probe = Probe(Candidate(make_engine(manifest, files, SESSIONS)), original, plan, Frames(span))
    difference = probe_steps(probe)
    alone = why_alone(probe)
    manifest["max_batch"] = 1 if alone else MAX_BATCH
    manifest["import"] |= {"difference": difference, "one_at_a_time": alone}
    _check_served(manifest, files)
    write_files(folder, manifest, files)
    return Imported(plan, difference, alone)


def _merged(original: Original, plan: Plan) -> dict[str, bytes]:
    try:
        return merged(original.model, plan)
    except ValueError as error:
        raise TrainingError(f"{original.name} is too large: {error}") from error


def _check_served(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    """The server will look at the bundle in the same way when it loads it."""
    try:
        server_probe(make_engine(manifest, files, MANY), make_engine(manifest, files, FEW))
    except BadModel as error:
        raise TrainingError(f"the server would refuse the bundle: {error}") from error


def _manifest(
    folder: Path,
    original: Original,
    plan: Plan,
    names: Sequence[str],
    frames: Frames,
    description: str,
) -> dict[str, Any]:
    lies = frames.entry(plan.input.dtype)
    return {
        "format": FORMAT,
        "name": folder.parent.name,
        "version": int(folder.name),
        "description": description or f"imported from {original.name}",
        "features": [{"name": name, "unit": "", **lies} for name in names],
        "outputs": [
            {"name": each.name, "size": each.width, "kind": "value", "unit": ""}
            for each in plan.outputs
        ],
        "states": [
            {"name": name, "shape": list(row.shape), "dtype": row.dtype, "initial": row.initial}
            for name, row in plan.rows.items()
        ],
        "max_chunk": 1,
        "max_batch": MAX_BATCH,
        "opset": main_opset(original.model),
        "export": {"form": {"precision": "float16" if plan.coarse else "float32"}},
        "import": {"file": original.name, "sha256": original.sha256, "context": plan.context},
    }
