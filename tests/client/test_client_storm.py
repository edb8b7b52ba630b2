"""The proof: many callers at once, some of whom give up, over connections that break."""

import asyncio

from tests.client.proxy import Proxy
from tests.client.rough import play_roughly
from tests.harness import RunningServer
from tidegate import Client, ClientOptions

CALLERS, CUTS = 200, 3


async def cut_now_and_then(proxy: Proxy, until: asyncio.Event) -> int:
    """Break every connection while steps are under way, three times."""
    for cut in range(CUTS):
        await asyncio.sleep(0.4)
        proxy.cut_at_next_reply = True  # steps were applied whose replies are lost
        await asyncio.sleep(0.05)
        proxy.cut()
        if until.is_set():
            return cut
    return CUTS


def test_200_callers_with_cancellations_and_three_cuts_get_what_the_equations_say(
    serving: RunningServer,
) -> None:
    async def storm() -> tuple[int, int, int]:
        with Proxy(serving.address) as proxy:
            async with Client(proxy.address, ClientOptions(timeout=30)) as client:
                over = asyncio.Event()
                cutting = asyncio.create_task(cut_now_and_then(proxy, over))
                plays = [play_roughly(client, seed, 40) for seed in range(CALLERS)]
                played = await asyncio.gather(*plays)
                over.set()
                cuts = await cutting
        return sum(each[0] for each in played), sum(each[1] for each in played), cuts

    before = serving.metric("tidegate_replies_remembered_total")
    given_up, strays, cuts = asyncio.run(storm())
    assert cuts == CUTS, "the callers were done before the connections had been cut"
    assert given_up > 200
    assert strays > 0, "no step that was given up had been applied: the test shows nothing"
    assert serving.metric("tidegate_replies_remembered_total") > before
