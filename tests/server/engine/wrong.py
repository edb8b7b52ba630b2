"""The obvious wrong ways to capture and pad, each of which a proof must find: contexts within which
engines do so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

from server.engine import captured
from server.engine.buckets import Bucket
from server.engine.captured import CapturedRows
from server.engine.cuda_engine import CudaEngine
from server.engine.device_arenas import DeviceArenas, Places
from server.engine.gpu import run_options

SCRATCH = 0


@contextmanager
def one_id_for_all() -> Iterator[None]:
    with mock.patch.object(captured, "run_options", lambda k: run_options(min(k, 1))):
        yield


@contextmanager
def captured_as_it_is_first_used() -> Iterator[None]:
    with mock.patch.object(CapturedRows, "begin", lambda self: None):
        yield


@contextmanager
def captured_with_the_first_session() -> Iterator[None]:
    """Warmed up, and padded, with a row that is somebody's."""

    def send(self: Bucket, slots: Any, fresh: Any, rows: Any) -> None:
        self._padding = 1
        sent(self, slots, fresh, rows)

    sent = Bucket.send
    with mock.patch.object(Bucket, "send", send):
        yield


@contextmanager
def padding_left_as_it_was() -> Iterator[None]:
    def send(self: Bucket, slots: Any, fresh: Any, rows: Any) -> None:
        before = self._slots.copy()
        sent(self, slots, fresh, rows)
        if len(slots):
            self._slots[len(slots) :] = before[len(slots) :]

    sent = Bucket.send
    with mock.patch.object(Bucket, "send", send):
        yield


@contextmanager
def answered_before_it_is_done() -> Iterator[None]:
    def taken(self: Bucket, count: int) -> Any:
        found = self._output[:count].copy()
        self._output[:count] = np.nan
        return found

    def run(self: CapturedRows, at: int, replayed: bool, *rows: Any) -> Any:
        bucket, binding, options = self._buckets[at]
        bucket.send(*rows)
        self._session.run(binding, options if replayed else self._eager)
        bucket.fetch(len(rows[0]))
        found = bucket.taken(len(rows[0]))
        self._stream.wait()
        return found

    with mock.patch.object(CapturedRows, "_run", run), mock.patch.object(Bucket, "taken", taken):
        yield


@contextmanager
def answers_not_copied() -> Iterator[None]:
    with mock.patch.object(Bucket, "taken", lambda self, count: self._output[:count]):
        yield


@contextmanager
def padded_with_the_scratch_row() -> Iterator[None]:
    def send(self: Bucket, slots: Any, fresh: Any, rows: Any) -> None:
        self._padding = SCRATCH
        sent(self, slots, fresh, rows)

    sent = Bucket.send
    with mock.patch.object(Bucket, "send", send):
        yield


@contextmanager
def captured_by_another_thread() -> Iterator[None]:
    def begin(self: CudaEngine) -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(begun, self).result()
        self._thread = threading.get_ident()

    begun = CudaEngine.begin
    with mock.patch.object(CudaEngine, "begin", begin):
        yield


@contextmanager
def slots_of_a_row_told_as_they_are() -> Iterator[None]:
    """To graphs that know nothing of the others' states in between."""

    def places(self: DeviceArenas, inputs: Any) -> Places:
        return replace(placed(self, inputs), stride=1)

    placed = DeviceArenas.places
    with mock.patch.object(DeviceArenas, "places", places):
        yield


@contextmanager
def states_of_a_row_in_another_order() -> Iterator[None]:
    """The graph of single steps has them in the manifest's."""

    def init(self: DeviceArenas, *given: Any) -> None:
        made(self, *given)
        self._offsets = [*reversed(self._offsets)]

    made = DeviceArenas.__init__
    with mock.patch.object(DeviceArenas, "__init__", init):
        yield


WRONG = [
    one_id_for_all,
    captured_as_it_is_first_used,
    captured_by_another_thread,
    captured_with_the_first_session,
    padded_with_the_scratch_row,
    padding_left_as_it_was,
    answered_before_it_is_done,
    answers_not_copied,
    slots_of_a_row_told_as_they_are,
    states_of_a_row_in_another_order,
]
