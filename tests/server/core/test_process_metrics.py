"""What only the log has, is counted."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry

from server.process_metrics import Faults


def test_what_is_logged_with_a_traceback_is_counted_by_part_of_the_server() -> None:
    registry = CollectorRegistry()
    faults, server = Faults(registry), logging.getLogger("server")
    server.addHandler(faults)
    try:
        for name in ("scheduler.scheduler", "scheduler.scheduler", "made_up", "app"):
            try:
                raise RuntimeError("made up")
            except RuntimeError:
                server.getChild(name).exception("it failed")
        server.error("it failed altogether", exc_info=RuntimeError("made up"))
        server.getChild("app").error("foreseen")
    finally:
        server.removeHandler(faults)

    def count(part: str) -> float | None:
        return registry.get_sample_value("tidegate_unexpected_errors_total", {"part": part})

    assert [count(part) for part in ("scheduler", "other", "app", "transport")] == [2, 2, 1, 0]
    assert count("made_up") is None
