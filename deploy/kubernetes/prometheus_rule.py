"""Prints deploy/prometheus/alerts.yml as a PrometheusRule, groups and all: `make alerts`."""

from __future__ import annotations

from pathlib import Path

ALERTS = Path(__file__).resolve().parents[1] / "prometheus" / "alerts.yml"

HEAD = """\
# Made by `make alerts` from deploy/prometheus/alerts.yml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tidegate
spec:
"""


def rule(alerts: str) -> str:
    """The resource, as YAML."""
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in alerts.splitlines())


if __name__ == "__main__":
    print(rule(ALERTS.read_text()), end="")
