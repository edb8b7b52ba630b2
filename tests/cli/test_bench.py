"""`tidegate bench`, as users run it; and what its figures are made of."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.running import bench, eventually, live_sessions, started, tidegate
from tests.harness import ROOT, RunningServer, running_server
from tidegate import SyncClient
from tidegate.cli.bench.latencies import Latencies
from tidegate.cli.bench.observations import Observations
from tidegate.cli.bench.pace import Pace


@pytest.mark.parametrize("chunk", [1, 5])
def test_its_figures_are_those_of_the_server_and_its_sessions_are_closed(
    shipped: RunningServer, chunk: int
) -> None:
    before = shipped.metric("tidegate_steps_total")
    opened = shipped.metric("tidegate_sessions_opened_total")
    figures = bench(shipped, "--sessions", 8, "--seconds", 1, "--chunk", chunk)
    steps = shipped.metric("tidegate_steps_total") - before
    assert 0 < figures["steps"] <= steps
    assert figures["steps"] > 0.5 * steps  # the others are the warm-up's
    assert figures["steps"] % chunk == 0 and figures["seconds"] == pytest.approx(1, abs=0.5)
    assert figures["steps_per_second"] == pytest.approx(
        figures["steps"] / figures["seconds"], rel=0.01
    )
    latency = figures["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    # Eight at a time: each answered step took an eighth of the time, on average.
    assert latency["p50"] < 8 * chunk * 1000 / figures["steps_per_second"] * 1.5
    assert 0 < figures["client_cpu_us_per_step"] < 1e6 / figures["steps_per_second"] * 2
    assert (figures["errors"], figures["model"], figures["chunk"]) == ({}, "exercise", chunk)
    assert shipped.metric("tidegate_sessions_opened_total") - opened == 8
    assert live_sessions(shipped) == []


def test_a_rate_is_kept(shipped: RunningServer) -> None:
    figures = bench(shipped, "--sessions", 5, "--seconds", 2, "--rate", 20)
    assert 150 <= figures["steps"] <= 205  # 5 sessions, 2 s


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
        _, errors = run.communicate(timeout=20)
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
    given = ["--address", shipped.address, "--sessions", 2, "--rate", 50, "--seconds", 3]
    with started("bench", "exercise", *given, "--json") as run:
        eventually(lambda: len(live_sessions(shipped)) == 2)
        time.sleep(1.2)  # past the warm-up
        closed = tidegate(
            "sessions", "close", "exercise", *live_sessions(shipped), "--address", shipped.address
        )
        assert closed.returncode == 0
        output, errors = run.communicate(timeout=30)
    assert (run.returncode, errors) == (0, b"")
    figures = json.loads(output)
    assert figures["errors"] == {"closed": 2}
    assert figures["steps"] > 200
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
        (["exercise", "--address", "127.0.0.1:9", "--timeout", "2"], 1, "127.0.0.1:9: "),
        (["exercise", "--sessions", "10001"], 2, "exercise/1 holds 10,000 sessions"),
    ],
)
def test_what_it_cannot_do_is_said(
    shipped: RunningServer, more: list[str], status: int, says: str
) -> None:
    done = tidegate("bench", "--address", shipped.address, *more)
    assert done.returncode == status
    assert says in done.stderr.splitlines()[-1]


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


def test_a_call_that_is_late_counts_from_when_it_was_due() -> None:
    async def run() -> tuple[list[float], float]:
        pace = Pace(0.05, time.perf_counter() + 60)
        first = await pace.next()
        await asyncio.sleep(0.3)  # the call takes six intervals
        late = [await pace.next() for _ in range(3)]
        return [each - (first or 0) for each in late if each], time.perf_counter() - (first or 0)

    late, now = asyncio.run(run())
    assert late == pytest.approx([0.05, 0.1, 0.15], abs=0.02)
    assert now < 0.6  # none of them waited


def test_a_pace_ends_with_the_time_though_its_next_call_is_far_off() -> None:
    async def run() -> tuple[object, float]:
        start = time.perf_counter()
        pace = Pace(1e6, start + 0.1)
        return await pace.next(), time.perf_counter() - start

    began, took = asyncio.run(run())
    assert began is None and took < 2


def test_observations_differ_between_sessions_and_steps_and_are_normal() -> None:
    observations = Observations(6, 1)
    firsts = [next(observations.of(number)) for number in range(100)]
    assert len({each.tobytes() for each in firsts}) == 100
    one = observations.of(7)
    steps = np.array([next(one) for _ in range(4000)])
    assert abs(steps.mean()) < 0.05 and abs(steps.std() - 1) < 0.05
    chunks = Observations(6, 9).of(3)
    assert [next(chunks).shape for _ in range(1000)] == [(9, 6)] * 1000
