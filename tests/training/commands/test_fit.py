"""`fit`: from a file to a bundle that a server serves; what is wrong is a sentence and code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.harness import ROOT, running_server
from tests.training.commands.tasks import config_of, delayed, fit, start, words
from tests.training.tables import rows, write_recipe, write_table
from tidegate import SyncClient, SyncSession
from training.__main__ import main
from training.network import network_from_bytes
from training.recipe.recipe import read_recipe
from training.reference import NumpyNetwork
from training.table.dataset import load


@contextmanager
def served(folder: Path) -> Iterator[SyncSession]:
    """A session of the model, in a server process."""
    with (
        running_server(folder / "models") as server,
        SyncClient(server.address) as client,
        client.session("devices", "d0") as session,
    ):
        yield session


def test_what_was_learned_is_what_is_served(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    bundle = fit(config, tmp_path, "loop.epochs=60", "loop.rate=3e-2", "network.hidden=16",
                 "loop.window=20", "network.linear=false")  # fmt: skip
    held_out = json.loads((bundle / "model.json").read_text())["training"]["held_out"]
    assert held_out["accuracy_per_step"] > 0.9
    reference = NumpyNetwork(network_from_bytes((bundle / "network.npz").read_bytes()))
    (known,) = load(read_recipe(config)).test
    expected = reference.run(known.x, reference.initial())[0]
    with served(tmp_path) as session:
        found = np.stack([session.step(row) for row in known.x])
        assert session.model.outputs[0].labels == ("down", "up")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.mean(found.argmax(axis=1) == known.y[:, 0]) > 0.9


def test_a_forecast_with_gaps_and_categories_is_served(tmp_path: Path) -> None:
    table = delayed()
    for k in range(0, len(table), 9):
        table[k][2] = ""
    config = config_of(tmp_path, table)
    bundle = fit(config, tmp_path, "target={kind='next', columns=['load'], difference=true}",
                 "features.load.missing=true")  # fmt: skip
    baselines = json.loads((bundle / "model.json").read_text())["training"]["baselines"]
    assert set(baselines) == {"mean", "persistence", "ridge", "ridge_6_lags", "trees_6_lags"}
    reference = NumpyNetwork(network_from_bytes((bundle / "network.npz").read_bytes()))
    x = np.array([[0.5, 0], [np.nan, 1], [0.1, 7], [-2.0, np.nan]], np.float32)
    x[3, 1] = 2
    with served(tmp_path) as session:
        found = np.stack([session.step(row) for row in x])
    np.testing.assert_allclose(found, reference.run(x, reference.initial())[0], atol=1e-5)


def test_parquet_and_csv_give_the_same_weights(tmp_path: Path) -> None:
    csv = config_of(tmp_path)
    frame = pl.read_csv(tmp_path / "t.csv")
    frame.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "t.parquet")
    parquet = tmp_path / "other.toml"
    parquet.write_text(csv.read_text().replace("t.csv", "t.parquet"))
    ours, theirs = (fit(each, tmp_path / each.stem) / "network.npz" for each in (csv, parquet))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    "overrides",
    [
        ("network.cell='gru'", "network.layers=2", "network.dropout=0.3"),
        ("network.cell='rnn'", "network.layers=2", "network.residual=true"),
        ("network.projection=3", "network.layers=3", "network.residual=true"),
        ("loop.precision='bf16-true'", "features.load.missing=true", "target.weights='balanced'"),
        ("target.weights='balanced'", "loop.smoothing=0.1", "loop.warm_in=3"),
        ("target={kind='value', columns=['load'], horizon=2}", "split.by='time'", "split.test=0.2",
         "split.validation=0.2"),
        ("export.precision='int8'",),
    ],
    ids=lambda overrides: overrides[0],
)  # fmt: skip
def test_every_kind_of_network_is_exported_as_trained(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    bundle = fit(config_of(tmp_path), tmp_path, *overrides)
    parity = json.loads((bundle / "model.json").read_text())["parity"]
    assert set(parity) == {"single_steps", "ragged_chunks", "cuda_single_steps", "torch"}
    assert main(["verify", str(bundle)]) == 0


BF16 = ("loop.precision='bf16-mixed'",)


def test_a_precision_is_trained_in_or_refused_in_a_sentence_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which of the two is the processor's matter: bf16 LSTMs need AVX-512 where there is no GPU."""
    code = main(words(config_of(tmp_path), tmp_path, *BF16))
    assert_trained_or_refused(code, capsys.readouterr().err, tmp_path)


def test_a_precision_that_the_processor_lacks_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """oneDNN is told to take the processor for an older one; a GPU is not asked."""
    arguments = words(config_of(tmp_path), tmp_path, *BF16, "loop.accelerator='cpu'")
    command = [sys.executable, "-m", "training", *arguments]
    older = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(command, cwd=ROOT, env=older, capture_output=True, text=True)
    assert_trained_or_refused(done.returncode, done.stderr, tmp_path)


def assert_trained_or_refused(code: int, errors: str, folder: Path) -> None:
    """Code 0 and a sound bundle; or code 2, one sentence on the setting, and nothing written."""
    if code == 0:
        assert main(["verify", str(folder / "models" / "devices" / "1")]) == 0
        return
    assert code == 2, errors
    assert "Traceback" not in errors
    said = errors.splitlines()[-1]
    start = "tidegate-train: loop.precision: a network of cell lstm cannot be trained in "
    assert said.startswith(f"{start}'bf16-mixed' on ")
    assert said.endswith("use '32-true', which runs everywhere")
    assert not (folder / "models").exists()
    assert not (folder / "runs").exists()


def test_the_run_leaves_checkpoints_and_logs_and_stops_early(tmp_path: Path) -> None:
    bundle = fit(config_of(tmp_path), tmp_path, "loop.epochs=300", "loop.patience=3",
                 "loop.rate=0.1")  # fmt: skip
    curve = json.loads((bundle / "model.json").read_text())["training"]["curve"]
    assert 4 <= len(curve) < 300
    best = min(range(len(curve)), key=lambda k: curve[k]["validation_loss"])
    assert len(curve) - 1 - best == 3
    run = tmp_path / "runs" / "devices"
    assert {"last.ckpt", "best.ckpt"} <= {each.name for each in run.iterdir()}
    lines = pl.read_csv(run / "csv" / "version_0" / "metrics.csv")
    assert lines["train_loss"].drop_nulls().len() == len(curve)
    assert list((run / "tensorboard" / "version_0").glob("events.*"))


def empty(table: list[list[Any]]) -> list[list[Any]]:
    return []


def lonely(table: list[list[Any]]) -> list[list[Any]]:
    return [*table, ["d99", 0, 1.0, "a", "up"]]


def constant(table: list[list[Any]]) -> list[list[Any]]:
    return [[*row[:2], 1.5, *row[3:]] for row in table]


def holed(table: list[list[Any]]) -> list[list[Any]]:
    return [*table[:20], [*table[20][:2], "nan", *table[20][3:]], *table[21:]]


def unseen(table: list[list[Any]]) -> list[list[Any]]:
    return [*table[:5], [*table[5][:4], "sideways"], *table[6:]]


BAD: list[tuple[Callable[[list[list[Any]]], list[list[Any]]], list[str]]] = [
    (empty, ["t.csv", "no rows"]),
    (lonely, ["d99", "row 73"]),
    (constant, ["load", "1.5"]),
    (holed, ["row 21", "load"]),
    (unseen, ["sideways", "row 6"]),
]


@pytest.mark.parametrize(("spoil", "parts"), BAD, ids=lambda each: getattr(each, "__name__", ""))
def test_a_bad_table_is_a_sentence_and_no_bundle(
    tmp_path: Path,
    spoil: Callable[[list[list[Any]]], list[list[Any]]],
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_recipe(write_table(tmp_path / "t.csv", spoil(rows())))
    assert_refused(words(config, tmp_path), parts, tmp_path, capsys)


BAD_RECIPES = [
    (("target.horizon=60",), ["target.horizon", "training part", "60 steps"]),
    (("target={kind='next', columns=['load'], horizon=60}",), ["target.horizon", "60 steps"]),
    (("loop.accelerator='cuda'", "loop.devices=64"), ["loop: "]),
    (("loop.accelerator='abacus'",), ["loop", "abacus"]),
    (("loop.rate=1000",), ["loop.rate must be at most 1, not 1000"]),
    (("loop.weight_decay=1e30", "loop.epochs=4"), ["loop.rate", "not finite"]),
    (("loop.rate=1", "loop.weight_decay=3", "split.validation=[]"), ["loop.rate", "guessing has"]),
    (("target.weights={sideways=2.0}",), ["target.weights", "sideways"]),
]


@pytest.mark.parametrize(("overrides", "parts"), BAD_RECIPES, ids=lambda each: each[0])
def test_a_bad_recipe_is_a_sentence_and_no_bundle(
    tmp_path: Path,
    overrides: tuple[str, ...],
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(tmp_path)
    assert_refused(words(config, tmp_path, *overrides), parts, tmp_path, capsys)


def assert_refused(
    arguments: list[str], parts: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the parts in the last line of what is said, and no bundle."""
    assert main(arguments) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("tidegate-train: ")
    for part in parts:
        assert part in err
    assert not (folder / "models").exists()


def test_the_process_says_so_without_a_trace(tmp_path: Path) -> None:
    config = tmp_path / "none.toml"
    config.write_text("name = [")
    process = start([*words(config, tmp_path), "--resume"])
    assert process.wait(60) == 2


def test_a_bundle_is_where_it_was_told_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path)
    assert main(["fit", str(config), "--out", str(tmp_path / "devices"), "--quiet"]) == 2
    assert "folder must end in NAME/VERSION" in capsys.readouterr().err


def test_a_package_that_is_not_installed_is_named() -> None:
    without = (
        "import sys; sys.modules['torch'] = None; from training.__main__ import main; "
        "sys.exit(main(['fit', 'exercise']))"
    )
    done = subprocess.run([sys.executable, "-c", without], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "fit needs the package torch, which is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_wrong_with_a_recipe_is_said_before_torch_is_there(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = [")
    without = (
        "import sys; sys.modules['torch'] = None; from training.__main__ import main; "
        f"sys.exit(main(['fit', {str(tmp_path / 'bad.toml')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", without], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "bad.toml" in done.stderr
    assert "torch" not in done.stderr


def test_by_default_a_small_table_is_learned_in_few_epochs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = config_of(tmp_path, delayed(sessions=120, steps=40))
    given = ("loop.epochs=10", "loop.window=20", "network.hidden=16", "split.test=0.2",
             "split.validation=0.1", "loop.batch='auto'")  # fmt: skip
    bundle = fit(config, tmp_path, *given)
    assert "loop.batch = auto: 4 sessions side by side, about 57 updates an epoch" in caplog.text
    held_out = json.loads((bundle / "model.json").read_text())["training"]["held_out"]
    assert held_out["accuracy_per_step"] > 0.85
