"""The core's completion queue, with real callers: nothing that it tells is lost, and what is asked
of it after its end is not begun."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from server.config import Config
from server.transport.cq import core
from server.transport.cq.core import Call, Core, Event
from server.transport.listening import options
from tests.harness import ROOT

NAMES = {
    "CompletionQueue": ("poll", "shutdown"),
    "Server": (
        "add_http2_port", "cancel_all_calls", "register_completion_queue", "request_call",
        "shutdown", "start",
    ),
    "Call": ("start_server_batch",),
    "CallDetails": ("deadline", "method"),
    "RequestCallEvent": ("call", "call_details", "invocation_metadata", "success", "tag"),
    "BatchOperationEvent": ("batch_operations", "success", "tag"),
    "ReceiveMessageOperation": ("message",),
    "ReceiveCloseOnServerOperation": ("cancelled",),
    "SendInitialMetadataOperation": (),
    "SendMessageOperation": (),
    "SendStatusFromServerOperation": (),
    "CompletionType": ("queue_shutdown", "queue_timeout"),
    "WriteFlag": ("buffer_hint",),
    "StatusCode": ("ok",),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_grpcio_has_the_private_names_that_the_transport_uses(name: str) -> None:
    """They promise nobody anything. Where one has gone, serve with --transport aio meanwhile."""
    assert hasattr(cygrpc, name), f"grpc._cython.cygrpc.{name} is gone"
    for attribute in NAMES[name]:
        assert hasattr(getattr(cygrpc, name), attribute), f"{name}.{attribute} is gone"


@pytest.mark.parametrize("lock", ["server.lock", "gpu.lock", "dev.lock"])
def test_grpcio_is_locked_at_the_version_that_is_tested(lock: str) -> None:
    """Another may have another private interface."""
    text = (ROOT / "requirements" / lock).read_text()
    assert re.findall(r"^grpcio==([0-9.]+)", text, re.MULTILINE) == [version("grpcio")]


@contextmanager
def _serving(on_call: type, settle: Callable[[], object] = lambda: None) -> Iterator[grpc.Channel]:
    died = threading.Event()
    served = Core(options(Config(model_repository=ROOT)), on_call, settle, died.set)
    port = served.listen("127.0.0.1:0")
    served.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        served.stop(5)
    assert not died.is_set()


def _method(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    return channel.unary_unary("/any/method")


class Echo:
    """Answers a call with its message."""

    def __init__(self, call: Call) -> None:
        self._call = call
        call.receive(self.received)

    def received(self, event: Event) -> None:
        self._call.answer(core.message(event) or b"nothing")


class FromElsewhere(Echo):
    """Answers out of another thread, by way of the core's."""

    def received(self, event: Event) -> None:
        packed = core.message(event) or b"nothing"
        answer = self._call.address(self._call.answer)
        threading.Thread(target=answer, args=(packed,)).start()


@pytest.mark.parametrize("kind", [Echo, FromElsewhere])
def test_of_thousands_of_calls_at_once_none_is_lost(kind: type) -> None:
    """Each turn takes in a bounded number of outcomes: once the one after the last was lost."""
    count = 4 * core.AT_ONCE
    with _serving(kind) as channel:
        say = _method(channel)
        calls = [say.future(str(k).encode(), timeout=60) for k in range(count)]
        assert [int(call.result()) for call in calls] == list(range(count))


class Failing(Echo):
    """Fails in the core's thread on one message, and answers the others."""

    def received(self, event: Event) -> None:
        if core.message(event) == b"fail":
            raise RuntimeError("made up")
        super().received(event)


def test_a_call_whose_handling_fails_costs_others_nothing() -> None:
    with _serving(Failing) as channel:
        say = _method(channel)
        failed = say.future(b"fail", timeout=60)
        assert say(b"on", timeout=60) == b"on"
        failed.cancel()


class Watched:
    """Tells how its call ended."""

    cancelled: list[bool]
    over: threading.Event
    calls: list[Call]

    def __init__(self, call: Call) -> None:
        self.calls.append(call)
        call.watch(self._closed)

    def _closed(self, event: Event) -> None:
        self.cancelled.append(core.was_cancelled(event))
        self.over.set()


def test_a_watched_call_is_told_that_its_caller_has_gone_and_may_be_posted_on_after() -> None:
    Watched.cancelled, Watched.over, Watched.calls = [], threading.Event(), []
    posted = threading.Event()
    with _serving(Watched) as channel:
        call = _method(channel).future(b"", timeout=60)
        while not Watched.calls:
            pass
        call.cancel()
        assert Watched.over.wait(60)
        Watched.calls[0].post(lambda _: posted.set())
        assert posted.wait(60)
    assert Watched.cancelled == [True]
    never = threading.Event()
    Watched.calls[0].post(lambda _: never.set())  # the core is no more: nothing is begun
    Watched.calls[0].answer(b"late")
    assert not never.is_set()


def test_what_is_ready_at_once_is_settled_together() -> None:
    """That is what makes one run of many calls."""
    taken: list[Call] = []
    sizes: list[int] = []

    class Gathered(Echo):
        def received(self, event: Event) -> None:
            taken.append(self._call)

    def settle() -> None:
        if taken:
            sizes.append(len(taken))
        for call in taken:
            call.answer(b"")
        taken.clear()

    with _serving(Gathered, settle) as channel:
        say = _method(channel)
        say(b"", timeout=60)
        for call in [say.future(b"", timeout=60) for _ in range(500)]:
            call.result()
    assert sum(sizes) == 501
    assert max(sizes) > 1
