"""A run's figures, for people and for programs."""

import json

from tidegate.cli.bench.plan import BenchPlan
from tidegate.cli.bench.record import Record
from tidegate.model import Model

PERCENTS = (50, 90, 99)


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
    longest = record.latencies.longest * 1000
    errors = ", ".join(f"{reason} {count:,}" for reason, count in record.errors.most_common())
    return [
        f"steps      {record.steps:,} in {record.elapsed:.1f} s ({_rate(record):,.0f} steps/s)",
        f"latency    p50 {p50:.2f} ms, p90 {p90:.2f}, p99 {p99:.2f}, max {longest:.2f}",
        f"errors     {errors or 'none'}",
        f"client     {_cpu(record):.1f} µs of CPU a step",
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
        "steps_per_second": round(_rate(record), 1),
        "latency_ms": {**latency, "max": round(record.latencies.longest * 1000, 4)},
        "errors": dict(record.errors.most_common()),
        "client_cpu_us_per_step": round(_cpu(record), 2),
    }
    return json.dumps(figures)


def _rate(record: Record) -> float:
    return record.steps / record.elapsed if record.elapsed else 0.0


def _cpu(record: Record) -> float:
    return record.cpu / record.steps * 1e6 if record.steps else 0.0


def _milliseconds(record: Record, percent: float) -> float:
    return record.latencies.percentile(percent) * 1000
