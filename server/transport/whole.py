"""The rpcs on whole sessions, `Export` to `Peek`: messages to `States` and back."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import BadInput, BadSnapshot, Draining
from server.sessions import inputs
from server.sessions.forecast import Forecast
from server.sessions.models import Models
from server.sessions.served_model import ServedModel
from server.sessions.snapshot import Snapshot, Tensor, shown
from server.sessions.table import SessionInfo
from server.transport import convert
from tidegate.v1 import tidegate_pb2 as pb

FORMAT = 1
DTYPES = {
    "float32": "<f4",
    "float16": "<f2",
    "float64": "<f8",
    "int64": "<i8",
    "int32": "<i4",
    "bool": "?",
}


async def export(model: ServedModel, session_id: str) -> pb.Snapshot:
    """A session's snapshot as a message."""
    taken = await asyncio.wrap_future(model.states.export(session_id))
    message = pb.Snapshot(
        format=FORMAT,
        model=taken.model,
        version=taken.version,
        session_id=taken.session_id,
        steps=taken.steps,
        states=map(_message, taken.states),
        remembered_outputs=taken.outputs.astype("<f4").tobytes(),
        remembered_fingerprints=taken.prints.astype("<u8").tobytes(),
    )
    message.taken_at.FromMicroseconds(int(taken.taken_at * 1e6))
    return message


async def take_in(models: Models, request: pb.ImportRequest) -> SessionInfo:
    """Make a session from a snapshot.

    Raises:
        BadSnapshot: its format, model, version or states are not this server's.
        Draining: the server is shutting down.
        ServingError: as `ServedModel.open` and `SessionExists` have it.
    """
    message = request.snapshot
    if message.format != FORMAT:
        raise BadSnapshot(
            f"the snapshot has format {message.format}; this server takes format {FORMAT}"
        )
    model = models.resolve(message.model, message.version)
    if models.draining:  # even in place of a live session: it would be lost
        raise Draining
    snapshot = _snapshot(message, model)
    session_id = request.session_id or snapshot.session_id
    return await asyncio.wrap_future(model.states.take_in(snapshot, session_id, request.replace))


async def forecast(model: ServedModel, request: pb.ForecastRequest) -> pb.ForecastReply:
    """Look ahead.

    Raises:
        BadInput: the number of steps or of features, or there is nothing to feed.
        ServingError: as `ServedModel.get` has it, or NotFinite.
    """
    if not 1 <= request.steps <= model.max_forecast:
        text = f"a forecast has 1 to {model.max_forecast} steps, not {request.steps}"
        raise BadInput(text, field="steps")
    values = np.fromiter(request.features, np.float32, len(request.features))
    given = inputs.shape(values, math.ceil(len(values) / model.manifest.inputs_width),
                         model.manifest)  # fmt: skip
    ahead = Forecast(model.manifest, request.steps, given)
    first = await asyncio.wrap_future(model.states.begin(ahead, request.session_id))
    while ahead.outputs is None:
        await asyncio.wrap_future(model.states.advance(ahead))
    return pb.ForecastReply(first_step=first, outputs=ahead.outputs.ravel().tolist())


async def peek(model: ServedModel, session_id: str) -> pb.PeekReply:
    """A session's state."""
    info, tensors = await asyncio.wrap_future(model.states.peek(session_id))
    return pb.PeekReply(session=convert.session(info), states=map(_message, tensors))


def _message(tensor: Tensor) -> pb.StateTensor:
    dtype = tensor.values.dtype.name
    data = tensor.values.astype(DTYPES[dtype]).tobytes()
    return pb.StateTensor(name=tensor.name, dtype=dtype, shape=tensor.values.shape, data=data)


def _snapshot(message: pb.Snapshot, model: ServedModel) -> Snapshot:
    outputs = _values(message.remembered_outputs, "<f4", "remembered_outputs")
    width = model.manifest.outputs_width
    if len(outputs) % width:
        text = f"remembered_outputs has {len(outputs)} values, not a multiple of {width}"
        raise BadSnapshot(text)
    return Snapshot(
        model=message.model,
        version=message.version,
        session_id=message.session_id,
        steps=message.steps,
        states=[_tensor(each) for each in message.states],
        outputs=outputs.reshape(-1, width),
        prints=_values(message.remembered_fingerprints, "<u8", "remembered_fingerprints"),
    )


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
