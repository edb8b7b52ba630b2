"""All models served, by name and version, and which of them a request means."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

from server.errors import BadModel, NoMessage, ServingError, Starting, UnknownModel, UnknownVersion
from server.metrics import Metrics
from server.serving.model import ServedModel
from server.sessions.claims import Problems


class Registry:
    """Filled at start and by the watcher; until `ready`, every look-up says the server is starting.

    Look-ups come from the event loop while another thread changes things: tables are replaced by
    changed copies, never changed.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._served: dict[str, dict[int, ServedModel]] = {}
        self._broken: dict[str, dict[int, str]] = {}
        self._shadows: frozenset[tuple[str, int]] = frozenset()
        self._newest: dict[str, ServedModel] = {}
        self._changing = threading.RLock()
        self.ready = False
        self.draining = False

    def __iter__(self) -> Iterator[ServedModel]:
        served = self._served
        for name in sorted(served):
            yield from (served[name][v] for v in sorted(served[name]))

    def add(self, model: ServedModel) -> None:
        """Serve a model version."""
        with self._changing:
            if self.draining:
                model.refuse()
            versions = self._served.get(model.name, {}) | {model.version: model}
            self._served = self._served | {model.name: versions}
            self._arrange()
        self.mend(model.name, model.version)

    def remove(self, model: ServedModel) -> None:
        """Serve a model version no more."""
        with self._changing:
            versions = dict(self._served[model.name])
            del versions[model.version]
            others = {name: each for name, each in self._served.items() if name != model.name}
            self._served = others | ({model.name: versions} if versions else {})
            self._arrange()

    def leave(self, model: ServedModel, leaving: bool = True) -> None:
        """A version takes no new sessions from now on; or takes some again."""
        with self._changing:
            model.leave(leaving)
            self._arrange()

    def shadow(self, name: str, version: int, on: bool) -> None:
        """A version is a shadow, and not the newest whatever its number; or it is none any more."""
        with self._changing:
            key = frozenset({(name, version)})
            self._shadows = self._shadows | key if on else self._shadows - key
            self._arrange()

    def add_broken(self, name: str, version: int, why: str) -> None:
        """Remember why a model version cannot be served, to tell whoever asks for it."""
        with self._changing:
            self._broken = self._broken | {name: self._broken.get(name, {}) | {version: why}}
            self._metrics.broken.set(sum(map(len, self._broken.values())))

    def mend(self, name: str, version: int) -> None:
        """A version is no longer broken, or not there any more."""
        with self._changing:
            left = {v: why for v, why in self._broken.get(name, {}).items() if v != version}
            others = {each: whys for each, whys in self._broken.items() if each != name}
            self._broken = others | ({name: left} if left else {})
            self._metrics.broken.set(sum(map(len, self._broken.values())))

    def find(self, name: str, version: int) -> ServedModel | None:
        """A model version, if it is served."""
        return self._served.get(name, {}).get(version)

    def newest(self, name: str) -> ServedModel | None:
        """The version that takes new sessions."""
        return self._newest.get(name)

    def _arrange(self) -> None:
        self._newest = {name: self._pick(versions) for name, versions in self._served.items()}

    def _pick(self, versions: dict[int, ServedModel]) -> ServedModel:
        """The newest, those that stay and are no shadows before others."""

        def rank(model: ServedModel) -> tuple[bool, bool, int]:
            unseen = (model.name, model.version) in self._shadows
            return not model.leaving, not unseen, model.version

        return max(versions.values(), key=rank)

    def broken(self) -> Iterator[tuple[str, int, str]]:
        """Model versions that cannot be served: name, version and why."""
        for name, versions in sorted(self._broken.items()):
            yield from ((name, version, why) for version, why in sorted(versions.items()))

    def resolve(self, name: str, version: int = 0) -> ServedModel:
        """A model version; 0 is the newest that can be served, and that takes new sessions.

        Raises:
            Starting, UnknownModel, UnknownVersion, BadModel.
        """
        if not self.ready:
            raise Starting
        served, broken = self._served.get(name, {}), self._broken.get(name, {})
        if not served and not broken:
            raise UnknownModel(name)
        if not version and (newest := self._newest.get(name)) is not None:
            return newest
        version = version or max(broken or served)
        if version in served:
            return served[version]
        raise BadModel(broken[version]) if version in broken else UnknownVersion(name, version)

    def holding(self, name: str, version: int, session_id: str) -> ServedModel | None:
        """The model version that has a live session, newest first where `version` is 0; None where
        that takes a longer look (`holder`)."""
        if not self.ready:
            return None
        versions = self._served.get(name, {})
        if version or len(versions) == 1:
            model = versions.get(version) if version else self._newest[name]
            return model if model is not None and session_id in model.directory else None
        served = (versions[v] for v in sorted(versions, reverse=True))
        return next((each for each in served if session_id in each.directory), None)

    def holder(self, name: str, version: int, session_id: str) -> ServedModel:
        """The model version that holds a session, newest first where `version` is 0.

        Falls back to the version that remembers the session's end, then to the newest.

        Raises:
            Starting, UnknownModel, UnknownVersion, BadModel.
        """
        newest = self.resolve(name, version)
        if version:
            return newest
        versions = self._served.get(name, {})
        served = [versions[v] for v in sorted(versions, reverse=True)]
        live = (model for model in served if session_id in model.directory)
        ended = (model for model in served if model.directory.ended(session_id))
        return next(live, None) or next(ended, None) or newest

    def seek(self, name: str, version: int, session_id: str) -> list[Future[Problems]]:
        """Look for a session in the store, if no version of the model has it at hand. Raises as
        `resolve`."""
        models = self.versions(name, version)
        if any(session_id in model.directory and not model.lapsed for model in models):
            return []
        sought = [model.seek({session_id: False}) for model in models]
        return [each for each in sought if each is not None]

    def versions(self, name: str, version: int = 0) -> list[ServedModel]:
        """One version, or with 0 all of them, newest first."""
        newest = self.resolve(name, version)
        if version:
            return [newest]
        versions = self._served.get(name, {})
        return [versions[v] for v in sorted(versions, reverse=True)]

    def expire(self) -> None:
        """End idle sessions of every model."""
        for model in self:
            model.expire()

    def refuse(self) -> None:
        """Take no new sessions and steps."""
        with self._changing:
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
        if isinstance(error, NoMessage):
            self._metrics.undecoded.inc()
        served = self._served.get(name, {})
        if served:
            served[version if version in served else max(served)].metrics.error(
                error.code, error.reason
            )
        else:
            self._metrics.errors.labels("", "", error.code, error.reason.lower()).inc()
