from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scaling.capacity.__main__ import main
from benchmarks.scaling.capacity.llm import LLMRules
from benchmarks.scaling.capacity.planner import REDIS, CapacityPlanner, Goal, Unreachable, cost_per_million, limits
from benchmarks.scaling.capacity.profile import Decode, Encode, Prefill, Profile
from benchmarks.scaling.capacity.roofline import GPUS, Assumptions, derive
from benchmarks.scaling.capacity.simulation import closed_loop
from benchmarks.scaling.capacity.system import Redis, SimulatedDeployment
from benchmarks.scaling.capacity.validation import compare
from benchmarks.scaling.capacity.workload import Workload
from tests.unit.benchmarks.scaling.capacity.profiles import costs

pytestmark = pytest.mark.slow

# 0.1 s of the encoder, 0.05 s and 4 times 0.01 s of an LLM service, 0.005 s of a gateway.
SMALL = costs(
    encode=Encode(0, 0, 0, 0.1),
    prefill=Prefill(0, 0.05, 0, 0, 0),
    decode=Decode(0, 0.01, 0, 0),
    prepare_per_image=0.001,
    gateway_request=0.005,
    token_bytes=1000,
)
FOUR = Workload(1, (4,))


def planner(**changes: Any) -> CapacityPlanner:
    base = SimulatedDeployment(1, 1, llm_rules=LLMRules(max_batch_size=1))
    return CapacityPlanner(
        **{"profile": SMALL, "workload": FOUR, "goal": Goal(2.0), "base": base, "window_s": 30.0, **changes}
    )


def test_more_requests_never_need_fewer_replicas() -> None:
    rates = [2.0, 5.0, 9.0, 20.0, 45.0]
    plans = list(planner().plans(rates))
    assert [plan.rate for plan in plans] == rates
    for less, more in itertools.pairwise(plans):
        assert less.encoders <= more.encoders
        assert less.llms <= more.llms
        assert less.gateways <= more.gateways


def test_a_plan_keeps_its_goal_and_one_encoder_less_would_not() -> None:
    plan = next(planner().plans([42.0]))
    assert plan.outcome.percentile(95) <= 2.0
    assert plan.encoders >= 5  # 42 x 0.1 s
    fewer = dataclasses.replace(plan.deployment, encoders=4)
    assert not Goal(2.0).kept(planner().run(fewer, 42.0))
    assert 1.0 <= plan.fails_at < 2.0


def test_a_tighter_goal_costs_more() -> None:
    loose, tight = (next(planner(goal=Goal(seconds)).plans([40.0])) for seconds in (3.0, 0.25))
    assert cost_per_million(loose, 1.0) < cost_per_million(tight, 1.0)


def test_cost_is_that_of_the_gpus_for_as_long_as_a_million_answers_take() -> None:
    plan = next(planner().plans([10.0]))
    hours = 1e6 / 10 / 3600
    assert cost_per_million(plan, 2.5) == pytest.approx((plan.encoders + plan.llms) * 2.5 * hours)


def test_a_goal_below_the_time_of_one_request_is_refused_with_that_time() -> None:
    with pytest.raises(Unreachable, match=r"a request alone takes 0\.19 s, longer than the goal of 0\.1 s"):
        next(planner(goal=Goal(0.1)).plans([1.0]))


def test_beyond_a_cell_equal_cells_are_counted() -> None:
    plan = next(planner(most_in_a_cell=10.0).plans([40.0]))
    alone = next(planner().plans([10.0]))
    assert plan.cells == 4
    assert (plan.encoders, plan.llms, plan.gateways) == (4 * alone.encoders, 4 * alone.llms, 4 * alone.gateways)


def test_bursts_need_more_than_the_same_rate_at_random() -> None:
    calm, bursty = (next(planner(burst_factor=factor).plans([30.0])) for factor in (1.0, 5.0))
    assert bursty.encoders + bursty.llms > calm.encoders + calm.llms


def test_one_redis_is_shared_by_all_cells_and_left_out_where_it_is_too_little() -> None:
    base = SimulatedDeployment(1, 1, llm_rules=LLMRules(max_batch_size=1), redis=Redis(150.0, 1e9))
    assert limits(SMALL, base, FOUR)[REDIS] == pytest.approx(1 / (6 / 150 + 20_000 * 8 / 1e9))
    few, many = planner(base=base, most_in_a_cell=15.0).plans([10.0, 40.0])
    assert few.deployment.redis is not None
    assert many.deployment.redis is None


@pytest.mark.parametrize("stage", ["encoder", "LLM"])
def test_what_one_replica_can_do_at_the_most_is_what_it_does_under_many_clients(stage: str) -> None:
    base = SimulatedDeployment(
        1 if stage == "encoder" else 9, 1 if stage == "LLM" else 9, llm_rules=LLMRules(max_batch_size=4)
    )
    outcome = closed_loop(SMALL, base, FOUR, clients=40, warm_up_s=20, window_s=200)
    assert outcome.per_second == pytest.approx(limits(SMALL, base, FOUR)[stage], rel=0.05)


def test_a_profile_survives_its_file_and_a_broken_one_says_what_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(dataclasses.asdict(SMALL)), encoding="utf-8")
    assert Profile.read(path) == SMALL
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="its fields are name, origin"):
        Profile.read(path)


def test_a_derived_profile_says_that_nothing_was_measured_on_the_gpu() -> None:
    pruned, whole = (derive(GPUS["a100-80gb"], keep, SMALL) for keep in (64, None))
    assert pruned.origin == "derived"
    assert any(note.startswith("assumed") for note in pruned.notes)
    assert (pruned.visual_tokens, whole.visual_tokens) == (64, 576)
    assert pruned.prepare_per_image == SMALL.prepare_per_image
    # LLaVA-1.5-7B: 13.5 GB of weights in 16 bits, half a megabyte of key-value cache a position.
    assert pruned.kv_bytes == pytest.approx(0.9 * 80e9 - 13.5e9, rel=0.01)
    assert pruned.kv_bytes_per_token == 524_288
    # 3.8 T multiply-adds of visual tokens (benchmarks/results/flops.md), two operations each, 40 % of 312 T a second.
    length = whole.prompt_tokens(1)
    assert whole.prefill.seconds(1, length) - whole.prefill.seconds(1, 60) == pytest.approx(
        2 * 3.82e12 / 124.8e12, rel=0.5
    )
    assert pruned.decode.seconds(32, 160) < whole.decode.seconds(32, 660)


def test_assumptions_change_what_is_derived() -> None:
    slow, fast = (derive(GPUS["l4"], 64, SMALL, Assumptions(compute=share)) for share in (0.2, 0.8))
    assert slow.encode.per_image == pytest.approx(4 * fast.encode.per_image)


def test_memory_for_the_caches_limits_the_sequences() -> None:
    profile = costs(kv_bytes_per_token=10, kv_bytes=1000)
    assert profile.sequences_in_memory(25) == 4
    assert costs().sequences_in_memory(25) is None


def test_plan_writes_what_is_needed_with_and_without_pruning(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(dataclasses.asdict(SMALL)), encoding="utf-8")
    words = ["plan", "--profile", str(path), "--gpus", "a100-80gb", "--rates", "4", "--out", str(tmp_path)]
    assert main([*words, "--answer-tokens", "4", "--price-per-gpu-hour", "2"]) == 0
    result = json.loads((tmp_path / "capacity_a100-80gb.json").read_text(encoding="utf-8"))
    assert [(row["rate"], row["visual_tokens"]) for row in result["plans"]] == [(4.0, "576"), (4.0, "64")]
    report = (tmp_path / "capacity_a100-80gb.md").read_text(encoding="utf-8")
    assert "**Nothing here was measured on a GPU**" in report
    assert (tmp_path / "capacity_a100-80gb.png").stat().st_size > 10_000


def test_a_run_that_is_what_the_simulation_says_is_within_and_another_is_not() -> None:
    """A real encoder of 0.1 s a image at half a core: 5 questions of one image a second."""
    profile = dataclasses.replace(SMALL, shares_cores=True, prepare_per_image=0.0)
    result = {
        "scenario": {
            "name": "encoder",
            "request": {"images": 1, "max_tokens": [1]},
            "clients": 10,
            "encoder_cores": 0.5,
            "llm_cores": 0.5,
        },
        "flags": {"encoder_service": ["--max-batch-size", "1"], "llm_service": []},
        "closed_loop": [
            {"shape": "1x1", "per_second": 5.0, "seconds": [2.0]},
            {"shape": "2x1", "per_second": 5.0, "seconds": [2.0]},
        ],
        "below_capacity": [],
    }
    rows = compare(profile, result)
    assert [(row["shape"], row["what"], row["within"]) for row in rows] == [
        ("1x1", "answers/s", True),
        ("1x1", "p50, s", True),
        ("2x1", "answers/s", False),
        ("2x1", "p50, s", False),
    ]
    assert rows[2]["off_by"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (["--rates", "0"], "--rates: 0 is not 0.5 to"),
        (["--rates", "nan"], "--rates: nan is not 0.5 to"),
        (["--keep", "576"], "--keep: 576 is not 1 to 575"),
        (["--pictures", "0"], "--pictures: 0 is not 1 to 8"),
        (["--answer-hits", "2"], "--answer-hits: 2 is not 0 to 0.99"),
        (["--profile", "nowhere.json"], "there is no file nowhere.json"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_what_can(
    argument: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--out", str(tmp_path), *argument])
    assert says in capsys.readouterr().err
