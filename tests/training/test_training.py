"""Training on the real data: the split, a short fit, the proof before writing, what is shipped."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.harness import ROOT
from training.augment import Augmentation, vary
from training.data import FEATURES, LABELS, Recording, read_recordings
from training.export import ParityError, export, prove
from training.fit import FitConfig, evaluate, fit
from training.split import FOLDS, HELD_OUT, by_person

SHIPPED = ROOT / "models" / "exercise" / "1"


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return read_recordings()


def test_the_data_is_the_published_set(recordings: list[Recording]) -> None:
    assert len(recordings) == 140
    assert sum(len(recording.signal) for recording in recordings) == 244_102
    assert {recording.person for recording in recordings} == set(range(1, 11))
    assert {recording.label for recording in recordings} == set(range(7))
    assert len({recording.name for recording in recordings}) == 140
    assert all(np.isfinite(recording.signal).all() for recording in recordings)


@pytest.mark.parametrize("people", FOLDS)
def test_no_person_is_in_both_parts(recordings: list[Recording], people: tuple[int, int]) -> None:
    train, held_out = by_person(recordings, people)
    assert {recording.person for recording in held_out} == set(people)
    assert not {recording.person for recording in train} & set(people)
    assert len(train) + len(held_out) == 140


def test_the_folds_hold_everybody_out_once() -> None:
    assert sorted(person for fold in FOLDS for person in fold) == list(range(1, 11))


def test_variation_keeps_the_arm_and_the_strength_of_gravity(recordings: list[Recording]) -> None:
    signal = recordings[0].signal
    still = Augmentation(scale=0, speed=0, noise=0, late_start=0, rotation_degrees=90)
    varied = vary(signal, still, np.random.default_rng(0))
    assert set(varied[:, 6]) == set(signal[:, 6])
    before, after = (np.linalg.norm(s[: len(varied), :3], axis=1) for s in (signal, varied))
    np.testing.assert_allclose(after, before, rtol=1e-4)
    assert np.abs(varied[:, :3] - signal[: len(varied), :3]).max() > 0.1


def test_a_short_fit_learns_and_its_export_is_proven(
    recordings: list[Recording], tmp_path: Path
) -> None:
    train = [replace(r, signal=r.signal[:400]) for r in recordings if r.person in (1, 3)]
    held_out = [replace(r, signal=r.signal[:150]) for r in recordings if r.person == 9][:3]
    config = FitConfig(hidden=24, epochs=25, averaging=0.9)
    model = fit(train, config, quiet=True)
    assert evaluate(model, train).at_end > 0.5  # seven classes: chance is 0.14
    errors = export(tmp_path / "m" / "3", model, train, held_out, {"seed": config.seed})
    assert max(errors.values()) <= 1e-5
    manifest = json.loads((tmp_path / "m" / "3" / "model.json").read_text())
    assert (manifest["name"], manifest["version"]) == ("m", 3)
    assert manifest["parity"] == errors


def test_the_same_seed_trains_the_same_model(recordings: list[Recording]) -> None:
    train = [replace(r, signal=r.signal[:200]) for r in recordings if r.person == 1]
    config = FitConfig(hidden=8, epochs=2)
    first, second = (fit(train, config, quiet=True).weights() for _ in range(2))
    np.testing.assert_array_equal(first.head_w, second.head_w)
    np.testing.assert_array_equal(first.layers[0].w, second.layers[0].w)


def test_an_export_that_differs_is_refused_and_nothing_written(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [replace(r, signal=r.signal[:60]) for r in recordings if r.person == 1]
    model = fit(train, FitConfig(hidden=8, epochs=1), quiet=True)
    wrong = replace(model.weights(), head_b=model.weights().head_b + np.eye(7, dtype=np.float32)[0])
    with pytest.raises(ParityError, match="torch differs"):
        prove(model, wrong, train[:1])
    monkeypatch.setattr(model, "weights", lambda: wrong)
    with pytest.raises(ParityError):
        export(tmp_path / "m" / "1", model, train, train[:1], {})
    assert not (tmp_path / "m" / "1").exists()


def test_the_shipped_bundle_is_whole_and_names_its_held_out_people() -> None:
    manifest = json.loads((SHIPPED / "model.json").read_text())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == digest
    assert manifest["training"]["people"]["held_out"] == list(HELD_OUT)
    assert not set(HELD_OUT) & set(manifest["training"]["people"]["trained_on"])
    assert max(manifest["parity"].values()) <= 1e-5
    assert [feature["name"] for feature in manifest["features"]] == list(FEATURES)
    assert manifest["outputs"][0]["labels"] == list(LABELS)


def test_the_examples_are_held_out_sessions_as_recorded(recordings: list[Recording]) -> None:
    by_name = {r.name: r for r in recordings if r.person in HELD_OUT}
    rows: dict[str, list[list[float]]] = {}
    with (ROOT / "examples" / "watch.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert row["label"] == LABELS[by_name[row["session"]].label]
            rows.setdefault(row["session"], []).append([float(row[name]) for name in FEATURES])
    assert len(rows) == 8
    for name, signal in rows.items():
        np.testing.assert_allclose(np.array(signal), by_name[name].signal, rtol=1e-5, atol=1e-9)
