"""The simulation against queueing theory, and its conservation of requests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling.capacity.encoder import EncoderRules
from benchmarks.scaling.capacity.link import Link
from benchmarks.scaling.capacity.llm import LLMRules
from benchmarks.scaling.capacity.processor import Processor
from benchmarks.scaling.capacity.profile import Decode, Encode, Prefill
from benchmarks.scaling.capacity.simulation import SimulationOutcome, closed_loop, open_loop
from benchmarks.scaling.capacity.system import SimulatedDeployment
from benchmarks.scaling.capacity.workload import Workload, bursts, poisson
from tests.unit.benchmarks.scaling.capacity.profiles import FREE, costs

pytestmark = pytest.mark.slow

ONE = Workload(1, (1,))
# One at a time, first come first served, no refusals.
SINGLE = EncoderRules(max_batch_size=1, max_batch_delay_s=0, max_queue_size=10**6, decode_workers=10**6)
UNBOUNDED = SimulatedDeployment(1, 1, encoder_rules=SINGLE, max_concurrent_requests=10**6, link_delay_s=0)
LONG_S = 20_000.0


def arrivals(rate: float, seed: int = 0) -> Iterator[float]:
    return poisson(rate, np.random.default_rng(seed))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_encoder_of_constant_time_is_an_m_d_1_queue(load: float) -> None:
    profile = costs(encode=Encode(0, 0, 0, 1.0))
    outcome = open_loop(profile, UNBOUNDED, ONE, arrivals(load), window_s=LONG_S)
    waited = load / (2 * (1 - load))  # Pollaczek and Khinchine, in service times
    assert outcome.spent_s["encoder"] - 1 == pytest.approx(waited, rel=0.1)
    assert np.mean(outcome.seconds) == pytest.approx(1 + waited, rel=0.05)
    assert outcome.busy["encoder"] == pytest.approx(load, rel=0.03)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_link_with_messages_of_random_size_is_an_m_m_1_queue(load: float) -> None:
    env, rng, waits = simpy.Environment(), np.random.default_rng(1), []
    link = Link(env, 8.0)

    def send() -> Iterator[simpy.Event]:
        for moment in poisson(load, rng):
            yield env.timeout(moment - env.now)
            waits.append(link.waiting_s)
            link.send(rng.exponential(1.0))

    env.process(send())  # type: ignore[arg-type]
    env.run(LONG_S)
    assert np.mean(waits) == pytest.approx(load / (1 - load), rel=0.1)
    assert link.busy_s() / LONG_S == pytest.approx(load, rel=0.03)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_shared_processor_stretches_jobs_alike_whatever_their_size(load: float) -> None:
    """M/G/1 with processor sharing: a job of work w takes w / (1 - load) (Kleinrock 1976)."""
    env, rng = simpy.Environment(), np.random.default_rng(2)
    processor = Processor(env, 1.0)
    taken: dict[float, list[float]] = {0.5: [], 2.0: []}

    def job(work: float) -> Iterator[simpy.Event]:
        start = env.now
        yield processor.run(work)
        taken[work].append(env.now - start)

    def arrive() -> Iterator[simpy.Event]:
        for moment in poisson(load / 1.25, rng):
            yield env.timeout(moment - env.now)
            env.process(job(float(rng.choice([0.5, 2.0]))))  # type: ignore[arg-type]

    env.process(arrive())  # type: ignore[arg-type]
    env.run(LONG_S)
    for work, seconds in taken.items():
        assert np.mean(seconds) == pytest.approx(work / (1 - load), rel=0.1)


def test_no_job_is_faster_than_a_core_and_a_share_of_one_is_a_share() -> None:
    env, ended = simpy.Environment(), []

    def job(processor: Processor, work: float) -> Iterator[simpy.Event]:
        yield processor.run(work)
        ended.append(env.now)

    many, part = Processor(env, 8.0), Processor(env, 0.25)
    env.process(job(many, 3.0))  # type: ignore[arg-type]
    env.process(job(part, 3.0))  # type: ignore[arg-type]
    env.run()
    assert ended == pytest.approx([3.0, 12.0])
    assert (many.busy_s(), part.busy_s()) == pytest.approx((3.0, 3.0))


BUSY = costs(
    shares_cores=True,
    encode=Encode(0, 0.01, 0.01, 0.05),
    prefill=Prefill(0, 0.01, 0.001, 0.0001, 0),
    decode=Decode(0, 0.004, 0.001, 0),
    prepare_per_image=0.01,
    llm_call=0.002,
    gateway_request=0.005,
    gateway_per_token=0.0002,
    request_bytes=10_000,
    token_bytes=256,
)
MIX = Workload(2, (4, 8, 16), answer_hits=0.2, visual_token_hits=0.2)


@settings(max_examples=15, deadline=None)
@given(
    rate=st.floats(0.5, 40),
    encoders=st.integers(1, 3),
    llms=st.integers(1, 3),
    queue=st.integers(1, 8),
    limit=st.integers(1, 32),
)
def test_every_request_is_answered_refused_or_still_there(
    rate: float, encoders: int, llms: int, queue: int, limit: int
) -> None:
    deployment = SimulatedDeployment(
        encoders,
        llms,
        encoder_rules=EncoderRules(max_queue_size=queue),
        llm_rules=LLMRules(max_batch_size=2, max_queue_size=queue),
        max_concurrent_requests=limit,
    )
    moments = [moment for _, moment in zip(range(100), arrivals(rate), strict=False)]
    everything = open_loop(BUSY, deployment, MIX, moments, window_s=10_000)
    assert everything.arrived == 100
    assert len(everything.seconds) + sum(everything.refused.values()) == 100
    assert set(everything.refused) <= {"gateway limit", "encoder queue", "LLM queue"}
    cut = open_loop(BUSY, deployment, MIX, moments, window_s=moments[50])
    assert len(cut.seconds) + sum(cut.refused.values()) <= cut.arrived


def little(outcome: SimulationOutcome) -> tuple[float, float]:
    """Requests in the system: measured, and by Little's law."""
    return outcome.in_system, outcome.per_second * float(np.mean(outcome.seconds))


@pytest.mark.parametrize("rate", [1.0, 4.0, 7.0])
def test_littles_law_holds_for_arrivals_at_random(rate: float) -> None:
    outcome = open_loop(BUSY, SimulatedDeployment(1, 1), MIX, arrivals(rate), warm_up_s=100, window_s=1500)
    seen, said = little(outcome)
    assert not outcome.refused
    assert seen == pytest.approx(said, rel=0.03)


def test_littles_law_holds_for_clients_that_ask_again() -> None:
    outcome = closed_loop(BUSY, SimulatedDeployment(1, 1), MIX, clients=12, warm_up_s=50, window_s=800)
    seen, said = little(outcome)
    assert seen == pytest.approx(12, rel=1e-6)
    assert said == pytest.approx(12, rel=0.01)


def test_another_replica_helps_where_it_is_short_and_nowhere_else() -> None:
    profile = costs(encode=Encode(0, 0, 0, 0.1), decode=Decode(0, 0, 0.001, 0))

    def throughput(encoders: int, llms: int) -> float:
        return closed_loop(
            profile, SimulatedDeployment(encoders, llms), Workload(1, (8,)), clients=32, warm_up_s=20, window_s=200
        ).per_second

    one = throughput(1, 1)
    assert throughput(2, 1) == pytest.approx(2 * one, rel=0.02)
    assert throughput(1, 2) == pytest.approx(one, rel=0.02)


def test_what_is_cached_costs_no_stage() -> None:
    profile = costs(encode=Encode(0, 0, 0, 1.0), decode=Decode(0, 0, 1.0, 0))
    hits = Workload(1, (3,), answer_hits=1.0)
    assert open_loop(profile, SimulatedDeployment(1, 1), hits, [0.0], window_s=100).percentile(50) == 0
    tokens = Workload(1, (3,), visual_token_hits=1.0)
    # The first token comes with the prefill, which is free here.
    assert open_loop(profile, UNBOUNDED, tokens, [0.0], window_s=100).percentile(50) == pytest.approx(2.002)


def test_a_message_waits_for_those_before_it_on_the_link_and_has_a_delay() -> None:
    slow = SimulatedDeployment(
        1, 1, link_bits_per_second=8000, link_delay_s=0.5, llm_rules=LLMRules(max_batch_delay_s=0)
    )
    profile = costs(token_bytes=50)  # of 20 tokens: 1000 bytes, one second
    outcome = open_loop(profile, slow, ONE, [0.0], window_s=100)
    # To the encoder and back, to the LLM service and back: four ways, and the tokens sent twice.
    assert outcome.percentile(50) == pytest.approx(4 * 0.5 + 2 * 1.0)
    assert outcome.busy["link to the LLM services"] == pytest.approx(0.01)


def test_bursts_come_as_often_as_the_rate_says_and_in_their_time() -> None:
    moments = np.fromiter(
        (m for _, m in zip(range(100_000), bursts(20, np.random.default_rng(3), factor=5), strict=False)), float
    )
    assert len(moments) / moments[-1] == pytest.approx(20, rel=0.03)
    assert np.mean(moments % 10 < 1) == pytest.approx(0.5, rel=0.03)
    with pytest.raises(ValueError, match="more than all arrivals"):
        next(bursts(1, np.random.default_rng(0), factor=11))


def test_a_free_system_answers_at_once() -> None:
    outcome = open_loop(FREE, UNBOUNDED, Workload(1, (5,)), [0.0, 1.0], window_s=10)
    assert outcome.percentile(100) == pytest.approx(0.002)  # delay of the LLM service's batch
