"""RESULTS.md's tables of times: floors, runs of single steps side by side, and when a GPU pays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.options import SHAPES

Record = Mapping[str, Any]
Kinds = Mapping[str, Sequence[Record]]

RUN = "4 KiB in, a graph of 1 empty kernel, 4 KiB out, and the wait"
"""What a run is at least."""
ON_DEVICE, TO_DEVICE, TO_HOST = (
    "on the device, read and written", "to the device, pinned", "from the device, pinned",
)  # fmt: skip
OUTPUTS, FLOAT, SLOT_AND_FLAG = 32, 4, 9
SERVED = "captured, ScatterElements"
"""As it is served."""


def floors(kinds: Kinds) -> str:
    """What the driver takes."""
    rows = [(each["what"], f"{each['seconds'] * 1e6:,.1f}") for each in kinds.get("floor", ())]
    return table("what|µs, median:", rows) if rows else ""


def bandwidths(kinds: Kinds) -> str:
    """Of copies."""
    found = kinds.get("bandwidth", ())
    rows = [(each["what"], f"{each['bytes_per_second'] / 1e9:,.0f}") for each in found]
    return table("copies|GB/s:", rows) if rows else ""


def least_bytes(model: str, batch: int) -> int:
    """What a run moves on the device at least: every weight read, and of each row the states read
    and written, its features and its outputs."""
    layers, units, inputs = SHAPES[model]
    widths = [inputs, *[units] * (layers - 1)]
    weights = sum(4 * units * (width + units + 1) for width in widths) + OUTPUTS * (units + 1)
    row = 2 * (2 * layers * units) + inputs + OUTPUTS
    return FLOAT * (weights + batch * row)


def floor_of(kinds: Kinds, model: str, batch: int) -> float | None:
    """Seconds that a run takes at least, where all figures were measured."""
    launches = {each["what"]: each["seconds"] for each in kinds.get("floor", ())}
    speeds = {each["what"]: each["bytes_per_second"] for each in kinds.get("bandwidth", ())}
    if RUN not in launches or not {ON_DEVICE, TO_DEVICE, TO_HOST} <= speeds.keys():
        return None
    copies = (
        (least_bytes(model, batch), ON_DEVICE),
        (batch * (SLOT_AND_FLAG + FLOAT * SHAPES[model][2]), TO_DEVICE),
        (batch * FLOAT * OUTPUTS, TO_HOST),
    )
    return float(launches[RUN] + sum(nbytes / speeds[what] for nbytes, what in copies))


def step_tables(kinds: Kinds) -> list[str]:
    """A table a model: batches down, ways across; p50 and p99 in µs."""
    found = kinds.get("steps", ())
    models = dict.fromkeys(each["model"] for each in found)
    texts = [_steps(kinds, model, [e for e in found if e["model"] == model]) for model in models]
    said = (
        "µs from features on the host to outputs on the host, p50 / p99. `floor`: the driver's "
        "launch and wait, and the least bytes over the bandwidths there, on the device, and back. "
        "torch keeps one batch's states and neither gathers nor scatters any."
    )
    return [said, *texts] if texts else []


def _steps(kinds: Kinds, model: str, found: Sequence[Record]) -> str:
    ways = list(dict.fromkeys(each["way"] for each in found))
    times = {(each["way"], each["batch"]): each for each in found}
    has_floor = floor_of(kinds, model, 1) is not None
    rows = []
    for batch in dict.fromkeys(each["batch"] for each in found):
        least = floor_of(kinds, model, batch)
        cells = [_cell(times.get((way, batch))) for way in ways]
        rate = times.get((SERVED, batch))
        rows.append(
            (
                f"{batch:,}",
                *([f"{least * 1e6:,.1f}"] if least is not None else []),
                *cells,
                f"{rate['steps_per_second']:,.0f}" if rate else "",
            )
        )
    heads = [
        "batch:", *(["floor:"] if has_floor else []), *(f"{way}:" for way in ways),
        "steps/s captured:",
    ]  # fmt: skip
    layers, units, inputs = SHAPES[model]
    title = f"### {model}: {layers} x {units} units, {inputs} features"
    return f"{title}\n\n{table('|'.join(heads), rows)}"


def _cell(record: Record | None) -> str:
    return f"{record['p50'] * 1e6:,.0f} / {record['p99'] * 1e6:,.0f}" if record else ""


def pays(kinds: Kinds) -> str:
    """From which batch on a captured run is faster than the CPU's."""
    found = kinds.get("steps", ())
    sides = dict.fromkeys(e["way"] for e in found if e["way"].startswith(("CPU", "torch")))
    models = dict.fromkeys(each["model"] for each in found if each["way"] == SERVED)
    rows = [
        (model, *(_from(_p50s(found, model, SERVED), _p50s(found, model, side)) for side in sides))
        for model in models
    ]
    heads = ["model", *(f"{side}:" for side in sides)]
    title = "### From which batch a captured run is the faster one, beside"
    return f"{title}\n\n{table('|'.join(heads), rows)}" if rows and sides else ""


def _p50s(found: Sequence[Record], model: str, way: str) -> dict[int, float]:
    return {e["batch"]: e["p50"] for e in found if (e["model"], e["way"]) == (model, way)}


def _from(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """The smallest batch from which on it is so at every one that was measured."""
    both = sorted(ours.keys() & theirs.keys(), reverse=True)
    since: int | None = None
    for batch in both:
        if ours[batch] >= theirs[batch]:
            break
        since = batch
    if not both:
        return ""
    return f"none to {both[0]:,}" if since is None else f"{since:,}"


def table(heads: str, rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; columns whose head ends with a colon hold numbers."""
    names = heads.split("|")
    ends = "|".join("--:" if name.endswith(":") else "---" for name in names)
    lines = [" | ".join(name.removesuffix(":") for name in names)]
    lines += [" | ".join(row) for row in rows]
    first, *others = (f"| {each} |" for each in lines)
    return "\n".join([first, f"|{ends}|", *others])
