"""`tidegate models`; and how commands end where nobody reads them, or a library is missing."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from tests.cli.running import started, tidegate
from tests.harness import ROOT, RunningServer
from tidegate.cli.common import client_options, server_arguments


def test_models_are_listed(shipped: RunningServer) -> None:
    models = tidegate("models", "--address", shipped.address)
    assert models.returncode == 0
    assert "exercise/1 on cpu" in models.stdout
    assert "PEN, ABD, FEL, IR, ER, TRAP, ROW" in models.stdout


def test_output_that_nobody_reads_ends_the_command_without_a_word(shipped: RunningServer) -> None:
    with started("top", "--metrics", shipped.metrics_url, "--interval", "0.1") as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.readline()
        run.stdout.close()
        assert run.wait(60) == 1
        assert run.stderr.read() == b""


@pytest.mark.parametrize("library", ["rich", "prometheus_client"])
def test_without_a_library_of_its_extra_top_says_what_to_install(library: str) -> None:
    program = f"import sys; sys.modules[{library!r}] = None; from tidegate.cli import main; "
    done = subprocess.run(
        [sys.executable, "-c", program + "sys.exit(main(['top', '--once']))"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"tidegate: {library}")
    assert done.stderr.endswith(" is not installed (pip install 'tidegate[cli]')\n")


def test_commands_spread_over_shards_where_they_are_told_to(shipped: RunningServer) -> None:
    parsed = argparse.ArgumentParser(parents=[server_arguments()])
    assert client_options(parsed.parse_args(["--shards", "64"])).shards == 64
    assert client_options(parsed.parse_args([])).shards == 1
    models = tidegate("models", "--address", shipped.address, "--shards", 64)
    assert models.returncode == 0
    for wrong in ("0", "5000", "many"):
        with pytest.raises(SystemExit, match="2"):
            parsed.parse_args(["--shards", wrong])
