"""Metrics pages for tests, written by the server's own metrics."""

from __future__ import annotations

from prometheus_client import generate_latest

from server.metrics import Metrics, ModelMetrics
from tidegate.cli.top.page import Page, read_page


class Pages:
    """A server's metrics, moved by hand, with one model version to begin with."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.small = self.model("small", 1)

    def model(self, name: str, version: int, live: int = 3, queued: int = 2) -> ModelMetrics:
        """One more model version."""
        added = ModelMetrics(self.metrics, name, version)
        added.watch(lambda: live, lambda: queued, 1000, "cpu")
        return added

    def text(self) -> str:
        """The page."""
        return generate_latest(self.metrics.registry).decode()

    def page(self, taken: float) -> Page:
        """The page, read at that moment."""
        return read_page(self.text(), taken)


def work(model: ModelMetrics, steps: int, seconds: float = 0.003, rows: int = 4) -> None:
    """So many steps, in runs of `rows`."""
    model.steps.inc(steps)
    for histogram in (model.step_seconds, model.queue_seconds, model.engine_seconds):
        histogram.observe(seconds, steps)
    model.batch_rows.observe(rows, steps // rows)
