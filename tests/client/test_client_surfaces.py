"""The synchronous client does all that the asynchronous one does, by the same names and words."""

import inspect
from uuid import uuid4

import numpy as np
import pytest

from tests.client.bundles import MODEL
from tests.client.observations import assert_close, expected, observations
from tests.harness import RunningServer
from tidegate import Client, Session, SyncClient, SyncSession

MACHINERY = {"stream_of"}


def words(owner: type, name: str) -> list[tuple[str, object, object]]:
    """A method's parameters: each one's name, kind and default."""
    signature = inspect.signature(getattr(owner, name))
    return [(each.name, each.kind, each.default) for each in signature.parameters.values()]


def public(owner: type) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")} - MACHINERY


@pytest.mark.parametrize(
    ("one", "other"), [(Client, SyncClient), (Session, SyncSession)], ids=["client", "session"]
)
def test_both_surfaces_have_the_same_calls_with_the_same_words(one: type, other: type) -> None:
    assert public(one) <= public(other)
    for name in public(one):
        if callable(getattr(one, name)):
            assert words(one, name) == words(other, name), name
        else:
            assert isinstance(getattr(other, name), property), name


def test_the_synchronous_client_does_it_all(serving: RunningServer) -> None:
    xs, one, two = observations(4), f"{uuid4()}", f"{uuid4()}"
    with SyncClient(serving.address) as client:
        assert client.open_session(MODEL, one).created
        with client.session(MODEL, one, keep=True) as session:
            session.chunk(xs[:2])
        assert client.fork_session(MODEL, one, two).steps == 2
        assert_close(client.forecast(MODEL, two, 2, xs[2:]), expected(xs)[2:])
        for name, values in client.peek(MODEL, one).items():
            np.testing.assert_array_equal(values, client.peek(MODEL, two)[name])
        assert client.reset_session(MODEL, two).steps == 0
        assert [client.close_session(MODEL, each) for each in (one, two)] == [2, 0]


def test_a_fork_is_open_already_and_is_not_opened_again(serving: RunningServer) -> None:
    xs = observations(4)
    with SyncClient(serving.address) as client, client.session(MODEL, f"{uuid4()}") as session:
        session.chunk(xs[:2])
        with session.fork(f"{uuid4()}") as branch:
            assert (branch.created, branch.steps) == (True, 2)
            assert_close(branch.chunk(xs[2:]), expected(xs)[2:])
            assert branch.created
