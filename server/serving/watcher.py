"""Watches the repository: new versions are served beside the old ones, removed ones fade out.

One thread looks every few seconds; an operator may have it look at once. A version whose folder is
gone takes no new sessions, and is unloaded when its last session has ended, but not before the
folder was missed twice: a bundle that is replaced, or a volume that is mounted anew, is away for a
moment.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from server.bundle.repository import Entry, digest, find
from server.config import Config
from server.errors import BadModel, Draining, UnknownVersion
from server.serving.folders import Folder, State, signature
from server.serving.loader import Loader
from server.serving.model import ServedModel
from server.serving.registry import Registry

log = logging.getLogger(__name__)

Key = tuple[str, int]
WHEN_IDLE = 0.5  # seconds between looks for versions that are over, where nothing else is watched


class Watcher:
    """Keeps a registry as the repository is.

    Args:
        on_change: called after versions came or went, in whichever thread noticed.
        on_death: called from the watcher's thread should it ever end other than by `stop`.
    """

    def __init__(
        self,
        config: Config,
        loader: Loader,
        registry: Registry,
        on_change: Callable[[], None],
        on_death: Callable[[], None],
    ) -> None:
        self._repository, self._seconds = config.model_repository, config.watch_seconds
        self._loader, self._registry = loader, registry
        self._on_change, self._on_death = on_change, on_death
        self._working = threading.Lock()  # who loads and unloads
        self._stop = threading.Event()
        self._folders: dict[Key, Folder] = {}  # of those not served
        self._missed: dict[Key, int] = {}  # looks at which a served version had no folder
        self._aside: set[Key] = set()  # unloaded by an operator
        self._thread = threading.Thread(target=self._live, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to watch, once what was there at the start is loaded."""
        for entry in self._entries():
            if self._registry.find(entry.name, entry.version) is None:
                self._folders[entry.name, entry.version] = Folder(
                    signature(entry.folder), told=True
                )
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A version that is being loaded will not be served."""
        self._stop.set()

    def load(self, name: str, version: int) -> ServedModel:
        """Look at one folder now; the version, once it serves.

        Raises:
            UnknownVersion: there is no such folder.
            BadModel: it cannot be served.
            Draining: the server is shutting down.
        """
        with self._working:
            self._aside.discard((name, version))
            entries = [e for e in self._entries() if (e.name, e.version) == (name, version)]
            if not entries:
                raise UnknownVersion(name, version)
            served = self._registry.find(name, version)
            if (
                served is not None
                and digest(entries[0], self._repository) == served.manifest.digest
            ):
                self._stay(served)
                return served
            if served is not None and not self._replace(served):
                text = f"{name}/{version} is served from other files yet, for sessions that it has"
                raise BadModel(text)
            return self._serve(entries[0])

    def unload(self, name: str, version: int, force: bool) -> ServedModel:
        """Have a version take no new sessions, and go when its last has ended; by `force` at once.

        Raises:
            UnknownVersion: it is not served.
        """
        with self._working:
            model = self._registry.find(name, version)
            if model is None:
                raise UnknownVersion(name, version)
            self._aside.add((name, version))
            self._leave(model, "an operator unloads it")
            if force:
                model.end_all()
            self._replace(model)
            return model

    def _live(self) -> None:
        try:
            pause = self._seconds or WHEN_IDLE
            while not self._stop.wait(pause):
                with self._working:
                    self.look()
        except BaseException:
            log.critical("the watcher of the repository died", exc_info=True)
            self._on_death()

    def look(self) -> None:
        """Bring the registry up to the repository, as far as that is to be done now."""
        if self._seconds:
            try:
                entries = {(entry.name, entry.version): entry for entry in self._entries()}
            except OSError as error:
                log.warning("the model repository cannot be read: %s", error)
                return
            self._miss(entries)
            for key, entry in entries.items():
                if self._stop.is_set():
                    return
                self._consider(key, entry)
        for model in list(self._registry):
            if self._missed.get((model.name, model.version), 2) >= 2 and model.over:
                self._replace(model)

    def _entries(self) -> list[Entry]:
        """Raises OSError where the repository cannot be read, which is not the same as empty."""
        next(self._repository.iterdir(), None)
        return find(self._repository)

    def _miss(self, entries: dict[Key, Entry]) -> None:
        for model in list(self._registry):
            key = (model.name, model.version)
            if key in entries:
                self._missed.pop(key, None)
                continue
            self._missed[key] = self._missed.get(key, 0) + 1
            self._aside.discard(key)
            self._leave(model, "its folder is gone")
        for key in [each for each in self._folders if each not in entries]:
            del self._folders[key]
            self._registry.mend(*key)
        self._aside &= entries.keys()

    def _consider(self, key: Key, entry: Entry) -> None:
        if key in self._aside:
            return
        if (served := self._registry.find(*key)) is not None:
            if served.leaving:
                self._come_back(served, entry)
            return
        folder = self._folders.setdefault(key, Folder())
        try:
            now = signature(entry.folder)
        except OSError:  # it is gone again
            return
        state = folder.state(now)
        if state is State.TRY:
            with suppress(BadModel, Draining):
                self._serve(entry)
        elif state is State.STUCK:
            self._tell(entry, folder)

    def _come_back(self, served: ServedModel, entry: Entry) -> None:
        """A folder that was gone is there again: is it the same?"""
        with suppress(BadModel):
            if digest(entry, self._repository) == served.manifest.digest:
                self._stay(served)

    def _stay(self, served: ServedModel) -> None:
        if served.leaving:
            log.info("%s/%d takes new sessions again", served.name, served.version)
            self._registry.leave(served, False)
            self._on_change()

    def _serve(self, entry: Entry) -> ServedModel:
        """Serve a version, or remember why not, for the next look to tell."""
        key = (entry.name, entry.version)
        try:
            before = signature(entry.folder)
        except OSError as error:
            raise BadModel(f"{entry.name}/{entry.version} cannot be read: {error}") from error
        try:
            model = self._loader.serve(entry)
        except BadModel as error:
            told = key in self._folders and self._folders[key].told
            self._folders[key] = Folder(before, str(error))
            if told:  # it was broken, and is so otherwise now
                self._registry.add_broken(*key, str(error))
            raise
        if self._stop.is_set():
            model.stop()
            raise Draining
        self._folders.pop(key, None)
        self._registry.add(model)
        gc.freeze()  # as at the start: what is loaded stays
        log.info("serving %s/%d on %s", model.name, model.version, model.device)
        self._on_change()
        return model

    def _tell(self, entry: Entry, folder: Folder) -> None:
        log.error("not served: %s", folder.why)
        folder.told = True
        self._registry.add_broken(entry.name, entry.version, folder.why)

    def _leave(self, model: ServedModel, why: str) -> None:
        if not model.leaving:
            log.info("%s/%d takes no new sessions: %s", model.name, model.version, why)
            self._registry.leave(model)
            self._on_change()

    def _replace(self, model: ServedModel) -> bool:
        """Unload a version that is over; whether it was."""
        if not model.over:
            return False
        self._registry.remove(model)
        self._missed.pop((model.name, model.version), None)
        self._on_change()
        model.unload()
        gc.unfreeze()  # what is over may go, once nothing names it any more
        gc.collect()
        gc.freeze()
        log.info("unloaded %s/%d", model.name, model.version)
        return True
