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

from server.engine import buckets, captured
from server.engine.buckets import Bucket, Mirror
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
    with _padded_with(1):
        yield


@contextmanager
def padded_with_the_scratch_row() -> Iterator[None]:
    with _padded_with(SCRATCH):
        yield


@contextmanager
def padding_left_as_it_was() -> Iterator[None]:
    def send(self: Bucket, slots: Any, fresh: Any, rows: Any) -> Mirror:
        mirror = sent(self, slots, fresh, rows)
        if len(slots) and id(mirror) in lain:
            mirror.slots[len(slots) :] = lain[id(mirror)][len(slots) :]
        lain[id(mirror)] = mirror.slots.copy()
        return mirror

    sent, lain = Bucket.send, dict[int, Any]()
    with mock.patch.object(Bucket, "send", send):
        yield


@contextmanager
def answered_before_it_is_done() -> Iterator[None]:
    def taken(self: Bucket, mirror: Mirror, count: int) -> Any:
        found = mirror.output[:count].copy()
        mirror.output[:count] = np.nan
        self._stream.wait()
        return found

    with mock.patch.object(Bucket, "taken", taken):
        yield


@contextmanager
def said_to_have_come_before_it_is_copied() -> Iterator[None]:
    def fetch(self: Bucket, mirror: Mirror, count: int) -> None:
        mirror.got[:] = 0xFF
        self._stream.record(mirror.come)
        self._stream.copy_out(mirror.got, self._out, self._row_out * count)

    with mock.patch.object(Bucket, "fetch", fetch):
        yield


@contextmanager
def answers_not_copied() -> Iterator[None]:
    def taken(self: Bucket, mirror: Mirror, count: int) -> Any:
        self._stream.wait_for(mirror.come)
        return mirror.output[:count]

    with mock.patch.object(Bucket, "taken", taken):
        yield


@contextmanager
def one_mirror_for_the_run_ahead_and_the_one_behind() -> Iterator[None]:
    with mock.patch.object(buckets, "UNDER_WAY", 1):
        yield


@contextmanager
def _padded_with(row: int) -> Iterator[None]:
    def send(self: Bucket, slots: Any, fresh: Any, rows: Any) -> Mirror:
        self._padding = row
        return sent(self, slots, fresh, rows)

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
    said_to_have_come_before_it_is_copied,
    answers_not_copied,
    one_mirror_for_the_run_ahead_and_the_one_behind,
    slots_of_a_row_told_as_they_are,
    states_of_a_row_in_another_order,
]
