"""What POST /score answers to good requests."""

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encode, id_png, npy, ood_png
from PIL import Image
from tiny_bundle import CLASSES, id_images, ood_images, reference_outputs, templates

from service.schemas import ScoreResponse

# batches may be computed in another order than single inputs
TOLERANCE = 1e-5


def score_npy(client: httpx.Client, images: NDArray[np.uint8], **params: Any) -> list[Any]:
    headers = {"Content-Type": "application/x-npy"}
    response = client.post("/score", content=npy(images), headers=headers, params=params)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def score_png(client: httpx.Client, data: bytes, **params: Any) -> Any:
    headers = {"Content-Type": "image/png"}
    response = client.post("/score", content=data, headers=headers, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def test_answer_has_exactly_the_documented_fields(client: httpx.Client) -> None:
    answer = score_png(client, id_png())
    assert answer["model"] == {"name": "tiny", "version": "2"}
    (result,) = answer["results"]
    assert set(result) == {
        "index",
        "decision",
        "label",
        "label_index",
        "confidence",
        "score",
        "p_value",
        "detector",
        "detectors",
    }
    assert set(result["detectors"]) == {"combined", "energy", "msp"}
    for entry in result["detectors"].values():
        assert set(entry) == {"score", "threshold", "p_value", "decision"}
    deciding = result["detectors"][result["detector"]]
    assert (result["score"], result["p_value"]) == (deciding["score"], deciding["p_value"])
    assert result["label"] == CLASSES[result["label_index"]]


def test_scores_and_labels_are_the_models(client: httpx.Client) -> None:
    images = np.concatenate([id_images(9, 60), ood_images(9, 60)])
    expected = reference_outputs(images)
    results = score_npy(client, images)
    for detector in ("combined", "energy", "msp"):
        scores = [result["detectors"][detector]["score"] for result in results]
        np.testing.assert_allclose(scores, expected[f"score/{detector}"], atol=1e-5)
    assert [r["label_index"] for r in results] == expected["logits"].argmax(axis=1).tolist()
    assert [r["index"] for r in results] == list(range(18))


def test_id_is_accepted_and_ood_found(client: httpx.Client) -> None:
    known = score_npy(client, id_images(300, 61))
    unknown = score_npy(client, ood_images(50, 61))
    accepted = np.mean([result["decision"] == "ID" for result in known])
    assert 0.88 < accepted < 0.99  # 95 % promised, 300 drawn
    assert {result["decision"] for result in unknown} == {"OOD"}
    for result in known + unknown:
        for entry in result["detectors"].values():
            assert (entry["decision"] == "OOD") == (entry["score"] > entry["threshold"])
            assert (entry["decision"] == "OOD") == (entry["p_value"] <= 0.05 + 1e-9)


def test_all_bodies_give_the_same_scores(client: httpx.Client) -> None:
    pixels = templates()[1]
    data = encode(pixels)
    body = {"inputs": [{"image": base64.b64encode(data).decode()}]}
    answers = [
        score_png(client, data)["results"],
        client.post("/score", files={"file": data}).json()["results"],
        client.post("/score", json=body).json()["results"],
        score_npy(client, pixels[None]),
        score_npy(client, pixels[None, :, :, 0]),
        score_npy(client, np.asfortranarray(pixels[None])),
    ]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "GIF", "WEBP"])
def test_lossless_formats_give_the_same_scores(client: httpx.Client, image_format: str) -> None:
    pixels = templates()[0]
    options = {"lossless": True} if image_format == "WEBP" else {}
    content = encode(pixels, image_format, **options)
    headers = {"Content-Type": f"image/{image_format.lower()}"}
    response = client.post("/score", content=content, headers=headers)
    assert response.json()["results"] == score_png(client, encode(pixels))["results"]


def test_colour_and_other_sizes_are_brought_to_the_models(client: httpx.Client) -> None:
    large = np.asarray(Image.fromarray(templates()[2, :, :, 0]).resize((64, 64), 0))
    colour = np.repeat(large[:, :, None], 3, axis=2)
    assert score_png(client, encode(colour))["results"][0]["label"] == "half"
    assert score_npy(client, colour[None])[0]["label"] == "half"


def test_order_is_kept_and_alone_equals_in_batch(client: httpx.Client) -> None:
    images = np.concatenate([id_images(40, 62), ood_images(40, 62)])
    images = images[np.random.default_rng(0).permutation(80)]
    together = score_npy(client, images)
    for image, result in zip(images, together, strict=True):
        (alone,) = score_npy(client, image[None])
        assert alone["score"] == pytest.approx(result["score"], abs=TOLERANCE)
        assert alone["label"] == result["label"]


def test_good_inputs_are_not_lost_to_bad_neighbours(client: httpx.Client) -> None:
    good, cut = id_png(), id_png()[:-30]
    files = [("file", good), ("file", cut), ("text", b"hello"), ("file", b""), ("file", ood_png())]
    named = [(name, (None, data)) for name, data in files]
    response = client.post("/score", files=named, params={"model": "tiny"})
    assert response.status_code == 200
    results = response.json()["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    unreadable = "image_unreadable"
    assert codes == [None, unreadable, "wrong_modality", unreadable, None]
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    assert results[0]["decision"] == "ID"
    assert results[4]["decision"] == "OOD"
    assert results[0]["score"] == score_png(client, good)["results"][0]["score"]


def test_named_detectors_and_the_first_decides(client: httpx.Client) -> None:
    (result,) = score_png(client, id_png(), detectors="msp,combined")["results"]
    assert list(result["detectors"]) == ["msp", "combined"]
    assert result["detector"] == "msp"


def test_a_gradient_detector_runs_only_when_asked_for(client: httpx.Client) -> None:
    (result,) = score_png(client, id_png(), model="other")["results"]
    assert "odin" not in result["detectors"]
    (result,) = score_png(client, id_png(), model="other", detectors="odin,energy")["results"]
    expected = reference_outputs(id_images(1, 50))
    assert result["score"] == pytest.approx(float(expected["score/odin"][0]), abs=1e-5)


def test_another_acceptance_moves_the_threshold(client: httpx.Client) -> None:
    thresholds = [
        score_png(client, id_png(), id_acceptance=a)["results"][0]["detectors"]["energy"][
            "threshold"
        ]
        for a in (0.5, 0.9, 0.99)
    ]
    assert thresholds == sorted(set(thresholds))


def test_versions(client: httpx.Client) -> None:
    assert score_png(client, id_png(), model="tiny", version="1")["model"]["version"] == "1"
    assert score_png(client, id_png(), model="tiny")["model"]["version"] == "2"


def test_json_body_may_carry_the_parameters(client: httpx.Client) -> None:
    body = {
        "model": "other",
        "version": "1",
        "detectors": ["energy"],
        "id_acceptance": 0.9,
        "inputs": [{"image": base64.b64encode(id_png()).decode()}],
    }
    answer = client.post("/score", json=body).json()
    assert answer["model"] == {"name": "other", "version": "1"}
    assert list(answer["results"][0]["detectors"]) == ["energy"]


def test_a_phone_picture_with_a_second_image_is_read(client: httpx.Client) -> None:
    first, second = Image.new("RGB", (16, 16), "grey"), Image.new("RGB", (16, 16))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    headers = {"Content-Type": "image/jpeg"}
    assert client.post("/score", content=buffer.getvalue(), headers=headers).status_code == 200


def test_server_timing_and_request_id(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/png", "X-Request-Id": "abc-1"}
    response = client.post("/score", content=id_png(), headers=headers)
    assert response.headers["x-request-id"] == "abc-1"
    assert stages(response) == ["queue", "decode", "preprocess", "infer"]
    headers["X-Request-Id"] = "bad id {}"
    made = client.post("/score", content=id_png(), headers=headers).headers["x-request-id"]
    assert made != "bad id {}"
    assert len(made) == 32


def stages(response: httpx.Response) -> list[str]:
    parts = [part.split(";dur=") for part in response.headers["server-timing"].split(", ")]
    assert all(float(milliseconds) >= 0 for _, milliseconds in parts)
    return [stage for stage, _ in parts]


def test_server_timing_always_has_every_stage(client: httpx.Client) -> None:
    png, array = ({"Content-Type": kind} for kind in ("image/png", "application/x-npy"))
    answers = [
        client.post("/score", content=npy(id_images(2, 63)), headers=array),
        client.post("/score", files=[("file", b"x"), ("file", b"y")]),
        client.post("/score", content=b"x", headers=png),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 422]
    for answer in answers:
        assert stages(answer) == ["queue", "decode", "preprocess", "infer"]


def test_the_common_misnomer_of_jpeg_is_read(client: httpx.Client) -> None:
    content = encode(templates()[0], "JPEG")
    answers = [
        client.post("/score", content=content, headers={"Content-Type": kind})
        for kind in ("image/jpeg", "image/jpg", "image/jpg; charset=binary")
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()


def test_every_example_of_the_documentation_works(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert "$defs" not in json.dumps(document["paths"]["/score"]["post"]["requestBody"])
    content = document["paths"]["/score"]["post"]["requestBody"]["content"]
    examples = content["application/json"]["examples"].values()
    of_images = [e for e in examples if all("image" in item for item in e["value"]["inputs"])]
    assert len(of_images) == 2
    for example in of_images:
        response = client.post("/score", json=example["value"])
        assert response.status_code == 200, response.text
        assert all("decision" in result for result in response.json()["results"])
    assert client.get("/docs").status_code == 200


def test_the_body_is_what_the_schema_says(client: httpx.Client) -> None:
    rows = id_images(3, 12)
    body = client.post("/score", content=npy(rows), headers={"Content-Type": "application/x-npy"})
    parsed = ScoreResponse.model_validate_json(body.content)
    assert body.content.decode() == parsed.model_dump_json(exclude_none=True)
