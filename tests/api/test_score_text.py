"""POST /score with texts: the answers of images' requests, whatever the body and the neighbours."""

import base64
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import LiveServer, live_server
from pictures import id_png, npy
from test_overload import wait_for
from test_refusals import assert_problem
from tiny_bundle import id_images
from tiny_text_bundle import (
    FORWARD_DETECTORS,
    INTENTS,
    MAX_TOKENS,
    PASSES,
    id_texts,
    ood_texts,
    publish_tiny_text_bundle,
    reference_outputs,
)

from service.bundle import FORWARD, TextEncoder
from service.cpus import usable_cpus
from service.onnx_session import OnnxSession

PLAIN = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
# batches may be computed in another order than single inputs
TOLERANCE = 1e-5


@pytest.fixture
def client(mixed: LiveServer) -> httpx.Client:
    return mixed.client


def score(client: httpx.Client, texts: Sequence[str], **fields: Any) -> list[Any]:
    body = {"inputs": [{"text": text} for text in texts], **fields}
    response = client.post("/score", json=body)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def codes(results: Sequence[Any]) -> list[str | None]:
    return [result.get("error", {}).get("code") for result in results]


def test_scores_and_labels_are_the_models(client: httpx.Client) -> None:
    texts = [*id_texts(40, 1), *ood_texts(40, 1)]
    expected = reference_outputs(texts)
    results = score(client, texts)
    for detector in FORWARD_DETECTORS:
        scores = [result["detectors"][detector]["score"] for result in results]
        np.testing.assert_allclose(scores, expected[f"score/{detector}"], atol=TOLERANCE)
    assert [r["label_index"] for r in results] == expected["logits"].argmax(axis=1).tolist()
    assert [r["label"] for r in results] == [INTENTS[r["label_index"]] for r in results]
    assert [r["index"] for r in results] == list(range(80))
    assert {r["decision"] for r in results[40:]} == {"OOD"}
    assert [r["decision"] for r in results[:40]].count("ID") > 35


def test_a_text_is_answered_with_the_fields_of_an_image_and_truncated(client: httpx.Client) -> None:
    (text,) = score(client, ["what is my card limit ?"])
    image = client.post("/score", content=id_png(), headers={"Content-Type": "image/png"})
    assert set(text) == {*image.json()["results"][0], "truncated"}


def test_all_bodies_give_the_same_answer(client: httpx.Client) -> None:
    text = "Is it SUNNY in the Straße? 行く 😀"
    content = text.encode()
    answers = [
        client.post("/score", json={"inputs": [{"text": text}]}),
        client.post("/score", content=json.dumps({"inputs": [{"text": text}]}), headers=JSON),
        client.post("/score", files=[("text", (None, content))]),
        client.post("/score", content=content, headers=PLAIN),
        client.post("/score", content=b"\xef\xbb\xbf" + content, headers=PLAIN),
        client.post(
            "/score", content=content, headers={"Content-Type": 'text/plain; charset="UTF-8"'}
        ),
    ]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert all(answer.json() == answers[0].json() for answer in answers)


def test_order_is_kept_and_alone_equals_in_a_batch_of_any_length(client: httpx.Client) -> None:
    lengths = np.random.default_rng(2).permutation(np.arange(1, 61) % (2 * MAX_TOKENS) + 1)
    words = ["rain", "please", "visa", "unheard"]
    texts = [" ".join(words[(i + j) % 4] for j in range(n)) for i, n in enumerate(lengths)]
    together = score(client, texts)
    for text, result in zip(texts, together, strict=True):
        (alone,) = score(client, [text])
        assert alone["score"] == pytest.approx(result["score"], abs=TOLERANCE)
        assert (alone["label"], alone["truncated"]) == (result["label"], result["truncated"])
    assert [r["truncated"] for r in together] == [int(n) > MAX_TOKENS for n in lengths]


def test_padding_changes_no_score(client: httpx.Client) -> None:
    """A pad of the tiny model weighs a thousand words, were it not masked."""
    (alone,) = score(client, ["my card"])
    beside = score(client, ["my card", "card is the limit please " * 3])[0]
    assert beside["score"] == pytest.approx(alone["score"], abs=TOLERANCE)


def test_good_texts_are_not_lost_to_bad_neighbours(client: httpx.Client) -> None:
    body = {
        "model": "words",
        "inputs": [
            {"text": "my card"},
            {"text": " \n\u3000"},
            {"image": base64.b64encode(id_png()).decode()},
            {"text": "x" * 100_001},
            {"image": "&&&"},
            {"text": "half a pair \ud83d"},
            {"text": "rain please"},
        ],
    }
    response = client.post("/score", content=json.dumps(body), headers=JSON)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert codes(results) == [
        None,
        "text_unreadable",
        "wrong_modality",
        "text_too_long",
        "base64_invalid",
        "text_unreadable",
        None,
    ]
    assert [results[index]["label"] for index in (0, 6)] == ["card", "weather"]
    parts = [("text", (None, data)) for data in (b"my card", b"\xff", b"")]
    results = client.post("/score", files=parts).json()["results"]
    assert codes(results) == [None, "text_unreadable", "text_unreadable"]


REFUSALS: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty": ({"json": {"inputs": [{"text": ""}]}}, 422, "text_unreadable"),
    "white space": ({"content": b" \r\n\t", "headers": PLAIN}, 422, "text_unreadable"),
    "not utf-8": ({"content": b"card \xe4", "headers": PLAIN}, 422, "text_unreadable"),
    "half a pair": (
        {"content": rb'{"inputs": [{"text": "card \ud83d"}]}', "headers": JSON},
        422,
        "text_unreadable",
    ),
    "half a pair in a name": (
        {"content": rb'{"model": "\ud83d", "inputs": [{"text": "card"}]}', "headers": JSON},
        400,
        "malformed_request",
    ),
    "half a pair in a text and in a field": (
        {"content": rb'{"\ud83d": 1, "inputs": [{"text": "\udc00"}]}', "headers": JSON},
        400,
        "malformed_request",
    ),
    "half a pair in no json": (
        {"content": rb'{"inputs": [{"text": "\ud83d"}', "headers": JSON},
        400,
        "malformed_request",
    ),
    "half a pair, deep": (
        {"content": rb'{"inputs": "\ud83d", "x":' + b"[" * 50_000, "headers": JSON},
        400,
        "malformed_request",
    ),
    "a megabyte in json": (
        {"json": {"inputs": [{"text": "card " * 200_000}]}},
        413,
        "text_too_long",
    ),
    "a megabyte in a form": (
        {"files": [("text", (None, b"card " * 200_000))]},
        413,
        "text_too_long",
    ),
    "a megabyte": ({"content": b"card " * 200_000, "headers": PLAIN}, 413, "text_too_long"),
    "an image to a text model": (
        {
            "content": id_png(),
            "headers": {"Content-Type": "image/png"},
            "params": {"model": "words"},
        },
        422,
        "wrong_modality",
    ),
    "pixels to a text model": (
        {
            "content": npy(id_images(1, 1)),
            "headers": {"Content-Type": "application/x-npy"},
            "params": {"model": "words"},
        },
        422,
        "wrong_modality",
    ),
    "a text to an image model": (
        {"content": b"card", "headers": PLAIN, "params": {"model": "tiny"}},
        422,
        "wrong_modality",
    ),
    "both": ({"files": [("file", id_png()), ("text", (None, b"x"))]}, 400, "mixed_modalities"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_and_the_next_text_is_answered(client: httpx.Client, case: str) -> None:
    request, status, code = REFUSALS[case]
    assert_problem(client.post("/score", **request), status, code)
    assert score(client, ["the card limit"])[0]["decision"] == "ID"


def test_words_of_a_refusal_have_their_article(client: httpx.Client) -> None:
    request, _, _ = REFUSALS["an image to a text model"]
    detail = client.post("/score", **request).json()["detail"]
    assert detail == "the input is an image; words reads a text"


def test_each_modality_is_answered_by_its_default(client: httpx.Client) -> None:
    image = client.post("/score", content=id_png(), headers={"Content-Type": "image/png"}).json()
    text = client.post("/score", content=b"my card", headers=PLAIN).json()
    assert (image["model"]["name"], text["model"]["name"]) == ("tiny", "words")
    models = {m["name"]: m for m in client.get("/models").json()["models"]}
    assert [models[name]["default"] for name in ("tiny", "words")] == [True, True]
    assert models["words"]["input"] == {"max_tokens": MAX_TOKENS, "vocabulary_size": 26}
    assert models["tiny"]["input"] == {"height": 8, "width": 8, "channels": 1}


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "card\x00pin",
        "\x07\x1b[31m card",
        "\ufffe\uffff",
        "e\u0301" * 500,
        "\u202e card",
        "😀",
    ],
    ids=ascii,
)
def test_control_characters_and_rare_ones_are_text(client: httpx.Client, text: str) -> None:
    (result,) = score(client, [text])
    assert result["decision"] in ("ID", "OOD")


def test_unknown_words_alone_are_scored(client: httpx.Client) -> None:
    assert score(client, ["où est la gare", "行く"])[1]["decision"] == "OOD"


@given(st.lists(st.text(st.characters(), max_size=60), min_size=1, max_size=8))
@settings(deadline=None, max_examples=150)
def test_any_text_has_an_answer(mixed: LiveServer, texts: list[str]) -> None:
    body = json.dumps({"inputs": [{"text": text} for text in texts]})
    response = mixed.client.post("/score", content=body, headers=JSON)
    if len(texts) == 1:
        assert response.status_code in (200, 422)
    else:
        assert response.status_code == 200
        results = response.json()["results"]
        assert len(results) == len(texts)
        assert set(codes(results)) <= {None, "text_unreadable"}


@given(st.binary(max_size=100))
@settings(deadline=None, max_examples=100)
def test_any_plain_body_has_an_answer(mixed: LiveServer, content: bytes) -> None:
    response = mixed.client.post("/score", content=content, headers=PLAIN)
    assert response.status_code in (200, 422) or (not content and response.status_code == 400)


def test_named_detectors_and_another_acceptance(client: httpx.Client) -> None:
    texts = id_texts(3, 5)
    expected = reference_outputs(texts)["score/mc_dropout"]
    results = score(client, texts, detectors=["mc_dropout", "energy"], id_acceptance=0.9)
    assert [r["score"] for r in results] == pytest.approx(expected.tolist(), abs=TOLERANCE)
    assert {r["detector"] for r in results} == {"mc_dropout"}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """Graph file and shape of each batch given to a session from now on."""
    seen: list[tuple[str, tuple[int, ...]]] = []
    real = OnnxSession.run

    def run(self: OnnxSession, batch: Any, outputs: Any) -> Any:
        seen.append((self._path.name, batch.shape))  # pyright: ignore[reportPrivateUsage]
        return real(self, batch, outputs)

    monkeypatch.setattr(OnnxSession, "run", run)
    return seen


def test_graphs_on_demand_get_small_batches(
    client: httpx.Client, runs: list[tuple[str, tuple[int, ...]]]
) -> None:
    texts = ["my card please"] * 70
    score(client, texts, detectors=["mc_dropout"])  # opens the graph
    runs.clear()
    results = score(client, [*texts, "rain"], detectors=["mc_dropout", "energy"])
    rows = {
        graph: [shape[0] for name, shape in runs if name == graph] for graph in (FORWARD, PASSES)
    }
    assert sum(rows[FORWARD]) == sum(rows[PASSES]) == 71
    assert max(rows[FORWARD]) <= 16  # the same batch goes through both
    assert max(rows[PASSES]) <= 16
    expected = reference_outputs([texts[0], "rain"])["score/mc_dropout"]
    assert results[69]["score"] == pytest.approx(float(expected[0]), abs=TOLERANCE)
    assert results[70]["score"] == pytest.approx(float(expected[1]), abs=TOLERANCE)


def test_a_run_holds_no_more_tokens_than_the_setting(
    mixed_dir: Any, runs: list[tuple[str, tuple[int, ...]]]
) -> None:
    with live_server(mixed_dir, inference_tokens=40) as running:
        runs.clear()
        texts = ["rain " * (1 + index % MAX_TOKENS) for index in range(48)]
        results = score(running.client, texts)
    assert max(rows * length for _, (rows, length) in runs) <= 40
    assert sum(rows for _, (rows, _) in runs) == 48
    assert {result["label"] for result in results} == {"weather"}


def test_texts_are_tokenized_in_worker_threads(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    real = TextEncoder.tokens

    def record(self: TextEncoder, text: str) -> Any:
        threads.append(threading.current_thread().name)
        return real(self, text)

    monkeypatch.setattr(TextEncoder, "tokens", record)
    score(client, ["my card"] * 5)
    client.post("/score", content=b"my card", headers=PLAIN)
    assert len(threads) == 6
    assert all(name.startswith("score") for name in threads)


def test_tokenizing_holds_up_no_other_answer_and_takes_no_more_threads_than_processors(
    mixed: LiveServer, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text waits at a gate.  On the event loop the first would stop /livez for good."""
    gate = threading.Event()
    begun: list[str] = []
    real = TextEncoder.tokens

    def wait(self: TextEncoder, text: str) -> Any:
        begun.append(text)
        assert gate.wait(60)
        return real(self, text)

    monkeypatch.setattr(TextEncoder, "tokens", wait)
    threads = usable_cpus()
    texts = [f"my card {number}" for number in range(threads + 3)]

    def ask(text: str) -> httpx.Response:
        url = f"{mixed.url}/score"
        return httpx.post(url, content=text * 2000, headers=PLAIN, timeout=60, trust_env=False)

    with ThreadPoolExecutor(len(texts)) as callers:
        try:
            asked = [callers.submit(ask, text) for text in texts]
            wait_for(lambda: mixed.runtime.admission.queued == len(texts))
            wait_for(lambda: len(begun) >= 1)
            assert client.get("/livez", timeout=30).status_code == 200
            assert client.get("/models", timeout=30).status_code == 200
            assert len(begun) <= threads  # the others wait in the queue
        finally:
            gate.set()
        assert [answer.result().status_code for answer in asked] == [200] * len(texts)
    assert len(begun) == len(texts)


def test_a_megabyte_is_scored_by_its_beginning_where_the_setting_allows_it(mixed_dir: Any) -> None:
    with live_server(mixed_dir, max_text_characters=2_000_000) as running:
        known, unknown = score(running.client, ["my card " * 131_072, "où est " * 150_000])
        beginning = score(running.client, ["my card " * 6])
        blank = running.client.post("/score", content=b" " * 2**20 + b"card", headers=PLAIN)
    assert (known["label"], known["decision"], known["truncated"]) == ("card", "ID", True)
    assert known["score"] == pytest.approx(beginning[0]["score"], abs=TOLERANCE)
    assert (unknown["decision"], unknown["truncated"]) == ("OOD", True)
    assert_problem(blank, 422, "text_unreadable")
    assert "in its first 768 characters" in blank.json()["detail"]


def test_truncated_texts_are_counted(tmp_path: Any) -> None:
    publish_tiny_text_bundle(tmp_path, "words", "1")
    with live_server(tmp_path) as running:
        score(running.client, ["rain", "rain " * 13, "", "rain " * 12])
        value = running.runtime.metrics.registry.get_sample_value
        model = {"model": "words", "version": "1"}
        assert value("oodscore_truncated_texts_total", model) == 1
        assert value("oodscore_rejected_inputs_total", {"code": "text_unreadable"}) == 1
        assert (
            sum(
                value("oodscore_decisions_total", model | {"decision": d}) or 0
                for d in ("ID", "OOD")
            )
            == 3
        )


def test_every_example_of_the_documentation_works(client: httpx.Client) -> None:
    content = client.get("/openapi.json").json()["paths"]["/score"]["post"]["requestBody"][
        "content"
    ]
    examples = content["application/json"]["examples"]
    assert any("text" in item for e in examples.values() for item in e["value"]["inputs"])
    for example in examples.values():
        response = client.post("/score", json=example["value"])
        assert response.status_code == 200, response.text
        assert all("decision" in result for result in response.json()["results"])
    plain = content["text/plain"]["example"]
    assert client.post("/score", content=plain, headers=PLAIN).status_code == 200
