"""What is looked at: a bundle's network, its manifest, and the data it came of, read anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.commands.options import held_out
from training.errors import TrainingError
from training.network import Network
from training.recipe.recipe import Recipe, from_mapping
from training.store import FILE, network_from_bytes
from training.table.dataset import load
from training.table.session import Dataset, Session


@dataclass(frozen=True)
class Subject:
    """`manifest` is model.json as it stands; its `training` holds story, figures and curve."""

    name: str
    manifest: Mapping[str, Any]
    network: Network
    recipe: Recipe
    dataset: Dataset

    @property
    def held_out(self) -> tuple[Session, ...]:
        """The sessions to judge by."""
        return held_out(self.dataset)[1]

    @property
    def story(self) -> Mapping[str, Any]:
        """The manifest's `training`."""
        story: Mapping[str, Any] = self.manifest["training"]
        return story


def open_subject(folder: Path) -> Subject:
    """Read a bundle that `fit` wrote, .../NAME/VERSION, and its data.

    Raises:
        TrainingError: it is no such bundle, or its data cannot be read or is another by now.
    """
    try:
        manifest = json.loads((folder / "model.json").read_bytes())
        network = network_from_bytes((folder / FILE).read_bytes())
        recipe = from_mapping(manifest["training"]["recipe"])
        trained_on = manifest["training"]["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder} is no bundle that fit wrote: {error!r}") from error
    dataset = load(recipe)
    if dataset.source != trained_on:
        raise TrainingError(f"{folder} was trained on {trained_on}; what is read now is "
                            f"{dataset.source}")  # fmt: skip
    return Subject(f"{manifest['name']}/{manifest['version']}", manifest, network, recipe, dataset)
