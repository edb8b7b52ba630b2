"""Writes a bundle: graphs, checksums and `model.json`. The server reads what this writes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.graphs.whole import Form, graphs, usual_form
from training.network import FILE, Network, network_to_bytes, outputs_order

FORMAT = 1
SPLIT, MANY = "split.json", 100
PARTS = ("training", "validation", "test")


def bundle_folder(out: Path | None, name: str) -> Path:
    """`out`, or the next free version under models/NAME.

    Raises:
        TrainingError: `out` does not end in a version number.
    """
    if out is None:
        taken = [int(p.name) for p in Path("models", name).glob("*") if p.name.isdecimal()]
        return Path("models", name, str(max(taken, default=0) + 1))
    if not out.name.isdecimal() or int(out.name) < 1:
        raise TrainingError(
            f"a bundle's folder must end in NAME/VERSION, VERSION a whole number, not {out}"
        )
    return out


def write_bundle(
    folder: Path,
    weights: Network,
    *,
    features: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    max_chunk: int = 64,
    max_batch: int = 4096,
    description: str = "",
    training: Mapping[str, Any] | None = None,
    parity: Mapping[str, float] | None = None,
    form: Form | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write `folder`, named .../NAME/VERSION, whole or not at all; an older bundle is replaced.

    Args:
        features: one entry a feature: name, unit, mean, std, min, max.
        outputs: one entry a group of outputs: name, size, kind, and unit or labels.
        form: how the graphs are written; the usual form where nothing was measured.
        more: further entries of the manifest.

    Raises:
        ValueError: features or outputs do not have the weights' widths.
    """
    _check_widths(weights, features, outputs)
    form = form or usual_form(weights)
    told, files = _apart(training or {})
    manifest = {
        "format": FORMAT,
        "name": folder.parent.name,
        "version": int(folder.name),
        "description": description,
        "features": [dict(feature) for feature in features],
        "outputs": [dict(output) for output in outputs],
        "states": [
            {"name": name, "shape": [width], "dtype": "float32", "initial": 0.0}
            for name, width in weights.states()
        ],
        "max_chunk": max_chunk,
        "max_batch": max_batch,
        "opset": form.opset,
        "training": told,
        "parity": dict(parity or {}),
        **(more or {}),
    }
    files |= graphs(weights, form) | {FILE: network_to_bytes(weights)}
    write_files(folder, manifest, files)


def _apart(training: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Names of over 100 groups go into a file of their own: servers read the manifest whole."""
    split = dict(training.get("split", {}))
    names = {}
    for part in PARTS:
        groups = split.get(part, {}).get("groups", ())
        if len(groups) > MANY:
            names[part] = list(groups)
            rest = {key: value for key, value in split[part].items() if key != "groups"}
            split[part] = rest | {"group_count": len(groups)}
    if not names:
        return dict(training), {}
    return {**training, "split": split}, {SPLIT: json.dumps(names, indent=0).encode()}


def split_of(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's `training.split` with the groups (or sessions) of each part, however many.

    Raises:
        OSError, ValueError: the file of names cannot be read.
    """
    split: dict[str, Any] = dict(manifest["training"]["split"])
    if SPLIT not in manifest["files"]:
        return split
    content = (folder / SPLIT).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["files"][SPLIT]:
        raise ValueError(f"{SPLIT} is not the file that model.json lists")
    for part, groups in json.loads(content).items():
        split[part] = split[part] | {"groups": groups}
    return split


def _check_widths(
    weights: Network,
    features: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
) -> None:
    if len(features) != weights.inputs:
        raise ValueError(f"{len(features)} features for {weights.inputs} inputs")
    size = sum(int(output["size"]) for output in outputs)
    if size != weights.outputs:
        raise ValueError(f"outputs of {size} values for {weights.outputs}")


def write_files(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write `files` and, with their checksums, model.json; by rename, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
        new = Path(temporary) / folder.name
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        text = json.dumps({**manifest, "files": digests}, indent=1, allow_nan=False)
        (new / "model.json").write_text(text + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)


def random_bundle(folder: Path, weights: Network) -> None:
    """A bundle of weights without provenance, for tests and measurements."""
    write_bundle(
        folder,
        weights,
        features=[_feature(weights, k) for k in range(weights.inputs)],
        outputs=_outputs(weights),
        description="random weights",
    )


def _outputs(weights: Network) -> list[dict[str, Any]]:
    """One of all values, or one for each quantile."""
    if weights.fan is None:
        return [{"name": "y", "size": weights.outputs, "kind": "value", "unit": ""}]
    return [
        {"name": f"y{v}_q{100 * level:g}", "size": 1, "kind": "value", "unit": ""}
        | {"of": f"y{v}", "quantile": level}
        for level in (weights.fan.levels[k] for k in outputs_order(weights.fan.levels))
        for v in range(weights.values)
    ]


def _feature(weights: Network, k: int) -> dict[str, Any]:
    entry = {"name": f"x{k}", "unit": "", "mean": float(weights.mean[k])}
    entry["std"] = float(weights.std[k])
    for embedding in weights.embeddings:
        if embedding.feature == k:
            entry["labels"] = [f"label{each}" for each in range(embedding.labels)]
    if "labels" in entry or k in weights.missing:
        entry["missing"] = True
    return entry
