"""Ready recipes over real data, each read out of the package that ships it; none is copied here."""

from __future__ import annotations

from pathlib import Path

from training.errors import TrainingError

FOLDER = Path(__file__).parent


def find_recipe(name: str) -> Path:
    """The file of that path, or the ready recipe of that name.

    Raises:
        TrainingError: there is neither.
    """
    for path in (Path(name), FOLDER / f"{name}.toml"):
        if path.is_file():
            return path
    ready = ", ".join(sorted(path.stem for path in FOLDER.glob("*.toml")))
    raise TrainingError(f"there is no file {name}, and no ready recipe of that name ({ready})")
