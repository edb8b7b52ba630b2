"""A client's settings: bad values are refused by name, good ones reach gRPC."""

import json
from typing import Any

import pytest

from tidegate import ClientOptions, RetryPolicy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempts", 0),
        ("attempts", 1001),
        ("attempts", 2.5),
        ("initial_backoff", 0.0),
        ("initial_backoff", float("nan")),
        ("max_backoff", float("inf")),
        ("max_backoff", 0.01),
        ("multiplier", 0.5),
        ("multiplier", "2"),
    ],
)
def test_a_bad_retry_setting_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"RetryPolicy\.{field}"):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", None),
        ("timeout", True),
        ("retry", 3),
        ("max_message_bytes", 0),
        ("max_message_bytes", 1.5),
        ("reconnect_backoff", 0),
        ("max_reconnect_backoff", float("nan")),
        ("keepalive", 0),
        ("keepalive", None),
        ("keepalive_timeout", float("inf")),
    ],
)
def test_a_bad_client_setting_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"ClientOptions\.{field}"):
        ClientOptions(**{field: value})


def test_the_retry_policy_becomes_grpcs_service_config() -> None:
    options = dict(ClientOptions(retry=RetryPolicy(3, 0.25, 4.0, 2.0)).channel_options())
    method, gathered, changes = json.loads(str(options["grpc.service_config"]))["methodConfig"]
    assert {"service": "tidegate.v1.Tidegate", "method": "Step"} in method["name"]
    assert {"service": "tidegate.v1.Tidegate", "method": "OpenMany"} in gathered["name"]
    assert gathered["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert {"service": "tidegate.v1.Tidegate", "method": "Fork"} in changes["name"]
    assert changes["retryPolicy"]["retryableStatusCodes"] == ["RESOURCE_EXHAUSTED"]
    assert method["retryPolicy"] == {
        "maxAttempts": 3,
        "initialBackoff": "0.250s",
        "maxBackoff": "4.000s",
        "backoffMultiplier": 2.0,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }


def test_one_attempt_turns_retries_off() -> None:
    options = dict(ClientOptions(retry=RetryPolicy(attempts=1)).channel_options())
    assert options["grpc.enable_retries"] == 0
    assert "grpc.service_config" not in options
