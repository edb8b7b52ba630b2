"""The way out of the process: nobody waits for whoever reads, and whoever reads learns what is
missing."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from server.logs.limits import KINDS, MOST, WINDOW, Limits
from server.logs.writer import Writer

DROPPED = re.compile(r"(\d+) records were dropped")
MANY = {"free": float("inf")}


@contextmanager
def logging_to(to: int, most: int = 1 << 20) -> Iterator[tuple[logging.Logger, Writer]]:
    """A logger of its own, whose records are not limited, and what writes them."""
    writer = Writer(to, MANY, most)
    writer.setFormatter(logging.Formatter("%(message)s"))
    log = logging.Logger("free")
    log.addHandler(writer)
    try:
        yield log, writer
    finally:
        writer.close()


class Reader:
    """Reads a pipe to its end, once it is started."""

    def __init__(self) -> None:
        self.here, self.there = os.pipe()
        self.text = b""
        self._thread = threading.Thread(target=self._read)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def lines(self) -> list[str]:
        """All that came, now that no more is written."""
        os.close(self.there)
        if not self._thread.ident:
            self.start()
        self._thread.join()
        os.close(self.here)
        return self.text.decode().splitlines()

    def _read(self) -> None:
        while come := os.read(self.here, 65_536):
            self.text += come


def test_what_is_read_is_whole_and_in_order_whoever_logs() -> None:
    reader = Reader()
    reader.start()
    with logging_to(reader.there) as (log, _):

        def work(name: int) -> None:
            for k in range(200):
                log.info("%d %d", name, k)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = [tuple(map(int, line.split())) for line in reader.lines()]
    for name in range(4):
        assert [k for who, k in lines if who == name] == list(range(200))


def test_nobody_waits_for_a_pipe_that_nobody_reads_and_the_end_comes() -> None:
    reader = Reader()
    with logging_to(reader.there) as (log, writer):
        for k in range(5_000):
            log.info("%d %s", k, "x" * 1_000)
    reader.start()
    writer._thread.join()
    lines = reader.lines()
    assert [line.split()[0] for line in lines[:50]] == [str(k) for k in range(50)]


def test_what_was_dropped_is_counted_where_it_is_missing() -> None:
    reader = Reader()
    with logging_to(reader.there, most=100_000) as (log, writer):
        for k in range(1_000):
            log.info("%d %s", k, "x" * 1_000)
        reader.start()
        writer.say("the end")
    *lines, last = reader.lines()
    assert last == "the end"
    assert any(map(DROPPED.match, lines))
    due = 0
    for line in lines:
        if dropped := DROPPED.match(line):
            due += int(dropped[1])
        else:
            assert line == f"{due} {'x' * 1_000}"
            due += 1
    assert due == 1_000


def test_what_was_dropped_is_told_though_nothing_more_is_logged() -> None:
    reader = Reader()
    with logging_to(reader.there, most=10_000) as (log, _):
        for _ in range(1_000):
            log.info("x" * 1_000)
        reader.start()
        while not DROPPED.search(reader.text.decode()):
            reader._thread.join(0.01)
    reader.lines()


def test_lines_are_whole_where_somebody_made_the_pipe_not_wait() -> None:
    reader = Reader()
    os.set_blocking(reader.there, False)
    with logging_to(reader.there) as (log, _):
        for k in range(500):
            log.info("%d %s", k, "x" * 1_000)
        reader.start()
    assert reader.lines() == [f"{k} {'x' * 1_000}" for k in range(500)]


def of_no_reader() -> int:
    here, there = os.pipe()
    os.close(here)
    return there


def of_a_full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("where", [of_no_reader, of_a_full_disk])
def test_where_nothing_can_be_written_logging_goes_on_and_ends(where: Callable[[], int]) -> None:
    to = where()
    with logging_to(to) as (log, writer):
        for _ in range(100):
            log.info("unheard")
    writer._thread.join(30)
    assert not writer._thread.is_alive()
    assert writer._lost == 100
    os.close(to)


def test_a_record_whose_arguments_do_not_fit_is_told_all_the_same() -> None:
    reader = Reader()
    with logging_to(reader.there) as (log, _):
        log.info("%d of\n", "none")
    assert reader.lines() == [r"INFO free %d of\n (not formatted)"]


def test_a_storm_of_one_kind_costs_few_lines_and_hides_no_other() -> None:
    reader = Reader()
    with logging_to(reader.there) as (_, writer):
        storm = logging.Logger("storm")
        storm.addHandler(writer)
        for k in range(1_000):
            storm.error("call %d failed", k)
        storm.error("the disk is full")
    lines = reader.lines()
    assert lines == [
        *(f"call {k} failed" for k in range(MOST)),
        "the disk is full",
        f"{1_000 - MOST} more like this: call %d failed",
    ]


def kind(message: object, name: str = "part", level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, message, None, None)


def test_a_kind_is_told_again_in_the_next_window_and_what_was_held_back_is_summed_up() -> None:
    limits = Limits({"free": 3})
    assert [limits.passes(kind("a"), 0.0) for _ in range(15)] == [True] * 10 + [False] * 5
    assert [limits.passes(kind("a", "free"), 0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert limits.passes(kind("a", level=logging.INFO), 0.0)
    assert not list(limits.ended(WINDOW - 1))
    said = [each.getMessage() for each in limits.ended(WINDOW)]
    assert said == ["5 more like this: a", "2 more like this: a"]
    assert limits.passes(kind("a"), WINDOW)
    assert not list(limits.ended(WINDOW))


def test_messages_that_all_differ_are_bounded_together_with_what_is_remembered() -> None:
    limits = Limits({})
    passed = sum(limits.passes(kind(f"{k}" + "x" * 10_000), 0.0) for k in range(5_000))
    assert passed == KINDS + MOST
    assert sum(len(text) for _, _, text in limits._windows) < 300 * KINDS
    (summary,) = limits.ended(WINDOW)
    assert summary.getMessage() == f"{5_000 - KINDS - MOST} more like this: (of many kinds)"
    assert limits.passes(kind(ValueError("any")), 0.0)
