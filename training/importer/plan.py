"""What an import is made of, once every name is found and every size known. A leaf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.graphs.arenas import Row


@dataclass(frozen=True)
class State:
    """A pair of tensors: the graph takes one and returns what it is at the next step.

    name: the state's in the bundle. row: a session's shape, without the batch axis.
    """

    name: str
    enters: str
    leaves: str
    axis: int
    row: tuple[int, ...]
    dtype: str
    initial: float


@dataclass(frozen=True)
class Input:
    """The one input that callers send. row: a session's shape, without the batch axis."""

    name: str
    axis: int
    row: tuple[int, ...]
    dtype: str

    @property
    def width(self) -> int:
        """Values the graph takes a step."""
        return prod(self.row)


@dataclass(frozen=True)
class Output:
    """An output, flattened to `width` values a session; `rank` axes without the batch axis."""

    name: str
    axis: int
    rank: int
    width: int
    dtype: str


@dataclass(frozen=True)
class Plan:
    """The whole import. `constants` are inputs of the graph that never change; `context` values of
    the input are kept by the server, in a state named `context_name`. `fixed` says why the graph
    takes one session at a time, where it does."""

    states: tuple[State, ...]
    input: Input
    outputs: tuple[Output, ...]
    constants: Mapping[str, NDArray[Any]]
    context: int
    context_name: str
    fixed: str = ""

    @property
    def sent(self) -> int:
        """Values that callers send a step."""
        return self.input.width - self.context

    @property
    def width(self) -> int:
        """Values of one step's output."""
        return sum(output.width for output in self.outputs)

    @property
    def rows(self) -> dict[str, Row]:
        """A session's share of each state by its name in the bundle."""
        rows = {each.name: Row(each.row, each.dtype, each.initial) for each in self.states}
        if self.context:
            rows[self.context_name] = Row((self.context,))
        return rows

    @property
    def coarse(self) -> bool:
        """Whether a tensor at the graph's edge is float16, which rounds to three digits."""
        edges = {each.dtype for each in self.states} | {each.dtype for each in self.outputs}
        return "float16" in edges | {self.input.dtype}

    def start(self) -> dict[str, NDArray[Any]]:
        """The states' rows [1, ...] at a session's start."""
        return {
            name: np.full((1, *row.shape), row.initial, np.dtype(row.dtype))
            for name, row in self.rows.items()
        }
