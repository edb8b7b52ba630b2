"""Small tables in files, as users have them, and recipes over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from training.recipe.recipe import Recipe, read_recipe

HEADER = "device,second,load,mode,state\n"


def rows(sessions: int = 6, steps: int = 12, seed: int = 0) -> list[list[Any]]:
    """Rows of device, second, load, mode (a category) and state (a class that load decides)."""
    rng = np.random.default_rng(seed)
    made: list[list[Any]] = []
    for session in range(sessions):
        level = 0.0
        for second in range(steps):
            level = 0.8 * level + float(rng.normal())
            mode = "abc"[(session + second) % 3]
            made.append(
                [f"d{session}", second, round(level, 4), mode, "up" if level > 0 else "down"]
            )
    return made


def write_table(file: Path, table: list[list[Any]], header: str = HEADER) -> Path:
    """A CSV file of these rows."""
    file.write_text(header + "".join(",".join(map(str, row)) + "\n" for row in table))
    return file


def recipe(file: Path, *overrides: str) -> Recipe:
    """A recipe over such a table; an override is KEY=VALUE as on the command line."""
    return read_recipe(write_recipe(file), overrides)


def write_recipe(file: Path) -> Path:
    """A CONFIG.toml beside the table."""
    config = file.with_suffix(".toml")
    config.write_text(
        f"""
name = "devices"
source = {{ file = {json.dumps(file.name)} }}
table = {{ session = "device", order = "second" }}
features = {{ load = {{ unit = "V" }}, mode = {{ embedding = 2 }} }}
target = {{ kind = "class", columns = ["state"] }}
split = {{ test = ["d0"], validation = ["d1"] }}
network = {{ hidden = 6, linear = false }}
loop = {{ epochs = 2, batch = 4, window = 5 }}
baselines = {{ trees = 10 }}
"""
    )
    return config
