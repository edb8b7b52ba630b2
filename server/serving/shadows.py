"""Which versions are shadows, and of which version each is one: the newest, as that changes."""

from __future__ import annotations

import logging
import threading

from server.bundle.repository import Entry, find
from server.config import Config
from server.errors import BadModel, UnknownVersion
from server.metrics import Metrics
from server.serving.loader import Loader
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.serving.shadow import Shadow
from server.serving.shadow_metrics import ShadowFamilies, ShadowMetrics

log = logging.getLogger(__name__)


class Shadows:
    """At most one shadow a model. The threads that load, and those of operators' calls, use it."""

    def __init__(
        self, config: Config, loader: Loader, registry: Registry, metrics: Metrics
    ) -> None:
        self._repository, self._loader, self._registry = config.model_repository, loader, registry
        self._families = ShadowFamilies(metrics.registry)
        self._lock = threading.Lock()
        self._wanted = dict(_read(config.shadow))
        self._running: dict[str, Shadow] = {}
        for name, version in self._wanted.items():
            registry.shadow(name, version, True)

    def set(self, name: str, version: int, on: bool) -> None:
        """Have a version be the shadow of its model, in place of another; or no more.

        Raises:
            UnknownVersion, BadModel: it is not served, or cannot be loaded a second time.
            CannotMigrate: its observations or outputs differ in width from the newest version's.
        """
        with self._lock:
            if self._registry.find(name, version) is None:
                raise UnknownVersion(name, version)
            before = self._wanted.pop(name, None)
            if before is not None:
                self._registry.shadow(name, before, False)
            self._end(name)
            if on:
                self._registry.shadow(name, version, True)
                self._wanted[name] = version
                self._set_or_undo(name, version)
            elif before is not None and before != version:
                self._wanted[name] = before
                self._registry.shadow(name, before, True)
        self.arrange()

    def arrange(self) -> None:
        """Versions have come or gone: each shadow is beside the newest version that is none."""
        with self._lock:
            for name, version in self._wanted.items():
                try:
                    self._place(name, version)
                except BadModel as error:
                    log.error("no shadow: %s", error)
                except Exception:
                    log.exception("%s/%d cannot be a shadow", name, version)

    def stop(self) -> None:
        """End all shadows, but for one that is being loaded: nobody can wait for that."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._wanted.clear()
            for name in list(self._running):
                self._end(name)
        finally:
            self._lock.release()

    def _set_or_undo(self, name: str, version: int) -> None:
        try:
            self._place(name, version)
        except Exception:
            self._registry.shadow(name, version, False)
            del self._wanted[name]
            raise

    def _place(self, name: str, version: int) -> None:
        served, newest = self._registry.find(name, version), self._registry.newest(name)
        running = self._running.get(name)
        alone = served is None or newest is None or newest is served
        if running is not None and (alone or running.model is not newest):
            self._end(name)
            running = None
        if running is None and served is not None and newest is not None and not alone:
            self._begin(newest, version)

    def _begin(self, newest: ServedModel, version: int) -> None:
        engine = self._loader.beside(self._entry(newest.name, version), newest.capacity)
        metrics = ShadowMetrics(self._families, newest.name, newest.version, version)
        try:
            shadow = Shadow(newest, engine, metrics)
        except BaseException:
            metrics.remove()
            engine.release()
            raise
        shadow.start()
        self._running[newest.name] = shadow
        log.info("%s/%d is the shadow of %d", newest.name, version, newest.version)

    def _end(self, name: str) -> None:
        if (shadow := self._running.pop(name, None)) is not None:
            shadow.stop()

    def _entry(self, name: str, version: int) -> Entry:
        entries = [e for e in find(self._repository) if (e.name, e.version) == (name, version)]
        if not entries:
            raise UnknownVersion(name, version)
        return entries[0]


def _read(setting: str) -> list[tuple[str, int]]:
    """The pairs of NAME=VERSION,NAME=VERSION."""
    pairs = (each.partition("=") for each in setting.split(",") if each)
    return [(name, int(version)) for name, _, version in pairs]
