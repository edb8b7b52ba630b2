"""What operators may do with models while they are served: one object behind the `Admin` calls.

Its methods block, some for as long as it takes to load a model; any thread may call them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from server.config import Config
from server.errors import Starting, UnknownVersion
from server.metrics import Metrics
from server.serving.loader import Loader
from server.serving.migration import By, Migrated, migrate
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.serving.shadows import Shadows
from server.serving.watcher import Watcher


class Administration:
    """Loads, unloads, migrates and compares versions.

    Args:
        on_change: called after versions came or went.
        on_death: called should the watcher of the repository die.
    """

    def __init__(
        self,
        config: Config,
        loader: Loader,
        registry: Registry,
        metrics: Metrics,
        on_change: Callable[[], None],
        on_death: Callable[[], None],
    ) -> None:
        self._registry, self._on_change = registry, on_change
        self._shadows = Shadows(config, loader, registry, metrics)
        self._watcher = Watcher(config, loader, registry, self._changed, on_death)
        self._migrating = threading.Lock()

    def start(self) -> None:
        """What was there at the start is loaded: place the shadows, and watch the repository."""
        self._shadows.arrange()
        self._watcher.start()

    def stop(self) -> None:
        """Watch and compare no more."""
        self._watcher.stop()
        self._shadows.stop()

    def load(self, name: str, version: int) -> tuple[ServedModel, bool]:
        """A version, once it serves, and whether it is the newest. Raises as `Watcher.load`, and
        Starting."""
        self._check_ready()
        model = self._watcher.load(name, version)
        return model, self._registry.newest(name) is model

    def unload(self, name: str, version: int, force: bool) -> int:
        """Let a version fade out; how many sessions it waits for. Raises as `Watcher.unload`."""
        self._check_ready()
        model = self._watcher.unload(name, version, force)
        return len(model.directory)

    def migrate(
        self, name: str, origin: int, target: int, ids: Sequence[str] | None, by: By
    ) -> Migrated:
        """Move sessions; one migration at a time.

        Raises:
            Starting, UnknownVersion: a version is not served.
            CannotMigrate: no session of the one can go on in the other.
        """
        self._check_ready()
        with self._migrating:
            return migrate(self._find(name, origin), self._find(name, target), ids, by)

    def shadow(self, name: str, version: int, on: bool) -> None:
        """Begin or end a shadow. Raises as `Shadows.set`, and Starting."""
        self._check_ready()
        self._shadows.set(name, version, on)

    def _changed(self) -> None:
        self._shadows.arrange()
        self._on_change()

    def _check_ready(self) -> None:
        if not self._registry.ready:
            raise Starting

    def _find(self, name: str, version: int) -> ServedModel:
        found = self._registry.find(name, version)
        if found is None:
            raise UnknownVersion(name, version)
        return found
