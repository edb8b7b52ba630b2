"""Which roles each rpc asks for. What is not named here is refused.

- `step`: use sessions: open, step, close, branch and look ahead.
- `inspect`: look at sessions as they are, which are data about people: lists, states, snapshots.
- `admin`: change what is served.
"""

from __future__ import annotations

from typing import Final

STEP, INSPECT, ADMIN = "step", "inspect", "admin"
ROLES: Final = frozenset({STEP, INSPECT, ADMIN})

ANYBODY: Final = frozenset({""})
"""Not even a token is asked for: probes, and the protocol itself, which is no secret."""

_TIDEGATE: Final = {
    STEP: (
        "Step", "StepStream", "Open", "OpenMany", "Close", "CloseMany", "Reset", "Fork", "Forecast",
        "Import",
    ),
    INSPECT: ("List", "Export", "Peek"),
}  # fmt: skip
_ADMIN: Final = ("Load", "Unload", "Migrate", "Shadow", "Describe", "SetLogLevel", "Drain")
_DESCRIBES: Final = (
    "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex",
)  # fmt: skip
_PROBES: Final = ("ServerLive", "ServerReady", "ModelReady")

RULES: Final[dict[str, frozenset[str]]] = {
    **{
        f"/tidegate.v1.Tidegate/{name}": frozenset({role})
        for role, names in _TIDEGATE.items()
        for name in names
    },
    "/tidegate.v1.Tidegate/Get": frozenset({STEP, INSPECT}),
    "/tidegate.v1.Tidegate/ListModels": ROLES,
    **{f"/tidegate.v1.Admin/{name}": frozenset({ADMIN}) for name in _ADMIN},
    "/inference.GRPCInferenceService/ModelInfer": frozenset({STEP}),
    "/inference.GRPCInferenceService/ModelStreamInfer": frozenset({STEP}),
    **{f"/inference.GRPCInferenceService/{name}": ROLES for name in _DESCRIBES},
    **{f"/inference.GRPCInferenceService/{name}": ANYBODY for name in _PROBES},
    "/grpc.health.v1.Health/Check": ANYBODY,
    "/grpc.health.v1.Health/List": ANYBODY,
    "/grpc.health.v1.Health/Watch": ANYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANYBODY,
}
"""By method: any one of these roles is enough."""

NOBODY: Final = frozenset[str]()


def roles(method: str) -> frozenset[str]:
    """Those of which a caller must have one."""
    return RULES.get(method, NOBODY)
