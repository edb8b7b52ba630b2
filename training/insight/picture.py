"""A figure with its words: what `diagnose` writes as files and `report` puts into its page."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure

# Text stays text, and the same figure is the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tidegate"})


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
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return Picture(name, title, caption, text[text.index("<svg") :].strip())
