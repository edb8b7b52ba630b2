"""Tests of what callers see, over either transport: a folder whose `conftest.py` has these fixtures
runs each of its tests on a server of each. A fixture that starts a server for a whole module asks
for `transport`, so that it starts one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.harness import RunningServer

NATIVE, AIO = "native", "aio"


def over(*transports: str) -> pytest.MarkDecorator:
    """For what concerns these transports alone; or none of them, since what they carry is made by
    what they share: then one is enough."""
    return pytest.mark.parametrize("transport", transports, indirect=True)


@pytest.fixture(scope="module", autouse=True, params=[NATIVE, AIO])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """The transport of the servers that are started meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEGATE_TRANSPORT", request.param)
        yield request.param


@pytest.fixture(scope="module")
def server(transport: str, server_over: Callable[[str], RunningServer]) -> RunningServer:
    """The shared server of this transport."""
    return server_over(transport)
