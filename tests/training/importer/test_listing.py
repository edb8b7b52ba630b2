"""Who has a model and knows nothing of it is told what is in it; names in the graph are taken for
what they say, and what they leave open is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.importer.graphs import LEAKY, bundle_of, lstm, model_of, save
from tests.training.importer.speech import silero
from training.__main__ import main

USUAL = "--state h=hn --input x --output y"


def failed(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    return capfd.readouterr().err


def test_a_model_alone_is_listed_with_a_command_that_imports_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(lstm(), tmp_path)
    assert main(["import", str(path)]) == 0
    listed = capsys.readouterr().out
    for line in ("given.onnx, opset 17", "  x   float32  [batch, 1, 3]",
                 "  cn  float32  [1, batch, 4]"):  # fmt: skip
        assert f"{line}\n" in listed
    command = listed.splitlines()[-1].split()
    assert command[:2] == ["tidegate-train", "import"]
    monkeypatch.chdir(tmp_path)
    assert main(command[1:]) == 0
    manifest = json.loads((tmp_path / "models" / "given" / "1" / "model.json").read_text())
    assert [state["name"] for state in manifest["states"]] == ["h", "c"]
    assert manifest["max_batch"] > 1


def test_silero_s_roles_are_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(silero())]) == 0
    guess = capsys.readouterr().out.splitlines()[-1]
    words = "--state state=stateN:1 --input input --output output --const sr=VALUE"
    assert words in guess


def test_what_is_missing_is_named_with_how_to_find_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(model_of(LEAKY), tmp_path)
    said = failed(["import", str(path), "--state", "h=hn", "--input", "x"], capfd)
    assert f"--output, --out missing; tidegate-train import {path} alone lists" in said


@pytest.mark.parametrize("axis", ["batch", "batch_size", "Nbatch"])
def test_an_axis_named_as_the_batch_s_is_taken_for_it(tmp_path: Path, axis: str) -> None:
    text = LEAKY.replace("float[batch, 3]", f"float[1, {axis}, 3]")
    bundle = bundle_of(model_of(text), tmp_path, USUAL)
    assert bundle.manifest.states[0].shape == (1, 3)
    assert bundle.manifest.max_batch > 1


def test_rounding_of_a_batch_suggests_a_range_and_a_real_difference_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for factor, hint in (("0.0001", True), ("0.5", False)):
        mixed = f"a = Constant<value = int64[1] {{0}}>()\n all = ReduceMean(hn, a)\n " \
            f"f = Constant<value = float {{{factor}}}>()\n part = Mul(all, f)\n " \
            "t = Tanh(hn)\n y = Add(t, part)"  # fmt: skip
        text = LEAKY.replace("y = Tanh(hn)", mixed).replace('"" : 17', '"" : 18')
        for options, wanted in ((USUAL, hint), (f"{USUAL} --range=-2,2", False)):
            caplog.clear()
            assert bundle_of(model_of(text), tmp_path, options).manifest.max_batch == 1
            assert "one at a time" in caplog.text
            assert ("with --range=LOW,HIGH" in caplog.text) == wanted


def test_a_state_of_one_axis_is_said_to_be_unsupported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(model_of(LEAKY.replace("[batch, 3]", "[3]")), tmp_path)
    out = str(tmp_path / "models" / "taken" / "1")
    said = failed(["import", str(path), *USUAL.split(), "--out", out], capfd)
    assert "state 'h' is [3]: states of one axis are unsupported" in said
    assert "export it as [batch, 3]" in said


def test_states_that_could_be_swapped_are_warned_of_unless_names_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle_of(lstm(), tmp_path, "--state h=hn --state c=cn --input x --output y")
    assert "the other way round" not in caplog.text
    bundle_of(lstm(), tmp_path, "--state h=cn --state c=hn --input x --output y")
    assert "try --state h=hn --state c=cn" in caplog.text


def test_onnxruntime_s_own_lines_are_kept_from_the_user(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(model_of(LEAKY.replace("[batch, 3] x", "[batch, some] x")), tmp_path)
    words = ["import", str(path), *USUAL.split(), "--input-shape", "4"]
    said = failed([*words, "--out", str(tmp_path / "models" / "taken" / "1")], capfd)
    (line,) = said.splitlines()
    assert line.startswith("tidegate-train: given.onnx does not run: Non-zero status code")
    assert "onnxruntime" not in line


@pytest.mark.parametrize("command", ["report", "diagnose", "predict"])
def test_of_an_import_it_is_said_what_cannot_be_had(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    bundle_of(model_of(LEAKY), tmp_path, USUAL)
    bundle = tmp_path / "models" / "taken" / "1"
    capfd.readouterr()
    said = failed([command, str(bundle), "--out", str(tmp_path / "p.csv")], capfd)
    assert f"{bundle} was imported: there is no recipe, data or network to look at" in said
