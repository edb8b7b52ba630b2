"""What the user asked for, found in the graph: names become tensors, texts become numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from server.bundle.manifest import DTYPES
from training.adopt import names
from training.adopt.original import KINDS, Original
from training.adopt.plan import Input, State
from training.adopt.values import constant, number, row_of
from training.errors import TrainingError


@dataclass(frozen=True)
class Request:
    """The command's options as they were typed."""

    states: Sequence[str]
    input: str
    outputs: Sequence[str]
    constants: Sequence[str] = ()
    initials: Sequence[str] = ()
    input_shape: str = ""
    state_shapes: Sequence[str] = ()
    context: int = 0


def states_of(request: Request, original: Original) -> tuple[State, ...]:
    """The state pairs.

    Raises:
        TrainingError: a name, a shape, a type or an initial value is wrong.
    """
    found = [names.pair(text, original.inputs, original.outputs) for text in request.states]
    for side in (0, 1):
        _once([str(each[side]) for each in found], "--state")
    entering = [enters for enters, _, _ in found]
    initials = _by_name(request.initials, "--initial", entering)
    shapes = _by_name(request.state_shapes, "--state-shape", entering)
    called = _bundle_names(entering)
    return tuple(
        _state(original, *each, called[each[0]], initials.get(each[0]), shapes.get(each[0]))
        for each in found
    )


def input_of(request: Request, original: Original) -> Input:
    """The input that callers send.

    Raises:
        TrainingError: its name, its type or its shape is wrong.
    """
    name, axis = names.one(request.input, "--input", original.inputs)
    edge = original.inputs[name]
    given = request.input_shape or None
    row = row_of(edge, axis, given, f"input {name!r}", "--input-shape")
    if edge.dtype not in KINDS.values():
        raise TrainingError(f"input {name!r} is {edge.dtype}, and numbers are what callers send")
    return Input(name, axis, row, edge.dtype)


def constants_of(request: Request, original: Original) -> dict[str, NDArray[Any]]:
    """The inputs that never change, each of the type and shape that the graph declares.

    Raises:
        TrainingError: a name is not an input's, or a value does not fit.
    """
    texts = _by_name(request.constants, "--const", original.inputs)
    return {name: constant(original.inputs[name], text) for name, text in texts.items()}


def context_name(states: Iterable[State]) -> str:
    """A name that no state has for the input's last values."""
    taken, name = {each.name for each in states}, "context"
    while name in taken:
        name += "_"
    return name


def _state(
    original: Original,
    enters: str,
    leaves: str,
    axis: int,
    name: str,
    initial: str | None,
    shape: str | None,
) -> State:
    edge, dtype = original.inputs[enters], original.outputs[leaves]
    if edge.dtype not in DTYPES:
        raise TrainingError(f"state {enters!r} is {edge.dtype}; a state is one of {list(DTYPES)}")
    if dtype != edge.dtype:
        raise TrainingError(f"state {enters!r} is {edge.dtype} and {leaves!r} is {dtype}")
    row = row_of(edge, axis, shape, f"state {enters!r}", f"--state-shape {enters}=")
    start = number(initial or "0", edge.dtype, f"--initial {enters}")
    return State(name, enters, leaves, axis, row, edge.dtype, start)


def _by_name(texts: Sequence[str], option: str, known: Sequence[str] | Any) -> dict[str, str]:
    found = [names.valued(text, option, known) for text in texts]
    _once([name for name, _ in found], option)
    return dict(found)


def _once(given: Sequence[str], option: str) -> None:
    for name in given:
        if given.count(name) > 1:
            raise TrainingError(f"{option} names {name!r} twice")


def _bundle_names(entering: Sequence[str]) -> dict[str, str]:
    """The states' own names; one that would be taken for another's next row gets a '_'."""
    called: dict[str, str] = {}
    for name in entering:
        own = name
        while own in called.values() or own.removesuffix(".next") in {*entering} - {name}:
            own += "_"
        called[name] = own
    return called
