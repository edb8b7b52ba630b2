"""What a model version will take of memory, told from its manifest before anything is allocated.

Arrays are promised when a model is loaded and touched as sessions come, so what is free now is not
free for a new model: the others may yet take what they were promised.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from weakref import WeakKeyDictionary

import numpy as np

from server.bundle.manifest import Manifest
from server.config import Config
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.memory import free_on, free_on_host, touched
from server.errors import BadModel
from server.sessions import replay_cache

FLOAT, WIDE = 4, 8
FEWEST = 100
"""With room for fewer sessions than that, a model is refused rather than served to so few."""


@dataclass(frozen=True)
class Limit:
    """So many bytes are free for a version's states, for all else of it, or for both; `how` says
    whose limit it is. What is `shared` is other models' as well."""

    free: int
    how: str
    states: bool
    host: bool
    shared: bool = True


class Memory:
    """Keeps the account of what models were promised."""

    def __init__(self, config: Config, device: Device) -> None:
        self._config, self._device = config, device
        self._promised: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()

    @property
    def graphs(self) -> int | None:
        """Bytes that a bundle's graphs may have together; None: nobody can tell."""
        known = [each for each in (self._config.max_model_bytes, free_on_host()) if each]
        return min(known, default=None)

    def sized(self, manifest: Manifest, graphs: int, config: Config, least: int = 0) -> Config:
        """The settings that a version is served by, whose graphs have so many bytes: those given,
        but where `max_sessions` was left as it is and there is no room for so many, for as many as
        `max_model_bytes` allows or half of what is free has room for, and for `least` at least.

        Raises:
            BadModel: there is no room; the message names the figures.
        """
        limits, least = self._limits(), max(least, FEWEST)
        try:
            self._check(manifest, graphs, config, limits)
        except BadModel:
            if "max_sessions" in config.model_fields_set:
                raise
            parts = [replace(each, free=each.free // (2 if each.shared else 1)) for each in limits]
            found = self._room(manifest, graphs, config, parts)
            if found < least and self._room(manifest, graphs, config, limits) < least:
                raise
            return config.model_copy(update={"max_sessions": max(found, least)})
        return config

    def _room(
        self, manifest: Manifest, graphs: int, config: Config, limits: Sequence[Limit]
    ) -> int:
        """For how many sessions there is room, `max_sessions` at most."""

        def too_many(sessions: int) -> bool:
            given = config.model_copy(update={"max_sessions": sessions})
            return any(
                sum(self._parts(manifest, graphs, given, each).values()) > each.free
                for each in limits
            )

        return bisect_left(range(1, config.max_sessions + 1), True, key=too_many)

    def _check(
        self, manifest: Manifest, graphs: int, config: Config, limits: Sequence[Limit]
    ) -> None:
        for limit in limits:
            parts = self._parts(manifest, graphs, config, limit)
            total, most = sum(parts.values()), max(parts, key=lambda name: parts[name])
            if total > limit.free:
                raise BadModel(
                    f"{manifest.name}/{manifest.version}: no room for {config.max_sessions:,} "
                    f"sessions: {total:,} bytes, {parts[most]:,} of them for {most}; "
                    f"{max(0, limit.free):,} {limit.how}"
                )

    def _limits(self) -> list[Limit]:
        on_cpu, limits = self._device.kind == "cpu", list[Limit]()
        if (most := self._config.max_model_bytes) > 0:
            limits.append(Limit(most, "max_model_bytes allows", True, True, shared=False))
        if not on_cpu and (free := free_on(self._device)) is not None:
            limits.append(Limit(free, f"are free on {self._device.name}", True, False))
        if (free := free_on_host()) is not None:
            free -= max(0, sum(self._promised.values()) - touched())
            how = "are free and promised to no other model"
            limits.append(Limit(free, how, on_cpu, True))
        return limits

    def _parts(
        self, manifest: Manifest, graphs: int, config: Config, limit: Limit
    ) -> dict[str, int]:
        states = self._states(manifest, config) if limit.states else {}
        host = _host(manifest, graphs, config) if limit.host else {"the graphs": graphs}
        return states | host

    def promise(self, engine: Engine, config: Config) -> None:
        """An engine is there, and so are its model's other arrays."""
        states = self._states(engine.manifest, config) if self._device.kind == "cpu" else {}
        self._promised[engine] = sum((states | _host(engine.manifest, 0, config)).values())

    def told(self, manifest: Manifest, config: Config) -> str:
        """What the sessions of a version may take, for whoever wonders at the server's memory."""
        parts = self._states(manifest, config) | _host(manifest, 0, config)
        most = max(parts, key=lambda name: parts[name])
        return (
            f"{config.max_sessions:,} sessions may take {sum(parts.values()):,} bytes, "
            f"{parts[most]:,} of them for {most} (max_sessions, max_resident)"
        )

    def _states(self, manifest: Manifest, config: Config) -> dict[str, int]:
        """Bytes of each state's arena."""
        return {
            f"state {state.name[:100]!r}": (config.slots + self._device.spare_rows)
            * prod(state.shape)
            * np.dtype(state.dtype).itemsize
            for state in manifest.states
        }


def _host(manifest: Manifest, graphs: int, config: Config) -> dict[str, int]:
    """Bytes of all but states: onnxruntime has its own copy of what is in the graphs."""
    depth = max(config.remembered_steps, manifest.max_chunk)
    inputs = config.kept_inputs * manifest.inputs_width * FLOAT
    step = manifest.outputs_width * FLOAT + WIDE
    return {
        "the outputs remembered for retries": replay_cache.rows(config.slots) * depth * step,
        "the inputs kept for migration": (config.max_sessions + 1) * inputs,
        "the graphs": 2 * graphs,
    }
