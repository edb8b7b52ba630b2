"""`tidegate bench`, as users run it; and what its figures are made of."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.running import bench, eventually, live_sessions, started, tidegate
from tests.harness import ROOT, RunningServer, running_server
from tidegate import SyncClient
from tidegate.cli.bench.load import Observations, Pace
from tidegate.cli.bench.record import Latencies, Record
from tidegate.errors import DeadlineExceeded


@pytest.mark.parametrize("chunk", [1, 5])
def test_its_figures_are_those_of_the_server_and_its_sessions_are_closed(
    shipped: RunningServer, chunk: int
) -> None:
    before = shipped.metric("tidegate_steps_total")
    opened = shipped.metric("tidegate_sessions_opened_total")
    figures = bench(shipped, "--sessions", 8, "--seconds", 1, "--chunk", chunk)
    steps = shipped.metric("tidegate_steps_total") - before
    assert 0 < figures["steps"] <= steps
    assert figures["steps"] % chunk == 0 and figures["seconds"] >= 0.99
    assert figures["steps_per_second"] == pytest.approx(
        figures["steps"] / figures["seconds"], rel=0.01
    )
    latency, milliseconds = figures["latency_ms"], figures["seconds"] * 1000
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    # Half of the calls took the median at least, and eight sessions have eight times the time.
    calls = figures["steps"] / chunk
    assert latency["p50"] * calls / 2 <= 1.02 * 8 * (milliseconds + latency["max"])
    cpu = figures["client_cpu_us_per_step"] * figures["steps"] / 1000
    assert 0 < cpu <= 1.02 * milliseconds * (os.cpu_count() or 1)
    assert (figures["errors"], figures["model"], figures["chunk"]) == ({}, "exercise", chunk)
    assert shipped.metric("tidegate_sessions_opened_total") - opened == 8
    assert live_sessions(shipped) == []


def test_a_rate_is_never_exceeded(shipped: RunningServer) -> None:
    before = shipped.metric("tidegate_steps_total")
    figures = bench(shipped, "--sessions", 5, "--seconds", 2, "--rate", 20)
    steps = shipped.metric("tidegate_steps_total") - before
    assert 0 < figures["steps"] <= steps
    assert steps <= 5 * 49  # 2 s, and 0.4 to warm up


def test_people_get_lines(shipped: RunningServer) -> None:
    given = ["--address", shipped.address, "--sessions", 2, "--seconds", "0.3"]
    done = tidegate("bench", "exercise", *given)
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    address = f"{shipped.address} (cpu)"
    assert first == f"2 sessions of exercise/1 on {address}, a step a call, 0.3 s"
    assert [line.split()[0] for line in lines] == ["steps", "latency", "errors", "client"]
    assert lines[2] == "errors     none"


def test_an_interrupted_bench_closes_its_sessions(shipped: RunningServer) -> None:
    with started("bench", "exercise", "--address", shipped.address, "--seconds", 60) as run:
        eventually(lambda: len(live_sessions(shipped)) == 64)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors == b"tidegate: interrupted; its sessions were closed\n"
    assert live_sessions(shipped) == []


def test_interrupted_while_it_opens_it_leaves_no_session_either(shipped: RunningServer) -> None:
    given = ["--address", shipped.address, "--sessions", 5000]
    with started("bench", "exercise", *given) as run:
        eventually(lambda: len(live_sessions(shipped)) > 0)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert (run.returncode, b"Traceback" in errors) == (130, False)
    assert live_sessions(shipped) == []


def test_a_session_that_somebody_ends_is_counted_by_reason_and_opened_again(
    shipped: RunningServer,
) -> None:
    given = ["--address", shipped.address, "--sessions", 2, "--rate", 50, "--seconds", 4]
    before = shipped.metric("tidegate_steps_total")

    def steps() -> float:
        return shipped.metric("tidegate_steps_total") - before

    with started("bench", "exercise", *given, "--json") as run:
        eventually(lambda: steps() >= 2 * 51)  # more than the warm-up's 0.8 s have
        with SyncClient(shipped.address) as client:
            for session_id in live_sessions(shipped):
                client.close_session("exercise", session_id)
        eventually(lambda: len(live_sessions(shipped)) == 2)
        again = steps()
        output, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (0, b"")
    figures = json.loads(output)
    assert figures["errors"] == {"closed": 2}
    assert steps() > again
    assert live_sessions(shipped) == []


def test_a_server_without_room_is_named_in_one_line_and_nothing_is_left_open() -> None:
    with (
        running_server(ROOT / "models", max_sessions=3) as server,
        SyncClient(server.address) as client,
        client.session("exercise", "other"),
    ):
        done = tidegate("bench", "exercise", "--address", server.address, "--sessions", 3)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "holds 3 sessions" in done.stderr
        assert live_sessions(server) == ["other"]


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (["nothing"], 1, "unknown model 'nothing'"),
        (["exercise", "--model-version", "9"], 1, "no version 9"),
        (["exercise", "--sessions", "0"], 2, "at least 1"),
        (["exercise", "--sessions", "100001"], 2, "at most 100,000"),
        (["exercise", "--seconds", "inf"], 2, "inf is not above 0"),
        (["exercise", "--chunk", "65537"], 2, "at most 65,536"),
        (["exercise", "--sessions", "10001"], 2, "exercise/1 holds 10,000 sessions"),
    ],
)
def test_what_it_cannot_do_is_said(
    shipped: RunningServer, more: list[str], status: int, says: str
) -> None:
    done = tidegate("bench", "--address", shipped.address, *more)
    assert done.returncode == status
    assert says in done.stderr.splitlines()[-1]


def test_a_server_that_is_away_is_named(nobody: str) -> None:
    done = tidegate("bench", "exercise", "--address", nobody, "--timeout", "2")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"tidegate: {nobody}: ")


def test_only_what_comes_between_begin_and_end_counts() -> None:
    record = Record()

    def happen() -> None:
        record.answered(5, 0.25)
        record.failed(DeadlineExceeded("too late"))

    happen()
    record.begin()
    happen()
    record.end()
    happen()
    assert (record.steps, record.latencies.count, record.latencies.longest) == (5, 1, 0.25)
    assert record.errors == {"deadline_exceeded": 1}
    assert record.rate == 5 / record.elapsed
    assert (Record().rate, Record().cpu_per_step) == (0, 0)


@given(st.lists(st.floats(1e-6, 900), min_size=1, max_size=50), st.floats(0.1, 100))
def test_latencies_are_known_within_a_hundredth(values: list[float], percent: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    rank = max(1, math.ceil(len(values) * percent / 100))
    assert latencies.percentile(percent) == pytest.approx(sorted(values)[rank - 1], rel=0.0101)
    assert (latencies.count, latencies.longest) == (len(values), max(values))


def test_extreme_latencies_are_counted_too() -> None:
    latencies = Latencies()
    assert latencies.percentile(50) == 0
    for value in (0.0, 1e9):
        latencies.add(value)
    assert latencies.count == 2 and latencies.longest == 1e9
    assert latencies.percentile(10) < 2e-6 and latencies.percentile(90) > 1000


class Clock:
    """Moved by hand, and by whoever sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


async def moments(pace: Pace) -> list[float]:
    """Of all calls, where a call takes no time."""
    found: list[float] = []
    while (began := await pace.next()) is not None:
        found.append(began)
    return found


def test_calls_begin_an_interval_apart_until_the_time_is_over() -> None:
    clock = Clock()
    began = asyncio.run(moments(Pace(1 / 16, 2.0, clock.now, clock.sleep)))
    assert len(began) == 32
    assert began == pytest.approx([began[0] + at / 16 for at in range(32)])
    assert 0 <= began[0] < 1 / 16


def test_sessions_do_not_call_in_step() -> None:
    async def first() -> float | None:
        clock = Clock()
        return await Pace(1.0, 60.0, clock.now, clock.sleep).next()

    assert len({asyncio.run(first()) for _ in range(10)}) == 10


def test_a_call_that_is_late_counts_from_when_it_was_due() -> None:
    async def run(clock: Clock) -> list[float | None]:
        pace = Pace(0.05, 60.0, clock.now, clock.sleep)
        first = await pace.next()
        clock.time += 0.3  # the call takes six intervals
        return [first, *[await pace.next() for _ in range(3)]]

    clock = Clock()
    first, *late = asyncio.run(run(clock))
    assert first is not None
    assert late == pytest.approx([first + 0.05, first + 0.1, first + 0.15])
    assert clock.slept == [first]  # none of the late ones waited


def test_a_pace_ends_with_the_time_though_its_next_call_is_far_off() -> None:
    clock = Clock()
    assert asyncio.run(Pace(1e6, 0.1, clock.now, clock.sleep).next()) is None
    assert (clock.time, clock.slept) == (0.1, [0.1])


def test_without_an_interval_calls_follow_each_other_without_a_wait() -> None:
    async def run(clock: Clock) -> list[float | None]:
        pace, found = Pace(0.0, 1.0, clock.now, clock.sleep), []
        for _ in range(5):
            found.append(await pace.next())
            clock.time += 0.25
        return found

    clock = Clock()
    assert asyncio.run(run(clock)) == [0.0, 0.25, 0.5, 0.75, None]
    assert clock.slept == []


def test_observations_differ_between_sessions_and_steps_and_are_normal() -> None:
    observations = Observations(6, 1)
    firsts = [next(observations.of(number)) for number in range(100)]
    assert len({each.tobytes() for each in firsts}) == 100
    one = observations.of(7)
    steps = np.array([next(one) for _ in range(4000)])
    assert abs(steps.mean()) < 0.05 and abs(steps.std() - 1) < 0.05
    chunks = Observations(6, 9).of(3)
    assert [next(chunks).shape for _ in range(1000)] == [(9, 6)] * 1000
