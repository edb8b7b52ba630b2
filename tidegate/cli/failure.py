"""Failures that end a command with one line on stderr. A leaf."""


class Failure(Exception):
    """The command cannot go on; `str()` is the line for the user."""

    status = 1


class BadFile(Failure):
    """The user's file or arguments are at fault."""

    status = 2


class NotInstalled(Failure):
    """The command needs what only the extra `cli` brings."""

    status = 2

    def __init__(self, library: str) -> None:
        super().__init__(f"{library} is not installed (pip install 'tidegate[cli]')")


class LiveAlready(Failure):
    """A session of that name is live on the server."""

    def __init__(self, session_id: str, model: str, version: int, others: int = 0) -> None:
        more = f" (and {others} more)" if others else ""
        super().__init__(
            f"session {session_id!r}{more} is live on {model}/{version} already; "
            "close it, or give your sessions other names with --prefix"
        )
