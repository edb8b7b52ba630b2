"""The plain view: a line a model version for each look, where there is no terminal."""

import time
from datetime import datetime

from tidegate.cli.top.change import Change
from tidegate.cli.top.figures import milliseconds, number, rows, whole
from tidegate.cli.top.selection import named, selected
from tidegate.cli.top.watch import Look


class Lines:
    """Prints."""

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, look: Look) -> None:
        """Print the look."""
        now = f"{datetime.now():%H:%M:%S}"
        if look.message:
            print(f"{now}  {look.message}", flush=True)
            return
        for version, change in selected(look.changes):
            print(f"{now}  {named(version)}  {figures(change)}", flush=True)

    def wait(self, until: float) -> bool:
        """Only an interruption ends it."""
        time.sleep(max(0.0, until - time.monotonic()))
        return False


def figures(change: Change) -> str:
    """One model version's figures in a line."""
    seconds = change.histograms.get("step_seconds")
    p50, p90, p99 = (milliseconds(seconds, percent) for percent in (50, 90, 99))
    batch = change.histograms.get("batch_rows")
    parts = [
        f"{number(change.rate('steps'))} steps/s",
        f"p50 {p50} ms, p90 {p90}, p99 {p99}",
        f"{number(batch.mean if batch else None)} rows a run (p50 {rows(batch, 50)})",
        f"{whole(change.gauges.get('sessions_live'))} live",
        f"{whole(change.gauges.get('queue_steps'))} queued",
        *(f"{number(each)} {reason}/s" for reason, each in change.reasons("errors").items()),
    ]
    return "  ".join(parts)
