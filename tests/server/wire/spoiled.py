"""Ways to spoil a snapshot of the model `small`, taken at step 5."""

from __future__ import annotations

import numpy as np

from tidegate.v1 import tidegate_pb2 as pb

LONG = "s" * 100_000


def rename_state(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].name = "h7"


def poison(snapshot: pb.Snapshot) -> None:
    values = np.full(12, np.nan, np.float32)
    snapshot.states[1].data = values.tobytes()


def shorten(snapshot: pb.Snapshot) -> None:
    snapshot.states[2].data = snapshot.states[2].data[:-4]


def reshape(snapshot: pb.Snapshot) -> None:
    snapshot.states[2].shape[:] = [3, 4]


def halve(snapshot: pb.Snapshot) -> None:
    snapshot.states[3].dtype = "float16"


def retype(snapshot: pb.Snapshot) -> None:
    snapshot.states[3].dtype = "bfloat16"


def another_format(snapshot: pb.Snapshot) -> None:
    snapshot.format = 1


def another_bundle(snapshot: pb.Snapshot) -> None:
    snapshot.bundle_digest = bytes(32)


def no_digest(snapshot: pb.Snapshot) -> None:
    snapshot.ClearField("bundle_digest")


def long_digest(snapshot: pb.Snapshot) -> None:
    snapshot.bundle_digest = bytes(1_000_000)


def no_version(snapshot: pb.Snapshot) -> None:
    snapshot.version = 0


def endless(snapshot: pb.Snapshot) -> None:
    snapshot.steps = 2**63


def forgetful(snapshot: pb.Snapshot) -> None:
    snapshot.remembered_fingerprints = snapshot.remembered_fingerprints[8:]


def unaligned(snapshot: pb.Snapshot) -> None:
    snapshot.remembered_outputs = snapshot.remembered_outputs[:-1]


def too_few_steps(snapshot: pb.Snapshot) -> None:
    snapshot.steps = 2


def deep(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].shape[:] = [1] * 99 + [12]


def endless_and_empty(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].shape[:] = [2**32 - 1, 2**32 - 1, 0]
    snapshot.states[0].data = b""


def very_deep(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].shape[:] = [1] * 100_000


def long_name(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].name = LONG


def long_type(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].dtype = LONG


def long_name_and_type(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].name = snapshot.states[0].dtype = LONG


def long_name_and_odd_bytes(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].name, snapshot.states[0].data = LONG, b"123"


def many_states(snapshot: pb.Snapshot) -> None:
    for _ in range(5_000):
        snapshot.states.add().CopyFrom(snapshot.states[0])


def no_states(snapshot: pb.Snapshot) -> None:
    del snapshot.states[:]


def swapped_states(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].name, snapshot.states[1].name = "c0", "h0"


def infinite_output(snapshot: pb.Snapshot) -> None:
    values = np.full(3 * 5, np.inf, "<f4")
    snapshot.remembered_outputs = values.tobytes()


def nothing(snapshot: pb.Snapshot) -> None:
    snapshot.Clear()
