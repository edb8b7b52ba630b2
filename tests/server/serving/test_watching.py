"""Versions that come and go in the repository, and on an operator's word, while steps go on."""

from __future__ import annotations

import queue
import shutil
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.harness import await_ready, small_model, start
from tests.server.serving.operating import (
    Operated,
    add_version,
    assert_close,
    eventually,
    made_apart,
    observations,
    operated,
    remove_version,
)
from tests.server.wire.wire import batch, failing, reasons
from tidegate.v1 import admin_pb2
from tidegate.v1 import tidegate_pb2 as pb


def reasons_not_served(running: Operated) -> dict[str, str]:
    """Of each version that is not served, why."""
    with grpc.insecure_channel(running.server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        models = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest()).models
    return {each.version: each.reason for each in models if each.state == "UNAVAILABLE"}


def test_a_new_version_takes_new_sessions_and_live_ones_stay_where_they_are(tmp_path: Path) -> None:
    xs = observations(1, 8)
    with operated(tmp_path, 1) as running:
        running.open("old")
        got = running.step("old", 0, xs[:4])
        add_version(running, 2)
        eventually(lambda: running.versions() == [1, 2])
        assert running.open("new").version == 2
        assert running.open("old").version == 1
        assert_close(got, running.expected(1, xs)[:4])
        assert_close(running.step("old", 4, xs[4:]), running.expected(1, xs)[4:])
        assert_close(running.step("new", 0, xs), running.expected(2, xs))


def test_a_new_model_is_served(tmp_path: Path) -> None:
    with operated(tmp_path, 1) as running:
        small_model(running.repository, "other")
        eventually(
            lambda: (
                {m.name for m in running.stub.ListModels(pb.ListModelsRequest()).models}
                == {"other", "small"}
            )
        )
        reply = running.stub.Open(pb.OpenRequest(model="other", session_id="s"))
        assert reply.session.version == 1


def test_a_folder_is_not_taken_before_it_is_whole(tmp_path: Path) -> None:
    """Its files come one by one, the manifest first, each long after the other."""
    source = made_apart(tmp_path, 2)
    files = sorted(source.iterdir(), key=lambda file: file.name != "model.json")
    with operated(tmp_path, 1, watch_seconds=0) as running:
        target = running.repository / "small" / "2"
        target.mkdir()
        for file in files[:-1]:
            shutil.copy(file, target)
            with failing("BAD_MODEL"):
                running.admin.Load(admin_pb2.LoadRequest(model="small", version=2))
            assert running.open("s").version == 1
        assert reasons_not_served(running) == {}
        shutil.copy(files[-1], target)
        reply = running.admin.Load(admin_pb2.LoadRequest(model="small", version=2))
        assert reply.model.version == 2
        assert running.open("t").version == 2


def test_a_broken_version_is_told_the_old_one_serves_and_a_repaired_one_is_loaded(
    tmp_path: Path,
) -> None:
    source = made_apart(tmp_path, 2)
    with operated(tmp_path, 1) as running:
        target = running.repository / "small" / "2"
        shutil.copytree(source, target)
        graph = (source / "step.onnx").read_bytes()
        (target / "step.onnx").write_bytes(graph[:-1])
        eventually(lambda: "2" in reasons_not_served(running))
        assert "step.onnx is corrupt" in reasons_not_served(running)["2"]
        assert "step.onnx is corrupt" in running.server.log()
        assert running.server.metric("tidegate_models_broken") == 1
        with failing("BAD_MODEL"):
            running.open("s", version=2)
        assert running.open("s").version == 1
        (target / "step.onnx").write_bytes(graph)
        eventually(lambda: running.versions() == [1, 2])
        assert reasons_not_served(running) == {}
        assert running.server.metric("tidegate_models_broken") == 0


def test_a_version_whose_folder_is_gone_serves_its_sessions_to_their_end(tmp_path: Path) -> None:
    xs = observations(2, 6)
    with operated(tmp_path, 1, 2) as running:
        running.open("old")
        running.step("old", 0, xs[:2])
        remove_version(running, 2)
        eventually(lambda: running.newest() == 1)
        with failing("UNKNOWN_VERSION"):
            running.open("new", version=2)
        assert_close(running.step("old", 2, xs[2:]), running.expected(2, xs)[2:])
        assert running.versions() == [1, 2]
        running.stub.Close(pb.CloseRequest(model="small", session_id="old"))
        eventually(lambda: running.versions() == [1])
        eventually(lambda: 'version="2"' not in running.server.metrics())


def test_a_folder_that_is_back_takes_sessions_again(tmp_path: Path) -> None:
    with operated(tmp_path, 1, 2) as running:
        running.open("old")
        folder = running.repository / "small" / "2"
        shutil.move(folder, tmp_path / "away")
        eventually(lambda: running.newest() == 1)
        shutil.move(tmp_path / "away", folder)
        eventually(lambda: running.newest() == 2)
        assert running.open("old").version == 2


def test_without_watching_a_version_is_loaded_on_an_operator_s_word_alone(tmp_path: Path) -> None:
    with operated(tmp_path, 1, watch_seconds=0) as running:
        with failing("UNKNOWN_VERSION"):
            running.admin.Load(admin_pb2.LoadRequest(model="small", version=2))
        add_version(running, 2)
        running.admin.Load(admin_pb2.LoadRequest(model="small", version=2))
        assert running.versions() == [1, 2]
        with failing("BAD_INPUT"):
            running.admin.Load(admin_pb2.LoadRequest(model="small"))


def test_an_unloaded_version_goes_with_its_last_session_and_stays_away(tmp_path: Path) -> None:
    with operated(tmp_path, 1, 2) as running:
        running.open("old")
        reply = running.admin.Unload(admin_pb2.UnloadRequest(model="small", version=2))
        assert reply.sessions == 1
        assert running.open("new").version == 1
        running.stub.Close(pb.CloseRequest(model="small", session_id="old"))
        eventually(lambda: running.versions() == [1])
        add_version(running, 3)  # looks go on, and leave version 2 alone
        eventually(lambda: running.versions() == [1, 3])
        running.admin.Load(admin_pb2.LoadRequest(model="small", version=2))
        assert running.versions() == [1, 2, 3]


def test_by_force_sessions_end_and_streams_hear_how(tmp_path: Path) -> None:
    xs = observations(3, 1)
    with operated(tmp_path, 1, 2) as running:
        messages: queue.Queue[pb.StepBatch | None] = queue.Queue()
        replies = running.stub.StepStream(iter(messages.get, None))
        opens = [pb.LaneOpen(lane=0, session_id="s", create=True)]
        messages.put(batch(0, [0], xs, opens=opens))
        assert next(replies).status == b"\0"
        request = admin_pb2.UnloadRequest(model="small", version=2, force=True)
        assert running.admin.Unload(request).sessions == 0
        messages.put(batch(1, [0], xs))
        assert reasons(next(replies)) == {0: "CLOSED"}
        messages.put(None)
        assert running.versions() == [1]


def test_the_watcher_s_death_takes_the_server_with_it(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    small_model(repository)
    code = (
        "import sys; from server.serving.watcher import Watcher; from server.__main__ import main\n"
        "def die(self): raise ValueError('on purpose')\n"
        "Watcher.look = die\n"
        "sys.exit(main())"
    )
    process, log = start(repository, "--watch-seconds", "0.2", code=code)
    try:
        await_ready(process, log)
        assert process.wait(20) == 1
        assert "the watcher of the model repository died" in log.read_text()
    finally:
        process.kill()
        process.wait()
        log.unlink()
