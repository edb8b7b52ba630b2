"""Processes that fit, several side by side."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def side_by_side() -> ForkServerContext:
    """Where they are begun: as copies of one process that has imported torch, which takes each of
    them seconds, and that has none of torch's threads, which do not outlive a fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.loop.fit", "training.table.dataset"])
    return context
