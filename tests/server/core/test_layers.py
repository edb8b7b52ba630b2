"""Imports follow the steps: transport, sessions, batcher, engine; the core knows no gRPC."""

from __future__ import annotations

import ast

import pytest

from tests.harness import ROOT

SERVER = ROOT / "server"
LEAVES = {"errors", "config", "metrics"}
MAY_IMPORT = {
    "errors": set(),
    "config": set(),
    "metrics": set(),
    "bundle": {"errors"},
    "engine": {"bundle", *LEAVES},
    "batcher": {"engine", "bundle", *LEAVES},
    "sessions": {"batcher", "engine", "bundle", *LEAVES},
    "transport": {"sessions", "batcher", "engine", "bundle", *LEAVES},
}
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


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_lies_behind_it(part: str) -> None:
    files = [f for f in FILES if f.relative_to(SERVER).parts[0].removesuffix(".py") == part]
    assert files
    for file in files:
        parts = {name.split(".")[1] for name in imported(file) if name.startswith("server.")}
        assert parts - {part} <= MAY_IMPORT[part], file


@pytest.mark.parametrize("part", ["bundle", "engine", "batcher", "sessions", *sorted(LEAVES)])
def test_the_core_knows_neither_grpc_nor_asyncio(part: str) -> None:
    for file in FILES:
        if file.relative_to(SERVER).parts[0].removesuffix(".py") == part:
            roots = {name.split(".")[0] for name in imported(file)}
            assert not roots & {"grpc", "asyncio", "tidegate", "inference", "grpc_health"}, file


def test_training_s_graphs_need_no_torch() -> None:
    training = ROOT / "training"
    files = [training / f"{name}.py" for name in ("bundle", "reference", "network", "store")]
    for file in (*files, *(training / "graphs").glob("*.py")):
        roots = {name.split(".")[0] for name in imported(file)}
        assert "torch" not in roots
