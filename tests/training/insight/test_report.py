"""The report is one page that loads nothing, says what the manifest says, and trusts no name."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.commands.tasks import config_of, fit
from tests.training.tables import rows
from training.__main__ import main
from training.insight.advice import kept
from training.insight.class_errors import by_class, confusion, reliability
from training.insight.page import as_toml, number

HOSTILE = "<script>alert(1)</script>&$x$"


def fitted(tmp_path: Path, *overrides: str, table: list[list[Any]] | None = None) -> Path:
    """A bundle of a small table."""
    return fit(config_of(tmp_path, table or rows(sessions=12, steps=60)), tmp_path, *overrides)


def reported(bundle: Path, tmp_path: Path) -> str:
    out = tmp_path / "pages" / "report.html"
    assert main(["report", str(bundle), "--out", str(out)]) == 0
    assert [each.name for each in out.parent.iterdir()] == ["report.html"]
    return out.read_text()


@pytest.fixture(scope="module")
def page_of_classes(small: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return reported(small, tmp_path_factory.mktemp("page"))


def loads(page: str) -> list[str]:
    """What a browser would fetch."""
    found = re.findall(r'(?:src|href|xlink:href|action)\s*=\s*"([^"]*)"', page)
    found += re.findall(r"url\(([^)]*)\)", page) + re.findall(r"@import\s+(\S+)", page)
    inline = ("#", "data:image/png;base64,")
    return [each for each in found if not each.startswith(inline)]


def test_the_page_of_classes_holds_what_the_manifest_holds(
    small: Path, page_of_classes: str
) -> None:
    page = page_of_classes
    manifest = json.loads((small / "model.json").read_text())
    assert loads(page) == []
    provenance = manifest["training"]
    for value in (*provenance["held_out"].values(), *provenance["baselines"].values()):
        assert number(value) in page
    for cost in manifest["precisions"].values():
        assert number(cost["steps_per_second"]["16"]) in page
    for title in ("Learning curves", "Per step", "At session end", "Reliability diagram",
                  "How far back the loss reaches", "Gates and state over a session",
                  "How long units remember", "By the position", "By the history given",
                  provenance["data"]["sha256"], "By session", "hidden = 6",
                  "1 LSTM layer of 6 units", "<ul><li>"):  # fmt: skip
        assert title in page
    assert page.index("Predicts state of the present step, after every step.") < page.index("<h2")
    assert not re.search(r"(layer|step|epoch|unit)\(s\)", page)


def test_no_two_elements_share_an_id(page_of_classes: str) -> None:
    found = re.findall(r'\sid="([^"]*)"', page_of_classes)
    found = [each for each in found if "-image" not in each]  # named by what is in them
    assert len(found) > 50
    assert [each for each, count in Counter(found).items() if count > 1] == []


def test_the_page_of_values_draws_their_errors(tmp_path: Path) -> None:
    bundle = fitted(tmp_path, "target={kind='next', columns=['load'], difference=true}",
                    "features.load.missing=true", "split.by='time'", "split.test=0.2",
                    "split.validation=0.2")  # fmt: skip
    page = reported(bundle, tmp_path)
    assert loads(page) == []
    for title in ("load: predicted against true", "load: RMSE by value and by session",
                  "load: an example session", "load: bias and spread", "ridge 6 lags",
                  "nothing of the future was seen",
                  "Predicts load [V] 1 step ahead, after every step."):  # fmt: skip
        assert title in page


def test_names_of_the_table_cannot_write_into_the_page(tmp_path: Path) -> None:
    table = rows(sessions=12, steps=60)
    for row in table:
        row[0], row[3] = f"{HOSTILE}{row[0]}", row[3] + HOSTILE
        row[4] = HOSTILE if row[4] == "up" else "down"
    split = (f"split.test=['{HOSTILE}d0']", f"split.validation=['{HOSTILE}d1']")
    words = (f'description="{HOSTILE}"', "features.load.unit='<b>'")
    bundle = fitted(tmp_path, *split, *words, table=table)
    page = reported(bundle, tmp_path)
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def test_what_is_no_bundle_leaves_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pages" / "report.html"
    assert main(["report", str(tmp_path / "none" / "1"), "--out", str(out)]) == 2
    assert "is no bundle that fit wrote" in capsys.readouterr().err
    assert not out.parent.exists()


def test_what_cannot_be_written_or_was_never_measured_is_one_sentence(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(small, tmp_path / "models" / "devices" / "1")
    taken = tmp_path / "taken.html"
    taken.mkdir()
    assert main(["report", str(bundle), "--out", str(taken)]) == 2
    assert f"{taken} cannot be written: Is a directory" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
    manifest = json.loads((bundle / "model.json").read_text())
    del manifest["parity"]
    (bundle / "model.json").write_text(json.dumps(manifest))
    assert main(["report", str(bundle), "--out", str(tmp_path / "x.html")]) == 2
    assert "devices/1: model.json has no 'parity'; fit it anew" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_confusion_counts_every_step_once() -> None:
    rng = np.random.default_rng(0)
    y, guess = rng.integers(0, 4, 500), rng.integers(0, 3, 500)
    counts = confusion(y, guess, 4)
    assert counts.sum() == 500
    assert counts[2, 1] == ((y == 2) & (guess == 1)).sum()
    figures = by_class("abcd", counts)
    assert sum(each.steps for each in figures) == 500
    assert figures[1].recall == pytest.approx((guess[y == 1] == 1).mean())
    assert figures[1].precision == pytest.approx((y[guess == 1] == 1).mean())
    assert np.isnan(figures[3].precision)


def test_whoever_is_as_sure_as_right_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 1, 200_000)
    assert reliability(sure, rng.random(200_000) < sure).error < 0.01
    assert reliability(np.full(1000, 0.9), np.arange(1000) < 600).error == pytest.approx(0.3)
    assert reliability(np.array([1.0, 0.0]), np.array([True, False])).error == 0


def test_the_epoch_kept_is_the_best_by_validation_or_the_last() -> None:
    losses = [3.0, 1.0, 2.0]
    assert kept([{"train_loss": each, "validation_loss": each} for each in losses]) == 2
    assert kept([{"train_loss": each} for each in losses]) == 3


def test_the_recipe_on_the_page_is_toml_of_the_same() -> None:
    recipe = {
        "name": 'a "b" \\',
        "source": {"file": "x"},
        "features": {"a b": {}, "c": {"unit": "°"}},
        "target": {"columns": ["a"], "weights": {"up": 2.0}},
        "deep": {"er": {"est": [[1], [2]]}},
    }
    assert tomllib.loads(as_toml(recipe)) == recipe
