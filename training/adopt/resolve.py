"""From a request to a plan: every input is accounted for, and one run tells the outputs' widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from training.adopt import names
from training.adopt.frames import Frames
from training.adopt.original import KINDS, Original
from training.adopt.plain import run_once
from training.adopt.plan import Input, Output, Plan, State
from training.adopt.request import Request, constants_of, context_name, input_of, states_of
from training.errors import TrainingError


def resolve(request: Request, original: Original, frames: Frames) -> Plan:
    """Find all that the request names.

    Raises:
        TrainingError: a name, shape, type or value is wrong, an input is not accounted for, or the
            graph does not run with what is given.
    """
    states, taken = states_of(request, original), input_of(request, original)
    constants = constants_of(request, original)
    _check_inputs(original, states, taken, constants)
    if not 0 <= request.context < taken.width:
        raise TrainingError(
            f"--context {request.context} leaves nothing to send of the {taken.width} values "
            f"that {taken.name!r} takes"
        )
    wanted = [names.one(text, "--output", original.outputs) for text in request.outputs]
    unknown = tuple(Output(name, axis, 0, 0, "") for name, axis in wanted)
    draft = Plan(states, taken, unknown, constants, request.context, context_name(states))
    drawn = frames.draw(1, taken.width, taken.dtype)[0]
    got, _ = run_once(original, draft, drawn, draft.start())
    outputs = tuple(map(_output, unknown, got))
    fixed = _fixed(original, states, taken) or _without_batch(unknown, got)
    return replace(draft, outputs=outputs, fixed=fixed)


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
