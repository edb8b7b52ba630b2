"""Which of two bundles is better on the same held-out sessions, and how sure is that?

What a promotion rests on: B is the candidate, A what is served.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.scoring.held_out import HeldOut, subject_on
from training.scoring.intervals import Interval, class_differences, differences
from training.scoring.pair import Pair, pair, segments_by
from training.scoring.scores import scores_of
from training.scoring.words import (
    figure_lines,
    name_of,
    told,
    told_difference,
    told_interval,
    verdict,
)

VERDICTS = {
    "better": "{b} is better than {a}",
    "worse": "{b} is worse than {a}",
    "not told apart": "{a} and {b} are not told apart",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A, B, the table, the segments, where to write."""
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="a bundle's folder, .../NAME/VERSION")
    add("b", type=Path, metavar="B", help="that of another, as of a version to be promoted")
    add("--table", type=Path, help="a file like the one that A was trained on (that one)")
    add("--by", action="append", default=[], metavar="COLUMN", help="compare within each value of "
        "a column, or quarter of its numbers, as well (repeatable)")  # fmt: skip
    add("--out", type=Path, help="a JSON file of all that is said")


def run(arguments: argparse.Namespace) -> None:
    """Print both bundles' figures, their differences, and a sentence.

    Raises:
        TrainingError: a bundle or the table cannot be read, or there is nothing to compare by.
    """
    first, second = (subject_on(each, arguments.table) for each in (arguments.a, arguments.b))
    both = pair(first, second)
    told = _overall(both) | {"segments": _segments(both, first, arguments.by)}
    told["sentence"] = _sentence(both, told)
    print(told["sentence"])
    if arguments.out:
        arguments.out.write_text(json.dumps(_written(told), indent=1) + "\n")


def _overall(both: Pair) -> dict[str, Any]:
    ours, theirs = both.sums()
    for name, sums in zip(both.names, (ours, theirs), strict=True):
        for line in figure_lines(scores_of(both.scorer, sums, both.part).figures):
            print(f"{name}: {line}")
    apart = differences(both.scorer, theirs, ours)
    print(f"{both.names[1]} less {both.names[0]}, on the {both.part}:")
    for line in figure_lines(apart):
        print(f"  {line}")
    found: dict[str, Any] = {"sessions": len(ours), "part": both.part, "differences": apart}
    if both.target.classes:
        classes = class_differences(both.scorer, theirs, ours)
        found["classes"] = dict(zip(both.target.labels, classes, strict=True))
        for label, each in found["classes"].items():
            print(f"  class {label}: {', '.join(figure_lines(each))}")
    return found


def _segments(both: Pair, held: HeldOut, columns: list[str]) -> dict[str, Any]:
    main, found = both.scorer.main(both.weighted), dict[str, Any]()
    for column in columns:
        for name, among in segments_by(column, held.column(column), both.sessions).items():
            ours, theirs = both.sums(among)
            if not len(ours):
                continue
            apart = differences(both.scorer, theirs, ours)[main]
            found[name] = {"sessions": len(ours), "difference": apart}
            print(f"  {name}, {len(ours)} sessions: {name_of(main)} {told_interval(apart)}, "
                  f"{verdict(main, apart)}")  # fmt: skip
    return found


def _sentence(both: Pair, found: Mapping[str, Any]) -> str:
    """The verdict on the main figure, and the segments that go the other way."""
    scorer, main = both.scorer, both.scorer.main(both.weighted)
    apart: Interval = found["differences"][main]
    start = VERDICTS[verdict(main, apart)].format(a=both.names[0], b=both.names[1])
    unit = scorer.unit(main)
    ours, theirs = (
        told(main, unit, float(scorer.figures(sums.sum(axis=0))[main])) for sums in both.sums()
    )
    text = (
        f"{start}: {name_of(main)} {theirs} against {ours}, "
        f"{told_difference(main, unit, apart, found['sessions'])}"
    )
    worse = [
        name
        for name, each in found["segments"].items()
        if verdict(main, each["difference"]) == "worse"
    ]
    return text + (f"; worse where {', '.join(worse)}." if worse else ".")


def _written(value: Any) -> Any:
    """Intervals as plain numbers."""
    if isinstance(value, Interval):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: _written(each) for key, each in value.items()}
    return value
