"""Imports follow the steps: transport, api, sessions, scheduler, engine; the core knows no gRPC."""

from __future__ import annotations

import ast

import pytest

from tests.harness import ROOT

SERVER = ROOT / "server"
LEAVES = {"arrays", "names", "errors", "config", "histograms", "metrics", "logs", "watched"}
BEHIND = [
    "access",
    "bundle",
    "store",
    "engine",
    "scheduler",
    "sessions",
    "serving",
    "api",
    "transport",
]
MAY_IMPORT = {leaf: set[str]() for leaf in sorted(LEAVES)} | {"bundle": {"arrays", "errors"}}
for at, part in enumerate(BEHIND[1:], start=1):
    MAY_IMPORT[part] = {*BEHIND[:at], *LEAVES}
MAY_IMPORT["errors"] = {"names"}
MAY_IMPORT["metrics"] = {"histograms"}
MAY_IMPORT["watched"] = {"config"}
MAY_IMPORT["access"] = {"config", "errors", "metrics", "names", "watched"}
MAY_IMPORT["store"] = {"bundle", "errors", "config"}
CORE = ["access", "bundle", "store", "engine", "scheduler", "sessions", "serving", *sorted(LEAVES)]
FILES = sorted(SERVER.rglob("*.py"))


def imported(path: object) -> set[str]:
    tree = ast.parse((SERVER / str(path)).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_of(part: str) -> list[str]:
    files = [str(f.relative_to(SERVER)) for f in FILES]
    mine = [f for f in files if f.split("/")[0].removesuffix(".py") == part]
    assert mine
    return mine


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_lies_behind_it(part: str) -> None:
    for file in files_of(part):
        parts = {name.split(".")[1] for name in imported(file) if name.startswith("server.")}
        assert parts - {part} <= MAY_IMPORT[part], file


@pytest.mark.parametrize("part", CORE)
def test_the_core_knows_neither_grpc_nor_messages_nor_asyncio(part: str) -> None:
    for file in files_of(part):
        names = imported(file)
        roots = {name.split(".")[0] for name in names}
        assert not roots & {"grpc", "asyncio", "google", "inference", "grpc_health"}, file
        ours = {name for name in names if name.split(".")[0] == "tidegate"}
        assert all(name.startswith(("tidegate.wire", "tidegate.printable")) for name in ours), file


def test_messages_are_known_apart_from_any_grpc_library() -> None:
    for file in files_of("api"):
        roots = {name.split(".")[0] for name in imported(file)}
        assert not roots & {"grpc", "asyncio", "grpc_health"}, file
        assert not any("pb2_grpc" in name for name in imported(file)), file


def test_transports_reach_the_core_through_the_api_alone() -> None:
    for file in files_of("transport"):
        parts = {name.split(".")[1] for name in imported(file) if name.startswith("server.")}
        assert not parts & {"engine", "bundle", "sessions"}, file


def test_training_s_graphs_need_no_torch() -> None:
    training = ROOT / "training"
    files = [training / f"{name}.py" for name in ("bundle", "reference", "network")]
    for file in (*files, *(training / "graphs").glob("*.py")):
        roots = {name.split(".")[0] for name in imported(file)}
        assert "torch" not in roots
