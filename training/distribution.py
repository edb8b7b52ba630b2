"""How a feature's values lie in the training data, for the server to compare with what it is sent.

What this returns goes into the bundle's `model.json`, as a feature's `distribution`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def distribution(
    values: NDArray[np.floating[Any]], labels: int = 0, bins: int = 10
) -> dict[str, Any]:
    """Edges, shares and the missing share of a column [n > 0] of raw values, NaN where missing.

    Value x is in bin `np.searchsorted(edges, x, side="left")`. A number's bins hold about equal
    shares of the column, or fewer than `bins` where some value is too frequent for that. A feature
    of `labels` categories has a bin for each, and one on either side for what is none of them.
    """
    column = np.asarray(values, dtype=np.float32)  # as the server gets it
    known = column[~np.isnan(column)]
    edges = np.arange(labels + 1, dtype=np.float32) - 0.5 if labels else _edges(known, bins)
    counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
    return {
        "edges": edges.tolist(),
        "shares": (counts / len(column)).tolist(),
        "missing": (len(column) - len(known)) / len(column),
    }


def _edges(known: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """The inner quantiles, each once: values of the column, so that no bin between them is empty.

    Where the lowest value has a bin of its own, what is below it must not share it.
    """
    if not len(known):
        return known
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins, method="inverted_cdf"))
    if len(edges) and edges[0] == known.min():
        lowest = edges[0] - np.finfo(np.float32).tiny  # the next below 0 might count as 0
        edges = np.append(min(lowest, np.nextafter(edges[0], np.float32(-np.inf))), edges)
    return edges
