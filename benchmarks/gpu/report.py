"""Records as people read them: one line each as they come, and RESULTS.md of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.options import ALIKE, BOUNDS
from benchmarks.gpu.tables import bandwidths, floors, pays, step_tables, table

Record = Mapping[str, Any]


def line(record: Record) -> str:
    """One record, for the terminal."""
    kind = record["kind"]
    if kind == "proof":
        verdict = "good  " if record["good"] else "WRONG "
        return f"{verdict} {record['proof']} | {record['about']} | {record['told']}"
    if kind == "verdict":
        return f"\n{_verdict([record])}"
    figures = (f"{name}={_short(each)}" for name, each in record.items() if name != "kind")
    return f"{kind}: {', '.join(figures)}"


def _short(figure: Any) -> str:
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


def report(records: Sequence[Record]) -> str:
    """RESULTS.md, of as much as there is."""
    kinds: dict[str, list[Record]] = {}
    for each in records:
        kinds.setdefault(each["kind"], []).append(each)
    parts = [
        "# Measured by `make gpu-proof`",
        _machine(kinds),
        _verdict(kinds.get("verdict", ())),
        _missing(kinds),
        _section("Proofs", _proofs(kinds.get("proof", ()))),
        _section("What no run can be faster than", floors(kinds), bandwidths(kinds)),
        _section("Runs of single steps", *step_tables(kinds), pays(kinds)),
        _section("A server", _served(kinds.get("served", ()))),
        _section("Sessions of which a tenth is resident", _spill(kinds.get("spill", ()))),
        _section("Resident sessions", _resident(kinds.get("resident", ()))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, *texts: str) -> str:
    told = [text for text in texts if text]
    return "\n\n".join([f"## {title}", *told]) if told else ""


def _machine(kinds: Mapping[str, Sequence[Record]]) -> str:
    texts = [f"`{each['command']}`, {each['when']}" for each in kinds.get("run", ())]
    for each in kinds.get("machine", ()):
        versions = ", ".join(f"{name} {number}" for name, number in each["versions"].items())
        texts += [
            f"{each['device']}: {each['gpu'] or 'no GPU'}",
            f"host: {each['host']}; {each['system']}",
            f"Python {each['python']}, {versions}; commit {each['commit'] or 'unknown'}",
        ]
    for each in kinds.get("torch", ()):
        texts.append(f"torch {each['version']}, cuDNN {each['cudnn'] or 'none'}")
    return "\n".join(f"- {text}" for text in texts)


def _verdict(verdicts: Sequence[Record]) -> str:
    if not verdicts:
        return "**The run has not come to its end.**"
    wrong = verdicts[-1]["told"]
    return f"**WRONG: {wrong}**" if wrong else "**All is as it should be.**"


def _missing(kinds: Mapping[str, Sequence[Record]]) -> str:
    texts = [f"{each['part']}: left out, {each['why']}" for each in kinds.get("left out", ())]
    texts += [
        f"{each['part']}: cut off after {each['seconds']} s" for each in kinds.get("cut off", ())
    ]
    texts += [f"{each['part']}: died with {each['status']}" for each in kinds.get("died", ())]
    return "\n".join(f"- {text}" for text in texts)


def _proofs(found: Sequence[Record]) -> str:
    if not found:
        return ""
    bounds, alike = (
        ", ".join(f"{bound:g} in {name}" for name, bound in each.items())
        for each in (BOUNDS, ALIKE)
    )
    rows = (
        (each["proof"], each["about"], each["told"], "good" if each["good"] else "**WRONG**")
        for each in found
    )
    return (
        "Differences are relative to the largest value of the CPU's engine in float32: at most "
        f"{bounds}; of captured beside eager runs at most {alike}. `begun`: what lies in the "
        "arenas as graphs are captured. `others`: rows that a run does not name, bit by bit. "
        f"`forecast`: the scratch row in padded runs.\n\n{table('proof|about|found|', rows)}"
    )


def _served(found: Sequence[Record]) -> str:
    rows = (
        (
            each["device"], each["way"], f"{each['rows']:,}", f"{each['in_flight']:,}",
            f"{each['steps_per_second']:,.0f}", f"{each['p50'] * 1e3:,.2f}",
            f"{each['p99'] * 1e3:,.2f}", f"{each['server_microseconds']:,.2f}",
            f"{each['checked']:,}",
        )
        for each in found
    )  # fmt: skip
    heads = (
        "device|way in|rows a message:|in flight:|steps/s:|p50 ms:|p99 ms:|CPU µs a step:|checked:"
    )
    text = (
        "h64 with 16 features; no store; the load has one core, the server the others. `checked`: "
        "answers of a session that equal the NumPy LSTM's."
    )
    return f"{text}\n\n{table(heads, rows)}" if found else ""


def _resident(found: Sequence[Record]) -> str:
    rows = (
        (
            each["device"], f"{each['sessions']:,}", f"{each['state_bytes'] / 2**20:,.0f}",
            f"{each['opened_per_second']:,.0f}", f"{each['first_steps_per_second']:,.0f}",
            f"{each['steps_per_second']:,.0f}", f"{each['server_microseconds']:,.2f}",
        )
        for each in found
    )  # fmt: skip
    heads = "device|sessions:|states, MiB:|opened/s:|first steps/s:|steps/s:|CPU µs a step:"
    return table(heads, rows) if found else ""


def _spill(found: Sequence[Record]) -> str:
    rows = (
        (
            each["device"], f"{each['sessions']:,}", f"{each['resident']:,}",
            f"{each['there_steps_per_second']:,.0f}", f"{each['put_out_per_second']:,.0f}",
            f"{each['in_turn_steps_per_second']:,.0f}", f"{each['in_turn_microseconds']:,.2f}",
        )
        for each in found
    )  # fmt: skip
    heads = (
        "device|sessions:|room for:|steps/s of those there:|first put out/s:"
        "|brought back and put out/s, all stepping in turn:|CPU µs each:"
    )
    return table(heads, rows) if found else ""
