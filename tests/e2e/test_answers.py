"""Answers of the three real services to `POST /v1/answer`."""

from __future__ import annotations

import io
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.e2e.conftest import Client, Pictures

QUESTION = "Is there a red star?"
TOTAL = 144


def test_the_answer_object_has_every_field_of_the_contract(client: Client, picture: bytes) -> None:
    answer = client.ask(picture, QUESTION)
    assert set(answer) == {"id", "model", "answer", "finish_reason", "usage", "cache", "timing_ms"}
    assert answer["model"] == "fovea-lab"
    assert answer["answer"] in ("yes", "no")
    assert answer["finish_reason"] == "stop"
    usage = answer["usage"]
    assert (usage["visual_tokens_total"], usage["visual_tokens_kept"]) == (TOTAL, 16)
    assert usage["prompt_tokens"] > 16
    assert usage["completion_tokens"] >= 1
    # 16 x 128 float32, with positions and frame around them.
    assert 16 * 128 * 4 < usage["wire_bytes"] < 16 * 128 * 4 + 300
    timing = answer["timing_ms"]
    assert set(timing) == {"queue", "tokenize", "encode", "time_to_first_token", "generate", "total"}
    assert 0 < timing["time_to_first_token"] <= timing["total"]


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        ({"keep_tokens": 1}, 1),
        ({"keep_tokens": 37}, 37),
        ({"keep_tokens": TOTAL}, TOTAL),
        ({"keep_tokens": 10_000}, TOTAL),
        ({"keep_ratio": 0.0001}, 1),
        ({"keep_ratio": 0.5}, 72),
        ({"keep_ratio": 1}, TOTAL),
    ],
)
def test_the_budget_is_kept_exactly(client: Client, picture: bytes, budget: dict[str, Any], kept: int) -> None:
    usage = client.ask(picture, QUESTION, **budget)["usage"]
    assert (usage["visual_tokens_total"], usage["visual_tokens_kept"]) == (TOTAL, kept)


def test_a_pruner_that_chooses_its_budget_takes_more_for_a_description_than_for_a_thing(
    client: Client, pictures: Pictures
) -> None:
    some = [pictures.fresh() for _ in range(16)]  # over a few images alone it may not hold
    asked = {"pruner": "fovea", "keep_tokens": "auto", "max_tokens": 1}
    kept = {
        question: [client.ask(picture, question, **asked)["usage"]["visual_tokens_kept"] for picture in some]
        for question in (QUESTION, "What do you see?")
    }
    assert sum(kept[QUESTION]) < sum(kept["What do you see?"])
    assert all(1 <= count < TOTAL for counts in kept.values() for count in counts)


def test_narrower_dtypes_ship_fewer_bytes_and_read_the_picture_alike(client: Client, picture: bytes) -> None:
    fields = {"pruner": "none", "cache": "bypass"}
    names = ["float32", "float16", "int8", "int4", "entropy", "basis"]
    answers = [client.ask(picture, QUESTION, wire_dtype=name, **fields) for name in names]
    sizes = [answer["usage"]["wire_bytes"] for answer in answers]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 30
    assert [answer["usage"]["wire_dtype"] for answer in answers] == names
    assert len({answer["answer"] for answer in answers}) == 1


@pytest.mark.parametrize("max_wire_bytes", [300, 2000, 7000, 20_000, 100_000])
def test_a_budget_of_bytes_is_kept(client: Client, picture: bytes, max_wire_bytes: int) -> None:
    usage = client.ask(picture, QUESTION, max_wire_bytes=max_wire_bytes)["usage"]
    assert usage["wire_bytes"] <= max_wire_bytes
    assert (usage["visual_tokens_kept"] == TOTAL) == (max_wire_bytes >= 2000)
    assert (usage["wire_dtype"] == "float16") == (max_wire_bytes == 100_000)


def test_an_object_at_the_end_of_a_long_image_is_seen_on_a_padded_square(client: Client) -> None:
    image = Image.new("RGB", (1200, 300), (235, 235, 230))
    draw = ImageDraw.Draw(image)
    draw.ellipse((1000, 80, 1140, 220), fill=(220, 40, 40))
    draw.rectangle((540, 80, 660, 220), fill=(40, 90, 220))
    file = io.BytesIO()
    image.save(file, "PNG")
    cropped, padded = (
        client.ask(file.getvalue(), "What color is the circle?", image_fit=fit) for fit in ("crop", "pad")
    )
    assert cropped["usage"]["viewed"] == [[0.375, 0.0, 0.625, 1.0]]
    assert cropped["answer"] != "red"  # the circle was cut away
    assert padded["usage"]["viewed"] == [[0.0, 0.0, 1.0, 1.0]]
    assert padded["answer"] == "red"


def test_pruning_shortens_the_prompt_by_what_it_drops(client: Client, picture: bytes) -> None:
    whole = client.ask(picture, QUESTION, pruner="none")["usage"]
    pruned = client.ask(picture, QUESTION, keep_tokens=20)["usage"]
    assert whole["visual_tokens_kept"] == TOTAL
    assert whole["prompt_tokens"] - pruned["prompt_tokens"] == TOTAL - 20


def test_the_same_request_again_is_an_answer_hit_that_ships_nothing(client: Client, picture: bytes) -> None:
    first, second = (client.ask(picture, QUESTION) for _ in range(2))
    assert first["cache"]["answer"] == "miss"
    assert second["cache"]["answer"] == "hit"
    assert second["usage"]["wire_bytes"] == 0
    assert second["answer"] == first["answer"]
    assert second["id"] != first["id"]


def test_other_sampling_reuses_the_visual_tokens(client: Client, picture: bytes) -> None:
    client.ask(picture, QUESTION)
    again = client.ask(picture, QUESTION, max_tokens=7)
    assert again["cache"]["answer"] == "miss"
    assert again["cache"]["visual_tokens"] == "hit"
    assert again["usage"]["wire_bytes"] > 0


def test_a_second_question_on_the_same_picture_is_served_from_its_features(client: Client, picture: bytes) -> None:
    first = client.ask(picture, QUESTION)
    second = client.ask(picture, "How many circles are there?")
    assert first["cache"]["features"] == "miss"
    assert second["cache"] == {"answer": "miss", "visual_tokens": "miss", "features": "hit"}


def test_a_pruner_that_reads_no_text_shares_its_tokens_between_questions(client: Client, picture: bytes) -> None:
    client.ask(picture, QUESTION, pruner="cls")
    assert client.ask(picture, "What do you see?", pruner="cls")["cache"]["visual_tokens"] == "hit"


def test_bypass_neither_reads_nor_fills_and_refresh_only_fills(client: Client, picture: bytes) -> None:
    client.ask(picture, QUESTION, cache="bypass")
    assert client.ask(picture, QUESTION, cache="refresh")["cache"]["answer"] != "hit"
    assert client.ask(picture, QUESTION)["cache"]["answer"] == "hit"
    assert client.ask(picture, QUESTION, cache="refresh")["cache"]["answer"] != "hit"
    assert client.ask(picture, QUESTION, cache="bypass")["cache"]["answer"] != "hit"


def test_multipart_and_json_give_the_same_answer(client: Client, picture: bytes) -> None:
    form = client.http.post(
        "/v1/answer",
        data={"question": QUESTION, "keep_tokens": "24", "cache": "bypass"},
        files={"image": ("picture.png", picture, "image/png")},
    )
    assert form.status_code == 200, form.text
    plain = client.ask(picture, QUESTION, keep_tokens=24, cache="bypass")
    for field in ("answer", "finish_reason", "usage"):
        assert form.json()[field] == plain[field]


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    parsed = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "event" in fields:
            parsed.append((fields["event"], json.loads(fields["data"])))
    return parsed


def test_the_streamed_pieces_are_the_answer(client: Client, picture: bytes) -> None:
    question = "Describe the picture."
    response = client.post(picture, question, stream=True, cache="bypass")
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, (last, done) = events(response.text)
    assert last == "done"
    assert {name for name, _ in pieces} == {"token"}
    assert len(pieces) > 1
    assert "".join(piece["text"] for _, piece in pieces).strip() == done["answer"].strip()
    assert done["answer"] == client.ask(picture, question, cache="bypass")["answer"]


def test_a_cached_answer_streams_too(client: Client, picture: bytes) -> None:
    whole = client.ask(picture, "What do you see?")
    streamed = events(client.post(picture, "What do you see?", stream=True).text)
    assert streamed[-1][0] == "done"
    assert streamed[-1][1]["cache"]["answer"] == "hit"
    assert "".join(piece["text"] for name, piece in streamed if name == "token") == whole["answer"]


def test_explain_shows_maps_and_where_every_patch_went(client: Client, picture: bytes) -> None:
    client.ask(picture, QUESTION, keep_tokens=12)
    answer = client.ask(picture, QUESTION, keep_tokens=12, explain=True)
    assert answer["cache"]["answer"] != "hit"
    explain = answer["explain"]
    assert (explain["pruner"], explain["grid"]) == ("desap", [12, 12])
    assert explain["kept"] == sorted(set(explain["kept"]))
    assert len(explain["kept"]) == 12
    for name in ("task_map", "saliency_map", "merged_into"):
        assert [len(row) for row in explain[name]] == [12] * 12
    flat = [index for row in explain["merged_into"] for index in row]
    assert all(flat[patch] == row for row, patch in enumerate(explain["kept"]))
    assert set(flat) == set(range(12))


def test_a_seed_repeats_an_answer_and_another_does_not(client: Client, picture: bytes) -> None:
    def text(seed: int) -> str:
        sampling = {"temperature": 2, "seed": seed, "max_tokens": 40, "cache": "bypass"}
        answer: str = client.ask(picture, "Describe the picture.", **sampling)["answer"]
        return answer

    assert text(5) == text(5)
    assert text(5) != text(6)


def test_stop_strings_and_max_tokens_end_an_answer(client: Client, picture: bytes) -> None:
    whole = client.ask(picture, "Describe the picture.")["answer"]
    assert "," in whole
    stopped = client.ask(picture, "Describe the picture.", stop=[","])
    assert stopped["answer"] == whole.split(",")[0]
    assert stopped["finish_reason"] == "stop"
    cut = client.ask(picture, "Describe the picture.", max_tokens=2)
    assert cut["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 2
    assert whole.startswith(cut["answer"])


def test_many_at_once_get_the_answers_that_they_get_alone(client: Client, pictures: Pictures) -> None:
    asked = [(pictures.fresh(), question) for question in ("What do you see?", QUESTION) for _ in range(12)]
    alone = [client.ask(*one, cache="bypass")["answer"] for one in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: client.ask(*one, cache="bypass")["answer"], asked))
    assert together == alone


def test_identical_requests_at_once_are_computed_once(client: Client, picture: bytes) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.ask(picture, "What do you see?"), range(8)))
    assert len({answer["answer"] for answer in answers}) == 1
    assert sum(answer["usage"]["wire_bytes"] > 0 for answer in answers) == 1


def test_a_client_that_leaves_a_stream_frees_the_model(client: Client, picture: bytes, gateway_metrics: str) -> None:
    # At this temperature an answer reaches its limit of tokens, so the stream is still running when the client leaves;
    # on a busy machine it may have ended all the same, hence more than one attempt.
    body = {"temperature": 2, "max_tokens": 300, "cache": "bypass", "stream": True, "question": "Describe the picture."}

    def is_counted() -> bool:
        return 'code="cancelled"' in client.http.get(f"http://{gateway_metrics}/metrics").text

    deadline = time.monotonic() + 120
    for seed in itertools.count():
        with client.http.stream(
            "POST", "/v1/answer", data={**body, "seed": seed}, files={"image": picture}
        ) as response:
            assert response.status_code == 200
            next(response.iter_text())
        until = time.monotonic() + 5
        while time.monotonic() < until and not is_counted():
            pass
        if is_counted():
            break
        assert time.monotonic() < deadline, "the gateway never counted the cancelled answer"
    assert client.ask(picture, QUESTION)["finish_reason"] == "stop"


@pytest.mark.parametrize("name", ["fastv", "sparsevlm", "sparsevlm_plus", "pyramiddrop", "v2drop", "adaptprune"])
def test_a_second_pruner_works_inside_the_language_model(client: Client, picture: bytes, name: str) -> None:
    answer = client.ask(picture, QUESTION, keep_tokens=64, llm_pruner={"name": name, "keep_tokens": 24})
    assert answer["answer"] in ("yes", "no")
    assert answer["usage"]["visual_tokens_kept"] == 64
    by_layer = answer["usage"]["visual_tokens_by_layer"]
    assert min(by_layer) <= 24
    assert by_layer[0] <= 64


def test_many_methods_at_once_do_not_disturb_each_other(client: Client, picture: bytes) -> None:
    question = "What do you see?"
    pruners = client.http.get("/v1/pruners").json()["pruners"]
    asked: list[dict[str, Any]] = [
        {"pruner": pruner["name"]}
        if pruner["side"] == "encoder"
        else {"llm_pruner": {"name": pruner["name"], "keep_ratio": 0.5}, "keep_tokens": 72}
        for pruner in pruners
    ]
    alone = [client.ask(picture, question, cache="bypass", **one)["answer"] for one in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: client.ask(picture, question, cache="bypass", **one)["answer"], asked))
    assert together == alone


def test_the_list_of_pruners_tells_their_parameters(client: Client) -> None:
    listed = client.http.get("/v1/pruners").json()
    text = json.dumps(listed)
    for name in ("desap", "cls", "random", "none", "task_share"):
        assert name in text


def test_every_example_of_the_documentation_is_answered(client: Client) -> None:
    paths = client.http.get("/openapi.json").json()["paths"]
    examples = [
        (path, content["example"])
        for path, operations in paths.items()
        for content in operations.get("post", {}).get("requestBody", {}).get("content", {}).values()
        if "example" in content
    ]
    assert [path for path, _ in examples] == ["/v1/answer", "/v1/chat/completions", "/v1/explain"]
    for path, example in examples:
        response = client.http.post(path, json=example)
        assert response.status_code == 200, response.text


def test_health_readiness_and_documentation(client: Client) -> None:
    assert client.http.get("/healthz").status_code == 200
    assert client.http.get("/readyz").status_code == 200
    assert "Fovea" in client.http.get("/docs").text
    schema = client.http.get("/openapi.json").json()
    assert "/v1/answer" in schema["paths"]
