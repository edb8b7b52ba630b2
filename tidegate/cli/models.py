"""`tidegate models`: what a server serves, as plain text."""

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
