"""Which model versions are shown, and under which names."""

from tidegate.cli.top.change import Change, Changes
from tidegate.cli.top.page import Version

NO_MODEL = "(no model)"


def named(version: Version) -> str:
    """A model version in words; calls for no served model are counted under none."""
    return "/".join(version) if any(version) else NO_MODEL


def selected(changes: Changes, most: int | None = None) -> list[tuple[Version, Change]]:
    """By name and version; where there is no room for all, the busiest `most` of them."""
    worthy = [(version, each) for version, each in changes.items() if any(version) or _rose(each)]
    busiest = sorted(worthy, key=lambda item: -sum(item[1].counted.values()))[:most]
    return sorted(busiest, key=lambda item: (item[0][0], len(item[0][1]), item[0]))


def _rose(change: Change) -> bool:
    return any(change.counted.values())
