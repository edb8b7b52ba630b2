"""onnxruntime's sessions as a traced program sees them: which node ran where, and which rows of the
arenas each run was told to step. Both are what the log of the device cannot say."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime

EAGER = -1


@dataclass(frozen=True)
class Run:
    """One call of onnxruntime: under which id of a CUDA graph (`EAGER` for none), and its slots as
    they lay on the device."""

    graph_id: int
    slots: list[int]


class Binding(onnxruntime.IOBinding):  # type: ignore[misc]
    """A binding that knows where `slots` lies."""

    slots: Any = ()

    def bind_input(
        self, name: str, kind: str, index: int, dtype: Any, shape: Any, address: int
    ) -> None:
        super().bind_input(name, kind, index, dtype, shape, address)
        if name == "slots":  # a device's memory is the host's here
            self.slots = (ctypes.c_int64 * shape[0]).from_address(address)


class Watched(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session that keeps what ran."""

    opened: list[Watched] = []  # noqa: RUF012
    runs: list[Run] = []  # noqa: RUF012
    folder = Path()

    def __init__(self, graph: bytes, options: Any = None, **more: Any) -> None:
        options = onnxruntime.SessionOptions() if options is None else options
        options.enable_profiling = True
        options.profile_file_prefix = str(self.folder / f"session{len(self.opened)}")
        super().__init__(graph, options, **more)
        self.opened.append(self)

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        if len(binding.slots):
            graph = options.get_run_config_entry("gpu_graph_id") if options else str(EAGER)
            self.runs.append(Run(int(graph), list(binding.slots)))
        super().run_with_iobinding(binding, options)

    @property
    def name(self) -> str:
        """The graph's."""
        return str(self.get_modelmeta().graph_name)

    def nodes(self) -> Iterator[tuple[str, str]]:
        """Each node that ran, by its operator, and on what; ends the profile."""
        for event in json.loads(Path(self.end_profiling()).read_text()):
            told = event.get("args", {})
            if event.get("cat") == "Node" and "provider" in told:
                yield told["op_name"], told["provider"].removesuffix("ExecutionProvider")


@contextmanager
def watched() -> Iterator[type[Watched]]:
    """Sessions that are opened within are watched."""
    plain = onnxruntime.InferenceSession
    with TemporaryDirectory() as folder:
        Watched.folder = Path(folder)
        onnxruntime.InferenceSession = Watched
        try:
            yield Watched
        finally:
            onnxruntime.InferenceSession = plain
            Watched.opened.clear()
            Watched.runs.clear()
