"""Numbers as short text: each at most seven characters. A leaf, beside the histogram."""

import math
from collections.abc import Sequence

from tidegate.cli.top.histogram import Histogram

NOTHING = "-"
BLOCKS = "▁▂▃▄▅▆▇█"
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def number(value: float | None) -> str:
    """A rate or a mean, to about three digits, whole from 100 on."""
    if value is None:
        return NOTHING
    for size, letter in UNITS:
        if value >= size * 0.9999995:  # what would be rounded up to it
            return f"{value / size:.2f}{letter}"
    if value == 0 or value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def whole(value: float | None) -> str:
    """A count."""
    return NOTHING if value is None else number(value) if value >= 1e6 else f"{value:,.0f}"


def milliseconds(histogram: Histogram | None, percent: float) -> str:
    """A percentile of seconds; ">2500" where it lies above all that is measured."""
    value = histogram.percentile(percent) if histogram else None
    if value is None or histogram is None:
        return NOTHING
    if math.isinf(value):
        return f">{histogram.limit * 1000:.0f}"
    return number(value * 1000).replace(",", "")


def rows(histogram: Histogram | None, percent: float) -> str:
    """A percentile of the rows in a run, as far as the buckets tell: "<=64" is 33 to 64."""
    bound = histogram.bound(percent) if histogram else None
    if bound is None or histogram is None:
        return NOTHING
    if math.isinf(bound):
        return f">{histogram.limit:.0f}"
    return f"{bound:.0f}" if bound <= 2 else f"<={bound:.0f}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The latest `width` values as blocks between 0 and the greatest; a gap where there is none."""
    latest = list(values)[-width:] if width > 0 else []
    most = max((each for each in latest if each is not None), default=0.0) or 1.0
    return "".join(_block(each, most) for each in latest)


def _block(value: float | None, most: float) -> str:
    return " " if value is None else BLOCKS[min(7, int(8 * value / most))]


def shorten(text: str, width: int) -> str:
    """The text in at most `width` characters, its middle left out: ends tell versions apart."""
    if len(text) <= width:
        return text
    if width <= 4:
        return text[:width]
    end = (width - 2) // 2
    return f"{text[: width - 2 - end]}..{text[-end:]}"
