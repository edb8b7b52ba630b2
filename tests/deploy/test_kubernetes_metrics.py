"""What scales servers and wakes people asks for metrics that servers have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import FOLDER, of_kind, render, servers
from tests.deploy.test_dashboard import ALERTS, exposed, named
from tests.harness import RunningServer

RULE = FOLDER / "components" / "monitoring" / "prometheus-rule.yaml"
ADAPTER = FOLDER / "components" / "autoscaling" / "prometheus-adapter.yaml"
RULES: list[dict[str, Any]] = yaml.safe_load(ADAPTER.read_text())["rules"]


def query(name: str) -> str:
    """What prometheus-adapter asks Prometheus for a metric of the pods a and b."""
    (found,) = [each for each in RULES if each["name"]["as"] == name]
    words = {
        "<<.Series>>": found["seriesQuery"].partition("{")[0],
        "<<.LabelMatchers>>": 'namespace="ours",pod=~"a|b"',
        "<<.GroupBy>>": "pod",
    }
    text: str = found["metricsQuery"]
    for key, value in words.items():
        assert key in text
        text = text.replace(key, value)
    return text


def promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_that_scales_servers_is_exposed_by_one(server: RunningServer) -> None:
    there = exposed(server.metrics())
    for each in RULES:
        names = named(each["seriesQuery"])
        assert names and names <= there


def test_every_metric_of_the_autoscaler_is_one_that_the_adapter_gives() -> None:
    resources = render("examples/replicated")
    (scaler,) = of_kind(resources, "HorizontalPodAutoscaler")
    metrics = {each["type"]: each for each in scaler["spec"]["metrics"]}
    of_pods = [each for each in scaler["spec"]["metrics"] if each["type"] == "Pods"]
    assert {each["pods"]["metric"]["name"] for each in of_pods} == {e["name"]["as"] for e in RULES}
    (server,) = servers(resources)  # a share of the CPU is one of what is requested
    assert metrics["ContainerResource"]["containerResource"]["container"] == server["name"]
    assert server["resources"]["requests"]["cpu"]


def test_the_adapters_queries_say_the_longest_queue_and_the_mean_in_flight(tmp_path: Path) -> None:
    def series(name: str, pod: str, model: str, values: str) -> dict[str, str]:
        labels = f'namespace="ours", pod="{pod}", model="{model}", version="1"'
        return {"series": f"{name}{{{labels}}}", "values": values}

    def expect(name: str, **pods: float) -> dict[str, Any]:
        samples = [{"labels": f'{{pod="{pod}"}}', "value": value} for pod, value in pods.items()]
        return {"expr": query(name), "eval_time": "5m", "exp_samples": samples}

    queue, seconds = "tidegate_queue_steps", "tidegate_step_seconds_sum"
    test = {
        "interval": "15s",
        "input_series": [
            series(queue, "a", "one", "0x17 900 0 0"),
            series(queue, "a", "two", "50x20"),
            series(queue, "b", "one", "0x20"),
            series(queue, "c", "one", "5000x20"),
            series(seconds, "a", "one", "0+30x20"),
            series(seconds, "a", "two", "0+15x20"),
            series(seconds, "b", "one", "0+0x20"),
        ],
        "promql_expr_test": [
            expect(queue, a=950, b=0),
            expect("tidegate_steps_in_flight", a=3, b=0),
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    promtool("test", "rules", str(file))


def test_the_prometheus_rule_holds_the_alerts_as_they_are(tmp_path: Path) -> None:
    """Also as rendered, where folded lines come out otherwise: the alerts' own tests pass on it."""
    command = [sys.executable, str(FOLDER / "prometheus_rule.py")]
    made_now = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert RULE.read_text() == made_now, "run `make alerts`"
    (made,) = of_kind(render("examples/single"), "PrometheusRule")
    (tmp_path / ALERTS.name).write_text(yaml.safe_dump(made["spec"]))
    tests = tmp_path / "alerts_test.yml"
    tests.write_text((ALERTS.parent / tests.name).read_text())
    promtool("test", "rules", str(tests))


@pytest.mark.parametrize("folder", ["examples/single", "examples/replicated"])
def test_servers_are_scraped_once_under_the_name_that_alerts_expect(folder: str) -> None:
    resources = render(folder)
    (monitor,) = of_kind(resources, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    (scraped,) = [
        service["metadata"]["labels"]
        for service in of_kind(resources, "Service")
        if wanted <= service["metadata"]["labels"].items()
        and endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    ]
    assert f'job="{scraped[monitor["spec"]["jobLabel"]]}"' in ALERTS.read_text()
