"""What the server says about its models, sessions and steps, as plain values for callers."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import TidegateError, UnknownModel, UnknownVersion
from tidegate.v1 import tidegate_pb2 as pb

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Feature:
    """One value of an observation."""

    name: str
    unit: str = ""
    missing: bool = False
    """Whether NaN may be sent, for a value that was not observed."""
    labels: tuple[str, ...] = ()
    """A categorical feature's labels: its value is the index of one."""


@dataclass(frozen=True)
class Output:
    """A group of output values: probabilities of labels, or plain values."""

    name: str
    size: int
    kind: str
    unit: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """One served version of a model."""

    name: str
    version: int
    description: str
    features: tuple[Feature, ...]
    outputs: tuple[Output, ...]
    max_chunk: int
    device: str
    max_sessions: int
    feeds_back: bool = False
    """Whether a forecast can feed its outputs back as features."""
    max_forecast: int = 0
    """The most steps of a forecast."""

    @classmethod
    def from_proto(cls, model: pb.Model) -> "Model":
        """Translate the server's description."""
        return cls(
            name=model.name,
            version=model.version,
            description=model.description,
            features=tuple(
                Feature(each.name, each.unit, each.missing, tuple(each.labels))
                for each in model.features
            ),
            outputs=tuple(
                Output(each.name, each.size, each.kind, each.unit, tuple(each.labels))
                for each in model.outputs
            ),
            max_chunk=model.max_chunk,
            device=model.device,
            max_sessions=model.max_sessions,
            feeds_back=model.feeds_back,
            max_forecast=model.max_forecast,
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(each.name for each in self.features)

    @property
    def width(self) -> int:
        """How many values one step puts out."""
        return sum(each.size for each in self.outputs)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class labels of the first output that has any."""
        return next((each.labels for each in self.outputs if each.labels), ())


@dataclass(frozen=True)
class SessionInfo:
    """A live session as the server sees it."""

    model: str
    version: int
    session_id: str
    steps: int
    opened_at: datetime
    last_used_at: datetime
    expires_at: datetime
    durable_step: int = 0
    """Steps below this number are in the server's store; 0 where it has none."""
    life: int = 0
    """Another number whenever a session of this id begins anew; the same over restarts."""

    @classmethod
    def from_proto(cls, session: pb.Session) -> "SessionInfo":
        """Translate the server's description."""
        return cls(
            model=session.model,
            version=session.version,
            session_id=session.session_id,
            steps=session.steps,
            opened_at=session.opened_at.ToDatetime(tzinfo=UTC),
            last_used_at=session.last_used_at.ToDatetime(tzinfo=UTC),
            expires_at=session.expires_at.ToDatetime(tzinfo=UTC),
            durable_step=session.durable_step,
            life=session.life,
        )


@dataclass(frozen=True)
class ManySteps:
    """What became of the steps of many sessions; row i is the i-th session's."""

    outputs: FloatArray
    """f32 [N, O], or [N, T, O] for chunks; NaN in the rows that failed."""
    remembered: NDArray[np.bool_]
    """Which rows had been applied before and were answered from the server's memory."""
    errors: dict[int, TidegateError] = field(default_factory=dict)
    """Why rows failed, by row."""
    durable: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """i64 [N]: the row's session's steps below this number are in the server's store; 0 where the
    answer told nothing of it."""

    def raise_first(self) -> None:
        """Raise the first row's error, if any row failed."""
        if self.errors:
            raise self.errors[min(self.errors)]


class Catalogue:
    """Models seen so far, by name and version: the same version never changes on a server."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, int], Model] = {}
        self._newest: dict[str, int] = {}

    def fill(self, reply: pb.ListModelsReply) -> list[Model]:
        """Take in the server's list and give it in the caller's terms."""
        models = [Model.from_proto(each) for each in reply.models]
        self._models = {(each.name, each.version): each for each in models}
        self._newest = {each.name: each.version for each in reply.models if each.newest}
        return models

    def find(self, name: str, version: int) -> Model | None:
        """The model, if it was in the last list; version 0 is never answered from memory."""
        return self._models.get((name, version))

    def pick(self, name: str, version: int) -> Model:
        """One model of the last list; version 0 is the newest that takes new sessions."""
        versions = [each for each in self._models.values() if each.name == name]
        listed = ", ".join(f"{name}/{version}" for name, version in sorted(self._models)) or "none"
        if not versions:
            raise UnknownModel(f"unknown model {name!r}; served: {listed}")
        if version == 0:
            version = self._newest.get(name) or max(each.version for each in versions)
        for each in versions:
            if each.version == version:
                return each
        raise UnknownVersion(f"model {name!r} has no version {version}; served: {listed}")
