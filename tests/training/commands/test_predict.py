"""A bundle knows whom it was trained on, however many; `predict` writes what it says of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.harness import running_server
from tests.training.commands.tasks import config_of, delayed, fit
from tests.training.tables import rows, write_table
from tidegate import SyncClient
from training.__main__ import main
from training.network import network_from_bytes
from training.recipe.recipe import read_recipe
from training.reference import NumpyNetwork
from training.table.dataset import load

SOME = ("split.test=['d0', 'd2']", "split.validation=['d1']")


def predicted(bundle: Path, out: Path, *words: str) -> pl.DataFrame:
    """What the command writes."""
    assert main(["predict", str(bundle), *words, "--out", str(out)]) == 0
    return pl.read_csv(out) if out.suffix == ".csv" else pl.read_parquet(out)


def parts(frame: pl.DataFrame) -> dict[str, str]:
    return dict(frame.select("session", "part").unique().iter_rows())


def test_predictions_of_held_out_sessions_are_the_network_s_row_by_row(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    bundle = fit(config, tmp_path, *SOME)
    frame = predicted(bundle, tmp_path / "p.parquet")
    assert parts(frame) == {"d0": "test", "d2": "test"}
    reference = NumpyNetwork(network_from_bytes((bundle / "network.npz").read_bytes()))
    for session in load(read_recipe(config, SOME)).test:
        expected, _ = reference.run(session.x, reference.initial())
        mine = frame.filter(session=session.name)
        assert mine["order"].to_list() == [str(t) for t in range(len(session))]
        found = mine.select("probability_down", "probability_up").to_numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert mine["predicted_state"].to_list() == [("down", "up")[k] for k in found.argmax(1)]
        assert mine["true_state"].to_list() == [("down", "up")[int(k)] for k in session.y[:, 0]]
    first = delayed()[frame["row"][0] - 1]
    assert [first[0], str(first[1])] == [frame["session"][0], frame["order"][0]]


def test_of_another_table_whoever_was_trained_on_is_left_out(tmp_path: Path) -> None:
    bundle = fit(config_of(tmp_path), tmp_path, *SOME)
    others = [[row[0].replace("d1", "n1"), *row[1:4], "up"] for row in delayed(seed=5)]
    others[0][3] = "z"  # a category that it does not know, and but one class
    table = write_table(tmp_path / "later.csv", others)
    frame = predicted(bundle, tmp_path / "p.csv", str(table))
    assert parts(frame) == {"d0": "test", "d2": "test", "n1": "new", "n10": "new", "n11": "new"}
    assert parts(predicted(bundle, tmp_path / "p.csv", str(table), "--all"))["d5"] == "training"
    unlabelled = write_table(tmp_path / "bare.csv", [row[:4] for row in others],
                             "device,second,load,mode\n")  # fmt: skip
    bare = predicted(bundle, tmp_path / "p.csv", str(unlabelled))
    assert bare["true_state"].null_count() == len(bare)
    assert bare["probability_up"].to_list() == frame["probability_up"].to_list()


def test_a_bundle_of_hundreds_of_sessions_knows_them_all_and_is_served(tmp_path: Path) -> None:
    config = config_of(tmp_path, rows(sessions=400, steps=4))
    given = ("split.test=0.3", "split.validation=0.3", "loop.epochs=1", "loop.batch=64")
    bundle = fit(config, tmp_path, *given)
    manifest = json.loads((bundle / "model.json").read_text())
    assert manifest["training"]["split"]["test"]["group_count"] == 120
    assert len((bundle / "model.json").read_text()) < 20_000
    held_out = {session.name for session in load(read_recipe(config, given)).test}
    frame = predicted(bundle, tmp_path / "p.csv", str(tmp_path / "t.csv"))
    assert set(frame["session"]) == held_out
    more = [row for row in rows(sessions=401, steps=4) if row[0] in {*held_out, "d400", "d7"}]
    assert "d7" not in held_out
    frame = predicted(bundle, tmp_path / "p.csv", str(write_table(tmp_path / "u.csv", more)))
    assert set(frame["session"]) == {*held_out, "d400"}
    with running_server(tmp_path / "models") as server, SyncClient(server.address) as client:
        assert client.model("devices").version == 1
    (bundle / "split.json").write_text("{}")
    assert main(["predict", str(bundle), "--out", str(tmp_path / "q.csv")]) == 2


def test_of_a_bundle_split_by_time_what_came_later_is_held_out(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    bundle = fit(config, tmp_path, "split={by='time', test=0.25, validation=0.25}",
                 "target={kind='value', columns=['load'], horizon=1}")  # fmt: skip
    frame = predicted(bundle, tmp_path / "p.csv")
    longer = write_table(tmp_path / "later.csv", delayed(steps=60))
    later = predicted(bundle, tmp_path / "q.csv", str(longer))
    assert set(later["part"]) == {"test"}
    assert later["order"].min() == frame["order"].min()
    assert later["order"].max() == 73


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "p.txt"], "--out must end in .csv or .parquet, not p.txt"),
        (["t.csv", "--out", "nowhere/p.csv"], "nowhere/p.csv cannot be written: No such file"),
        (["trained.csv", "--out", "p.csv"], "was trained on every session of trained.csv"),
        (["other.csv", "--out", "p.csv"], "other.csv has no column 'load' (features.load)"),
        (["odd.csv", "--out", "p.csv"], "row 1, column 'state': 'odd' is no class of the bundle"),
    ],
)
def test_what_cannot_be_predicted_is_a_sentence(
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = delayed(steps=8)
    bundle = fit(config_of(tmp_path, table), tmp_path, *SOME, "loop.epochs=1")
    write_table(tmp_path / "trained.csv", [row for row in table if row[0] in ("d5", "d6")])
    write_table(tmp_path / "other.csv", table, "device,second,weight,mode,state\n")
    write_table(tmp_path / "odd.csv", [[*row[:4], "odd"] for row in table])
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(bundle), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()
