"""Bundles that must not be served: the server lives on, and says why to whoever asks for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import running_server, small_model
from tests.server.transports import NATIVE, over
from tests.server.wire.wire import connected, failing, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb

pytestmark = over(NATIVE)


def rewrite(folder: Path, **changes: object) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def corrupt(folder: Path) -> None:
    graph = bytearray((folder / "step.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (folder / "step.onnx").write_bytes(graph)


def climb(folder: Path) -> None:
    files = json.loads((folder / "model.json").read_text())["files"]
    shutil.copy(folder / "step.onnx", folder.parent.parent.parent / "stolen.onnx")
    digest = files.pop("step.onnx")
    rewrite(folder, files=files | {"../../../stolen.onnx": digest})


def link_out(folder: Path) -> None:
    outside = folder.parent.parent.parent / "outside.onnx"
    shutil.move(folder / "step.onnx", outside)
    (folder / "step.onnx").symlink_to(outside)


def spoil(folder: Path) -> None:
    (folder / "model.json").write_text("{")


def deep(folder: Path, number: str) -> None:
    file = folder / "model.json"
    file.write_text(file.read_text().replace('"version": 1', f'"version": {number}'))


def shape(folder: Path, dimensions: list[int]) -> None:
    states = json.loads((folder / "model.json").read_text())["states"]
    states[0]["shape"] = dimensions
    rewrite(folder, states=states)


def link_to_itself(folder: Path) -> None:
    (folder / "step.onnx").unlink()
    (folder / "step.onnx").symlink_to("step.onnx")


BREAK: dict[str, tuple[Callable[[Path], None], str]] = {
    "corrupt": (corrupt, "step.onnx is corrupt: sha256"),
    "newer": (lambda folder: rewrite(folder, format=2), "has format 2; this server reads format 1"),
    "climbing": (climb, "'../../../stolen.onnx' is not a plain name"),
    "linked out": (link_out, "step.onnx leads out of the model repository"),
    "missing": (lambda folder: (folder / "read.onnx").unlink(), "read.onnx cannot be read"),
    "no json": (spoil, "model.json is malformed"),
    "endless version": (lambda folder: deep(folder, "1e999"), "model.json is malformed"),
    "too deep": (lambda folder: deep(folder, "[" * 100_000), "model.json is malformed"),
    "bad shape": (lambda folder: shape(folder, [-3]), "has the impossible shape (-3,)"),
    "huge shape": (lambda folder: shape(folder, [10**9]), "no room for 10,000 sessions: 40,00"),
    "endless chunk": (
        lambda folder: rewrite(folder, max_chunk=10**9),
        "max_chunk must be 1 to 4096",
    ),
    "linked to itself": (link_to_itself, "step.onnx cannot be read"),
    "misnamed": (lambda folder: rewrite(folder, name="other"), "model.json is about other/1"),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_bad_bundle_is_refused_by_name_and_the_others_are_served(
    how: str, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    small_model(repository, "good")
    small_model(repository, "bad")
    break_it, says = BREAK[how]
    break_it(repository / "bad" / "1")
    with running_server(repository) as server, connected(server) as stub:
        with failing("BAD_MODEL") as seen:
            stub.Open(pb.OpenRequest(model="bad", session_id="s"))
        assert "bad/1" in seen[0].detail.message
        assert says in seen[0].detail.message
        stub.Open(pb.OpenRequest(model="good", session_id="s"))
        stub.Step(step_request("s", 0, observations(1, 1), model="good"))
        assert [model.name for model in stub.ListModels(pb.ListModelsRequest()).models] == ["good"]
        assert server.terminate() == 0


def test_a_bad_newest_version_leaves_the_one_before_it_serving(tmp_path: Path) -> None:
    for version in (1, 2):
        small_model(tmp_path, "m", version)
    corrupt(tmp_path / "m" / "2")
    with running_server(tmp_path) as server, connected(server) as stub:
        assert stub.Open(pb.OpenRequest(model="m", session_id="s")).session.version == 1
        with failing("BAD_MODEL"):
            stub.Open(pb.OpenRequest(model="m", version=2, session_id="s"))


def test_a_session_stays_on_the_version_on_which_it_opened(tmp_path: Path) -> None:
    small_model(tmp_path, "m", 1, seed=1)
    small_model(tmp_path, "m", 2, seed=2)
    x = observations(1, 2)
    with running_server(tmp_path) as server, connected(server) as stub:
        old = stub.Open(pb.OpenRequest(model="m", version=1, session_id="pinned"))
        new = stub.Open(pb.OpenRequest(model="m", session_id="newest"))
        assert (old.session.version, new.session.version) == (1, 2)
        first = stub.Step(step_request("pinned", 0, x[:1], model="m"))
        other = stub.Step(step_request("newest", 0, x[:1], model="m"))
        assert list(first.outputs) != list(other.outputs)
        assert not stub.Open(pb.OpenRequest(model="m", session_id="pinned")).created
        listed = stub.List(pb.ListRequest(model="m")).sessions
        assert [(s.session_id, s.version) for s in listed] == [("newest", 2), ("pinned", 1)]
