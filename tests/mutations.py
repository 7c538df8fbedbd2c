"""Requests that were good once: every kind of body the service reads, damaged by chance.

Seeded; the same number gives the same requests.
"""

import base64
import gzip
import http.client
import json
import random
import struct
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pictures import encode, npy
from tiny_text_bundle import id_texts

from service.http_errors import STATUS
from service.schemas import ScoreResponse

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_WORDS = (b"null", b"-1", b"1e999", b"[", b"]", b'"', b"\\ud83d", b"{}", b"NaN", b"\0", b"\xff\xfe")
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        2**31,
        2**64,
        10**400,
        0.5,
        1e308,
        "",
        "x",
        "score",
        "odin",
        "pixels",
        "images",
    ),
    *("texts", "BYTES", "UINT8", "FP32", [], [0], [1, 1], [10**6, 8, 8, 1], {}, {"binary_data": 1}),
    *("\ud83d", "\0", "a" * 200_000, [[[[1]]]], {"binary_data_size": 5}),
)
_HEADER_LENGTH = "Inference-Header-Content-Length"
CODES = {kind.code: status for kind, status in STATUS.items()}


@dataclass(frozen=True)
class Sent:
    path: str
    body: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Summary:
    """Answers by status and code; whatever broke a rule, in words."""

    answers: Counter[tuple[int, str]] = field(default_factory=Counter[tuple[int, str]])
    broken: list[str] = field(default_factory=list[str])


def requests(count: int, seed: int) -> Iterator[Sent]:
    rng = random.Random(seed)  # noqa: S311  no secret
    good = _good_requests()
    for _ in range(count):
        sent = rng.choice(good)
        for _ in range(rng.randint(1, 3)):
            sent = _mutated(sent, good, rng)
        yield sent


def send_all(host: str, port: int, count: int, seed: int) -> Summary:
    """Over one connection, made anew where the service closes it."""
    summary = Summary()
    connection = http.client.HTTPConnection(host, port, timeout=40)
    for number, sent in enumerate(requests(count, seed)):
        head = {"Content-Type": sent.content_type, **sent.headers}
        try:
            connection.request("POST", sent.path, sent.body, head)
            response = connection.getresponse()
            text = response.read()
        except (http.client.HTTPException, OSError) as exc:
            summary.broken.append(f"{seed}/{number}: no answer: {exc!r}")
            connection.close()
            continue
        if problem := _judge(sent, response.status, text, summary.answers):
            summary.broken.append(f"{seed}/{number} {sent.path}: {problem}")
    connection.close()
    return summary


def _judge(sent: Sent, status: int, text: bytes, answers: Counter[tuple[int, str]]) -> str | None:
    """What is wrong with an answer, if anything."""
    if status == 200:
        answers[200, ""] += 1
        if not sent.path.startswith("/v2"):
            ScoreResponse.model_validate_json(text)
        return None
    document = json.loads(text)
    code = document["code"]
    answers[status, code] += 1
    if status >= 500 and code != "deadline_passed":  # damage may ask for less time than any takes
        return f"{status} {document}"
    if CODES.get(code) != status and code not in ("not_found", "method_not_allowed"):
        return f"{code} answers {status}"
    return None


def _good_requests() -> list[Sent]:
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (20, 24, 3), np.uint8)
    files = {kind: encode(photo, kind) for kind in FORMATS}
    grey = encode(photo[:, :, :1])
    texts = id_texts(3, 1)
    images = [{"image": base64.b64encode(files[kind]).decode()} for kind in ("PNG", "JPEG")]
    sent = [Sent("/score?model=tiny", f, f"image/{kind.lower()}") for kind, f in files.items()]
    sent += [Sent("/score?model=tiny&detectors=energy,odin", grey, "image/png")]
    sent += [Sent("/score", texts[0].encode(), "text/plain; charset=utf-8")]
    sent += [
        Sent("/score", json.dumps(body).encode(), "application/json")
        for body in (
            {"inputs": images, "detectors": ["energy"], "id_acceptance": 0.9},
            {"inputs": [{"text": text} for text in texts], "model": "words", "version": "1"},
        )
    ]
    parts = [(b"file", files["PNG"]), (b"file", files["GIF"])]
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % part for part in parts
    )
    sent += [Sent("/score?model=tiny", form + b"--b--\r\n", "multipart/form-data; boundary=b")]
    rows = rng.integers(0, 256, (3, 8, 8, 1), np.uint8)
    sent += [Sent("/score?model=tiny", npy(rows), "application/x-npy")]
    return sent + _good_inference_requests(rows, files, texts)


def _good_inference_requests(
    rows: np.ndarray, files: dict[str, bytes], texts: list[str]
) -> list[Sent]:
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [3, 8, 8, 1]}
    elements = b"".join(struct.pack("<I", len(file)) + file for file in files.values())
    tensors = [
        ("tiny", pixels | {"data": rows.ravel().tolist()}, b""),
        ("tiny", pixels, rows.tobytes()),
        ("tiny", {"name": "images", "datatype": "BYTES", "shape": [len(files)]}, elements),
        ("words", {"name": "texts", "datatype": "BYTES", "shape": [3], "data": texts}, b""),
    ]
    sent: list[Sent] = []
    for model, tensor, binary in tensors:
        if binary:
            tensor = tensor | {"parameters": {"binary_data_size": len(binary)}}
        asked = {
            "id": "7",
            "inputs": [tensor],
            "outputs": [
                {"name": "score"},
                {"name": "decision", "parameters": {"binary_data": True}},
            ],
            "parameters": {"id_acceptance": 0.9, "detectors": "energy", "timeout": 20_000_000},
        }
        text = json.dumps(asked).encode()
        path = f"/v2/models/{model}/infer"
        head = {_HEADER_LENGTH: str(len(text))} if binary else {}
        sent.append(Sent(path, text + binary, "application/octet-stream", head))
        sent.append(
            Sent(path, gzip.compress(text + binary), "", head | {"Content-Encoding": "gzip"})
        )
    sent.append(
        Sent(
            "/v2/models/tiny/infer",
            files["WEBP"],
            "application/octet-stream",
            {_HEADER_LENGTH: "0"},
        )
    )
    return sent


def _mutated(sent: Sent, good: list[Sent], rng: random.Random) -> Sent:
    kind = rng.random()
    if kind < 0.4 and (changed := _with_another_value(sent, rng)) is not None:
        return changed
    if kind < 0.85:
        return replace(sent, body=_mutated_bytes(sent.body, good, rng))
    if kind < 0.9:
        return replace(sent, content_type=rng.choice(good).content_type)
    if kind < 0.95:
        value = rng.choice(["", "x", "-1", "1e999", "0.5", "tiny", "words", "energy,", "\0", "ä"])
        name = rng.choice(["model", "version", "detectors", "id_acceptance", "x"])
        return replace(
            sent, path=f"{sent.path.partition('?')[0]}?{urllib.parse.urlencode({name: value})}"
        )
    if _HEADER_LENGTH in sent.headers:
        size = rng.choice(["0", "1", str(len(sent.body)), "9" * 12, "x", "-5"])
        return replace(sent, headers=sent.headers | {_HEADER_LENGTH: size})
    return replace(sent, headers={"X-Request-Timeout": rng.choice(["5", "nan", "-1", "x", "1e9"])})


def _with_another_value(sent: Sent, rng: random.Random) -> Sent | None:
    """A body that still is JSON, one value of it another; None where it is none."""
    try:
        size = int(sent.headers.get(_HEADER_LENGTH, len(sent.body)))
        document = json.loads(sent.body[:size])
    except (ValueError, RecursionError):
        return None
    places = list(_places(document))
    if not places:
        return None
    holder, key = rng.choice(places)
    holder[key] = rng.choice([*_VALUES, *(other[k] for other, k in rng.choices(places, k=3))])
    try:
        text = json.dumps(document).encode()
    except (ValueError, RecursionError):  # it holds itself now
        return None
    head = {_HEADER_LENGTH: str(len(text))} if _HEADER_LENGTH in sent.headers else {}
    return replace(sent, body=text + sent.body[size:], headers=sent.headers | head)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _mutated_bytes(body: bytes, good: list[Sent], rng: random.Random) -> bytes:
    data = bytearray(body)
    at = rng.randrange(len(data) + 1)
    to = min(len(data), at + rng.randint(1, 64))
    match rng.randrange(8):
        case 0 if data:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            data[at:to] = rng.randbytes(to - at)
        case 2:
            del data[at:to]
        case 3:
            del data[at:]
        case 4:
            data[at:at] = data[at:to] * rng.randint(1, 4)
        case 5:
            number = rng.choice(_NUMBERS)
            form = rng.choice(["<I", ">I", "<H", ">H", "B"])
            data[at : at + struct.calcsize(form)] = struct.pack(
                form, number & (256 ** struct.calcsize(form) - 1)
            )
        case 6:
            other = rng.choice(good).body
            data[at:] = other[rng.randrange(len(other)) :]
        case _:
            data[at:at] = rng.choice(_WORDS)
    return bytes(data)
