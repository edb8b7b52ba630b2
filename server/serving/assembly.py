"""What a model version is made of, put together: its sessions and where their states are, the
scheduler of its engine, what keeps them where there is a store. `ServedModel` is its face.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from server.access.tenants import Tenants
from server.bundle.manifest import Manifest
from server.config import Config
from server.engine.engine import Engine
from server.metrics import ModelMetrics
from server.scheduler.scheduler import Scheduler
from server.serving.drift import Drift, watch
from server.sessions.checkpoint import Checkpoint
from server.sessions.claims import Claims
from server.sessions.directory import Directory
from server.sessions.handover import BetweenRuns
from server.sessions.keeper import Keeper
from server.sessions.kept_inputs import KeptInputs
from server.sessions.moving import Moving
from server.sessions.operations import Operations
from server.sessions.replay_cache import ReplayCache
from server.sessions.slots import Residence
from server.sessions.step_protocol import Applied, SessionSteps
from server.store.health import Health
from server.store.interface import Store
from server.store.record import Codec

T = TypeVar("T")

Watcher = Callable[[Applied], None]
"""Shown every run whose steps were applied."""


@dataclass(frozen=True)
class Keeping:
    """Where sessions are kept, for all models of a server."""

    store: Store
    health: Health


@dataclass(frozen=True)
class Parts:
    """A model version's."""

    directory: Directory
    residence: Residence
    cache: ReplayCache
    scheduler: Scheduler
    keeper: Keeper | None
    operations: Operations
    moving: Moving
    watchers: list[Watcher]
    """Its own, of every run."""


def assemble(
    engine: Engine,
    config: Config,
    metrics: ModelMetrics,
    watcher: Watcher,
    on_death: Callable[[], None],
    clock: Callable[[], float],
    keeping: Keeping | None,
    tenants: Tenants | None,
) -> Parts:
    """The parts of a version, none of them begun. `watcher` is shown every run; else as
    `ServedModel`."""
    manifest = engine.manifest
    directory = Directory(
        manifest.name, manifest.version, config.max_sessions, config.session_ttl, clock,
        stored=keeping is not None, tenants=tenants,
    )  # fmt: skip
    cache = _cache(engine, config)
    residence = Residence(engine.capacity, directory, cache)

    def between_runs(work: Callable[[Engine], T], /) -> Future[T]:
        return scheduler.between_runs(work)

    keeper = None
    if keeping is not None:
        keeper = _keeper(
            keeping, manifest, config, metrics, directory, residence, cache, between_runs, on_death
        )
    scheduler = Scheduler(
        engine,
        SessionSteps(directory, residence, cache, metrics, watcher, keeper),
        metrics,
        max_batch=config.max_batch,
        max_queued_steps=config.max_queued_steps,
        at_once=config.at_once,
        on_death=on_death,
    )
    residence.busy = scheduler.queue.busy
    operations = Operations(manifest, scheduler, directory, residence, cache, metrics)
    kept = _kept_inputs(engine, config)
    moving = Moving(manifest, scheduler, directory, residence, operations, metrics, kept)
    watchers = _watchers(kept, watch(manifest, config.drift_window, metrics))
    return Parts(directory, residence, cache, scheduler, keeper, operations, moving, watchers)


def _keeper(
    keeping: Keeping,
    manifest: Manifest,
    config: Config,
    metrics: ModelMetrics,
    directory: Directory,
    residence: Residence,
    cache: ReplayCache,
    between_runs: BetweenRuns,
    on_death: Callable[[], None],
) -> Keeper:
    codec = Codec(manifest, f"{manifest.name}/{manifest.version}")
    table, shelf = keeping.store.table(manifest.name, manifest.version), residence.shelf
    checkpoint = Checkpoint(table, codec, directory, residence, cache, metrics, config.stored_steps)
    metrics.watch_store(lambda: checkpoint.unsaved, lambda: checkpoint.lag)
    patience = 2 * config.lease_seconds
    claims = Claims(table, codec, manifest, directory, shelf, metrics, keeping.health, patience)
    return Keeper(
        table,
        keeping.health,
        directory,
        shelf,
        claims,
        checkpoint,
        between_runs,
        sync=config.durability == "sync",
        interval=config.checkpoint_interval,
        on_death=on_death,
    )


def _cache(engine: Engine, config: Config) -> ReplayCache:
    manifest = engine.manifest
    return ReplayCache(
        engine.capacity,
        max(config.remembered_steps, manifest.max_chunk),  # a retry finds all of a longest chunk
        manifest.inputs_width,
        manifest.outputs_width,
        bool(manifest.may_miss.any()),
    )


def _kept_inputs(engine: Engine, config: Config) -> KeptInputs | None:
    if not config.kept_inputs:
        return None
    return KeptInputs(config.max_sessions, config.kept_inputs, engine.manifest.inputs_width)


def _watchers(kept: KeptInputs | None, drift: Drift | None) -> list[Watcher]:
    watchers: list[Watcher] = []
    if kept is not None:
        watchers.append(kept.note)
    if drift is not None:
        watchers.append(lambda applied: drift.note(applied.rows))
    return watchers
