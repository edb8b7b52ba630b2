"""Slow replies are told a few a minute, and the others are counted."""

from __future__ import annotations

import logging
import re
import time

import grpc
import pytest

from server.transport.http2.call import Call
from server.transport.http2.tally import Method, Tally
from server.transport.native import slow
from server.transport.native.slow import SlowReplies
from tests.server.transport.serving import loop, unary


def test_of_many_slow_replies_a_few_are_told_and_the_rest_are_summed_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "MINUTE", 0.2)
    tallies: list[Tally] = []
    method = Method("a.Service", "Slow", "unary")

    def begin(call: Call) -> None:
        call.tally = tallies[0]

        def answer(packed: bytes | None) -> None:
            time.sleep(0.002)
            call.answer(b"")

        call.receive(answer)

    with loop(begin) as (served, port), caplog.at_level(logging.WARNING):
        told = SlowReplies(served, 0.001)
        tallies.append(Tally(served.tallies, method, [method.seconds]))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
            for _ in range(20):
                unary(opened)(b"")
        deadline = time.monotonic() + 60
        while "more replies" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    (family,) = told.collect()
    assert family.samples[0].value == 20
    in_full = len(re.findall(r"rpc=Slow rows=1, took", caplog.text))
    summed = sum(map(int, re.findall(r"slow: (\d+) more replies", caplog.text)))
    assert slow.MOST <= in_full < 20 and in_full + summed == 20
