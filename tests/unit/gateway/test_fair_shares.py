"""Fair shares: one client alone, a greedy one beside others, and what is remembered."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access.fair_shares import FairShares
from gateway.settings import GatewaySettings
from tests.clock import Clock
from tests.unit.gateway.conftest import StartGateway, ask


def filled(shares: FairShares, client: str) -> int:
    """Number of units that a client gets at once, one at a time."""
    count = 0
    while shares.ask(client) == "granted":
        shares.take(client)
        count += 1
    return count


DEFAULT = GatewaySettings(model="m").max_concurrent_requests


def test_a_client_alone_gets_enough_for_a_benchmark() -> None:
    assert filled(FairShares(DEFAULT), "bench") >= 64


def test_a_client_alone_gets_everything_of_a_limit_without_a_reserve() -> None:
    assert [filled(FairShares(limit), "a") for limit in range(1, 8)] == list(range(1, 8))


def test_a_greedy_client_with_a_thousand_requests_and_ten_with_one_each() -> None:
    """The greedy client retries forever; each of the others asks once, and is answered."""
    shares = FairShares(DEFAULT)
    running: deque[str] = deque()
    left = 1000

    def greedy() -> None:
        nonlocal left
        while left and shares.ask("greedy") == "granted":
            shares.take("greedy")
            running.append("greedy")
            left -= 1

    greedy()
    for number in range(10):
        assert shares.ask(f"other-{number}") == "granted"
        shares.take(f"other-{number}")
        running.append(f"other-{number}")
        greedy()
    answered: Counter[str] = Counter()
    while running:
        client = running.popleft()
        shares.give_back(client)
        answered[client] += 1
        greedy()
    assert answered["greedy"] == 1000
    assert len(answered) == 11


def test_what_a_greedy_client_gives_back_goes_to_the_other_until_both_have_the_same() -> None:
    shares = FairShares(80)
    assert filled(shares, "first") == 70
    assert filled(shares, "second") == 10
    for held in range(69, 34, -1):
        shares.give_back("first")
        assert shares.ask("first") == "above share"
        filled(shares, "second")
        assert shares.held_by("first") == held
    assert shares.held_by("second") == 35
    assert filled(shares, "third") == 10


@given(
    limit=st.integers(1, 40),
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 3), st.floats(0, 90)), max_size=200),
)
@settings(max_examples=300, deadline=None)
def test_a_client_below_its_share_is_refused_only_by_the_limit(limit: int, steps: list[tuple[int, int, float]]) -> None:
    clock = Clock()
    shares = FairShares(limit, clock=clock)
    held: Counter[str] = Counter()
    for number, amount, seconds in steps:
        client, clock.now = f"c{number}", clock.now + seconds
        if amount <= 0:
            amount = min(-amount, held[client])
            if amount:
                shares.give_back(client, amount)
                held[client] -= amount
            continue
        verdict = shares.ask(client, amount)
        share, total = max(1, (limit - limit // 8) // shares.num_clients), held.total()
        assert (verdict == "full") == (total + amount > limit)
        if held[client] + amount <= share:
            assert verdict != "above share"
        elif verdict == "granted":  # the reserve stays free for others
            assert total + amount <= limit - limit // 8
        if verdict == "granted":
            shares.take(client, amount)
            held[client] += amount
        assert shares.num_held == held.total() <= limit


def test_a_client_counts_for_a_minute_after_its_last_request() -> None:
    clock = Clock()
    shares = FairShares(8, clock=clock)
    shares.ask("gone")
    clock.now += 59
    shares.ask("a")
    assert shares.num_clients == 2
    clock.now += 2
    shares.ask("a")
    assert shares.num_clients == 1


def test_a_client_with_a_request_in_progress_counts_as_long_as_it_lasts() -> None:
    clock = Clock()
    shares = FairShares(16, clock=clock)
    assert shares.ask("slow") == "granted"
    shares.take("slow")
    clock.now += 1000
    filled(shares, "greedy")
    assert shares.num_clients == 2
    shares.give_back("slow")
    assert shares.ask("slow") == "granted"


def test_memory_is_bounded_with_any_number_of_clients() -> None:
    clock = Clock()
    shares = FairShares(80, clock=clock)
    assert shares.ask("slow") == "granted"
    shares.take("slow")
    for number in range(20_000):
        shares.ask(f"client-{number}")
        assert shares.num_clients <= 4097
    assert shares.held_by("slow") == 1
    clock.now += 120
    for number in range(4200):
        shares.ask(f"client-{number % 3}")
    assert shares.num_clients == 4


async def test_a_newcomer_is_answered_while_another_address_holds_all_it_can_get(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_concurrent_requests=8)
    gateway.encoder.gate.shut()
    results: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    async def post(address: str, shade: int) -> tuple[int, str]:
        async with gateway.http_from(address) as http:
            response = await http.post("/v1/answer", json=ask(shade=shade, cache="bypass"))
            result = response.status_code, response.text
            results.put_nowait(result)
            return result

    greedy = [asyncio.create_task(post("192.0.2.1", shade)) for shade in range(20)]
    refused = [await results.get() for _ in range(13)]
    assert {status for status, _ in refused} == {429}
    assert all('"code":"overloaded"' in text and "for other clients" in text for _, text in refused)
    newcomer = asyncio.create_task(post("192.0.2.2", 99))
    while len(gateway.encoder.calls) < 8:
        gateway.encoder.gate.reached.clear()
        await gateway.encoder.gate.reached.wait()
    gateway.encoder.gate.open()
    assert (await newcomer)[0] == 200
    assert sorted([(await task)[0] for task in greedy]) == [200] * 7 + [429] * 13


async def test_an_ipv6_network_is_one_client(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    state = gateway.app.state.gateway
    for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"):
        async with gateway.http_from(address) as http:
            assert (await http.post("/v1/answer", json=ask())).status_code == 200
    assert state.running._shares.num_clients == 3
