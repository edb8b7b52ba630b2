"""Metrics pages, written by the server's own metrics, and a web server that gives them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from prometheus_client import generate_latest

from server.metrics import Metrics, ModelMetrics
from tidegate.cli.top.page import Page, read_page

Answer = str | int | None
"""A page, the status of an error, or none: the connection is cut."""


class Pages:
    """A server's metrics, moved by hand, with one model version to begin with."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.small = self.model("small", 1)

    def model(self, name: str, version: int, live: int = 3, queued: int = 2) -> ModelMetrics:
        """One more model version."""
        added = ModelMetrics(self.metrics, name, version)
        added.watch(
            live=lambda: live,
            resident=lambda: live,
            queued=lambda: queued,
            state_bytes=1000,
            device="cpu",
        )
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


@contextmanager
def canned(pages: Sequence[str | int]) -> Iterator[str]:
    """The URL of a server that gives each page once, then the last one; a number is a status."""
    left = list(pages)
    with answering(lambda: left.pop(0) if len(left) > 1 else left[0]) as url:
        yield url


@contextmanager
def answering(answer: Callable[[], Answer]) -> Iterator[str]:
    """The URL of a server that asks for each answer when it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = answer()
            if page is None:
                return
            self.send_response(page if isinstance(page, int) else 200)
            self.end_headers()
            self.wfile.write(b"" if isinstance(page, int) else page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/metrics"
        finally:
            server.shutdown()
            thread.join()
