"""What `diagnose` advises follows from what it measured, and its pictures show it whole."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from training.insight import class_errors
from training.insight.advice import Measured, advice
from training.insight.class_errors import draw_reliability, reliability
from training.insight.diagnose import telling
from training.insight.evaluation import Evaluation
from training.insight.gates import draw_gates
from training.insight.positions import History
from training.insight.trace import trace
from training.network import random_network
from training.table.session import Session, Target

LENGTHS = [1, 2, 4, 8, 16]
GOOD = [0.5, 0.6, 0.7, 0.8, 0.9]


def curve(*losses: float) -> list[dict[str, float]]:
    return [{"train_loss": 1.0, "validation_loss": loss} for loss in losses]


def measured(figures: list[float], whole: float, **more: Any) -> Measured:
    settings: dict[str, Any] = {"quarters": (0.9, 0.9), "window": 20, "classes": True,
                                "curve": curve(3, 2, 1, 2)} | more  # fmt: skip
    return Measured(History(LENGTHS, figures, whole, 400), **settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (measured(GOOD, 0.9), "Nothing stands out"),
        (measured([0.9] * 5, 0.9), "Memory is unused: the present step alone is as good (0.9"),
        (measured([0.5, 0.6, 0.9, 0.9, 0.9], 0.9), "A shorter window does: 4 steps of history are"),
        (measured([0.5, 0.6, 0.9, 0.9, 0.9], 0.9, window=15), "Nothing stands out"),
        (measured(GOOD, 0.9, window=10), "16 steps of history are needed (0.9, with all that"),
        (measured(GOOD, 0.97, window=10), "History counts for more than 16 steps, and the"),
        (measured(GOOD, 0.9, quarters=(0.9, 0.8)), "It gets worse along sessions (0.9 in the"),
        (measured(GOOD, 0.9, curve=curve(3, 2, 1)), "The last of 3 epochs was the best: more"),
        (measured(GOOD, 0.9, curve=curve(2, 1, 2, 3, 4, 5)), "Validation was best at epoch 2 of 6"),
        (measured([2.0, 1.5, 1.0, 1.0, 1.0], 1.0, classes=False, quarters=(1.0, 1.04)),
         "A shorter window does: 4 steps of history are as good (1, with all that came before 1)"),
        (measured([2.0, 1.9, 1.8, 1.7, 1.0], 1.0, classes=False, quarters=(1.0, 1.1)),
         "It gets worse along sessions"),
    ],
)  # fmt: skip
def test_advice_is_what_the_figures_say(given: Measured, said: str) -> None:
    (line,) = advice(given)
    assert line.startswith(said)


def test_the_session_shown_is_one_in_which_something_happens() -> None:
    flat = [Session(f"s{k}", "g", np.zeros((60, 1), np.float32), np.ones((60, 1), np.float32),
                    np.arange(60.0)) for k in range(6)]  # fmt: skip
    wave = np.sin(np.arange(60, dtype=np.float32))[:, None]
    flat[4] = replace(flat[4], name="moves", y=wave)
    outputs = tuple(each.y for each in flat)
    shown = telling(Evaluation("test", Target(("y",), ("",)), tuple(flat), outputs))
    assert shown.name == "moves"
    classes = [replace(each, y=np.zeros((60, 1), np.float32)) for each in flat]
    classes[2] = replace(classes[2], name="changes", y=(wave > 0).astype(np.float32))
    target = Target(("y",), ("",), ("a", "b"))
    assert telling(Evaluation("test", target, tuple(classes), outputs)).name == "changes"


def test_names_of_many_classes_stand_apart_in_the_figure_of_gates() -> None:
    labels = tuple(f"class number {k}" for k in range(40))
    target, rng = Target(("kind",), ("",), labels), np.random.default_rng(0)
    network = random_network(3, 6, 1, 40, 1, softmax=False)
    x, y = rng.normal(size=(200, 3)), rng.integers(0, 30, (200, 1))
    session = Session("s", "s", x.astype(np.float32), y.astype(np.float32), np.arange(200.0))
    subject: Any = SimpleNamespace(network=network, dataset=SimpleNamespace(target=target))
    svg = draw_gates(subject, session, trace(network, session.x).detached()).svg
    places = re.findall(r'<text style="([^"]*)"[^>]* y="([\d.]+)"[^>]*>class number', svg)
    heights = sorted(float(y) for _, y in places)
    assert 30 <= len(heights) <= 40
    assert min(np.diff(heights)) > 8, "points; the font has 8"


def test_points_at_the_very_top_are_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[Figure]()
    monkeypatch.setattr(class_errors, "picture", lambda *given: drawn.append(given[-1]))
    draw_reliability(reliability(np.array([1.0, 0.9, 0.7]), np.array([True, True, True])))
    upper = drawn[0].axes[0]
    assert upper.get_ylim()[1] >= 1.03
    assert upper.get_xlim()[1] > 1.0
