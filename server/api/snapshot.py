"""Snapshots and states as messages, and forecasts: what the rpcs on whole sessions carry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.api.description import session
from server.errors import BadInput, BadSnapshot
from server.serving.model import ServedModel
from server.sessions import validation
from server.sessions.forecast import Forecast
from server.sessions.snapshot import Snapshot, Tensor, shown
from server.sessions.standing import SessionInfo
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import DTYPES

FORMAT = 2


def exported(taken: Snapshot) -> pb.Snapshot:
    """A snapshot as a message."""
    message = pb.Snapshot(
        format=FORMAT,
        model=taken.model,
        version=taken.version,
        bundle_digest=taken.digest,
        session_id=taken.session_id,
        steps=taken.steps,
        states=map(_message, taken.states),
        remembered_outputs=taken.outputs.astype("<f4").tobytes(),
        remembered_fingerprints=taken.prints.astype("<u8").tobytes(),
    )
    message.taken_at.FromMicroseconds(int(taken.taken_at * 1e6))
    return message


def check_format(message: pb.Snapshot) -> None:
    """Refuse a snapshot whose meaning is not known.

    Raises:
        BadSnapshot: naming its format and ours.
    """
    if message.format != FORMAT:
        raise BadSnapshot(
            f"the snapshot has format {message.format}; this server takes format {FORMAT}"
        )


def imported(message: pb.Snapshot, model: ServedModel) -> Snapshot:
    """The snapshot that a message is, of a format that is known.

    Raises:
        BadSnapshot: it is not whole, or has not as many states as the model.
    """
    if len(message.states) != (count := len(model.manifest.states)):
        raise BadSnapshot(f"the snapshot has {len(message.states)} states, the model has {count}")
    outputs = _values(message.remembered_outputs, "<f4", "remembered_outputs")
    width = model.manifest.outputs_width
    if len(outputs) % width:
        text = f"remembered_outputs has {len(outputs)} values, not a multiple of {width}"
        raise BadSnapshot(text)
    return Snapshot(
        model=message.model,
        version=message.version,
        digest=message.bundle_digest,
        session_id=message.session_id,
        steps=message.steps,
        states=[_tensor(each) for each in message.states],
        outputs=outputs.reshape(-1, width),
        prints=_values(message.remembered_fingerprints, "<u8", "remembered_fingerprints"),
    )


def forecast(request: pb.ForecastRequest, model: ServedModel) -> Forecast:
    """The forecast that is asked for, not begun yet.

    Raises:
        BadInput: the number of steps or of features, or there is nothing to feed.
    """
    if not 1 <= request.steps <= model.max_forecast:
        text = f"a forecast has 1 to {model.max_forecast} steps, not {request.steps}"
        raise BadInput(text, field="steps")
    values, width = len(request.features), model.manifest.inputs_width
    steps = min(math.ceil(values / width), model.max_forecast)
    validation.check_size(values, steps, model.manifest)
    given = np.array(request.features, dtype=np.float32).reshape(steps, width)
    return Forecast(model.manifest, request.steps, given)


def peeked(info: SessionInfo, tensors: list[Tensor]) -> pb.PeekReply:
    """A session's state as a message."""
    return pb.PeekReply(session=session(info), states=map(_message, tensors))


def _message(tensor: Tensor) -> pb.StateTensor:
    dtype = tensor.values.dtype.name
    data = tensor.values.astype(DTYPES[dtype]).tobytes()
    return pb.StateTensor(name=tensor.name, dtype=dtype, shape=tensor.values.shape, data=data)


def _tensor(message: pb.StateTensor) -> Tensor:
    name = f"state {shown(message.name)}"
    if message.dtype not in DTYPES:
        raise BadSnapshot(f"{name} has the unknown type {shown(message.dtype)}")
    values = _values(message.data, DTYPES[message.dtype], name)
    try:
        return Tensor(message.name, values.reshape(tuple(message.shape)))
    except ValueError as error:  # of another size, of too many axes, or of too long ones
        text = f"{name} has {len(values)} values for {shown(list(message.shape))}"
        raise BadSnapshot(text) from error


def _values(packed: bytes, dtype: str, name: str) -> NDArray[Any]:
    if len(packed) % np.dtype(dtype).itemsize:
        raise BadSnapshot(f"{name} has {len(packed)} bytes, which is no whole number of values")
    little = np.frombuffer(packed, dtype)
    return little.astype(little.dtype.newbyteorder("="))
