"""`tidegate sessions show`: one session's facts, and what its state looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tidegate.cli.sessions.moment import moment
from tidegate.client import Client
from tidegate.model import SessionInfo

HEADINGS = ("state", "type", "shape", "min", "mean", "max", "norm")
TEXTS = 3
"""How many of the columns are text; the others are numbers, and stand to the right."""


async def show_session(
    client: Client, model: str, session_id: str, version: int, *, state: bool
) -> int:
    """Print it; returns the exit status."""
    info = await client.get_session(model, session_id, version=version)
    print("\n".join(facts(info)))
    if state:
        tensors = await client.peek(model, session_id, version=info.version)
        print("", *columns([HEADINGS, *summaries(tensors)]), sep="\n")
    return 0


def facts(info: SessionInfo) -> list[str]:
    """What the server knows of it, a line each."""
    return [
        f"session    {info.session_id}",
        f"model      {info.model}/{info.version}",
        f"steps      {info.steps:,}",
        f"opened     {moment(info.opened_at)}",
        f"last used  {moment(info.last_used_at)}",
        f"expires    {moment(info.expires_at)}, unless it is stepped before",
    ]


def summaries(tensors: Mapping[str, NDArray[np.floating]]) -> list[tuple[str, ...]]:
    """A row a tensor."""
    return [(name, *_summary(values)) for name, values in tensors.items()]


def _summary(values: NDArray[np.floating]) -> tuple[str, ...]:
    exact = values.astype(np.float64)  # float16 would overflow in the norm
    figures = (exact.min(), exact.mean(), exact.max(), np.linalg.norm(exact))
    shape = "x".join(map(str, values.shape))
    return values.dtype.name, shape, *(f"{figure:.4f}" for figure in figures)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if at < TEXTS else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
