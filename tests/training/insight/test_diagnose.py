"""What `diagnose` says of a network is so, of networks whose gradients and memory are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.commands.tasks import config_of, fit
from tests.training.graphs.networks import NETWORKS, drawn
from tests.training.tables import rows, write_table
from training.__main__ import main
from training.insight.evaluation import Evaluation, evaluate, open_subject
from training.insight.gates import time_constants
from training.insight.gradients import reach
from training.insight.positions import by_history, by_position, by_quarter
from training.insight.trace import trace
from training.network import Layer, Network, random_network
from training.reference import NumpyNetwork
from training.table.session import Session, Target

VALUE = Target(("y",), ("",))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trace_puts_out_what_the_reference_does(name: str) -> None:
    network = replace(NETWORKS[name], softmax=False)
    (x,) = drawn(network, [40], 1)
    reference = NumpyNetwork(network)
    expected = reference.run(x, reference.initial())[0]
    found = trace(network, x).scores.detach().numpy()
    np.testing.assert_allclose(found, expected[:, : network.values], rtol=1e-5, atol=2e-6)


def linear_rnn(factor: float) -> Network:
    """Inputs so small that tanh is straight: each step multiplies the state by `factor`."""
    eye = np.eye(3, dtype=np.float32)
    layer = Layer(eye * 1e-6, eye * factor, np.zeros(3, np.float32), "rnn")
    plain = random_network(3, 3, 1, 1, 0, softmax=False)
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    return replace(plain, mean=mean, std=std, layers=(layer,))


def noise(length: int, seed: int = 0, width: int = 3) -> Session:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(length, width)).astype(np.float32)
    y = np.full((length, 1), 3.0, np.float32)
    return Session(f"s{seed}", f"s{seed}", x, y, np.arange(length, dtype=float))


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.1])
def test_an_rnn_s_gradient_vanishes_or_explodes_as_its_matrix_says(factor: float) -> None:
    found = reach(linear_rnn(factor), [noise(60)], VALUE, 30)
    expected = factor ** np.arange(30)
    np.testing.assert_allclose(found.relative, np.tile(expected, (5, 1)), rtol=1e-3)
    assert found.kept is None


def gated(bias: float) -> Network:
    """An lstm whose forget gates do nothing but what their bias says."""
    network = random_network(3, 6, 1, 1, 1, softmax=False)
    (layer,) = network.layers
    w, r, b = layer.w.copy(), layer.r.copy(), layer.b.copy()
    w[6:12], r[:], b[6:12] = 0.0, 0.0, bias
    return replace(network, layers=(replace(layer, w=w, r=r, b=b),))


@pytest.mark.parametrize("bias", [0.0, 2.0, 5.0])
def test_a_time_constant_is_what_the_forget_gate_keeps(bias: float) -> None:
    network = gated(bias)
    (found,) = time_constants(network, [trace(network, noise(50).x).detached()])
    gate = 1 / (1 + np.exp(-bias))
    np.testing.assert_allclose(found, np.full(6, -1 / np.log(gate)), rtol=1e-4)


def test_an_lstm_without_recurrent_weights_reaches_back_as_far_as_its_gate_is_open() -> None:
    found = reach(gated(3.0), [noise(60)], VALUE, 20)
    gate = 1 / (1 + np.exp(-3.0))
    np.testing.assert_allclose(found.relative[:, -1], gate**19, rtol=1e-3)
    assert found.kept is not None
    np.testing.assert_allclose(found.kept[:, -1], gate**20, rtol=1e-3)


def evaluated(right: np.ndarray) -> Evaluation:
    """Sessions of 100 steps of class 0, right [sessions, 100] or not."""
    outputs = tuple(np.stack([row, 1 - row], axis=1).astype(np.float32) for row in right)
    sessions = []
    for k in range(len(right)):
        y = np.zeros((100, 1), np.float32)
        sessions.append(replace(noise(100, k), y=y))
    return Evaluation("test", Target(("y",), ("",), ("a", "b")), tuple(sessions), outputs)


def test_a_network_that_forgets_towards_the_end_is_seen_to() -> None:
    right = np.ones((6, 100))
    right[:, 75:] = 0
    bins = by_position(evaluated(right))
    assert [each.figure for each in bins] == [1.0] * 15 + [0.0] * 5
    assert by_quarter(evaluated(right)) == (1.0, 0.0)


def test_the_band_is_as_wide_as_sessions_differ() -> None:
    right = np.ones((6, 100))
    right[:3] = 0
    for each in by_position(evaluated(right)):
        assert each.figure == 0.5
        assert each.low <= 0.2
        assert each.high >= 0.8


def fitted(tmp_path: Path, *overrides: str, table: list[list[Any]] | None = None) -> Path:
    """A bundle of a small table."""
    return fit(config_of(tmp_path, table or rows(sessions=12, steps=60)), tmp_path, *overrides)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_command_draws_every_cell(
    tmp_path: Path, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = fitted(tmp_path, f"network.cell='{cell}'", "network.layers=2")
    capsys.readouterr()
    assert main(["diagnose", str(bundle), "--out", str(tmp_path / "drawn")]) == 0
    drawn = sorted(each.name for each in (tmp_path / "drawn").iterdir())
    assert drawn == ["gates.svg", "gradients.svg", "history.svg", "memory.svg", "positions.svg"]
    printed = capsys.readouterr().out
    assert ("A plain RNN has no gate" in printed) == (cell == "rnn")
    assert "second quarter" in printed
    _, _, advised = printed.partition("What to try:\n")
    assert advised
    assert all(line.startswith("- ") for line in advised.splitlines())


def test_it_draws_forecasts_with_gaps(tmp_path: Path) -> None:
    bundle = fitted(
        tmp_path, "target={kind='next', columns=['load'], difference=true}",
        "features.load.missing=true", "network.projection=3",
    )  # fmt: skip
    assert main(["diagnose", str(bundle), "--out", str(tmp_path / "drawn")]) == 0
    assert "RMSE of load [V]" in (tmp_path / "drawn" / "positions.svg").read_text()


def test_a_network_that_training_added_nothing_to_is_drawn_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each load is nine tenths of the one before; no gradient goes through a head of zeros."""
    table = [[f"d{s}", t, (s - 5.5) * 0.9**t, "abc"[t % 3], "up"]
             for s in range(12) for t in range(20)]  # fmt: skip
    bundle = fitted(tmp_path, "target={kind='next', columns=['load']}", "baselines.ridge=1e-9",
                    "loop.rate=1", "network.linear=true", table=table)  # fmt: skip
    capsys.readouterr()
    assert main(["diagnose", str(bundle), "--out", str(tmp_path / "drawn")]) == 0
    assert "No epoch was better than the linear model" in capsys.readouterr().out
    assert main(["report", str(bundle), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "beside what is linear in 6 lags" in page
    assert "Epoch 0 is the linear model" in page


def test_history_helps_exactly_as_far_as_the_task_needs_it(tmp_path: Path) -> None:
    """The state is the sign of the load three steps before."""
    table = rows(sessions=12, steps=80)
    rng = np.random.default_rng(1)
    for k, row in enumerate(table):
        row[2] = round(float(rng.normal()), 3)
        row[4] = "up" if row[1] >= 3 and table[k - 3][2] > 0 else "down"
    bundle = fitted(tmp_path, "loop.epochs=60", "loop.rate=3e-2", "loop.window=40",
                    "network.hidden=16", "network.linear=false", table=table)  # fmt: skip
    subject = open_subject(bundle)
    found = by_history(subject, evaluate(subject))
    by_length = dict(zip(found.lengths, found.figures, strict=True))
    assert by_length[1] < 0.75
    assert by_length[2] < 0.75
    assert min(by_length[4], by_length[8], found.whole) > 0.95


def test_what_is_no_bundle_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", str(tmp_path / "none" / "1")]) == 2
    err = capsys.readouterr().err
    assert "none/1 is no bundle that fit wrote" in err
    assert err.count("\n") == 1


def test_data_that_changed_since_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = fitted(tmp_path)
    write_table(tmp_path / "t.csv", rows(sessions=12, steps=60, seed=5))
    assert main(["diagnose", str(bundle)]) == 2
    assert "what is read now is" in capsys.readouterr().err
