"""What a recipe asks of how sure a model is, it gets: in the graph, in the manifest and served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.engine.device import choose
from tests.harness import ROOT, running_server
from tests.training.commands.tasks import config_of, delayed, fit
from tests.training.tables import recipe, rows, write_table
from tidegate import SyncClient
from tidegate_train import evaluate
from tidegate_train import fit as train
from training.__main__ import main
from training.errors import TrainingError
from training.graphs.stepping import by_single_steps, serve
from training.graphs.whole import Form
from training.network import Network, network_from_bytes, network_to_bytes
from training.reference import NumpyNetwork
from training.table.dataset import load

FAN = "target={kind='next', difference=true, quantiles=[0.1, 0.5, 0.95]}"
LOAD = "features={load={unit='V'}}"


def manifest_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "model.json").read_text())
    return found


def network_of(bundle: Path) -> Network:
    return network_from_bytes((bundle / "network.npz").read_bytes())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of forecasts of the one feature there is, as quantiles."""
    folder = tmp_path_factory.mktemp("fan")
    return fit(config_of(folder, delayed(sessions=20)), folder, FAN, LOAD, "split.test=0.5",
               "split.validation=0.1", "baselines.trees=5")  # fmt: skip


def test_a_fan_is_measured_and_named(bundle: Path) -> None:
    manifest = manifest_of(bundle)
    assert [(each["name"], each["unit"], each["quantile"]) for each in manifest["outputs"]] == [
        ("load", "V", 0.5), ("load_q10", "V", 0.1), ("load_q95", "V", 0.95)]  # fmt: skip
    (told,) = manifest["training"]["comparison"]["fans"]
    (interval,) = told["coverage"]
    assert interval["nominal"] == 0.85 and 0.7 < interval["seen"]["value"] < 1
    assert interval["seen"]["low"] < interval["seen"]["value"] < interval["seen"]["high"]
    assert set(manifest["parity"]) == {
        "single_steps", "ragged_chunks", "cuda_single_steps", "torch"}  # fmt: skip
    rolled = manifest["training"]["comparison"]["rolled"]
    assert [each["ahead"] for each in rolled] == [2, 4, 8, 16]
    (found,) = evaluate(bundle).fans
    assert found.coverage[0].seen.value == pytest.approx(interval["seen"]["value"], abs=0.005)


def test_a_forecast_is_a_fan_whose_median_is_fed_back(bundle: Path) -> None:
    reference = NumpyNetwork(network_of(bundle))
    x = np.array([[0.4], [-1.2], [0.3]], np.float32)
    expected, state = reference.run(x, reference.initial())
    with (
        running_server(bundle.parents[1]) as server,
        SyncClient(server.address) as client,
        client.session("devices", "d0") as session,
    ):
        assert session.model.feeds_back
        assert [each.unit for each in session.model.outputs] == ["V"] * 3
        found = np.stack([session.step(row) for row in x])
        fan = session.forecast(6)
        assert session.steps == 3
    np.testing.assert_allclose(found, expected, atol=1e-5)
    last = expected[-1:]
    for step in fan:
        last, state = reference.run(last[:, :1], state)
        np.testing.assert_allclose(step, last[0], atol=1e-4)
        assert step[1] < step[0] < step[2]


def test_a_report_predictions_and_comparisons_show_the_fan(bundle: Path, tmp_path: Path) -> None:
    assert main(["report", str(bundle), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    for words in ("load: does the fan hold?", "as the quantiles 0.1, 0.5, 0.95 of each",
                  "load, 0.1 and 0.95", "load_q95 (V)", "mean absolute error of load",
                  "16 steps ahead"):  # fmt: skip
        assert words in page
    assert main(["predict", str(bundle), "--out", str(tmp_path / "said.csv")]) == 0
    header = (tmp_path / "said.csv").read_text().splitlines()[0].split(",")
    assert header[-4:] == ["true_load", "predicted_load", "predicted_load_q10",
                           "predicted_load_q95"]  # fmt: skip
    same = tmp_path / "same.json"
    assert main(["compare", str(bundle), str(bundle), "--out", str(same)]) == 0
    assert json.loads(same.read_text())["differences"]["mae_load"]["value"] == 0


def test_a_name_that_a_quantile_would_have_is_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", rows(), "device,second,load,load_q10,state\n")
    whole = recipe(table, "features={load={}, load_q10={embedding=1}}", FAN)
    with pytest.raises(TrainingError, match=r"^target: .* called 'load_q10', as another col"):
        load(whole)


def test_a_temperature_changes_how_sure_and_never_which(tmp_path: Path) -> None:
    settings = ("split.test=0.4", "split.validation=0.2", "loop.epochs=6", "loop.rate=3e-2",
                "network.hidden=12", "baselines.trees=0")  # fmt: skip
    table = write_table(tmp_path / "t.csv", delayed(sessions=24))
    hot, plain = (
        train(recipe(table, *settings, f"target.temperature={each}"), runs=tmp_path / each)
        for each in ("true", "false")
    )
    assert hot.comparison is not None and plain.comparison is not None
    for name in ("accuracy_per_step", "macro_f1", "accuracy_at_session_end"):
        assert hot.comparison.scores.values[name] == plain.comparison.scores.values[name]
    ours, theirs = (each.comparison.scores.calibration for each in (hot, plain) if each.comparison)
    assert ours is not None and theirs is not None
    assert theirs.temperature is None
    assert ours.after["nll"].value < ours.before["nll"].value
    for name in ("ece", "nll"):
        assert ours.before[name].value == pytest.approx(theirs.after[name].value, abs=1e-4)
    networks = [each.fitted.network.network() for each in (hot, plain)]
    assert (networks[0].temperature, networks[1].temperature) == (ours.temperature, 1.0)
    np.testing.assert_array_equal(networks[0].head_w, networks[1].head_w)
    rng = np.random.default_rng(0)
    signals = [np.stack([rng.normal(size=300), rng.integers(0, 3, 300)], 1).astype(np.float32)]
    served = [by_single_steps(serve(each, Form(), 1, choose("cpu")), signals)[0]
              for each in networks]  # fmt: skip
    np.testing.assert_array_equal(*(each.argmax(axis=1) for each in served))
    assert np.abs(served[0] - served[1]).max() > 0.01


def test_networks_from_before_there_were_temperatures_and_fans_are_read() -> None:
    content = (ROOT / "models" / "exercise" / "1" / "network.npz").read_bytes()
    network = network_from_bytes(content)
    assert (network.temperature, network.fan) == (1.0, None)
    again = network_from_bytes(network_to_bytes(network))
    np.testing.assert_array_equal(again.head_w, network.head_w)
