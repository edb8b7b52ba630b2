"""`tidegate models` and `tidegate sessions`: what a server holds, as plain columns."""

from tidegate.client import Client
from tidegate.options import ClientOptions


async def list_models(address: str, timeout: float) -> None:
    """Print every model version with its features and outputs."""
    async with Client(address, ClientOptions(timeout=timeout)) as client:
        for model in await client.models():
            print(f"{model.name}/{model.version} on {model.device}: {model.description}".strip())
            features = (
                f"{each.name} ({each.unit})" if each.unit else each.name for each in model.features
            )
            print(f"  features    {', '.join(features)}")
            for output in model.outputs:
                what = ", ".join(output.labels) or f"{output.size} values {output.unit}".strip()
                print(f"  {output.kind:<12}{output.name}: {what}")
            print(
                f"  limits      {model.max_chunk} steps a request, {model.max_sessions:,} sessions"
            )


async def list_sessions(address: str, timeout: float, model: str, version: int) -> None:
    """Print every live session of a model."""
    async with Client(address, ClientOptions(timeout=timeout)) as client:
        print(f"{'steps':>10}  {'opened':<20}  {'last used':<20}  {'expires':<20}  session")
        async for each in client.sessions(model, version):
            times = (each.opened_at, each.last_used_at, each.expires_at)
            shown = "  ".join(f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in times)
            print(f"{each.steps:>10,}  {shown}  {each.session_id} ({each.model}/{each.version})")
