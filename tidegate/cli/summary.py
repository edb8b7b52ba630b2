"""The figures that end a run."""

import numpy as np

from tidegate.cli.progress import Progress


def summary_lines(progress: Progress, elapsed: float) -> list[str]:
    """The run in a few aligned lines."""
    rate = progress.steps / elapsed if elapsed else 0.0
    lines = [
        f"sessions   {progress.finished:,}",
        f"steps      {progress.steps:,} in {elapsed:.1f} s ({rate:,.0f} steps/s)",
    ]
    if progress.accuracy is not None:
        right, judged = session_ends(progress)
        lines.append(
            f"accuracy   {progress.accuracy:.3f} per step, "
            f"{right / judged if judged else 0.0:.3f} at session end ({right} of {judged})"
        )
    if progress.latencies:
        lines.append(f"latency    {latency_line(progress.latencies)}")
    return lines


def session_ends(progress: Progress) -> tuple[int, int]:
    """How many sessions' final steps were right, and how many could be judged."""
    ends = [
        each.prediction.label == each.truth
        for each in progress.sessions
        if each.finished and each.truth and each.prediction is not None and each.prediction.label
    ]
    return sum(ends), len(ends)


def latency_line(latencies: list[float]) -> str:
    """Percentiles of the steps' round trips, in milliseconds."""
    p50, p90, p99 = np.percentile(latencies, [50, 90, 99]) * 1000
    return f"p50 {p50:.2f} ms, p90 {p90:.2f}, p99 {p99:.2f}, max {max(latencies) * 1000:.2f}"
