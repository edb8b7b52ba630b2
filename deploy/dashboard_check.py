"""Asks a Prometheus every question of the dashboards and of the alerts.

A part of container-check, once load has been scraped: each expression must be valid, and each panel
must show data, unless it needs hours of it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

HERE = Path(__file__).parent
DASHBOARDS = sorted((HERE / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"$model": ".*", "$version": ".*", "$instance": ".*", "$__rate_interval": "1m"}
PATIENCE = 10
# Features drift over a window of an hour, in models whose bundles say how they were in training.
LATER = {"Drift of features", "Steps that drift rests on"}
# A session of two seconds is written once or twice, perhaps not between two scrapes.
LATER |= {"Time to write a record"}
# There is no shadow unless one is asked for.
LATER |= {"Shadows: differences", "Shadows: steps/s"}
# Nobody has a token.
LATER |= {"Refused for who they are, or for a quota", "Sessions by tenant"}
# No call fails; and unary ones are few, perhaps none after the first scrape.
LATER |= {"Calls that fail/s", "Whole calls, p99"}


def expressions() -> Iterator[tuple[str, str]]:
    """Panel and expression, with the dashboard's variables filled in."""
    for panel in (each for file in DASHBOARDS for each in json.loads(file.read_text())["panels"]):
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression


def values(prometheus: str, expression: str) -> list[float]:
    """The values an expression has now.

    Raises:
        OSError: Prometheus is not there or refuses the expression.
    """
    query = urlencode({"query": expression})
    with urlopen(f"{prometheus}/api/v1/query?{query}", timeout=10) as reply:
        found = json.load(reply)["data"]["result"]
    return [float(each["value"][1]) for each in found]


def shows_data(prometheus: str, expression: str) -> bool:
    """Whether the expression has numbers; a rate needs two scrapes, so it may take a little."""
    for _ in range(PATIENCE):
        found = values(prometheus, expression)
        if found and not any(math.isnan(value) for value in found):
            return True
        time.sleep(1)
    return False


def main() -> int:
    """0 when every panel shows numbers, but for those that do so later."""
    for _, expression in expressions():
        values(sys.argv[1], expression)
    due = [each for each in expressions() if each[0] not in LATER]
    empty = [each for each in due if not shows_data(sys.argv[1], each[1])]
    print(f"{len(due) - len(empty)} of the dashboards' {len(due)} expressions due show data")
    for title, expression in empty:
        print(f"no data: {title}: {expression}", file=sys.stderr)
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
