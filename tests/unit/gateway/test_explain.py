"""`POST /v1/explain`: drawings, calls to the services, errors."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from fovea.errors import Unavailable
from fovea.v1 import encoder_pb2, tensor_pb2
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, data_url, png
from tests.unit.gateway.services import features_of

URLS = [data_url(png(shade)) for shade in (0, 128, 255)]
CLIP = data_url(b"\x00\x00\x00\x18ftypisom" + bytes(20), "video/mp4")


async def post(gateway: Gateway, **fields: Any) -> httpx.Response:
    return await gateway.http.post("/v1/explain", json=ask(**fields))


async def numbers(gateway: Gateway, **fields: Any) -> dict[str, Any]:
    response = await post(gateway, format="json", **fields)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def refused(gateway: Gateway, status: int, body: Any = None, **fields: Any) -> dict[str, Any]:
    response = await gateway.http.post("/v1/explain", json=ask(**fields) if body is None else body)
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    assert set(response.json()) == {"error"}
    return dict(response.json()["error"])


def sheet(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(response.content))
    assert image.format == "PNG"
    return image.convert("RGB")


async def test_it_draws_without_the_language_model(gateway: Gateway) -> None:
    await gateway.servers["llm"].grpc.stop(0)
    image = sheet(await post(gateway))
    assert image.width > image.height
    assert gateway.llm.calls == []
    (call,) = gateway.encoder.calls
    assert call.explain
    assert call.pruner == "desap"
    assert call.keep_ratio == 0.5


async def test_the_numbers_are_those_of_the_encoder(gateway: Gateway) -> None:
    assert await numbers(gateway, pruner_params={"beta": 0.25}, keep_tokens=3) == {
        "model": "tiny-llava",
        "usage": {"visual_tokens_total": 6, "visual_tokens_kept": 3},
        "explain": {
            "pruner": "desap",
            "grid": [2, 3],
            "kept": [0, 1, 2],
            "viewed": [-0.25, 0.0, 1.25, 1.0],
            "task_map": [[0.5] * 3] * 2,
            "saliency_map": [[0.25] * 3] * 2,
            "merged_into": [[0, 1, 2], [0, 1, -1]],
        },
    }
    (call,) = gateway.encoder.calls
    assert dict(call.pruner_params) == {"beta": 0.25}
    assert call.keep_tokens == 3


async def test_the_drawing_depends_on_image_and_question(gateway: Gateway) -> None:
    """The content of a panel is tested with the figures; this test compares drawings of other inputs."""
    one, other, longer = [
        np.asarray(sheet(await post(gateway, question=question, shade=shade)))
        for question, shade in (("Is it?", 0), ("Is it?", 255), ("Is it so?", 0))
    ]
    assert (one[-200:-60] != other[-200:-60]).any()
    assert (one[:40] == other[:40]).all()
    assert (one[:40] != longer[:40]).any()
    assert (one[60:] == longer[60:]).all()


async def test_maps_ask_for_both_similarities_and_for_the_attention_to_all_tokens(gateway: Gateway) -> None:
    response = await numbers(gateway, maps=True, cross_attention_layer=3, pruner_params={"beta": 0.25})
    assert {name: np.shape(rows) for name, rows in response["maps"].items()} == dict.fromkeys(
        ("cls_attention", "cross_attention", "vanilla_similarity", "decoupled_similarity"), (2, 3)
    )
    assert response["maps"]["cross_attention"][1] == pytest.approx([0.03, 0.04, 0.05])
    assert [(call.pruner, dict(call.pruner_params)) for call in gateway.encoder.calls] == [
        ("desap", {"beta": 0.25}),
        ("desap", {"beta": 0.25, "similarity": "vanilla"}),
        ("desap", {"beta": 0.25, "similarity": "decoupled"}),
        ("none", {}),
    ]
    (generate,) = gateway.llm.calls
    assert generate.cross_attention.layer == 3
    assert generate.sampling.max_tokens == 1
    assert len(generate.visual_tokens[0].positions) == 6


@pytest.mark.parametrize("budget", [{"keep_tokens": 3}, {"keep_ratio": 0.5}])
async def test_the_budget_of_a_request_is_not_that_of_the_unpruned_map(
    gateway: Gateway, budget: dict[str, Any]
) -> None:
    await numbers(gateway, maps=True, **budget)
    *pruned, unpruned = gateway.encoder.calls
    assert [getattr(call, name) for call in pruned for name in budget] == list(budget.values()) * 3
    assert unpruned.pruner == "none"


async def test_maps_use_desap_with_any_pruner(gateway: Gateway) -> None:
    image = sheet(await post(gateway, maps=True, pruner="none"))
    assert [dict(call.pruner_params) for call in gateway.encoder.calls[1:]] == [
        {"similarity": "vanilla"},
        {"similarity": "decoupled"},
        {},
    ]
    assert not gateway.llm.calls[0].cross_attention.HasField("layer")
    assert image.width > 4 * image.height / 2


async def explain_images(gateway: Gateway, status: int = 200, **fields: Any) -> httpx.Response:
    """The response about several images."""
    response = await gateway.http.post("/v1/explain", json={"question": "Which is red?", **fields})
    assert response.status_code == status, response.text
    return response


async def test_several_images_are_explained_and_drawn_one_below_the_other(gateway: Gateway) -> None:
    response = (await explain_images(gateway, images=URLS[:2], format="json")).json()
    assert response["usage"] == {"visual_tokens_total": 12, "visual_tokens_kept": 6}
    (image, _) = response["explain"]["visuals"]
    assert image == {
        "kind": "image",
        "grid": [1, 2, 3],
        "kept": [0, 1, 2],
        "viewed": [-0.25, 0.0, 1.25, 1.0],
        "task_map": [[[0.5] * 3] * 2],
        "saliency_map": [[[0.25] * 3] * 2],
        "merged_into": [[[0, 1, 2], [0, 1, -1]]],
    }
    one, two, other = [
        np.asarray(sheet(await explain_images(gateway, images=urls)))
        for urls in ([URLS[0]], URLS[:2], [URLS[0], URLS[2]])
    ]
    assert len(two) > 1.5 * len(one)
    assert (two[:200] == other[:200]).all()
    assert (two[-200:-60] != other[-200:-60]).any()


async def test_a_history_is_explained_for_its_last_question(gateway: Gateway) -> None:
    def turn(url: str, text: str) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        return {"role": "user", "content": parts}

    history = [turn(URLS[0], "And this?"), {"role": "assistant", "content": "Red."}, turn(URLS[1], "Is it red?")]
    response = await gateway.http.post("/v1/explain", json={"messages": history})
    plain = await explain_images(gateway, images=URLS[:2], question="Is it red?")
    assert (np.asarray(sheet(response)) == np.asarray(sheet(plain))).all()
    assert len(gateway.encoder.calls) == 1  # the same images and the same text
    history[0]["content"][0]["image_url"]["url"] = data_url(png()[:20])
    assert (await refused(gateway, 415, body={"messages": history}))["param"] == "messages"


async def test_maps_are_refused_for_several_images(gateway: Gateway) -> None:
    error = (await explain_images(gateway, 422, images=URLS[:2], maps=True)).json()["error"]
    assert error["param"] == "maps"
    assert "2 images" in error["message"]


async def test_a_tiled_image_is_explained_in_numbers_and_not_drawn(gateway: Gateway) -> None:
    total, kept = 18, list(range(9))
    reply = encoder_pb2.EncodeResponse(pruner="desap", num_tokens_total=[total])
    reply.visual_tokens.add(
        features=features_of(b"tiles", [], len(kept), tensor_pb2.DTYPE_FLOAT16),
        positions=kept,
        grid=tensor_pb2.Grid(frames=3, rows=2, columns=3),
        fingerprint=gateway.encoder.info.fingerprint,
    )
    reply.explanations.add(task_map=[0.5] * total)
    gateway.encoder.reply = reply
    (image,) = (await numbers(gateway))["explain"]["visuals"]
    assert image["grid"] == [3, 2, 3]
    assert np.shape(image["task_map"]) == (3, 2, 3)
    for fields, param in (({}, "format"), ({"maps": True}, "maps"), ({"maps": True, "format": "json"}, "maps")):
        error = await refused(gateway, 422, **fields)
        assert error["param"] == param
        assert "tiles" in error["message"]
    assert gateway.llm.calls == []


async def test_errors_name_the_field_of_this_request(gateway: Gateway) -> None:
    broken = data_url(png()[:20])  # the scripted encoder does not decode; the renderer does
    response = await explain_images(gateway, 415, images=[URLS[0], broken])
    assert response.json()["error"]["param"] == "images"


async def test_a_form_with_an_uploaded_image_is_taken(gateway: Gateway) -> None:
    fields = {"question": "Is it?", "format": "json", "maps": "true", "pruner_params": json.dumps({"beta": 0.25})}
    response = await gateway.http.post("/v1/explain", data=fields, files={"image": png()})
    assert response.status_code == 200, response.text
    assert "maps" in response.json()


async def test_the_visual_token_cache_is_shared_with_explained_answers(gateway: Gateway) -> None:
    await gateway.answer(explain=True)
    assert (await numbers(gateway))["usage"]["visual_tokens_kept"] == 3
    assert len(gateway.encoder.calls) == 1
    await numbers(gateway, cache="bypass")
    assert len(gateway.encoder.calls) == 2


@pytest.mark.parametrize(
    ("fields", "status", "param", "text"),
    [
        ({"question": ""}, 422, "question", "at least one character"),
        ({"question": "<image> <image> two?"}, 422, "question", "2 <image> markers for 1 image"),
        ({"image": data_url(b"no image")}, 415, "image", "not a file of an accepted format"),
        ({"image": "data:image/png;base64,???"}, 400, "image", "base64"),
        ({"pruner": "sharpest"}, 404, "pruner", "accepted: none, desap"),
        ({"pruner": "none", "keep_ratio": 0.2}, 422, "keep_ratio", "takes no budget"),
        ({"model": "other"}, 404, "model", "tiny-llava"),
        ({"keep_tokens": 3, "keep_ratio": 0.5}, 422, "keep_ratio", "at most one"),
        ({"keep_ratio": 1.5}, 422, "keep_ratio", "at most 1 is accepted"),
        ({"format": "gif"}, 422, "format", "'png' or 'json'"),
        ({"cross_attention_layer": -1}, 422, "cross_attention_layer", "at least 0 is accepted"),
        ({"max_tokens": 5}, 422, "max_tokens", "accepted are question, image"),
        ({"stream": True}, 422, "stream", "there is no field"),
        ({"timeout_s": 10_000}, 422, "timeout_s", "up to 600"),
        ({"images": [data_url(png())]}, 422, "images", "image and images were both given"),
        ({"video": CLIP}, 422, "format", "videos are not drawn; format json"),
        ({"video": CLIP, "format": "json"}, 422, "video", "takes no videos"),
    ],
)
async def test_invalid_fields_are_refused(
    gateway: Gateway, fields: dict[str, Any], status: int, param: str, text: str
) -> None:
    error = await refused(gateway, status, body={**ask(), **fields})
    assert error["param"] == param
    assert text in error["message"]


@pytest.mark.parametrize("missing", ["question", "image"])
async def test_question_and_image_are_needed(gateway: Gateway, missing: str) -> None:
    error = await refused(gateway, 422, body={name: value for name, value in ask().items() if name != missing})
    assert error["param"] == missing


async def test_a_truncated_image_is_refused(gateway: Gateway) -> None:
    """The gateway reads its header; the scripted encoder does not decode the image, but the renderer does."""
    for size in (20, 45):
        error = await refused(gateway, 415, body={**ask(), "image": data_url(png()[:size])})
        assert error["param"] == "image"


async def test_an_image_with_too_many_pixels_is_refused_before_it_travels(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_image_pixels=99)
    file = io.BytesIO()
    Image.new("RGB", (10, 10)).save(file, "PNG")
    body = {**ask(), "image": data_url(file.getvalue())}
    assert "at most 99" in (await refused(gateway, 413, body=body))["message"]
    assert "at most 99" in (await refused(gateway, 413, body={**body, "format": "json"}))["message"]
    assert not gateway.encoder.calls


async def test_without_desap_there_are_no_maps(gateway: Gateway) -> None:
    del gateway.encoder.info.pruners[1]
    gateway.encoder.info.default_pruner = "none"
    error = await refused(gateway, 422, maps=True)
    assert error["param"] == "maps"
    assert "'desap'" in error["message"]
    assert (await post(gateway)).status_code == 200


async def test_a_language_model_that_reports_no_attention_has_no_maps(gateway: Gateway) -> None:
    del gateway.llm.info.llm_pruner_infos[:]
    error = await refused(gateway, 422, maps=True)
    assert (error["param"], "attention of the language model" in error["message"]) == ("maps", True)
    assert (await post(gateway)).status_code == 200


async def test_maps_need_the_language_model(gateway: Gateway) -> None:
    gateway.llm.error = Unavailable("draining", retry_after_s=2.0)
    response = await post(gateway, maps=True)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"


async def test_missing_attention_is_a_502(gateway: Gateway) -> None:
    gateway.llm.no_attention = True
    assert (await refused(gateway, 502, maps=True))["code"] == "internal_error"


async def test_the_limit_on_concurrent_requests_is_shared_with_answers(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_concurrent_requests=1)
    gateway.encoder.gate.shut()
    first = asyncio.create_task(post(gateway))
    await gateway.encoder.gate.reached.wait()
    assert (await refused(gateway, 429))["code"] == "overloaded"
    await gateway.refused(429)
    gateway.encoder.gate.open()
    assert (await first).status_code == 200
    assert (await post(gateway)).status_code == 200


async def test_the_deadline_holds(gateway: Gateway) -> None:
    gateway.encoder.gate.shut()
    assert (await refused(gateway, 504, timeout_s=0.2))["param"] == "timeout_s"


async def test_openapi_describes_explain(gateway: Gateway) -> None:
    paths = (await gateway.http.get("/openapi.json")).json()["paths"]
    described = paths["/v1/explain"]["post"]
    fields = described["requestBody"]["content"]["application/json"]["schema"]
    assert {"question", "image", "pruner", "keep_tokens", "maps", "format"} <= set(fields["properties"])
    assert {"required": ["question", "image"]} in fields["anyOf"]
    assert {"required": ["messages"]} in fields["anyOf"]
    form = described["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert form["images"]["items"]["format"] == "binary"
    assert set(described["responses"]["200"]["content"]) == {"image/png", "application/json"}
    assert {"400", "404", "413", "415", "422", "429", "503", "504"} <= set(described["responses"])
    answer = paths["/v1/answer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"question", "image", "max_tokens", "llm_pruner"} <= set(answer["properties"])
