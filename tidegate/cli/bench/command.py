"""`tidegate bench`: finds the model, puts the load on it and reports."""

from tidegate.cli.bench.load import Load
from tidegate.cli.bench.plan import BenchPlan
from tidegate.cli.bench.report import headline, line_of_json, lines
from tidegate.cli.failure import Failure
from tidegate.client import Client
from tidegate.options import ClientOptions


class NoRoom(Failure):
    """The arguments ask for more than the server ever gives."""

    status = 2


async def bench(plan: BenchPlan) -> int:
    """Run it; returns the exit status: 1 where no step at all was answered."""
    async with Client(plan.address, ClientOptions(timeout=plan.timeout)) as client:
        model = await client.model(plan.model, plan.version)
        if plan.sessions > model.max_sessions:
            raise NoRoom(f"{model.name}/{model.version} holds {model.max_sessions:,} sessions")
        if not plan.json:
            print(headline(plan, model), flush=True)
        record = await Load(client, model, plan).run()
    print(line_of_json(plan, model, record) if plan.json else "\n".join(lines(record)))
    return 0 if record.steps else 1
