"""The command line: `tidegate stream`, `sessions`, `models`, `bench`, `server`, `top`, `token`."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    from tidegate.cli.run import run  # here, so that `tidegate.cli` itself stays light

    return run(arguments)
