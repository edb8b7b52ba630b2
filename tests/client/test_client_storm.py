"""The proof: many callers at once, some of whom give up, over connections that break."""

import asyncio

from tests.client.proxy import Proxy
from tests.client.rough import play_roughly
from tests.harness import RunningServer
from tidegate import Client, ClientOptions

CALLERS, STEPS = 200, 40
CUTS = (1500, 3500, 5500)  # of the callers' 8,000 steps


async def cut_midway(proxy: Proxy, server: RunningServer) -> None:
    """Break every connection three times, while steps are under way."""
    start = server.metric("tidegate_steps_total")
    for steps in CUTS:
        while await asyncio.to_thread(server.metric, "tidegate_steps_total") - start < steps:
            await asyncio.sleep(0.01)
        proxy.cut_at_next_reply = True  # steps were applied whose replies are lost
        await asyncio.sleep(0.02)
        proxy.cut()


def test_200_callers_with_cancellations_and_three_cuts_get_what_the_equations_say(
    serving: RunningServer,
) -> None:
    async def storm() -> tuple[int, int]:
        with Proxy(serving.address) as proxy:
            async with Client(proxy.address, ClientOptions(timeout=30)) as client:
                cutting = asyncio.create_task(cut_midway(proxy, serving))
                plays = [play_roughly(client, seed, STEPS) for seed in range(CALLERS)]
                played = await asyncio.gather(*plays)
                assert cutting.done(), "the callers were done before the connections were cut"
                await cutting
        return sum(each[0] for each in played), sum(each[1] for each in played)

    before = serving.metric("tidegate_replies_remembered_total")
    given_up, strays = asyncio.run(storm())
    assert given_up > 200
    assert strays > 0, "no step that was given up had been applied: the test shows nothing"
    assert serving.metric("tidegate_replies_remembered_total") > before
