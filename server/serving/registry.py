"""All models served, by name and version, and which of them a request means."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

from server.errors import BadModel, ServingError, Starting, UnknownModel, UnknownVersion
from server.metrics import Metrics
from server.serving.model import ServedModel
from server.sessions.claims import Problems


class Registry:
    """Filled at start; until `ready`, every look-up says the server is starting."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._served: dict[str, dict[int, ServedModel]] = {}
        self._broken: dict[str, dict[int, str]] = {}
        self.ready = False
        self.draining = False

    def __iter__(self) -> Iterator[ServedModel]:
        for name in sorted(self._served):
            yield from (self._served[name][v] for v in sorted(self._served[name]))

    def add(self, model: ServedModel) -> None:
        """Serve a model version."""
        self._served.setdefault(model.name, {})[model.version] = model

    def add_broken(self, name: str, version: int, why: str) -> None:
        """Remember why a model version cannot be served, to tell whoever asks for it."""
        self._broken.setdefault(name, {})[version] = why

    def broken(self) -> Iterator[tuple[str, int, str]]:
        """Model versions that cannot be served: name, version and why."""
        for name, versions in sorted(self._broken.items()):
            yield from ((name, version, why) for version, why in sorted(versions.items()))

    def resolve(self, name: str, version: int = 0) -> ServedModel:
        """A model version; 0 is the newest that can be served.

        Raises:
            Starting, UnknownModel, UnknownVersion, BadModel.
        """
        if not self.ready:
            raise Starting
        served, broken = self._served.get(name, {}), self._broken.get(name, {})
        if not served and not broken:
            raise UnknownModel(name)
        version = version or max(served or broken)
        if version in served:
            return served[version]
        raise BadModel(broken[version]) if version in broken else UnknownVersion(name, version)

    def holder(self, name: str, version: int, session_id: str) -> ServedModel:
        """The model version that holds a session, newest first where `version` is 0.

        Falls back to the version that remembers the session's end, then to the newest.

        Raises:
            Starting, UnknownModel, UnknownVersion, BadModel.
        """
        newest = self.resolve(name, version)
        if version:
            return newest
        served = [self._served[name][v] for v in sorted(self._served[name], reverse=True)]
        live = (model for model in served if session_id in model.directory)
        ended = (model for model in served if model.directory.ended(session_id))
        return next(live, None) or next(ended, None) or newest

    def seek(self, name: str, version: int, session_id: str) -> list[Future[Problems]]:
        """Look for a session in the store, if no version of the model has it at hand. Raises as
        `resolve`."""
        models = self.versions(name, version)
        if any(session_id in model.directory for model in models):
            return []
        sought = [model.seek({session_id: False}) for model in models]
        return [each for each in sought if each is not None]

    def versions(self, name: str, version: int = 0) -> list[ServedModel]:
        """One version, or with 0 all of them, newest first."""
        newest = self.resolve(name, version)
        if version:
            return [newest]
        return [self._served[name][v] for v in sorted(self._served[name], reverse=True)]

    def expire(self) -> None:
        """End idle sessions of every model."""
        for model in self:
            model.expire()

    def refuse(self) -> None:
        """Take no new sessions and steps."""
        self.draining = True
        for model in self:
            model.refuse()

    def drain(self, deadline: float) -> bool:
        """Wait for what is queued anywhere; False if `deadline` (monotonic) came first."""
        waited = [model.drain(deadline) for model in self]
        return all(waited)

    def flush(self, deadline: float) -> bool:
        """Have every session stored as it is; False if `deadline` (monotonic) came first."""
        flushed = [model.flush(deadline) for model in self]
        return all(flushed)

    def stop(self) -> None:
        """End every scheduler."""
        for model in self:
            model.stop()

    def count_error(self, error: ServingError, name: str = "", version: int = 0) -> None:
        """Count a failed call under the model version it named; under none if that is unknown.

        What callers name and is not served must not become a label: there is no end of names.
        """
        if error.counted:
            return
        error.counted = True
        served = self._served.get(name, {})
        if served:
            served[version if version in served else max(served)].metrics.error(
                error.code, error.reason
            )
        else:
            self._metrics.errors.labels("", "", error.code, error.reason.lower()).inc()
