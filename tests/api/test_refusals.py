"""Every refusal has its status and code, and leaves the service as it was."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from live_server import LiveServer
from pictures import animated, encode, id_png, npy, png_bomb, webp_bomb
from tiny_bundle import id_images

PNG = {"Content-Type": "image/png"}
NPY = {"Content-Type": "application/x-npy"}
JSON = {"Content-Type": "application/json"}


def image(content: bytes, **more: Any) -> dict[str, Any]:
    return {"content": content, "headers": PNG, **more}


def array(content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": NPY}


def text_json(content: str) -> dict[str, Any]:
    return {"content": content.encode(), "headers": JSON}


def base64_json(data: str, **more: Any) -> dict[str, Any]:
    return {"json": {"inputs": [{"image": data}], **more}}


GOOD = base64.b64encode(id_png()).decode()
ONE = id_images(1, 1)
NOT_JSON = '{"inputs": ['
TWO_KEYS = json.dumps({"inputs": [{"image": GOOD, "text": "x"}]})
TYPE_REFUSED = "content_type_unsupported"
BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}

REFUSALS: dict[str, tuple[dict[str, Any], int, str]] = {
    "png, header cut": (image(id_png()[:20]), 422, "image_unreadable"),
    "png, body cut": (image(id_png()[:-25]), 422, "image_unreadable"),
    "jpeg, body cut": (image(encode(ONE[0], "JPEG")[:-20]), 422, "image_unreadable"),
    "no image at all": (image(b"hello"), 422, "image_unreadable"),
    "svg": (image(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 422, "image_unreadable"),
    "tiff": (image(encode(ONE[0], "TIFF")), 422, "image_unreadable"),
    "png bomb": (image(png_bomb(50_000, 50_000)), 413, "image_too_many_pixels"),
    "webp bomb": (image(webp_bomb()), 413, "image_too_many_pixels"),
    "animated gif": (image(animated("GIF")), 422, "image_animated"),
    "animated png": (image(animated("PNG")), 422, "image_animated"),
    "animated webp": (image(animated("WEBP")), 422, "image_animated"),
    "empty body": (image(b""), 400, "no_inputs"),
    "image too large": (image(bytes(21 * 2**20)), 413, "image_too_large"),
    "body too large": (image(bytes(33 * 2**20)), 413, "body_too_large"),
    "svg type": (
        {"content": b"x", "headers": {"Content-Type": "image/svg+xml"}},
        415,
        TYPE_REFUSED,
    ),
    "nothing at all": ({}, 400, "no_inputs"),
    "compressed": (
        {"content": gzip.compress(id_png()), "headers": PNG | {"Content-Encoding": "gzip"}},
        415,
        "content_encoding_unsupported",
    ),
    "no type": ({"content": id_png()}, 415, TYPE_REFUSED),
    "form type": ({"data": {"a": "b"}}, 415, TYPE_REFUSED),
    "text to an image model": (
        {"json": {"model": "tiny", "inputs": [{"text": "hi"}]}},
        422,
        "wrong_modality",
    ),
    "text part to an image model": (
        {"files": [("text", (None, b"hi"))], "params": {"model": "tiny"}},
        422,
        "wrong_modality",
    ),
    "text where there is no text model": (
        {"json": {"inputs": [{"text": "hi"}]}},
        422,
        "modality_not_served",
    ),
    "image and text to no model": (
        {"json": {"inputs": [{"image": GOOD}, {"text": "hi"}]}},
        400,
        "mixed_modalities",
    ),
    "not json": (text_json(NOT_JSON), 400, "malformed_request"),
    "json, not utf-8": (
        {"content": b'{"inputs": [{"text": "\xff"}]}', "headers": JSON},
        400,
        "malformed_request",
    ),
    "json list": (text_json("[]"), 400, "malformed_request"),
    "deep json": (text_json("[" * 50_000), 400, "malformed_request"),
    "json without inputs": (text_json("{}"), 400, "malformed_request"),
    "json, no input": (text_json('{"inputs": []}'), 400, "no_inputs"),
    "json, empty item": (text_json('{"inputs": [{}]}'), 400, "malformed_request"),
    "json, a million objects": (
        text_json('{"inputs": [' + "{}," * 1_000_000 + "{}]}"),
        413,
        "json_too_long",
    ),
    "json, a million strings": (
        text_json('{"inputs": [' + '"" ' * 1_000_000 + "]}"),
        413,
        "json_too_long",
    ),
    "json, a million commas in a text": (
        base64_json("," * 1_000_000 + '"[{' * 100_000),
        422,
        "base64_invalid",
    ),
    "json, two keys": (text_json(TWO_KEYS), 400, "malformed_request"),
    "json, unknown field": (base64_json(GOOD, modle="tiny"), 400, "malformed_request"),
    "json, NaN": (text_json('{"inputs": [], "id_acceptance": NaN}'), 400, "malformed_request"),
    "bad base64": (base64_json("&&&&"), 422, "base64_invalid"),
    "base64 not ascii": (base64_json("é"), 422, "base64_invalid"),
    "unpadded base64": (base64_json("abcde"), 422, "base64_invalid"),
    "base64 of nothing": (base64_json(""), 422, "image_unreadable"),
    "text in another charset": (
        {"content": b"x", "headers": {"Content-Type": "text/plain; charset=latin-1"}},
        415,
        TYPE_REFUSED,
    ),
    "no text": ({"content": b"", "headers": {"Content-Type": "text/plain"}}, 400, "no_inputs"),
    "10,000 json inputs": (
        {"json": {"inputs": [{"text": "x"}] * 10_000}},
        413,
        "too_many_inputs",
    ),
    "300 files": ({"files": [("file", b"x")] * 300}, 413, "too_many_inputs"),
    "multipart, no boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "malformed_request",
    ),
    "multipart, cut": (
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nxx',
            "headers": BOUNDARY,
        },
        400,
        "malformed_request",
    ),
    "multipart, no part": ({"content": b"--b--\r\n", "headers": BOUNDARY}, 400, "no_inputs"),
    "multipart, nonsense": ({"content": b"xyz", "headers": BOUNDARY}, 400, "malformed_request"),
    "multipart, other part": ({"files": {"photo": id_png()}}, 400, "malformed_request"),
    "npy, empty": (array(b""), 400, "no_inputs"),
    "npy, no rows": (array(npy(ONE[:0])), 400, "no_inputs"),
    "npy, 10,000 rows": (array(npy(id_images(10_000, 1))), 413, "too_many_inputs"),
    "npy, float": (array(npy(ONE.astype(np.float32))), 422, "array_invalid"),
    "npy, objects": (
        array(npy(np.array([{}, None], dtype=object), allow_pickle=True)),
        422,
        "array_invalid",
    ),
    "npy, cut": (array(npy(ONE)[:-1]), 422, "array_invalid"),
    "npy, too long": (array(npy(ONE) + b"x"), 422, "array_invalid"),
    "npy, huge claim": (
        array(npy(ONE).replace(b"(1, 8, 8, 1)", b"(9, 9**9, 8)")),
        422,
        "array_invalid",
    ),
    "npy, True rows": (
        array(npy(ONE).replace(b"(1, 8, 8, 1), ", b"(True,8,8,1),")),
        422,
        "array_invalid",
    ),
    "npy, four channels": (array(npy(np.zeros((1, 8, 8, 4), np.uint8))), 422, "array_invalid"),
    "npy, no pixels": (array(npy(np.zeros((1, 0, 8, 1), np.uint8))), 422, "array_invalid"),
    "npy, flat": (array(npy(np.zeros(8, np.uint8))), 422, "array_invalid"),
    "npy, png bytes": (array(id_png()), 422, "array_invalid"),
    "unknown model": (image(id_png(), params={"model": "nope"}), 404, "unknown_model"),
    "unknown version": (image(id_png(), params={"version": "9"}), 404, "unknown_version"),
    "unknown detector": (image(id_png(), params={"detectors": "nope"}), 400, "unknown_detector"),
    "empty detectors": (image(id_png(), params={"detectors": ""}), 400, "unknown_detector"),
    "no detectors": (base64_json(GOOD, detectors=[]), 400, "invalid_parameter"),
    "acceptance 1": (image(id_png(), params={"id_acceptance": "1"}), 400, "invalid_parameter"),
    "acceptance nan": (image(id_png(), params={"id_acceptance": "nan"}), 400, "invalid_parameter"),
    "acceptance word": (image(id_png(), params={"id_acceptance": "x"}), 400, "invalid_parameter"),
    "acceptance too high": (
        image(id_png(), params={"id_acceptance": "0.9999"}),
        400,
        "acceptance_out_of_reach",
    ),
    "unknown parameter": (image(id_png(), params={"modle": "tiny"}), 400, "invalid_parameter"),
    "parameter repeated": (
        image(id_png(), params=[("model", "tiny"), ("model", "other")]),
        400,
        "invalid_parameter",
    ),
    "told twice": (
        {**base64_json(GOOD, model="tiny"), "params": {"model": "other"}},
        400,
        "invalid_parameter",
    ),
    "bad timeout": (
        {"content": id_png(), "headers": PNG | {"X-Request-Timeout": "soon"}},
        400,
        "invalid_parameter",
    ),
    "deadline passed": (
        {"content": id_png(), "headers": PNG | {"X-Request-Timeout": "1e-9"}},
        504,
        "deadline_passed",
    ),
}


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "request_id",
    }
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["detail"]
    assert "Traceback" not in problem["detail"]
    return problem


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_and_the_next_request_is_answered(client: httpx.Client, case: str) -> None:
    request, status, code = REFUSALS[case]
    assert_problem(client.post("/score", **request), status, code)
    after = client.post("/score", content=id_png(), headers=PNG)
    assert after.status_code == 200
    assert after.json()["results"][0]["decision"] == "ID"


def test_a_body_without_length_is_limited_while_it_is_read(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 500 * 2**20:
            sent += 2**20
            yield bytes(2**20)

    try:
        response = client.post("/score", content=endless(), headers=PNG)
    except httpx.WriteError:
        pass  # the server may close the connection before all is sent
    else:
        assert_problem(response, 413, "body_too_large")
    assert client.post("/score", content=id_png(), headers=PNG).status_code == 200


def test_acceptance_out_of_reach_names_the_limit(client: httpx.Client) -> None:
    response = client.post("/score", content=id_png(), headers=PNG, params={"id_acceptance": 0.999})
    problem = assert_problem(response, 400, "acceptance_out_of_reach")
    assert "199 calibration scores" in problem["detail"]
    assert "0.995" in problem["detail"]


LONG = "x" * 50_000


@pytest.mark.parametrize(
    "request_",
    [
        base64_json(GOOD, model=LONG),
        base64_json(GOOD, version=LONG),
        base64_json(GOOD, detectors=[LONG]),
        base64_json(GOOD, **{LONG: 1}),
        image(id_png(), params={LONG: 1}),
        {"content": id_png(), "headers": {"Content-Type": LONG}},
        {"content": id_png(), "headers": PNG | {"Content-Encoding": LONG}},
        {"content": id_png(), "headers": PNG | {"X-Request-Timeout": LONG}},
    ],
)
def test_a_refusal_repeats_only_the_beginning_of_what_was_sent(
    client: httpx.Client, request_: dict[str, Any]
) -> None:
    response = client.post("/score", **request_)
    assert 400 <= response.status_code < 500
    assert "xxx" in response.json()["detail"]
    assert len(response.content) < 2000


def test_a_repeated_parameter_is_named(client: httpx.Client) -> None:
    params = [("version", "1"), ("model", "tiny"), ("version", "1")]
    problem = client.post("/score", **image(id_png(), params=params)).json()
    assert problem["detail"].startswith("version: ")


def test_no_route_and_wrong_method_are_problems(client: httpx.Client) -> None:
    assert_problem(client.get("/nope"), 404, "not_found")
    wrong = client.get("/score")
    assert_problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert_problem(client.get("/models/nope"), 404, "unknown_model")
    assert_problem(client.get("/models/tiny/7/report"), 404, "unknown_version")


def test_refusals_are_counted_by_code(server: LiveServer, client: httpx.Client) -> None:
    def count(family: str, **labels: str) -> float:
        return server.runtime.metrics.registry.get_sample_value(family, labels) or 0

    requests = count("oodscore_rejected_requests_total", reason="no_inputs")
    inputs = count("oodscore_rejected_inputs_total", code="image_unreadable")
    client.post("/score", content=b"", headers=PNG)
    client.post("/score", files=[("file", b"x"), ("file", id_png())])
    assert count("oodscore_rejected_requests_total", reason="no_inputs") == requests + 1
    assert count("oodscore_rejected_inputs_total", code="image_unreadable") == inputs + 1


def test_an_open_file_like_error_stays_out_of_the_answer(client: httpx.Client) -> None:
    """The message is about the image, not about objects of the process."""
    problem = client.post("/score", **image(id_png()[:20])).json()
    assert "0x" not in problem["detail"]
