"""From what the user asked for to a plan: names become tensors and texts numbers, every input is
accounted for, and one run tells the outputs' widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from server.bundle.manifest import DTYPES
from training.errors import TrainingError
from training.importer.original import KINDS, Original, run_once
from training.importer.plan import Input, Output, Plan, State
from training.importer.probe import Frames
from training.importer.texts import constant, number, pair_of, row_of, tensor_of, value_of


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


def resolve(request: Request, original: Original, frames: Frames) -> Plan:
    """Find all that the request names.

    Raises:
        TrainingError: a name, shape, type or value is wrong, an input is not accounted for, or the
            graph does not run with what is given.
    """
    states, taken = _states(request, original), _input(request, original)
    constants = _constants(request, original)
    _check_inputs(original, states, taken, constants)
    if not 0 <= request.context < taken.width:
        raise TrainingError(
            f"--context {request.context} leaves nothing to send of the {taken.width} values "
            f"that {taken.name!r} takes"
        )
    wanted = [tensor_of(text, "--output", original.outputs) for text in request.outputs]
    unknown = tuple(Output(name, axis, 0, 0, "") for name, axis in wanted)
    draft = Plan(states, taken, unknown, constants, request.context, _context_name(states))
    drawn = frames.draw(1, taken.width, taken.dtype)[0]
    got, _ = run_once(original, draft, drawn, draft.start())
    outputs = tuple(map(_output, unknown, got))
    fixed = _fixed(original, states, taken) or _without_batch(unknown, got)
    return replace(draft, outputs=outputs, fixed=fixed)


def _states(request: Request, original: Original) -> tuple[State, ...]:
    """The state pairs.

    Raises:
        TrainingError: a name, a shape, a type or an initial value is wrong.
    """
    found = [pair_of(text, original.inputs, original.outputs) for text in request.states]
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


def _input(request: Request, original: Original) -> Input:
    """The input that callers send.

    Raises:
        TrainingError: its name, its type or its shape is wrong.
    """
    name, axis = tensor_of(request.input, "--input", original.inputs)
    edge = original.inputs[name]
    given = request.input_shape or None
    row = row_of(edge, axis, given, f"input {name!r}", "--input-shape")
    if edge.dtype not in KINDS.values():
        raise TrainingError(f"input {name!r} is {edge.dtype}, and numbers are what callers send")
    return Input(name, axis, row, edge.dtype)


def _constants(request: Request, original: Original) -> dict[str, NDArray[Any]]:
    """The inputs that never change, each of the type and shape that the graph declares.

    Raises:
        TrainingError: a name is not an input's, or a value does not fit.
    """
    texts = _by_name(request.constants, "--const", original.inputs)
    return {name: constant(original.inputs[name], text) for name, text in texts.items()}


def _context_name(states: Iterable[State]) -> str:
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
    edge, dtype = original.inputs[enters], original.outputs[leaves].dtype
    if edge.dtype not in DTYPES:
        raise TrainingError(f"state {enters!r} is {edge.dtype}; a state is one of {list(DTYPES)}")
    if dtype != edge.dtype:
        raise TrainingError(f"state {enters!r} is {edge.dtype} and {leaves!r} is {dtype}")
    row = row_of(edge, axis, shape, f"state {enters!r}", f"--state-shape {enters}=")
    start = number(initial or "0", edge.dtype, f"--initial {enters}")
    return State(name, enters, leaves, axis, row, edge.dtype, start)


def _by_name(texts: Sequence[str], option: str, known: Sequence[str] | Any) -> dict[str, str]:
    found = [value_of(text, option, known) for text in texts]
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


def _check_inputs(
    original: Original, states: tuple[State, ...], taken: Input, constants: Mapping[str, Any]
) -> None:
    """Each input has one role, and none is left over."""
    given = [*(state.enters for state in states), taken.name, *constants]
    for name in given:
        if given.count(name) > 1:
            raise TrainingError(f"input {name!r} is given more than one role")
    for name in original.inputs:
        if name not in given:
            raise TrainingError(
                f"input {name!r} of the graph is neither a state (--state {name}=OUT), "
                f"the input (--input {name}) nor a constant (--const {name}=VALUE)"
            )


def _output(wanted: Output, value: NDArray[Any]) -> Output:
    name, axis = wanted.name, wanted.axis
    if value.dtype.name not in KINDS.values():
        raise TrainingError(f"output {name!r} is {value.dtype}, and numbers are what callers get")
    if not value.size:
        raise TrainingError(f"output {name!r} is {list(value.shape)} and holds no value")
    if axis >= max(value.ndim, 1):
        raise TrainingError(f"output {name!r} has {value.ndim} axes, and no batch axis {axis}")
    return Output(name, axis, max(value.ndim - 1, 0), value.size, value.dtype.name)


def _fixed(original: Original, states: tuple[State, ...], taken: Input) -> str:
    """Why the graph takes one session at a time, as it declares itself; else ''."""
    for name, axis in [(taken.name, taken.axis), *((s.enters, s.axis) for s in states)]:
        sizes = original.inputs[name].sizes
        if sizes is not None and sizes[axis] == 1:
            return f"{name!r} declares a batch of 1"
    return ""


def _without_batch(wanted: Sequence[Output], got: Sequence[NDArray[Any]]) -> str:
    """Why outputs cannot be told apart by session, else ''."""
    for each, value in zip(wanted, got, strict=True):
        if value.shape[each.axis : each.axis + 1] != (1,):
            shape = f"{list(value.shape)} for one session"
            return f"output {each.name!r} is {shape}, with no batch on axis {each.axis}"
    return ""
