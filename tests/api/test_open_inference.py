"""The official client of the Open Inference Protocol, and the wire as the protocol describes it."""

import asyncio
import base64
import gzip
import json
import struct
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from live_server import LiveServer, live_server
from numpy.typing import NDArray
from pictures import encode, npy, ood_png, png_bomb
from tiny_bundle import FORWARD_DETECTORS, id_images, ood_images, publish_tiny_bundle
from tiny_text_bundle import id_texts, ood_texts, publish_tiny_text_bundle
from tritonclient.utils import InferenceServerException

from service.api_keys import entry_of, new_secret, parse_entries

DTYPES = {"BYTES": np.object_, "INT64": np.int64, "FP32": np.float32, "FP64": np.float64}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    """tiny/1, tiny/2 and other/1 (with odin) read images, words/1 texts."""
    models = tmp_path_factory.mktemp("v2")
    publish_tiny_bundle(models, "tiny", "1", seed=1)
    publish_tiny_bundle(models, "tiny", "2", seed=2)
    publish_tiny_bundle(models, "other", "1", seed=3, gradient=True)
    publish_tiny_text_bundle(models, "words", "1")
    with live_server(models, default_image_model="tiny", max_inputs=40) as running:
        yield running


@pytest.fixture
def client(served: LiveServer) -> Generator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
        yield client


def pixels_input(images: NDArray[np.uint8], *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("pixels", list(images.shape), "UINT8")
    return tensor.set_data_from_numpy(images, binary_data=binary)


def bytes_input(name: str, elements: list[bytes], *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, [len(elements)], "BYTES")
    return tensor.set_data_from_numpy(np.array(elements, np.object_), binary_data=binary)


def score(served: LiveServer, content: bytes, kind: str, **parameters: Any) -> list[Any]:
    """What POST /score says."""
    response = served.client.post(
        "/score", content=content, headers={"Content-Type": kind}, params=parameters
    )
    assert response.status_code == 200, response.text
    return response.json()["results"]


def rows_of(result: triton.InferResult) -> dict[str, list[Any]]:
    """Output -> values, texts decoded."""
    rows: dict[str, list[Any]] = {}
    for output in result.get_response()["outputs"]:
        values = result.as_numpy(output["name"])
        assert values.shape == tuple(output["shape"])
        assert values.dtype == DTYPES[output["datatype"]]
        texts = output["datatype"] == "BYTES"
        rows[output["name"]] = [
            (v.decode() if isinstance(v, bytes) else v) if texts else v.item() for v in values
        ]
    return rows


def assert_same(rows: dict[str, list[Any]], results: list[Any]) -> None:
    """Every number to the bit."""
    for index, result in enumerate(results):
        for name in ("decision", "label", "label_index", "confidence", "detector", "p_value"):
            assert rows[name][index] == result[name]
        assert rows["score"][index] == result["score"]
        for detector, verdict in result["detectors"].items():
            for kind in ("score", "threshold", "p_value", "decision"):
                assert rows[f"{kind}/{detector}"][index] == verdict[kind]


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "9")
    assert not client.is_model_ready("nope")
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("oodscore", ["binary_tensor_data"])
    model = client.get_model_metadata("other")
    assert (model["name"], model["versions"]) == ("other", ["1"])
    assert [(i["name"], i["datatype"], i["shape"]) for i in model["inputs"]] == [
        ("pixels", "UINT8", [-1, -1, -1, -1]),
        ("images", "BYTES", [-1]),
    ]
    outputs = {o["name"]: o["datatype"] for o in model["outputs"]}
    assert outputs["score/odin"] == outputs["score"] == "FP32"
    assert outputs["error"] == outputs["label"] == "BYTES"
    words = client.get_model_metadata("words", "1")
    assert [i["name"] for i in words["inputs"]] == ["texts"]
    assert {"truncated": "BOOL"}.items() <= {
        o["name"]: o["datatype"] for o in words["outputs"]
    }.items()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("version", ["", "1"])
def test_pixels_as_post_score_answers(
    served: LiveServer, client: triton.InferenceServerClient, binary: bool, version: str
) -> None:
    images = np.concatenate([id_images(5, 1), ood_images(3, 2)])
    result = client.infer(
        "tiny", [pixels_input(images, binary=binary)], model_version=version, request_id="me"
    )
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == ("tiny", version or "2")
    assert response["id"] == "me"
    named = {"version": version} if version else {}
    expected = score(served, npy(images), "application/x-npy", model="tiny", **named)
    rows = rows_of(result)
    assert_same(rows, expected)
    assert {name.partition("/")[2] for name in rows} == {"", *FORWARD_DETECTORS}


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_in_json_and_behind_it(
    served: LiveServer, client: triton.InferenceServerClient, binary: bool
) -> None:
    images = ood_images(4, 3)
    names = ["decision", "score", "p_value", "score/energy", "label_index"]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer("tiny", [pixels_input(images)], outputs=outputs)
    rows = rows_of(result)
    assert list(rows) == names
    sizes = ["parameters" in output for output in result.get_response()["outputs"]]
    assert sizes == [binary] * 5
    for index, row in enumerate(score(served, npy(images), "application/x-npy", model="tiny")):
        assert rows["score/energy"][index] == row["detectors"]["energy"]["score"]
        assert rows["score"][index] == row["score"]
        assert rows["p_value"][index] == row["p_value"]


def test_encoded_images(served: LiveServer, client: triton.InferenceServerClient) -> None:
    files = [encode(image) for image in id_images(3, 4)] + [ood_png()]
    binary = rows_of(client.infer("tiny", [bytes_input("images", files)]))
    in_json = bytes_input("images", [base64.b64encode(file) for file in files], binary=False)
    assert rows_of(client.infer("tiny", [in_json])) == binary
    assert_same(binary, [score(served, f, "image/png", model="tiny")[0] for f in files])


def test_texts(served: LiveServer, client: triton.InferenceServerClient) -> None:
    texts = [*id_texts(4, 1), *ood_texts(2, 2), "rain " * 20]
    encoded = [text.encode() for text in texts]
    for binary in (True, False):
        result = client.infer("words", [bytes_input("texts", encoded, binary=binary)])
        body = json.dumps({"inputs": [{"text": text} for text in texts]}).encode()
        expected = score(served, body, "application/json", model="words")
        assert result.as_numpy("truncated").tolist() == [r["truncated"] for r in expected]
        assert result.as_numpy("score").tolist() == [r["score"] for r in expected]
        decisions = [decision.decode() for decision in result.as_numpy("decision")]
        assert decisions == [r["decision"] for r in expected]


def test_parameters_and_detectors_on_demand(
    served: LiveServer, client: triton.InferenceServerClient
) -> None:
    images = id_images(6, 5)
    asked = {"detectors": "odin, energy", "id_acceptance": 0.6}
    result = client.infer("other", [pixels_input(images)], parameters=asked)
    expected = score(
        served,
        npy(images),
        "application/x-npy",
        model="other",
        detectors="odin,energy",
        id_acceptance=0.6,
    )
    assert_same(rows_of(result), expected)
    assert set(result.as_numpy("detector").tolist()) == {b"odin"}
    by_output = client.infer(
        "other", [pixels_input(images)], outputs=[triton.InferRequestedOutput("score/odin")]
    )
    assert by_output.as_numpy("score/odin").tolist() == [
        row["detectors"]["odin"]["score"] for row in expected
    ]


def test_compressed_requests(client: triton.InferenceServerClient) -> None:
    images = ood_images(2, 6)
    plain = rows_of(client.infer("tiny", [pixels_input(images)]))
    for algorithm in ("gzip", "deflate"):
        again = client.infer(
            "tiny",
            [pixels_input(images)],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert rows_of(again) == plain


def test_several_requests_at_once(served: LiveServer) -> None:
    url = served.url.removeprefix("http://")
    with triton.InferenceServerClient(url, concurrency=4) as client:
        waiting = [client.async_infer("tiny", [pixels_input(ood_images(2, n))]) for n in range(8)]
        for number, request in enumerate(waiting):
            alone = client.infer("tiny", [pixels_input(ood_images(2, number))])
            assert rows_of(request.get_result()) == rows_of(alone)


async def infer_from_asyncio(url: str, images: NDArray[np.uint8]) -> Any:
    async with triton_aio.InferenceServerClient(url) as client:
        assert await client.is_model_ready("tiny")
        return await client.infer("tiny", [pixels_input(images)])


def test_the_client_for_asyncio(served: LiveServer, client: triton.InferenceServerClient) -> None:
    images = ood_images(40, 8)  # enough for the answer to be put together in a thread
    url = served.url.removeprefix("http://")
    result = asyncio.run(infer_from_asyncio(url, images))
    assert rows_of(result) == rows_of(client.infer("tiny", [pixels_input(images)]))


def test_a_bad_input_refuses_the_request_unless_errors_are_asked_for(
    client: triton.InferenceServerClient,
) -> None:
    files = [encode(id_images(1, 7)[0]), b"no picture", ood_png()]
    with pytest.raises(InferenceServerException, match=r"input 1: the image is none of") as caught:
        client.infer("tiny", [bytes_input("images", files)])
    assert caught.value.status() == "422"
    for binary in (True, False):
        names = ["decision", "score", "label_index", "label", "error"]
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
        rows = rows_of(client.infer("tiny", [bytes_input("images", files)], outputs=outputs))
        assert rows["error"] == ["", "image_unreadable", ""]
        assert rows["decision"] == ["ID", "", "OOD"]
        assert (rows["label_index"][1], rows["label"][1]) == (-1, "")
        assert np.isnan(rows["score"]).tolist() == [False, True, False]


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no inputs": ({"inputs": []}, 400, "malformed_request"),
    "no object": ([], 400, "malformed_request"),  # type: ignore[dict-item]
    "unknown field": ({"colour": 1}, 400, "malformed_request"),
    "another input": ({"name": "x"}, 400, "unknown_tensor"),
    "texts to an image model": ({"name": "texts"}, 400, "unknown_tensor"),
    "another datatype": ({"datatype": "FP32"}, 422, "tensor_invalid"),
    "no data": ({"data": None}, 422, "tensor_invalid"),
    "no list": ({"data": 5}, 422, "tensor_invalid"),
    "fractions": ({"data": [0.5, 1, 2, 3]}, 422, "tensor_invalid"),
    "too bright": ({"data": [0, 256, 2, 3]}, 422, "tensor_invalid"),
    "negative": ({"data": [0, -1, 2, 3]}, 422, "tensor_invalid"),
    "too large for any integer": ({"data": [0, 10**30, 2, 3]}, 422, "tensor_invalid"),
    "texts for numbers": ({"data": ["0", "1", "2", "3"]}, 422, "tensor_invalid"),
    "booleans": ({"data": [True, False, True, False]}, 422, "tensor_invalid"),
    "ragged": ({"data": [[0], [1, 2], 3]}, 422, "tensor_invalid"),
    "of another shape": ({"data": [[0, 1], [2, 3]]}, 422, "tensor_invalid"),
    "too few": ({"data": [0, 1, 2]}, 422, "tensor_invalid"),
    "empty": ({"data": []}, 422, "tensor_invalid"),
    "three dimensions": ({"shape": [2, 2, 1]}, 422, "tensor_invalid"),
    "two channels": ({"shape": [1, 2, 1, 2]}, 422, "tensor_invalid"),
    "negative size": ({"shape": [-1, 2, 2, 1]}, 400, "malformed_request"),
    "endless shape": ({"shape": [1] * 99}, 400, "malformed_request"),
    "no images": ({"shape": [0, 2, 2, 1], "data": []}, 400, "no_inputs"),
    "no pixels": ({"shape": [1, 0, 2, 1], "data": []}, 422, "tensor_invalid"),
    "too many images": ({"shape": [10**6, 2, 2, 1]}, 413, "too_many_inputs"),
    "too many pixels": ({"shape": [1, 10**6, 10**6, 1]}, 422, "tensor_invalid"),
    "unknown parameter": ({"parameters": {"x": 1}}, 400, "invalid_parameter"),
    "binary, but nothing there": (
        {"data": None, "parameters": {"binary_data_size": 4}},
        400,
        "malformed_request",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_with_a_request_is_told(served: LiveServer, name: str) -> None:
    change, status, code = REFUSED[name]
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [0, 1, 2, 3]}
    body: Any = {"inputs": [tensor]}
    if not isinstance(change, dict) or change.keys() & {"inputs", "colour"}:
        body = change if not isinstance(change, dict) else body | change
    else:
        tensor |= change
    refused(served, json.dumps(body).encode(), status, code)


REQUEST_REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown output": ({"outputs": [{"name": "x"}]}, 400, "unknown_tensor"),
    "detector of another model": ({"outputs": [{"name": "score/odin"}]}, 400, "unknown_tensor"),
    "an output twice": ({"outputs": [{"name": "score"}] * 2}, 400, "malformed_request"),
    "classification": (
        {"outputs": [{"name": "score", "parameters": {"classification": 1}}]},
        400,
        "invalid_parameter",
    ),
    "no boolean": (
        {"outputs": [{"name": "score", "parameters": {"binary_data": 1}}]},
        400,
        "invalid_parameter",
    ),
    "sequence": ({"parameters": {"sequence_id": 1}}, 400, "invalid_parameter"),
    "unknown detector": ({"parameters": {"detectors": "x"}}, 400, "unknown_detector"),
    "no acceptance": ({"parameters": {"id_acceptance": 2}}, 400, "invalid_parameter"),
    "out of reach": ({"parameters": {"id_acceptance": 0.9999}}, 400, "acceptance_out_of_reach"),
    "no time": ({"parameters": {"timeout": 0}}, 400, "invalid_parameter"),
    "time beyond any float": ({"parameters": {"timeout": 10**400}}, 400, "invalid_parameter"),
    "acceptance beyond any float": (
        {"parameters": {"id_acceptance": 10**400}},
        400,
        "invalid_parameter",
    ),
    "too little time": ({"parameters": {"timeout": 1}}, 504, "deadline_passed"),
    "id that is none": ({"id": 5}, 400, "malformed_request"),
}


@pytest.mark.parametrize("name", REQUEST_REFUSED)
def test_what_is_asked_wrongly_is_told(served: LiveServer, name: str) -> None:
    change, status, code = REQUEST_REFUSED[name]
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [0, 1, 2, 3]}
    refused(served, json.dumps({"inputs": [tensor]} | change).encode(), status, code)


def refused(
    served: LiveServer, body: bytes, status: int, code: str, model: str = "tiny", **headers: str
) -> None:
    response = served.client.post(f"/v2/models/{model}/infer", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error", "code"}
    assert response.json()["error"]


def framed(tensor: dict[str, Any], binary: bytes) -> tuple[bytes, dict[str, str]]:
    """A request with a tensor behind its JSON."""
    tensor = tensor | {"parameters": {"binary_data_size": len(binary)}}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + binary, {"Inference-Header-Content-Length": str(len(text))}


def test_binary_bytes_that_are_cut(served: LiveServer) -> None:
    tensor = {"name": "images", "datatype": "BYTES", "shape": [2]}
    whole = b"".join(struct.pack("<I", len(f)) + f for f in (ood_png(), ood_png()))
    body, headers = framed(tensor, whole)
    url = "/v2/models/tiny/infer"
    assert served.client.post(url, content=body, headers=headers).status_code == 200
    for cut in (b"", whole[:3], whole[:-1], whole + b"x", struct.pack("<I", 2**32 - 1)):
        body, headers = framed(tensor, cut)
        refused(served, body, 422, "tensor_invalid", **headers)
    for shape, status, code in (
        ([1, 2], 422, "tensor_invalid"),
        ([], 422, "tensor_invalid"),
        ([0], 400, "no_inputs"),
        ([41], 413, "too_many_inputs"),
    ):
        body, headers = framed(tensor | {"shape": shape}, whole)
        refused(served, body, status, code, **headers)
    column, headers = framed(tensor | {"shape": [2, 1]}, whole)
    assert served.client.post(url, content=column, headers=headers).status_code == 200


def test_pixels_behind_the_json_have_their_size(served: LiveServer) -> None:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [2, 8, 8, 1]}
    body, headers = framed(tensor, bytes(127))
    refused(served, body, 422, "tensor_invalid", **headers)
    body, headers = framed(tensor, bytes(128))
    refused(served, body[:-1], 400, "malformed_request", **headers)
    refused(served, body + b"x", 400, "malformed_request", **headers)
    for size in ("x", "-1", "999999", "1" * 50, "²", ""):
        head = {"Inference-Header-Content-Length": size}
        encoded = {k: v.encode("latin-1") for k, v in head.items()}
        refused(served, body, 400, "malformed_request", **encoded)  # type: ignore[arg-type]
    both = tensor | {"data": [0] * 128}
    body, headers = framed(both, bytes(128))
    refused(served, body, 422, "tensor_invalid", **headers)


def test_a_body_that_is_one_element(served: LiveServer) -> None:
    head = {"Inference-Header-Content-Length": "0"}
    for model, body, kind in (
        ("tiny", ood_png(), "image/png"),
        ("words", b"is it sunny", "text/plain"),
    ):
        response = served.client.post(f"/v2/models/{model}/infer", content=body, headers=head)
        assert response.status_code == 200
        size = int(response.headers["inference-header-content-length"])
        result = triton.InferResult.from_response_body(response.content, header_length=size)
        assert result.as_numpy("score").tolist() == [
            score(served, body, kind, model=model)[0]["score"]
        ]
    refused(served, b"", 400, "no_inputs", **head)
    refused(served, b"\xff", 422, "text_unreadable", "words", **head)


def test_limits_hold_before_memory_is_taken(served: LiveServer) -> None:
    flood = b'{"inputs": [' + b"[" * 2**20
    refused(served, flood, 413, "tensor_too_long")
    refused(served, b'{"inputs": [' + b'"" ' * 2**18, 413, "tensor_too_long")
    deep = b'{"inputs": ' + b"[" * 10_000
    refused(served, deep, 400, "malformed_request")
    bomb = gzip.compress(bytes(64 * 2**20))
    refused(served, bomb, 413, "body_too_large", **{"Content-Encoding": "gzip"})
    refused(served, b"x", 400, "malformed_request", **{"Content-Encoding": "gzip"})
    cut = zlib.compress(b"{}" * 1000)[:-3]
    refused(served, cut, 400, "malformed_request", **{"Content-Encoding": "deflate"})
    refused(served, b"x", 415, "content_encoding_unsupported", **{"Content-Encoding": "br"})
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1]}
    bytes_ = png_bomb(50_000, 50_000)
    body, headers = framed(tensor, struct.pack("<I", len(bytes_)) + bytes_)
    refused(served, body, 413, "image_too_many_pixels", **headers)


def test_errors_of_other_paths_have_the_protocols_form(served: LiveServer) -> None:
    for path, status, code in (
        ("/v2/models/nope", 404, "unknown_model"),
        ("/v2/models/tiny/versions/9", 404, "unknown_version"),
        ("/v2/models/tiny/versions/9/ready", 404, "unknown_version"),
        ("/v2/nope", 404, "not_found"),
        ("/v2/models/tiny/infer", 405, "method_not_allowed"),
    ):
        response = served.client.get(path)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert set(response.json()) == {"error", "code"}
    assert served.client.get("/v1").headers["content-type"] == "application/problem+json"


def test_not_ready_and_shutting_down(served: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.runtime, "draining", True)
    assert served.client.get("/v2/health/ready").json()["code"] == "shutting_down"
    assert served.client.get("/v2/health/live").json() == {"live": True}
    monkeypatch.setattr(served.runtime, "repository", None)
    response = served.client.get("/v2/models/tiny/ready")
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")


def test_routes_are_counted_by_template(served: LiveServer) -> None:
    for name in ("a", "b", "c"):
        served.client.get(f"/v2/models/{name}")
    value = served.runtime.metrics.registry.get_sample_value
    route = "/v2/models/{name}"
    assert (value("oodscore_requests_total", {"route": route, "status": "404"}) or 0) >= 3


def test_keys_guard_it_too(models_dir: Path) -> None:
    secret = new_secret()
    keys = parse_entries([entry_of("all", "score", secret)])
    with live_server(models_dir, default_image_model="tiny", api_keys=keys) as running:
        plain = httpx.Client(base_url=running.url, trust_env=False)
        assert plain.get("/v2/health/ready").status_code == 200
        assert plain.get("/v2/models/tiny").status_code == 401
        assert plain.post("/v2/models/tiny/infer", content=b"{}").json()["code"] == "key_missing"
        plain.close()
        with triton.InferenceServerClient(running.url.removeprefix("http://")) as client:
            head = {"X-API-Key": secret}
            result = client.infer("tiny", [pixels_input(ood_images(1, 1))], headers=head)
            assert result.as_numpy("decision").tolist() == [b"OOD"]
