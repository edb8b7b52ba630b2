"""`tidegate bench`: sessions of its own, stepped all at a time through the public client.

Here are its arguments, and its report for people and for programs; `load` steps the sessions and
`record` counts what is answered.
"""

import argparse
import asyncio
import json

from tidegate import Client, Model
from tidegate.cli.bench.load import BenchPlan, Load
from tidegate.cli.bench.record import Record
from tidegate.cli.common import (
    Failure,
    Subparsers,
    add_version,
    client_options,
    into,
    latency_line,
    name,
    rate,
    say,
    seconds,
    several,
    steps_line,
)

MOST_SESSIONS = 100_000
MOST_STEPS = 65_536
PERCENTS = (50, 90, 99)


def add(commands: Subparsers, server: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("bench", parents=[server], help="put load on a model")
    parser.description = (
        "Steps sessions of its own through random observations, all at a time, and tells how fast "
        "they were answered."
    )
    add = parser.add_argument
    add("model", type=name)
    add_version(parser, "the newest")
    add("--sessions", type=_sessions, default=64, metavar="N", help="(%(default)s)")
    add("--seconds", type=seconds, default=5.0, metavar="S", help="(%(default)s)")
    add("--chunk", type=_steps, default=1, metavar="T", help="steps a call (%(default)s)")
    add("--rate", type=rate, default=0.0, metavar="HZ",
        help="steps a second of each session; 0: no pauses")  # fmt: skip
    add("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(action=_run, interrupted="interrupted; its sessions were closed")


def _sessions(text: str) -> int:
    return _bounded(text, MOST_SESSIONS)


def _steps(text: str) -> int:
    return _bounded(text, MOST_STEPS)


def _bounded(text: str, most: int) -> int:
    value = several(text)
    if value > most:
        raise argparse.ArgumentTypeError(f"must be at most {most:,}")
    return value


def _run(given: argparse.Namespace) -> int:
    given.options = client_options(given)
    return asyncio.run(bench(into(BenchPlan, given)))


class NoRoom(Failure):
    """The arguments ask for more than the server ever gives."""

    status = 2


async def bench(plan: BenchPlan) -> int:
    """Run it; returns the exit status: 1 where no step at all was answered."""
    async with Client(plan.address, plan.options) as client:
        model = await client.model(plan.model, plan.version)
        if plan.sessions > model.max_sessions:
            raise NoRoom(f"{model.name}/{model.version} holds {model.max_sessions:,} sessions")
        if not plan.json:
            say(headline(plan, model), now=True)
        record = await Load(client, model, plan).run()
    if plan.json:
        print(line_of_json(plan, model, record))  # which JSON itself escapes
    else:
        say(*lines(record))
    return 0 if record.steps else 1


def headline(plan: BenchPlan, model: Model) -> str:
    """What is about to run."""
    calls = "a step" if plan.chunk == 1 else f"{plan.chunk:,} steps"
    pace = f", {plan.rate:g} steps/s each" if plan.rate else ""
    return (
        f"{plan.sessions:,} sessions of {model.name}/{model.version} on {plan.address} "
        f"({model.device}), {calls} a call{pace}, {plan.seconds:g} s"
    )


def lines(record: Record) -> list[str]:
    """The figures in a few aligned lines."""
    p50, p90, p99 = (_milliseconds(record, percent) for percent in PERCENTS)
    errors = ", ".join(f"{reason} {count:,}" for reason, count in record.errors.most_common())
    return [
        steps_line(record.steps, record.elapsed),
        latency_line(p50, p90, p99, record.latencies.longest * 1000),
        f"errors     {errors or 'none'}",
        f"client     {record.cpu_per_step:.1f} µs of CPU a step",
    ]


def line_of_json(plan: BenchPlan, model: Model, record: Record) -> str:
    """All figures in one line."""
    latency = {f"p{percent}": round(_milliseconds(record, percent), 4) for percent in PERCENTS}
    figures = {
        "model": model.name,
        "version": model.version,
        "device": model.device,
        "sessions": plan.sessions,
        "chunk": plan.chunk,
        "rate": plan.rate,
        "seconds": round(record.elapsed, 3),
        "steps": record.steps,
        "steps_per_second": round(record.rate, 1),
        "latency_ms": {**latency, "max": round(record.latencies.longest * 1000, 4)},
        "errors": dict(record.errors.most_common()),
        "client_cpu_us_per_step": round(record.cpu_per_step, 2),
    }
    return json.dumps(figures)


def _milliseconds(record: Record, percent: float) -> float:
    return record.latencies.percentile(percent) * 1000
