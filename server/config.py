"""The server's settings: one frozen model, from which flags and environment variables derive.

A leaf. A value comes from its flag, else from `TIDEGATE_<FIELD>`, else from the default beside the
field. A bad value stops the start with a message naming the field.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    DirectoryPath,
    Field,
    FilePath,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, CliApp, CliImplicitFlag, SettingsConfigDict

TEN_YEARS = 10 * 365 * 86_400.0  # times stay within what clocks and timestamps can say

MESSAGES_INFLIGHT = 6
"""Of the largest messages, so many must fit into the bytes in flight (see `http2.budget`)."""

Port = Annotated[int, Field(ge=0, le=65535)]
Duration = Annotated[float, Field(gt=0, le=TEN_YEARS, allow_inf_nan=False)]
Window = Annotated[float, Field(ge=0, le=TEN_YEARS, allow_inf_nan=False)]


def _folder_to_be(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise PydanticCustomError("path_not_directory", "is no folder")
    return path


class ConfigError(ValueError):
    """A setting has a bad value; the message names the field."""


class Config(BaseSettings):
    """Serve recurrent models that keep every session's state. Every flag --some-name can also be
    given as the environment variable TIDEGATE_SOME_NAME."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEGATE_",
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        validate_default=True,
        cli_prog_name="tidegate-server",
        cli_kebab_case=True,
        cli_avoid_json=True,
    )

    model_repository: DirectoryPath = Field(
        Path("models"), description="folder of bundles, NAME/VERSION/"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: Port = Field(50051, description="gRPC port; 0 takes a free one")
    transport: Literal["native", "aio"] = Field(
        "native",
        description="what carries calls: native is our own HTTP/2, in one thread; aio is grpc.aio, "
        "ten times slower",
    )
    tls_cert: FilePath | None = Field(
        None, description="PEM file of the server's certificate and its chain: encrypts every call"
    )
    tls_key: FilePath | None = Field(None, description="PEM file of its key")
    tls_client_ca: FilePath | None = Field(
        None, description="PEM file of who signs clients' certificates: others are let go"
    )
    health_port: Port | None = Field(
        None, description="port of gRPC's health service in clear, for probes; 0 takes a free one"
    )
    insecure: CliImplicitFlag[bool] = Field(
        False, description="listen beyond this machine without encryption; keys and states in clear"
    )
    access: FilePath | None = Field(
        None, description="TOML file of who may call: tokens, tenants, quotas; none: anybody"
    )
    reflection: CliImplicitFlag[bool] = Field(
        True, description="tell the protocol to whoever asks, by gRPC's reflection"
    )
    busy_poll: float = Field(
        0.0002,
        ge=0.0,
        le=0.1,
        description="seconds for which the transport looks for the next call before it sleeps, as "
        "long as one comes; 0: not at all",
    )
    metrics_port: Literal["off"] | Port = Field(
        9095, description="metrics port; 0 takes a free one, off serves none"
    )
    metrics_host: str = Field(
        "", pattern=r"^\S*$", description="address for metrics; host if empty"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto is CUDA when there is one"
    )
    cuda_graphs: CliImplicitFlag[bool] = Field(
        True,
        description="on CUDA, capture single steps as a model is loaded and replay them; without, "
        "each kernel is launched by itself",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="onnxruntime's threads within a run"
    )
    max_sessions: PositiveInt = Field(
        10_000,
        description="live sessions a model; where it is not set, fewer if memory has no room",
    )
    max_resident: int = Field(
        0,
        ge=0,
        description="sessions a model whose state is on the device at once, the others' being in "
        "the host's memory until their next step; 0: all",
    )
    max_model_bytes: int = Field(
        0,
        ge=0,
        description="memory that one model version may take, graphs, states and remembered "
        "outputs; 0: what is free",
    )
    trusted_keys: FilePath | None = Field(
        None,
        description="PEM file of Ed25519 public keys: bundles that none of them signed are refused",
    )
    session_ttl: Duration = Field(3600.0, description="idle seconds after which a session expires")
    store: Literal["sqlite", "redis", "none"] = Field(
        "sqlite", description="where sessions survive the server; none: nowhere"
    )
    data_folder: Annotated[Path, AfterValidator(_folder_to_be)] = Field(
        Path("data"), description="folder of the sqlite store"
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        min_length=1,
        description="the redis store, with its password",
    )
    redis_durability: Literal["memory", "fsync", "replicated"] = Field(
        "memory",
        description="when a step on redis counts as durable: in its memory, on its disk, or on "
        "redis_replicas replicas",
    )
    redis_replicas: PositiveInt = Field(1, description="replicas that confirm, if replicated")
    durability: Literal["write-behind", "sync"] = Field(
        "write-behind",
        description="sync: steps are in the store before they are answered; write-behind: at most "
        "checkpoint_interval later",
    )
    checkpoint_interval: Duration = Field(
        1.0, description="seconds after which a step is in the store, with write-behind"
    )
    on_store_failure: Literal["auto", "degrade", "refuse"] = Field(
        "auto",
        description="whether steps go on while the store does not answer; auto: on sqlite",
    )
    store_timeout: Duration = Field(2.0, description="seconds after which redis does not answer")
    lease_seconds: Duration = Field(
        5.0, description="seconds after which redis takes a silent server for dead"
    )
    stored_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        1, description="steps a session whose outputs are stored for retries; the last row's always"
    )
    remembered_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        64, description="steps a session whose outputs are kept for retries"
    )
    max_forecast_steps: PositiveInt = Field(1000, description="steps one Forecast may look ahead")
    max_queued_steps: PositiveInt = Field(65_536, description="steps waiting, a model")
    max_batch: PositiveInt = Field(1024, description="rows in one run, at most")
    max_calls: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        10_000, description="unary calls under way at once"
    )
    drift_window: Window = Field(
        3600.0, description="seconds of steps whose features are compared with training; 0: none"
    )
    watch_seconds: Window = Field(
        5.0, description="seconds between looks for new models and versions; 0: none"
    )
    shadow: str = Field(
        "",
        pattern=r"^([^=,]+=[1-9][0-9]{0,17}(,|$))*$",
        description="NAME=VERSION,...: versions that step along unseen, to be compared",
    )
    kept_inputs: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0, description="latest observations a session kept for its migration to another version"
    )
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = Field(
        16 << 20, description="largest gRPC message accepted"
    )
    max_inflight_messages: PositiveInt = Field(
        64, description="unanswered messages a stream before reading pauses"
    )
    max_inflight_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        256 << 20, description="bytes of all calls under way: requests, and replies not yet read"
    )
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        4096, description="connections at once; further ones take the place of silent ones"
    )
    message_seconds: Duration = Field(
        60.0, description="time for a message to come whole, once it was begun"
    )
    drain_seconds: Duration = Field(20.0, description="time to finish at shutdown")
    slow_seconds: Window = Field(
        1.0, description="seconds from which on a reply is told in the log as slow; 0: none"
    )
    traces_endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="where spans of calls go, by OTLP over gRPC, e.g. http://collector:4317; needs "
        "the extra `tracing`",
    )
    traces_ratio: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="of calls and messages traced, where their caller has not decided",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least that is logged"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="a line a record on stderr: for people, or an object of JSON"
    )
    audit: CliImplicitFlag[bool] = Field(
        True, description="log what callers do with whole sessions and models; steps never are"
    )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.max_inflight_bytes < MESSAGES_INFLIGHT * self.max_message_bytes:
            text = "max_inflight_bytes must be {n} times max_message_bytes or more, not {bytes}"
            told = {"n": MESSAGES_INFLIGHT, "bytes": self.max_inflight_bytes}
            raise PydanticCustomError("inflight", text, told)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise PydanticCustomError("tls", "tls_cert and tls_key go together: one is missing")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise PydanticCustomError("tls", "tls_client_ca needs tls_cert and tls_key")
        if not (self.insecure or self.tls_cert is not None or _is_loopback(self.host)):
            text = "host {host} can be reached by others: give tls_cert and tls_key, or --insecure"
            raise PydanticCustomError("insecure", text, {"host": repr(self.host)})
        return self

    @property
    def slots(self) -> int:
        """Sessions a model whose state is on the device at once."""
        return min(self.max_resident or self.max_sessions, self.max_sessions)

    @property
    def at_once(self) -> int:
        """Steps that may run in the transport's thread. On one core there is nobody else to run
        them meanwhile; with more, the transport decodes while a large batch runs."""
        if self.transport == "aio":
            return 16
        return self.max_batch if len(os.sched_getaffinity(0)) == 1 else 256


def from_arguments(arguments: Sequence[str] | None = None) -> Config:
    """Read the settings from flags, then the environment, then the defaults.

    Raises:
        ConfigError: a value has the wrong type or range.
    """
    try:
        return CliApp.run(Config, cli_args=None if arguments is None else list(arguments))
    except ValidationError as error:
        raise ConfigError("; ".join(map(_sentence, error.errors()))) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sentence(problem: Any) -> str:
    """Pydantic says "Input should be ..." of a field that it names apart."""
    if not problem["loc"]:  # of several fields together
        return str(problem["msg"])
    if problem["type"] == "path_not_directory":
        must = "must be a folder"
    elif problem["type"] == "path_not_file":
        must = "must be a file"
    else:
        must = (
            problem["msg"]
            .replace("Input should", "must")
            .replace("String should", "must")
            .replace("Value should", "must")
        )
    return f"{problem['loc'][0]} {must}, not {str(problem['input'])!r}"
