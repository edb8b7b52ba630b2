"""A figure with its words: what `diagnose` writes as files and `report` puts into its page.

All drawings share what is here: sizes, colours, axes, and names that stay as they are.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("svg")

# Text stays text, and the same figure is the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tidegate"})

WIDTH = 6.8
"""Inches; what fits the page's column and is still legible on a phone."""
BLUE, ORANGE, GREY, LIGHT = "#2b6cb0", "#c05621", "#718096", "#e2e8f0"
LONGEST = 22


@dataclass(frozen=True)
class Picture:
    """`svg` is a whole <svg> element; `caption` says in sentences what is to be seen in it."""

    name: str
    title: str
    caption: str
    svg: str


def picture(name: str, title: str, caption: str, figure: Figure) -> Picture:
    """The drawn figure, with its caption."""
    buffer = io.StringIO()
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine(None)  # or all would be drawn once more, to be laid out again
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Picture(name, title, caption, text[text.index("<svg") :].strip())


def axes(height: float, columns: int = 1, rows: int = 1, **more: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width with light axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    found = list(figure.subplots(rows, columns, squeeze=False, **more).flat)
    for each in found:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
        each.grid(color=LIGHT, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, found


def name(axis: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes, and what is drawn."""
    axis.set_xlabel(plain(x), fontsize=9)
    axis.set_ylabel(plain(y), fontsize=9)
    if title:
        axis.set_title(plain(title), fontsize=9, loc="left")


def plain(text: str) -> str:
    """Text that matplotlib draws letter by letter: dollars begin no formula."""
    return text.replace("$", r"\$")


def short(text: str) -> str:
    """A name that fits beside an axis."""
    return plain(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


def counted(number: int, what: str) -> str:
    """A number of things: 1 layer, 2 layers."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def with_unit(name: str, unit: str) -> str:
    """A name, and its unit in brackets where there is one."""
    return f"{name} [{unit}]" if unit else name
