"""What the tests of model versions share: an operator's calls, and bundles that come and go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from tests.harness import RunningServer, running_server, small_model
from tests.server.wire.wire import WIDTH
from tidegate.v1 import admin_pb2, admin_pb2_grpc, tidegate_pb2_grpc
from tidegate.v1 import tidegate_pb2 as pb
from training.network import Network
from training.reference import NumpyNetwork

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Operated:
    """A server, its repository, and ways to talk to it."""

    server: RunningServer
    repository: Path
    weights: dict[int, Network]
    stub: tidegate_pb2_grpc.TidegateStub
    admin: admin_pb2_grpc.AdminStub

    def versions(self) -> list[int]:
        """The versions of `small` that are served."""
        models = self.stub.ListModels(pb.ListModelsRequest()).models
        return [model.version for model in models if model.name == "small"]

    def open(self, session_id: str, version: int = 0) -> pb.Session:
        """Open a session or attach to it."""
        request = pb.OpenRequest(model="small", session_id=session_id, version=version)
        return self.stub.Open(request).session

    def newest(self) -> int:
        """The version that a new session opens on."""
        session = self.open("probe")
        self.stub.Close(pb.CloseRequest(model="small", session_id="probe"))
        return session.version

    def step(self, session_id: str, first: int, xs: Floats, version: int = 0) -> Floats:
        """Steps; their outputs."""
        request = pb.StepRequest(
            model="small", session_id=session_id, version=version, first_step=first,
            steps=len(xs), features=xs.ravel().tolist(),
        )  # fmt: skip
        return np.array(self.stub.Step(request).outputs, np.float32).reshape(len(xs), -1)

    def expected(self, version: int, xs: Floats) -> Floats:
        """What the equations of a version answer, from the initial state."""
        lstm = NumpyNetwork(self.weights[version])
        return lstm.run(xs, lstm.initial())[0].astype(np.float32)

    def migrate(self, *ids: str, by: int = admin_pb2.MIGRATE_BY_STATE) -> admin_pb2.MigrateReply:
        """Migrate sessions from version 1 to 2; all where none is named."""
        request = admin_pb2.MigrateRequest(
            model="small", from_version=1, to_version=2, session_ids=ids, all=not ids, by=by,  # type: ignore[arg-type]
        )  # fmt: skip
        return self.admin.Migrate(request)


def usual(repository: Path, version: int, seed: int) -> Network:
    """Write a version of `small` with the usual shape."""
    return small_model(repository, version=version, seed=seed)


@contextmanager
def operated(
    folder: Path,
    *versions: int,
    make: Callable[[Path, int, int], Network] = usual,
    **flags: object,
) -> Iterator[Operated]:
    """A server of these versions of `small`, each with weights of its own."""
    repository = folder / "models"
    weights = {version: make(repository, version, version) for version in versions}
    flags = {"watch_seconds": 0.05} | flags
    with (
        running_server(repository, **flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub, admin = tidegate_pb2_grpc.TidegateStub(channel), admin_pb2_grpc.AdminStub(channel)
        yield Operated(server, repository, weights, stub, admin)


def add_version(running: Operated, version: int) -> None:
    """Write another version, whole."""
    running.weights[version] = small_model(running.repository, version=version, seed=version)


def made_apart(folder: Path, version: int) -> Path:
    """A bundle of `small` outside of any repository."""
    small_model(folder / "apart", version=version, seed=version)
    return folder / "apart" / "small" / str(version)


def remove_version(running: Operated, version: int) -> None:
    """Remove a version's folder."""
    shutil.rmtree(running.repository / "small" / str(version))


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fail after a while."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def observations(seed: int, steps: int) -> Floats:
    """Raw features [steps, WIDTH]."""
    return np.random.default_rng(seed).normal(0, 2, (steps, WIDTH)).astype(np.float32)


def assert_close(got: Floats, wanted: Floats) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
