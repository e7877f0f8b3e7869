"""Questions about several images or videos, and chat histories."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from fovea.errors import TooLarge
from fovea.v1 import encoder_pb2, tensor_pb2
from gateway.media.inputs import MediaInput, MediaInputs
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, data_url, png
from tests.unit.gateway.services import features_of

MP4 = b"\x00\x00\x00\x18ftypisom" + bytes(20)
AVIF = b"\x00\x00\x00\x18ftypavif" + bytes(20)
URLS = [data_url(png(shade)) for shade in range(10)]
CLIP = data_url(MP4, "video/mp4")


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def image(number: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": URLS[number]}}


def url_part(value: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": value}


def video(url: str = CLIP) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


HISTORY = [
    {"role": "system", "content": "Be brief."},
    user(image(0), text("What is this?")),
    {"role": "assistant", "content": "A circle."},
    user(text("Which of these is like it?"), image(1), image(2)),
]


async def post(gateway: Gateway, **body: Any) -> dict[str, Any]:
    response = await gateway.http.post("/v1/answer", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_several_images_go_to_both_services_in_their_order(gateway: Gateway) -> None:
    answer = await post(gateway, question="Which is red?", images=URLS[:3])
    encode, generate = gateway.encoder.calls[0], gateway.llm.calls[0]
    assert list(encode.images) == [png(0), png(1), png(2)]
    assert [i for i in generate.input_ids if i == 4] == [4] * 3
    assert len(generate.visual_tokens) == 3
    usage = answer["usage"]
    assert (usage["visual_tokens_total"], usage["visual_tokens_kept"]) == (18, 9)
    assert usage["prompt_tokens"] == len(generate.input_ids) - 3 + 9
    assert usage["wire_bytes"] == sum(tokens.ByteSize() for tokens in generate.visual_tokens)


async def test_a_form_takes_several_files(gateway: Gateway) -> None:
    same = await post(gateway, question="Which is red?", images=URLS[:2])
    for field in ("image", "images"):
        files: list[Any] = [("question", (None, "Which is red?")), *[(field, (f"{i}.png", png(i))) for i in range(2)]]
        response = await gateway.http.post("/v1/answer", files=files)
        assert response.status_code == 200, response.text
        assert response.json()["answer"] == same["answer"]
    assert len(gateway.encoder.calls) == 1  # the forms of the request have the same cache key
    urls = [("question", (None, "Which is red?")), *[("images", (None, url)) for url in URLS[:2]]]
    assert (await gateway.http.post("/v1/answer", files=urls)).json()["answer"] == same["answer"]


async def test_order_and_number_of_images_tell_cached_answers_apart(gateway: Gateway) -> None:
    requests = [URLS[:2], URLS[1::-1], URLS[:1], [URLS[0], URLS[0]]]
    for images in requests:
        assert (await post(gateway, question="What?", images=images))["cache"]["answer"] == "miss"
    assert (await post(gateway, question="What?", image=URLS[0]))["cache"]["answer"] == "hit"
    assert len(gateway.encoder.calls) == 4


async def test_a_history_is_pruned_for_its_last_user_turn(gateway: Gateway) -> None:
    await post(gateway, messages=HISTORY)
    history = gateway.encoder.calls[0]
    assert list(history.images) == [png(0), png(1), png(2)]
    await post(gateway, question="Which of these is like it?", images=URLS[:3])
    assert list(gateway.encoder.calls[-1].text_ids) == list(history.text_ids)
    plain, other = gateway.llm.calls[1].input_ids, gateway.llm.calls[0].input_ids
    assert len(other) > len(plain)  # the language model reads all turns


async def test_visual_tokens_of_a_history_are_shared_with_the_same_question_elsewhere(gateway: Gateway) -> None:
    await post(gateway, messages=HISTORY)
    again = await post(gateway, messages=HISTORY[1:])
    assert (again["cache"]["answer"], again["cache"]["visual_tokens"]) == ("miss", "hit")


@pytest.mark.parametrize("detail", ["auto", "low", "high", "original"])
async def test_detail_is_accepted_and_changes_nothing(gateway: Gateway, detail: str) -> None:
    plain = await post(gateway, messages=[user(image(0), text("What?"))])
    turn = user(url_part({"url": URLS[0], "detail": detail}), text("What?"))
    detailed = await post(gateway, messages=[turn])
    assert (detailed["answer"], detailed["cache"]["answer"]) == (plain["answer"], "hit")


async def test_a_history_in_a_form_is_json(gateway: Gateway) -> None:
    same = await post(gateway, messages=HISTORY)
    response = await gateway.http.post("/v1/answer", files={"messages": (None, json.dumps(HISTORY))})
    assert response.status_code == 200, response.text
    assert (response.json()["answer"], response.json()["cache"]["answer"]) == (same["answer"], "hit")


async def test_a_video_is_explained_in_numbers(video_gateway: Gateway) -> None:
    body = {"question": "What happens?", "video": CLIP, "num_frames": 4, "image": URLS[0]}
    response = await video_gateway.http.post("/v1/explain", json={**body, "format": "json"})
    assert response.status_code == 200, response.text
    explain = response.json()["explain"]
    assert [(visual["kind"], visual["grid"]) for visual in explain["visuals"]] == [
        ("image", [1, 2, 3]),
        ("video", [2, 2, 3]),
    ]
    assert explain == (await post(video_gateway, **body, explain=True))["explain"]
    assert len(video_gateway.encoder.calls) == 1
    for fields, param in (({}, "format"), ({"maps": True}, "maps")):
        response = await video_gateway.http.post("/v1/explain", json={**body, **fields})
        assert response.status_code == 422
        assert response.json()["error"]["param"] == param


async def test_a_video_reaches_the_encoder_with_its_fields(video_gateway: Gateway) -> None:
    answer = await post(video_gateway, question="What happens?", video=CLIP, num_frames=4, video_budget="whole")
    (call,) = video_gateway.encoder.calls
    assert not call.images
    assert (call.videos[0].file, call.videos[0].num_frames) == (MP4, 4)
    assert call.video_budget == encoder_pb2.VIDEO_BUDGET_WHOLE
    assert (answer["usage"]["visual_tokens_total"], answer["usage"]["visual_tokens_kept"]) == (12, 6)
    response = await video_gateway.http.post(
        "/v1/answer",
        data={"question": "What happens?", "num_frames": "4", "video_budget": "whole"},
        files={"video": ("a.mp4", MP4, "video/mp4")},
    )
    assert response.json()["cache"]["answer"] == "hit"


async def test_a_video_may_be_a_list_of_frames(video_gateway: Gateway) -> None:
    await post(video_gateway, question="What happens?", video=URLS[:3], seconds_per_frame=0.5)
    (sent,) = video_gateway.encoder.calls[0].videos
    assert sent.WhichOneof("source") == "frames"
    assert list(sent.frames.images) == [png(0), png(1), png(2)]
    assert sent.frames.seconds_per_frame == 0.5
    assert video_gateway.encoder.calls[0].video_budget == encoder_pb2.VIDEO_BUDGET_PER_FRAME


@pytest.mark.parametrize(
    "change", [{"num_frames": 5}, {"video_budget": "whole"}, {"video": data_url(MP4 + b"!", "video/mp4")}]
)
async def test_changes_of_a_video_are_computed_again(video_gateway: Gateway, change: dict[str, Any]) -> None:
    body = {"question": "What?", "video": CLIP}
    await post(video_gateway, **body)
    assert (await post(video_gateway, **body, video_budget="per_frame"))["cache"]["answer"] == "hit"
    assert (await post(video_gateway, **body | change))["cache"] == {
        "answer": "miss",
        "visual_tokens": "miss",
        "features": "miss",
    }


async def test_visual_tokens_come_in_the_order_of_the_prompt(video_gateway: Gateway) -> None:
    for cache in ("miss", "hit"):
        answer = await post(
            video_gateway,
            messages=[user(video(), text("a clip"), image(3), text("What?"))],
            wire_dtype="float32",
            max_tokens=9 if cache == "miss" else 8,
        )
        assert answer["cache"]["visual_tokens"] == cache
        request = video_gateway.llm.calls[-1]
        tokenizer = video_gateway.app.state.gateway.planner.prompt_tokenizer
        media = {tokenizer.video_token_id: "video", tokenizer.image_token_id: "image"}
        assert [media[i] for i in request.input_ids if i in media] == ["video", "image"]
        video_tokens, image_tokens = request.visual_tokens
        assert video_tokens.kind == tensor_pb2.VISUAL_KIND_VIDEO
        text_ids = video_gateway.encoder.calls[0].text_ids
        assert image_tokens.features == features_of(png(3), text_ids, 3, tensor_pb2.DTYPE_FLOAT32)


async def test_questions_are_sent_in_the_language_models_ids_if_the_encoder_reads_them(video_gateway: Gateway) -> None:
    await post(video_gateway, question="Is <image> red?", image=URLS[0])
    tokenizer = video_gateway.app.state.gateway.planner.prompt_tokenizer
    assert list(video_gateway.encoder.calls[0].text_ids) == tokenizer.encode_plain("Is red?")


async def test_explain_lists_several_images_and_videos(video_gateway: Gateway) -> None:
    answer = await post(
        video_gateway, question="<video> or <image>?", video=CLIP, image=URLS[0], pruner="desap", explain=True
    )
    assert answer["explain"]["pruner"] == "desap"
    explained_image, explained_video = answer["explain"]["visuals"]
    assert (explained_image["kind"], explained_image["grid"], explained_image["kept"]) == (
        "image",
        [1, 2, 3],
        [0, 1, 2],
    )
    assert (explained_video["kind"], explained_video["grid"], explained_video["kept"]) == (
        "video",
        [2, 2, 3],
        list(range(6)),
    )
    assert explained_video["task_map"] == [[[0.5] * 3] * 2] * 2
    assert explained_video["merged_into"] == [[[0, 1, 2], [0, 1, -1]]] * 2


FRAMES = {"question": "What?", "video": URLS[:2]}
TURN = {"messages": HISTORY}


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"question": "What?"}, 422, "image", "upload a file as image, images or video"),
        ({"image": URLS[0]}, 422, "question", "question is missing"),
        ({"question": "What?", "images": []}, 422, "images", "1 or more entries"),
        ({"question": "What?", "images": [5]}, 422, "images", "images.0: a text is accepted"),
        ({"question": "What?", "images": URLS[0]}, 422, "images", "a list is accepted"),
        ({"question": "What?", "image": URLS[0], "images": URLS[:1]}, 422, "images", "one image or a list"),
        ({"question": "What?", "images": URLS[:9]}, 422, "images", "9 images; up to 8 are accepted"),
        (
            {"question": "<image><image><image> a", "images": URLS[:2]},
            422,
            "question",
            "3 <image> markers for 2 images",
        ),
        ({"question": "What?", "images": [URLS[0], "cat.png"]}, 422, "images", "images.1 is neither a data URL"),
        (
            {"question": "What?", "images": [URLS[0], data_url(b"x")]},
            415,
            "images",
            "images.1 is not a file of an accepted format; JPEG",
        ),
        (
            {"question": "What?", "image": data_url(AVIF, "image/avif")},
            415,
            "image",
            "image is an AVIF image; JPEG, PNG",
        ),
        (
            {"question": "What?", "image": data_url(b"P6 1 1 255 abc")},  # PPM
            415,
            "image",
            "image is not a file of an accepted format; JPEG, PNG, WebP, GIF and BMP are accepted",
        ),
        ({"question": "What?", "image": data_url(MP4)}, 415, "image", "image is an MP4 video; JPEG, PNG"),
        ({"question": "What?", "video": 5}, 422, "video", "a data URL, an https URL, or a list of frames"),
        ({"question": "What?", "video": []}, 422, "video", "a list of frames"),
        ({"question": "What?", "video": "clip.mp4"}, 422, "video", "data:video/"),
        ({"question": "What?", "video": data_url(MP4)}, 415, "video", "MP4, WebM, MKV, AVI, MOV and GIF"),
        (
            {"question": "What?", "video": data_url(b"hello", "video/mp4")},
            415,
            "video",
            "video is not a file of an accepted format; MP4",
        ),
        ({"question": "What?", "video": data_url(MP4, "image/gif")}, 422, "video", "family llava takes no videos"),
        (
            {"question": "What?", "video": [URLS[0], CLIP]},
            415,
            "video",
            "video.1 is a data URL of the media type video/",
        ),
        ({"question": "What?", "video": URLS[:1] * 65}, 422, "video", "65 frames of a video; up to 64"),
        (FRAMES, 422, "video", "family llava takes no videos; images are accepted"),
        ({**FRAMES, "num_frames": 4}, 422, "num_frames", "goes with a video file"),
        ({"question": "What?", "video": CLIP, "num_frames": 65}, 422, "num_frames", "up to 64 are accepted"),
        ({"question": "What?", "video": CLIP, "num_frames": 0}, 422, "num_frames", "at least 1 is accepted"),
        ({**ask(), "video_budget": "whole"}, 422, "video_budget", "goes with a video; this request has none"),
        ({**FRAMES, "video_budget": "half"}, 422, "video_budget", "'per_frame' or 'whole'"),
        ({"question": "What?", "video": CLIP, "seconds_per_frame": 1}, 422, "seconds_per_frame", "a list of frames"),
        ({"messages": []}, 422, "messages", "1 or more entries"),
        ({"messages": "hello"}, 422, "messages", "a list is accepted"),
        ({**TURN, "question": "What?"}, 422, "question", "beside messages"),
        ({**TURN, "image": URLS[0]}, 422, "image", "beside messages"),
        ({"messages": [user(text("What?"))]}, 422, "messages", "no image and no video"),
        ({"messages": [user(image(0))]}, 422, "messages", "the last user turn has no text"),
        ({"messages": HISTORY[:3]}, 422, "messages", "the last one is not the user's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 422, "messages", "'system', 'user' or 'assistant'"),
        ({"messages": [user(text("x" * 8001), image(0))]}, 422, "messages", "last user turn has 8,001 characters"),
        (
            {"messages": [user(text("x" * 8000), image(0))] * 5},
            422,
            "messages",
            "40,000 characters; up to 32,000 are accepted",
        ),
        ({"messages": [user({"type": "audio"})]}, 422, "messages", "'text', 'image_url', 'video_url'"),
        ({"messages": [user({**text("a"), "b": 1})]}, 422, "messages.0.content.0.b", "accepted are role"),
        ({"messages": [user({})]}, 422, "messages", "messages.0.content.0: parts of the types 'text', 'image_url'"),
        ({"messages": [user({"type": ["text"]})]}, 422, "messages", "messages.0.content.0: parts of the types 'text'"),
        ({"messages": [user("a")]}, 422, "messages", "messages.0.content.0: an object is accepted"),
        ({"messages": ["a"]}, 422, "messages", "messages.0: an object is accepted"),
        ({"messages": [{"role": "user"}]}, 422, "messages", "messages.0.content: the field is missing"),
        (
            {"messages": [{**user(text("a")), "name": "x"}]},
            422,
            "messages.0.name",
            "no field 'messages.0.name'; accepted",
        ),
        ({"messages": [user(text(5))]}, 422, "messages", "messages.0.content.0.text: a text is accepted"),
        ({"messages": [user({"type": "text"})]}, 422, "messages", "messages.0.content.0.text: the field is missing"),
        ({"messages": [user(url_part(URLS[0]))]}, 422, "messages", "messages.0.content.0.image_url: an object is"),
        (
            {"messages": [user(url_part({}))]},
            422,
            "messages",
            "messages.0.content.0.image_url.url: the field",
        ),
        (
            {"messages": [user(text("a"), url_part({"url": URLS[0], "detail": "full"}))]},
            422,
            "messages",
            "messages.0.content.1.image_url.detail: accepted: 'auto', 'low', 'high' or 'original'",
        ),
        (
            {"messages": [user(url_part({"url": URLS[0], "image_url": 1}))]},
            422,
            "messages.0.content.0.image_url.image_url",
            'accepted are role (system, user or assistant) and content: a text, or parts {"type": "text", "text"}',
        ),
        (
            {"messages": [user({"type": "video_url", "video_url": {"url": 5}})]},
            422,
            "messages",
            "messages.0.content.0.video_url.url: a text is accepted",
        ),
        ({"question": "What?", "image": URLS[0], "stop": ""}, 422, "stop", "stop: a text of 1 or more characters"),
        ({"question": "What?", "image": URLS[0], "stop": ["a", ""]}, 422, "stop", "stop.1: a text of 1 or more"),
        ({"question": "What?", "image": URLS[0], "llm_pruner": "x"}, 422, "llm_pruner", "llm_pruner: an object is"),
        ({"question": "What?", "image": URLS[0], "": 1}, 422, "", "there is no field ''; accepted are question"),
        ({"messages": [user(text("a"), image(0))] * 9}, 422, "messages", "9 images; up to 8"),
        ({"messages": [user(*[video()] * 9, text("What?"))]}, 422, "messages", "9 videos; up to 8 are accepted"),
        ({"messages": [user(video(), text("What?"))]}, 422, "messages", "family llava takes no videos"),
        (
            {"messages": [{"role": "assistant", "content": [image(0)]}, user(text("What?"))]},
            422,
            "messages",
            "messages.0.content.0: images and videos are accepted in user turns only",
        ),
        (
            {"messages": [user({"type": "image_url", "image_url": {"url": data_url(b"x")}}, text("What?"))]},
            415,
            "messages",
            "messages.0.content.0 is not a file of an accepted format",
        ),
    ],
)
async def test_what_is_refused(gateway: Gateway, body: dict[str, Any], status: int, param: str, message: str) -> None:
    error = await gateway.refused(status, body)
    assert error["param"] == param
    assert message in error["message"]
    assert len(error["message"]) < 500
    assert not gateway.encoder.calls


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ([("image", ("a.png", png())), ("images", ("b.png", png()))], "one image or a list"),
        ([("video", ("a.mp4", MP4)), ("video", ("b.mp4", MP4))], "video was given 2 times"),
        ([("video", ("a.mp4", MP4)), ("video", (None, CLIP))], "given twice"),
        ([("images", (f"{i}.png", png())) for i in range(9)], "9 images; up to 8"),
        ([("question", (None, "b")), ("image", ("a.png", png()))], "2 times"),
    ],
)
async def test_forms_that_are_refused(gateway: Gateway, form: list[Any], message: str) -> None:
    response = await gateway.http.post("/v1/answer", files=[("question", (None, "What?")), *form])
    assert response.status_code == 422, response.text
    assert message in response.json()["error"]["message"]


async def test_the_models_limits_on_media_are_enforced(video_gateway: Gateway) -> None:
    video_gateway.encoder.info.max_images = 2
    video_gateway.encoder.info.max_frames = 4
    error = await video_gateway.refused(422, {"question": "What?", "images": URLS[:3]})
    assert (error["param"], "takes up to 2 in one question" in error["message"]) == ("images", True)
    error = await video_gateway.refused(422, {"messages": [user(video(), video(), text("What?"))]})
    assert (error["param"], "2 videos" in error["message"]) == ("messages", True)
    error = await video_gateway.refused(422, {"question": "What?", "video": URLS[:5]})
    assert (error["param"], "takes up to 4" in error["message"]) == ("video", True)


async def test_all_files_of_a_request_share_one_limit(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_body_bytes=1000, max_image_bytes=900)
    big = [data_url(png(shade) + bytes(600)) for shade in range(2)]
    response = await gateway.http.post("/v1/answer", json={"question": "What?", "images": big[:1]})
    assert response.status_code == 200, response.text
    # Fetched files are not part of the body, so their total is limited separately.
    media_loader = gateway.app.state.gateway.media_loader
    with pytest.raises(TooLarge, match="more than the 1,000 bytes accepted for all"):
        await media_loader.load(
            MediaInputs([MediaInput(f"images.{i}", url) for i, url in enumerate(big)]), deadline=math.inf
        )


async def test_errors_of_services_name_the_fields_of_the_request(gateway: Gateway) -> None:
    gateway.encoder.error = TooLarge("too many pixels", param="images")
    assert (await gateway.refused(413, {"question": "What?", "images": URLS[:2]}))["param"] == "images"
    assert (await gateway.refused(413, {"messages": HISTORY}))["param"] == "messages"


async def test_newline_tokens_count_in_the_length_of_the_prompt(gateway: Gateway) -> None:
    gateway.encoder.reply = encoder_pb2.EncodeResponse(num_tokens_total=[3], features_cached=[False])
    gateway.encoder.reply.visual_tokens.add(
        features=features_of(b"", [], 3, tensor_pb2.DTYPE_FLOAT16),
        positions=[0, 1, 2],
        grid=tensor_pb2.Grid(frames=1, rows=1, columns=3),
        newline_after=[0, 1, 2],
        fingerprint="aaaa",
    )
    await gateway.answer()
    prompt = len(gateway.llm.calls[-1].input_ids) - 1 + 6
    gateway.llm.info.max_model_len = prompt + 1
    gateway.app.state.gateway.llm.invalidate_info()
    assert (await gateway.answer(cache="bypass"))["finish_reason"] == "stop"
    gateway.llm.info.max_model_len = prompt
    gateway.app.state.gateway.llm.invalidate_info()
    error = await gateway.refused(422, cache="bypass")
    assert f"the prompt has {prompt} tokens" in error["message"]


async def test_ready_means_that_video_tokens_agree(video_gateway: Gateway) -> None:
    assert (await video_gateway.http.get("/readyz")).status_code == 200
    video_gateway.llm.info.video_token_id += 1
    video_gateway.app.state.gateway.llm.invalidate_info()
    response = await video_gateway.http.get("/readyz")
    assert "tokenizes for another checkpoint" in response.json()["checks"]["fingerprints"]


async def test_a_missing_text_tower_is_reported(video_gateway: Gateway) -> None:
    video_gateway.encoder.info.text_tokenizer = encoder_pb2.TEXT_TOKENIZER_TEXT_TOWER
    video_gateway.app.state.gateway.encoder.invalidate_info()
    response = await video_gateway.http.get("/readyz")
    assert "through a text tower" in response.json()["checks"]["fingerprints"]
    error = await video_gateway.refused(502)
    assert "was started without one" in error["message"]
