"""What an extra brings is enough for what it is named after; what is missing is said."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from tests.harness import ROOT

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def packages(extra: str) -> set[str]:
    """All that an extra brings, with the extras that it names."""
    found = set[str]()
    for each in EXTRAS[extra]:
        inner = re.fullmatch(r"tidegate\[(.*)\]", each)
        found |= set[str]().union(*map(packages, inner[1].split(","))) if inner else {each}
    return found


def test_who_trains_a_model_can_serve_it() -> None:
    assert packages("training") > packages("server")


def test_all_is_all_that_users_need() -> None:
    assert packages("all") == set[str]().union(
        *(packages(extra) for extra in EXTRAS if extra != "dev")
    )


@pytest.mark.parametrize("missing", ["prometheus_client", "pydantic_settings", "onnxruntime"])
def test_a_server_without_a_package_says_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from server.__main__ import main; "
    done = subprocess.run(
        [sys.executable, "-c", program + "sys.exit(main())"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        f"tidegate-server: it needs the package {missing}, which is not installed; "
        "the extra [server] brings it: pip install 'tidegate[server]'\n"
    )
