"""The dashboards and the alerts name only metrics that a running server exposes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.harness import ROOT, RunningServer

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "tidegate.json"
CLUSTER = DASHBOARD.with_name("cluster.json")
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def exposed(page: str) -> set[str]:
    """Every series name that the page's families can have, samples or none."""
    families = re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE)
    return {name + suffix for name, kind in families for suffix in SUFFIXES.get(kind, [""])}


def named(text: str) -> set[str]:
    return set(re.findall(r"\b(?:tidegate|grpc_server|process)_\w+", text))


@pytest.mark.parametrize(
    "path", [DASHBOARD, CLUSTER, ALERTS], ids=["dashboard", "cluster", "alerts"]
)
def test_every_metric_named_is_exposed_by_a_running_server(
    path: Path, server: RunningServer
) -> None:
    names = named(path.read_text())
    assert names
    assert names <= exposed(server.metrics())


def test_the_dashboard_shows_every_metric_of_the_server(server: RunningServer) -> None:
    shown = named(DASHBOARD.read_text())
    families = re.findall(r"^# TYPE (tidegate_\w+) ", server.metrics(), re.MULTILINE)
    created = {name for name in families if name.endswith("_created")}
    unseen = {name for name in families if not any(each.startswith(name) for each in shown)}
    assert unseen - created == set()


both = pytest.mark.parametrize("path", [DASHBOARD, CLUSTER], ids=["dashboard", "cluster"])


@both
def test_every_panel_reads_the_provisioned_datasource(path: Path) -> None:
    sources = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    panels = json.loads(path.read_text())["panels"]
    for uid in {panel["datasource"]["uid"] for panel in panels}:
        assert f"uid: {uid}\n" in sources


@both
def test_panels_have_distinct_ids_and_do_not_overlap(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
