"""What a model version will take of memory, told from its manifest before anything is allocated.

Arrays are promised when a model is loaded and touched as sessions come, so what is free now is not
free for a new model: the others may yet take what they were promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from weakref import WeakKeyDictionary

import numpy as np

from server.bundle.manifest import Manifest
from server.config import Config
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.memory import free_on, free_on_host, touched
from server.errors import BadModel

FLOAT, WIDE = 4, 8


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

    def check(self, manifest: Manifest, graphs: int) -> None:
        """See that there is room for a version whose graphs have so many bytes.

        Raises:
            BadModel: there is not; the message names the figures.
        """
        states, host = self._states(manifest), self._host(manifest, graphs)
        on_cpu = self._device.kind == "cpu"
        if (limit := self._config.max_model_bytes) > 0:
            self._compare(manifest, states | host, limit, "max_model_bytes allows")
        if not on_cpu:
            there = states | {"the graphs": graphs}
            free = free_on(self._device)
            self._compare(manifest, there, free, f"are free on {self._device.name}")
        free = free_on_host()
        if free is not None:
            free -= max(0, sum(self._promised.values()) - touched())
        here = states | host if on_cpu else host
        self._compare(manifest, here, free, "are free and promised to no other model")

    def promise(self, engine: Engine) -> None:
        """An engine is there, and so are its model's other arrays."""
        states = sum(self._states(engine.manifest).values()) if self._device.kind == "cpu" else 0
        self._promised[engine] = states + sum(self._host(engine.manifest, 0).values())

    def told(self, manifest: Manifest) -> str:
        """What the sessions of a version may take, for whoever wonders at the server's memory."""
        parts = self._states(manifest) | self._host(manifest, 0)
        most = max(parts, key=lambda name: parts[name])
        return (
            f"{self._config.max_sessions:,} sessions may take {sum(parts.values()):,} bytes, "
            f"{parts[most]:,} of them for {most} (max_sessions, max_resident)"
        )

    def _compare(
        self, manifest: Manifest, parts: Mapping[str, int], limit: int | None, how: str
    ) -> None:
        total, most = sum(parts.values()), max(parts, key=lambda name: parts[name])
        if limit is not None and total > limit:
            raise BadModel(
                f"{manifest.name}/{manifest.version}: no room for {self._config.max_sessions:,} "
                f"sessions: {total:,} bytes, {parts[most]:,} of them for {most}; "
                f"{max(0, limit):,} {how}"
            )

    def _states(self, manifest: Manifest) -> dict[str, int]:
        """Bytes of each state's arena."""
        return {
            f"state {state.name[:100]!r}": (self._config.slots + self._device.spare_rows)
            * prod(state.shape)
            * np.dtype(state.dtype).itemsize
            for state in manifest.states
        }

    def _host(self, manifest: Manifest, graphs: int) -> dict[str, int]:
        """Bytes of all else: onnxruntime has its own copy of what is in the graphs."""
        config = self._config
        depth = max(config.remembered_steps, manifest.max_chunk)
        inputs = config.kept_inputs * manifest.inputs_width * FLOAT
        step = manifest.outputs_width * FLOAT + WIDE
        return {
            "the outputs remembered for retries": (config.slots + 1) * depth * step,
            "the inputs kept for migration": (config.max_sessions + 1) * inputs,
            "the graphs": 2 * graphs,
        }
