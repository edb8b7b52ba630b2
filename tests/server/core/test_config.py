"""Settings: flags over environment over defaults, each checked, each named when it is wrong."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from server.config import Config, ConfigError, from_arguments

GOOD: dict[str, str] = {
    "host": "::1",
    "port": "1234",
    "transport": "aio",
    "health_port": "0",
    "busy_poll": "0.0005",
    "access": "/etc/hostname",
    "metrics_port": "off",
    "metrics_host": "::1",
    "device": "cpu",
    "cuda_graphs": "False",
    "threads": "2",
    "max_sessions": "5",
    "max_resident": "3",
    "max_model_bytes": "1000000",
    "trusted_keys": "/etc/hostname",
    "session_ttl": "1.5",
    "store": "none",
    "data_folder": "kept",
    "redis_url": "redis://:secret@elsewhere:1/2",
    "redis_durability": "fsync",
    "redis_replicas": "2",
    "durability": "sync",
    "checkpoint_interval": "0.5",
    "on_store_failure": "refuse",
    "store_timeout": "1.5",
    "lease_seconds": "2.5",
    "stored_steps": "3",
    "remembered_steps": "7",
    "max_forecast_steps": "7",
    "max_queued_steps": "9",
    "max_batch": "3",
    "max_calls": "9",
    "drift_window": "0.0",
    "watch_seconds": "0.0",
    "shadow": "small=2,other=11",
    "kept_inputs": "7",
    "max_message_bytes": "4096",
    "max_inflight_messages": "2",
    "max_inflight_bytes": "201326592",
    "max_connections": "7",
    "message_seconds": "1.5",
    "drain_seconds": "0.5",
    "slow_seconds": "0.5",
    "traces_endpoint": "http://here:4317",
    "traces_ratio": "0.5",
    "log_level": "debug",
    "log_format": "json",
    "audit": "False",
    "reflection": "False",
}
BAD: dict[str, str] = {
    "model_repository": "/nowhere/at/all",
    "host": "",
    "port": "65536",
    "transport": "threads",
    "tls_cert": "/nowhere/cert.pem",
    "tls_key": "/nowhere/key.pem",
    "tls_client_ca": "/nowhere/ca.pem",
    "health_port": "-2",
    "insecure": "perhaps",
    "access": "/nowhere/access.toml",
    "reflection": "perhaps",
    "busy_poll": "1",
    "metrics_port": "-1",
    "metrics_host": "no host",
    "device": "gpu",
    "cuda_graphs": "perhaps",
    "threads": "0",
    "max_sessions": "0",
    "max_resident": "-1",
    "max_model_bytes": "-1",
    "trusted_keys": "/nowhere/keys.pem",
    "session_ttl": "0",
    "store": "postgres",
    "data_folder": "/etc/hostname",
    "redis_url": "",
    "redis_durability": "disk",
    "redis_replicas": "0",
    "durability": "async",
    "checkpoint_interval": "0",
    "on_store_failure": "panic",
    "store_timeout": "-1",
    "lease_seconds": "inf",
    "stored_steps": "0",
    "remembered_steps": "0",
    "max_forecast_steps": "0",
    "max_queued_steps": "-5",
    "max_batch": "0",
    "max_calls": "0",
    "drift_window": "-1",
    "watch_seconds": "-1",
    "shadow": "small",
    "kept_inputs": "-1",
    "max_message_bytes": "10",
    "max_inflight_messages": "0",
    "max_inflight_bytes": "1000",
    "max_connections": "0",
    "message_seconds": "0",
    "drain_seconds": "-1",
    "slow_seconds": "-1",
    "traces_endpoint": "here",
    "traces_ratio": "2",
    "log_level": "loud",
    "log_format": "xml",
    "audit": "perhaps",
}


Environment = pytest.MonkeyPatch


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    """Nothing is set but the repository."""
    for name in Config.model_fields:
        monkeypatch.delenv(f"TIDEGATE_{name.upper()}", raising=False)
    monkeypatch.setenv("TIDEGATE_MODEL_REPOSITORY", str(tmp_path))
    return monkeypatch


def value(flags: list[str], name: str) -> str:
    found: Any = getattr(from_arguments(flags), name)
    return found.get_secret_value() if isinstance(found, SecretStr) else str(found)


TOGETHER = {"tls_cert", "tls_key", "tls_client_ca", "insecure"}
"""They make sense with others alone; see `test_tls`."""


SWITCHES = {"insecure", "audit", "cuda_graphs", "reflection"}
VALUED = [name for name in BAD if name not in SWITCHES]
"""Fields whose flags have a value."""


def test_the_cases_cover_every_field() -> None:
    names = set(Config.model_fields)
    assert set(BAD) == names
    assert set(GOOD) == names - {"model_repository"} - TOGETHER


@pytest.mark.parametrize("name", GOOD)
def test_a_flag_wins_over_the_variable_and_the_variable_over_the_default(
    environment: Environment, name: str
) -> None:
    flag = f"--{name.replace('_', '-')}"
    default = value([], name)
    assert default != GOOD[name]
    environment.setenv(f"TIDEGATE_{name.upper()}", GOOD[name])
    assert value([], name) == GOOD[name]
    back = [flag] if name in SWITCHES else [flag, default]
    assert value(back, name) == default


@pytest.mark.parametrize(("by", "name"), [*product(["flag"], VALUED), *product(["variable"], BAD)])
def test_a_bad_value_is_refused_by_name(environment: Environment, name: str, by: str) -> None:
    flags = [f"--{name.replace('_', '-')}={BAD[name]}"] if by == "flag" else []
    environment.setenv(f"TIDEGATE_{name.upper()}", BAD[name])
    with pytest.raises(ConfigError, match=f"^{name} must .*, not '{BAD[name]}'"):
        from_arguments(flags)


def test_every_bad_value_is_named(environment: Environment) -> None:
    with pytest.raises(ConfigError, match=r"^port must .*; threads must .*, not '0'$"):
        from_arguments(["--port", "-1", "--threads", "0"])


@pytest.mark.parametrize("name", ["session_ttl", "drain_seconds"])
@pytest.mark.parametrize("text", ["inf", "nan", "1e12"])
def test_a_duration_no_clock_can_say_is_refused(
    environment: Environment, name: str, text: str
) -> None:
    environment.setenv(f"TIDEGATE_{name.upper()}", text)
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        from_arguments([])


@pytest.mark.parametrize(("name", "text"), [("port", "http"), ("session_ttl", "soon")])
def test_a_value_of_the_wrong_type_is_refused_by_name(
    environment: Environment, name: str, text: str
) -> None:
    environment.setenv(f"TIDEGATE_{name.upper()}", text)
    with pytest.raises(ConfigError, match=f"^{name} must be a valid (integer|number).*'{text}'$"):
        from_arguments([])


def test_settings_cannot_change_after_the_start(environment: Environment) -> None:
    config = from_arguments([])
    with pytest.raises(ValidationError, match="frozen"):
        config.port = 1  # type: ignore[misc]
