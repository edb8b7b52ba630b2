"""`python -m server`, `tidegate-server`: the server, or a sentence where a package is missing."""

from __future__ import annotations

import sys

OURS = ("server", "tidegate", "inference")


def main() -> int:
    """The server's exit status (`server.program`); 2 where a package that it needs is missing."""
    try:
        from server.program import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in OURS:
            raise
        print(f"tidegate-server: it needs the package {error.name}, which is not installed; "
              "the extra [server] brings it: pip install 'tidegate[server]'",
              file=sys.stderr)  # fmt: skip
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
