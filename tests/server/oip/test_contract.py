"""The protocol's file has the names, numbers and types that Triton's clients put on the wire."""

from __future__ import annotations

import json
import subprocess
import sys

from tritonclient.grpc import model_config_pb2, service_pb2

from tests.harness import ROOT
from tests.server.oip.contract import contract


def test_what_we_define_is_as_tritons_clients_have_it() -> None:
    """Both define the package `inference`, which a process holds once: ours speaks from another."""
    command = [sys.executable, "-m", "tests.server.oip.contract"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ours = json.loads(ran.stdout)
    theirs = contract(service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    assert len(ours) > 100
    assert {name: theirs.get(name) for name in ours} == ours
