"""What `import tidegate` gives, and what it costs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tidegate

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_every_exported_name_exists() -> None:
    assert [name for name in tidegate.__all__ if not hasattr(tidegate, name)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        tidegate.Klient  # noqa: B018


def test_the_version_is_the_projects() -> None:
    assert tidegate.__version__ == tomllib.loads(PROJECT.read_text())["project"]["version"]


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("tidegate", {"grpc", "numpy", "rich", "tidegate.client"}),
        ("tidegate.v1.tidegate_pb2", {"grpc", "numpy", "rich", "tidegate.client"}),
        ("tidegate.wire", {"grpc", "google", "numpy", "rich", "tidegate.client"}),
        ("tidegate.client", {"rich", "server", "onnxruntime", "torch"}),
        ("tidegate.cli.run", {"rich", "server", "onnxruntime", "torch"}),
    ],
)
def test_an_import_brings_in_no_more_than_it_needs(name: str, absent: set[str]) -> None:
    code = f"import sys, {name}; print(*({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
