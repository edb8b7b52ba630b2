"""Run in the image itself: says what is in it that could be used against it; else says nothing.

`deploy/container-check.sh` pipes it to the image's Python.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

SBOM = Path("/usr/share/tidegate/sbom.json")
MAY_WRITE = ("data", "tmp", "var/tmp", "run/lock")  # the latter are the base's, read-only here
PIP = "site-packages/pip", "dist-packages/pip", "ensurepip", "bin/pip", "bin/pip3"
WITHOUT = ("/proc", "/sys", "/dev")


def files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files and folders of the image, links as themselves."""
    for folder, names, others in os.walk(root):
        if root == Path("/"):
            names[:] = [name for name in names if str(Path(folder, name)) not in WITHOUT]
        for name in (*names, *others):
            path = Path(folder, name)
            yield path, path.lstat()


def problems(root: Path, user: int) -> Iterator[str]:
    """What must not be there."""
    for path, told in files(root):
        plain = stat.S_ISREG(told.st_mode)
        if plain and told.st_mode & (stat.S_ISUID | stat.S_ISGID):
            yield f"{path} is setuid or setgid"
        if str(path).endswith(PIP):
            yield f"{path} is of pip"
        mine = told.st_uid == user or told.st_mode & stat.S_IWOTH
        here = str(path.relative_to(root))
        if mine and not stat.S_ISLNK(told.st_mode) and not here.startswith(MAY_WRITE):
            yield f"{path} can be written by user {user}"


def missing(sbom: Path) -> Iterator[str]:
    """Packages that are installed and that the SBOM does not name so, or the other way round."""
    listed = {
        (_plain(each["name"]), each["version"])
        for each in json.loads(sbom.read_text())["components"]
    }
    installed = {(_plain(each.name), each.version) for each in metadata.distributions()}
    for name, version in sorted(listed ^ installed):
        yield f"{name} {version} is either not installed or not in {sbom}"


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def main() -> int:
    """Print a line a problem; 1 if there is one."""
    found = [*problems(Path("/"), os.getuid()), *missing(SBOM)]
    if os.getuid() == 0:
        found.append("the image runs as root")
    if any(Path.cwd().iterdir()) or os.access(Path.cwd(), os.W_OK):
        found.append(f"{Path.cwd()} is not empty for good")
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
