"""What cannot be imported is refused in a sentence that names it, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.server.bundle.malicious import UNSOUND
from tests.training.importer.graphs import LEAKY, lstm, model_of, save
from tests.training.importer.speech import silero
from training.__main__ import main

USUAL = "--state h=hn --input x --output y"
TWO_INPUTS = LEAKY.replace(") => (", ", float[batch, 1] gain) => (")


def refused(path: Path, options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that the command ends with."""
    out = tmp_path / "models" / "taken" / "1"
    assert main(["import", str(path), *options.split(), "--out", str(out)]) == 2
    assert not out.parent.parent.exists() or not list(out.parent.iterdir())
    printed = capsys.readouterr().err
    (line,) = [each for each in printed.splitlines() if each.startswith("tidegate-train: ")]
    return line


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (LEAKY, "--state g=hn --input x --output y",
         "--state 'g=hn' is not IN=OUT[:AXIS] with an input and an output of the graph: "
         "its inputs are 'x', 'h'; its outputs are 'y', 'hn'"),
        (LEAKY, "--state h=h_n --input x --output y", "its outputs are 'y', 'hn'"),
        (LEAKY, "--state h --input x --output y", "--state 'h' is not IN=OUT[:AXIS]"),
        (LEAKY, "--state h=hn --state h=y --input x --output y", "--state names 'h' twice"),
        (LEAKY, "--state h=hn --state x=hn --input x --output y", "--state names 'hn' twice"),
        (LEAKY, "--state h=hn:2 --input x --output y", "state 'h' has 2 axes, and no batch axis 2"),
        (LEAKY, "--state h=hn:1 --input x --output y", "state 'h' has 3 on its batch axis 1"),
        (LEAKY, "--state h=hn --input z --output y", "--input 'z' names none of the graph's: 'x'"),
        (LEAKY, "--state h=hn --input h --output y", "input 'h' is given more than one role"),
        (LEAKY, "--state h=hn --input x --output z", "--output 'z' names none of the graph's: 'y'"),
        (LEAKY, "--state h=hn --input x --output y:2", "'y' has 2 axes, and no batch axis 2"),
        (TWO_INPUTS, USUAL, "input 'gain' of the graph is neither a state (--state gain=OUT)"),
        (TWO_INPUTS, f"{USUAL} --const gain=much", "--const gain: 'much' is not float32"),
        (TWO_INPUTS, f"{USUAL} --const gain=1,2", "--const gain: 2 values do not fit [1, 1]"),
        (TWO_INPUTS, f"{USUAL} --const gain=inf", "--const gain: 'inf' is not finite in float32"),
        (TWO_INPUTS, f"{USUAL} --const loss=1", "--const 'loss=1' names none of the graph's"),
        (LEAKY, f"{USUAL} --initial h=1,2", "--initial h: '1,2' is not one number"),
        (LEAKY, f"{USUAL} --initial x=1", "--initial 'x=1' names none of the graph's: 'h'"),
        (LEAKY, f"{USUAL} --state-shape h=4", "state 'h' is [batch, 3], which '4' does not fit"),
        (LEAKY, f"{USUAL} --input-shape 3,0", "--input-shape '3,0' is not a list of whole numbers"),
        (LEAKY, f"{USUAL} --context 3", "--context 3 leaves nothing to send of the 3 values"),
        (LEAKY, f"{USUAL} --features a,b", "--features must be 3 different names, not 2"),
        (LEAKY, f"{USUAL} --range 2,1", "--range '2,1' is not LOW,HIGH with LOW below HIGH"),
        (LEAKY.replace("[batch, 3] x", "[batch, some] x"), USUAL,
         "input 'x' is [batch, ?]: give a session's shape, without the batch axis"),
        (LEAKY.replace("[batch, 3] x", "[batch, some] x"), f"{USUAL} --input-shape 4",
         "given.onnx does not run: "),
        (LEAKY.replace("[batch, 3] hn", "[batch, both] hn").replace(
            "hn = Add(kept, x)", "sum = Add(kept, x)\n    hn = Concat<axis = 1>(sum, sum)"),
         USUAL, "state 'h' is [1, 3] for one session, and 'hn' comes out as [1, 6]"),
        (LEAKY.replace("[batch, 3] hn", "[batch, 3] sum, int64[batch, 3] hn").replace(
            "hn = Add(kept, x)", "sum = Add(kept, x)\n    hn = Cast<to = 7>(sum)").replace(
            "y = Tanh(hn)", "y = Tanh(sum)"),
         USUAL, "state 'h' is float32 and 'hn' is int64"),
        (LEAKY.replace("y = Tanh(hn)", "y = Tanh(x)"), USUAL,
         "state 'h' does not matter: other values in it changed no output"),
        (LEAKY.replace("y = Tanh(hn)", "noise = RandomNormalLike(hn)\n    y = Add(hn, noise)"),
         USUAL, "the graph is random: a step made twice gave two results"),
        (LEAKY.replace("y = Tanh(hn)", "y = Log(hn)"), USUAL,
         "an output is not finite at random step 0: say what range the inputs have"),
        (LEAKY.replace('"" : 17', '"" : 10'), USUAL,
         "given.onnx is of opset 10; export it with opset 11 or later"),
    ],
)  # fmt: skip
def test_the_sentence_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, options: str, says: str
) -> None:
    assert says in refused(save(model_of(text), tmp_path), options, tmp_path, capsys)


def test_a_state_that_does_not_matter_is_named_among_those_that_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = LEAKY.replace(") => (", ", int64[batch, 1] n) => (int64[batch, 1] nn, ")
    count = "one = Constant<value = int64 {1}>()\n    nn = Add(n, one)"
    text = text.replace("y = Tanh", f"{count}\n    y = Tanh")
    said = refused(save(model_of(text), tmp_path), f"{USUAL} --state n=nn", tmp_path, capsys)
    assert "state 'n' does not matter" in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: [Errno 2] No such file"),
        (b"", "is no ONNX model"),
        (b"PK\x03\x04 a zip file, say", "is no ONNX model, or is cut short"),
        (silero().read_bytes()[:100_000], "is no ONNX model, or is cut short"),
        (b"\x08\x08\x3a\x00", "is no ONNX model: it holds no graph"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, says: str
) -> None:
    path = tmp_path / "given.onnx"
    if content is not None:
        path.write_bytes(content)
    assert says in refused(path, USUAL, tmp_path, capsys)


def test_data_that_is_not_beside_the_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given.onnx"
    onnx.save(lstm(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    options = "--state h=hn:1 --state c=cn:1 --input x --output y"
    assert "weights.bin" in refused(path, options, tmp_path, capsys)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("data above", "'../etc/passwd' points outside the directory"),
        ("data by its path", "should be a relative path"),
        ("data in a call's graph", "given.onnx"),
        ("an unknown domain", "given.onnx is unsound: it has the operator 'ai.onnx.contrib.PyOp'"),
        ("a size that callers send", "is unsound: it has Expand, whose size depends on values"),
    ],
)
def test_what_the_server_would_refuse_in_a_graph_is_refused_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, says: str
) -> None:
    make, _ = UNSOUND[case]
    path = tmp_path / "given.onnx"
    path.write_bytes(make().SerializeToString())
    assert says in refused(path, "--state x=y --input x --output y", tmp_path, capsys)


def test_a_model_that_onnxruntime_does_not_load_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of(LEAKY)
    model.graph.node[-1].op_type = "Unheard"
    assert "given.onnx does not load: " in refused(save(model, tmp_path), USUAL, tmp_path, capsys)


def test_an_axis_that_is_none_of_the_batch_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Silero's state lies with its batch on axis 1."""
    options = "--state state=stateN:0 --input input --output output --const sr=16000"
    said = refused(silero(), f"{options} --input-shape 576", tmp_path, capsys)
    assert "state 'state' has 2 on its batch axis 0: name another axis" in said


def test_a_bundle_that_is_there_stays_where_the_next_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "taken" / "1"
    path = save(model_of(LEAKY), tmp_path)
    assert main(["import", str(path), *USUAL.split(), "--out", str(out)]) == 0
    before = {each.name: each.read_bytes() for each in out.iterdir()}
    options = USUAL.replace("x --output y", "x --output z")
    assert main(["import", str(path), *options.split(), "--out", str(out)]) == 2
    assert {each.name: each.read_bytes() for each in out.iterdir()} == before
    assert [each.name for each in out.parent.iterdir()] == ["1"]
    capsys.readouterr()
