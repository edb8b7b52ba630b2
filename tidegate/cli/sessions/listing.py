"""`tidegate sessions list`: a model's live sessions, as plain columns."""

from tidegate.cli.sessions.moment import moment
from tidegate.client import Client


async def list_sessions(client: Client, model: str, version: int) -> int:
    """Print every one; returns the exit status."""
    print(f"{'steps':>10}  {'opened':<20}  {'last used':<20}  {'expires':<20}  session")
    async for each in client.sessions(model, version):
        times = (each.opened_at, each.last_used_at, each.expires_at)
        shown = "  ".join(map(moment, times))
        print(f"{each.steps:>10,}  {shown}  {each.session_id} ({each.model}/{each.version})")
    return 0
