"""Start-up's slow part: bundles become served models. A bad bundle never stops the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

from server.access.tenants import Tenants
from server.bundle.repository import MAX_GRAPH, Bundle, Entry, Verify, find, load
from server.config import Config
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.memory import at_most, free_on_host
from server.engine.opening import open_engine
from server.engine.probe import probe
from server.errors import BadModel
from server.metrics import Metrics
from server.serving.assembly import Keeping
from server.serving.footprint import Memory
from server.serving.model import ServedModel
from server.serving.registry import Registry

log = logging.getLogger(__name__)

PROBED_AGAINST = 2  # slots of the small engine beside which the large one must not be slower


class NoModels(RuntimeError):
    """The repository holds no bundle at all."""


class Loader:
    """Loads every model of a repository into a registry.

    Args:
        on_death: called, from another thread, should a model stop serving by itself.
        keeping: where sessions outlive the process.
        tenants: whose sessions they are.
    """

    def __init__(
        self,
        config: Config,
        device: Device,
        metrics: Metrics,
        registry: Registry,
        on_death: Callable[[], None],
        keeping: Keeping | None = None,
        tenants: Tenants | None = None,
    ) -> None:
        self._config, self._device, self._metrics = config, device, metrics
        self._registry, self._on_death = registry, on_death
        self._keeping, self._tenants = keeping, tenants
        self._memory = Memory(config, device)
        self._verify = _verifier(config)
        self.given_up = False
        """Set from outside to load no further model."""

    def load(self) -> None:
        """Load, probe and start every model, then mark the registry ready.

        Raises:
            NoModels: there is no NAME/VERSION folder.
        """
        repository = self._config.model_repository
        entries = find(repository)
        if not entries:
            raise NoModels(f"no NAME/VERSION folder in {repository}")
        for entry in entries:
            if self.given_up:
                return
            self._load(entry)
        self._registry.ready = True

    def _load(self, entry: Entry) -> None:
        where = f"{entry.name}/{entry.version}"
        try:
            self._registry.add(self.serve(entry))
            log.info("serving %s on %s", where, self._device.name)
        except BadModel as error:
            log.error("not served: %s", error)
            self._registry.add_broken(entry.name, entry.version, str(error))

    def serve(self, entry: Entry) -> ServedModel:
        """Load, probe and start one model version.

        Raises:
            BadModel: it cannot be served, for whatever reason.
        """
        try:
            model = self._make(entry)
            self._start(model)
        except BadModel:
            self._metrics.bundles_refused.inc()
            raise
        return model

    def _start(self, model: ServedModel) -> None:
        """A model that does not start gives back what it holds, whatever is wrong."""
        try:
            model.start()
        except BadModel:
            model.discard()
            raise
        except Exception as error:  # no thread is to be had
            model.discard()
            where = f"{model.manifest.name}/{model.manifest.version}"
            raise BadModel(f"{where} cannot be started: {repr(error)[:300]}") from error

    def _make(self, entry: Entry) -> ServedModel:
        where = f"{entry.name}/{entry.version}"
        try:
            engine, config = self.open(entry, self._config)
            return ServedModel(
                engine, config, self._metrics, self._on_death,
                keeping=self._keeping, tenants=self._tenants,
            )  # fmt: skip
        except BadModel:
            raise
        except Exception as error:  # whatever is wrong with one bundle, the others are served
            log.exception("not served: %s", where)
            raise BadModel(f"{where} cannot be loaded: {repr(error)[:300]}") from error

    def beside(self, entry: Entry, sessions: int) -> Engine:
        """An engine with the slots of a model of so many sessions, as `open` opens it."""
        engine, _ = self.open(entry, self._config.model_copy(update={"max_sessions": sessions}))
        return engine

    def open(self, entry: Entry, config: Config) -> tuple[Engine, Config]:
        """An engine of a bundle that has proved itself, while memory was watched, and the settings
        to serve it by (`Memory.sized`).

        Raises:
            BadModel: as `load`, `Memory.sized`, `Engine` and `probe`.
        """
        most = self._memory.graphs
        bundle = load(
            entry, config.model_repository, MAX_GRAPH if most is None else most, self._verify
        )
        graphs = sum(map(len, bundle.graphs.values()))
        # Sessions may be to move over from the version that is served now.
        now = self._registry.newest(entry.name)
        least = 0 if now is None else now.capacity
        sized = self._memory.sized(bundle.manifest, graphs, config, least)
        # CUDA maps memory of the host as it likes, so that no limit fits it.
        with at_most(free_on_host() if self._device.kind == "cpu" else None):
            engine = self._probed(bundle, sized.slots)
        self._memory.promise(engine, sized)
        self._tell(entry, self._memory.told(bundle.manifest, sized), sized)
        return engine, sized

    def _tell(self, entry: Entry, takes: str, sized: Config) -> None:
        where, wanted = f"{entry.name}/{entry.version}", self._config.max_sessions
        log.info("%s: %s", where, takes)
        if sized.max_sessions < wanted:
            log.warning("%s: memory has room for %s sessions, not for %s; max_sessions or "
                        "max_model_bytes sets another number", where,
                        f"{sized.max_sessions:,}", f"{wanted:,}")  # fmt: skip

    def _probed(self, bundle: Bundle, slots: int) -> Engine:
        threads = self._config.threads
        with ExitStack() as unless_good:
            engine = open_engine(bundle, self._device, slots, threads)
            unless_good.callback(engine.release)
            tiny = open_engine(bundle, self._device, PROBED_AGAINST, threads)
            try:
                probe(engine, tiny)
            finally:
                tiny.release()
            unless_good.pop_all()
        return engine


def _verifier(config: Config) -> Verify | None:
    """Who looks at signatures, where they are asked for. Raises as `signature.verifier`."""
    if config.trusted_keys is None:
        return None
    from server.bundle import signature  # 20 ms of a start that does not ask for signatures

    return signature.verifier(config.trusted_keys)
