"""Rates out of two metrics pages."""

from __future__ import annotations

from tests.cli.top.pages import Pages, work
from tidegate.cli.top.change import changes, restarted, standing, total

SMALL = ("small", "1")


def test_rates_are_rises_over_the_time_between_and_gauges_stand_as_they_are() -> None:
    server = Pages()
    work(server.small, 1000, seconds=0.2)
    before = server.page(10.0)
    work(server.small, 500, seconds=0.002, rows=4)
    server.small.opened.inc(10)
    server.small.closed.inc(5)
    server.small.idle.inc(2)
    after = server.page(12.5)
    change = changes(before, after)[SMALL]
    names = ("steps", "sessions_opened", "sessions_closed", "sessions_expired", "errors")
    assert [change.rate(name) for name in names] == [200, 4, 2, 0.8, 0]
    assert (change.gauges["sessions_live"], change.gauges["queue_steps"]) == (3, 2)
    assert change.histograms["batch_rows"].mean == 4
    p50 = change.percentile("step_seconds", 50)
    assert p50 is not None and 0.001 < p50 <= 0.0025  # the slow steps were before
    assert not restarted(before, after)


def test_errors_are_told_by_reason_whatever_their_code_and_the_most_frequent_first() -> None:
    server = Pages()
    server.small.error("NOT_FOUND", "CLOSED", 9)
    before = server.page(0.0)
    server.small.error("NOT_FOUND", "UNKNOWN_SESSION", 2)
    server.small.error("RESOURCE_EXHAUSTED", "QUEUE_FULL", 6)
    server.small.error("UNAVAILABLE", "QUEUE_FULL", 2)
    change = changes(before, server.page(2.0))[SMALL]
    assert list(change.reasons("errors").items()) == [("queue_full", 4), ("unknown_session", 1)]
    assert change.rate("errors") == 5


def test_a_model_version_that_comes_in_between_began_at_nothing() -> None:
    server = Pages()
    before = server.page(0.0)
    work(server.model("other", 7), 30)
    found = changes(before, server.page(1.0))
    assert found["other", "7"].rate("steps") == 30
    assert found["other", "7"].histograms["step_seconds"].count == 30
    assert found[SMALL].rate("steps") == 0


def test_the_total_is_of_all_model_versions() -> None:
    server = Pages()
    other = server.model("other", 2, live=10, queued=1)
    before = server.page(0.0)
    work(server.small, 100, seconds=0.0002)
    work(other, 300, seconds=0.04)
    together = total(changes(before, server.page(2.0)).values())
    assert (together.seconds, together.rate("steps")) == (2, 200)
    assert together.gauges["sessions_live"] == 13
    p50 = together.percentile("step_seconds", 50)
    assert p50 is not None and 0.025 < p50 <= 0.05


def test_counters_that_fell_tell_of_a_restart_and_of_no_rate() -> None:
    old, new = Pages(), Pages()
    work(old.small, 100)
    work(new.small, 40)
    assert restarted(old.page(0.0), new.page(1.0))
    assert standing(new.page(1.0))[SMALL].rate("steps") is None


def test_an_error_that_is_no_longer_counted_tells_of_a_restart() -> None:
    old, new = Pages(), Pages()
    old.small.error("NOT_FOUND", "CLOSED")
    work(new.small, 40)
    assert restarted(old.page(0.0), new.page(1.0))


def test_a_histogram_that_fell_tells_of_a_restart_though_every_counter_rose() -> None:
    old, new = Pages(), Pages()
    old.small.step_seconds.observe(0.3)
    new.small.step_seconds.observe(0.003, 50)
    assert restarted(old.page(0.0), new.page(1.0))
