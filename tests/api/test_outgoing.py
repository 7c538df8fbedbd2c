"""Whatever an input says, the service fetches nothing, runs nothing, and writes it in no log."""

import base64
import io
import json
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from pictures import encode, npy
from PIL import Image, PngImagePlugin
from test_process import ServeProcess
from tiny_bundle import id_images

MARK = "ZYXWVmarker97531"
LATIN = MARK.encode()


class Canary:
    """An address that nobody should call."""

    def __init__(self) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        port = self._socket.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}/{MARK}"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.calls += 1
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@dataclass
class Evidence:
    answers: dict[str, httpx.Response]
    attempts: str  # what the audit hook refused
    log: str
    canary_calls: int
    peers: set[str]


class Caller:
    """What an object array would run if anybody unpickled it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"curl {self.url}",))


def picture(image_format: str, **options: Any) -> bytes:
    return encode(id_images(1, 50)[0], image_format, **options)


def png_texts(url: str) -> bytes:
    """Text chunks of every kind, XMP and EXIF among them."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Software", url)
    texts.add_text("Comment", url, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", f'<x:xmpmeta xmlns:x="{url}"/>')
    return picture("PNG", pnginfo=texts, exif=exif(url))


def exif(url: str) -> bytes:
    data = Image.Exif()
    data[0x010E] = url  # ImageDescription
    data[0x8769] = {0x9286: url.encode()}  # UserComment
    return data.tobytes()


def png_with_external_icc(url: str) -> bytes:
    """An embedded profile by name only, as an iCCP chunk holds it."""
    good = picture("PNG")
    body = b"iCCP" + url.encode()[:79] + b"\0\0" + zlib.compress(url.encode())
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return good[:33] + chunk + good[33:]


def requests_of(url: str) -> dict[str, dict[str, Any]]:
    """Everything that carries an address, and could be taken for an order to fetch it."""
    svg = (
        f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY e SYSTEM "{url}">]>'
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<image xlink:href="{url}"/><text>&e;</text></svg>'
    )
    playlist = f"#EXTM3U\n#EXTINF:1,\n{url}\n"
    objects = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
    np.lib.format.write_array_header_1_0(objects, header)
    objects.write(pickle.dumps(np.array([Caller(url)], dtype=object)))

    def body(kind: str, content: bytes | str, **headers: str) -> dict[str, Any]:
        data = content if isinstance(content, bytes) else content.encode()
        return {"content": data, "headers": {"Content-Type": kind, **headers}}

    def document(value: Any) -> dict[str, Any]:
        return body("application/json", json.dumps(value))

    def tensor(model: str, name: str, data: list[str], **more: Any) -> dict[str, Any]:
        inputs = {"name": name, "datatype": "BYTES", "shape": [len(data)], "data": data}
        return document({"inputs": [inputs], **more}) | {"url": f"/v2/models/{model}/infer"}

    def base64_of(data: bytes) -> str:
        return base64.b64encode(data).decode()

    return {
        "text": body("text/plain", f"alpha beta {url}"),
        "texts": document({"inputs": [{"text": url}, {"text": svg}, {"text": f"![]({url})"}]}),
        "text that is no UTF-8": body("text/plain", LATIN + b"\xff"),
        "svg as text": body("text/plain", svg),
        "svg as png": body("image/png", svg),
        "svg as svg": body("image/svg+xml", svg),
        "xml": body("application/xml", svg),
        "playlist as gif": body("image/gif", playlist),
        "postscript": body("image/png", f"%!PS-Adobe-3.0 EPSF\n({url}) run\n"),
        "base64 of svg": document({"inputs": [{"image": base64_of(svg.encode())}]}),
        "address in place of base64": document({"inputs": [{"image": url}]}),
        "data address": document({"inputs": [{"image": f"data:image/png,{url}"}]}),
        "field of another service": document({"inputs": [{"image_url": url}]}),
        "broken json": body("application/json", '{"inputs": [{"text": "' + url),
        "json of another shape": document({"url": url, "inputs": url}),
        "png with texts": body("image/png", png_texts(url)),
        "png with a profile": body("image/png", png_with_external_icc(url)),
        "jpeg": body("image/jpeg", picture("JPEG", exif=exif(url), comment=url)),
        "webp": body("image/webp", picture("WEBP", exif=exif(url), xmp=url.encode())),
        "gif": body("image/gif", picture("GIF", comment=url)),
        "cut png": body("image/png", png_texts(url)[:-30]),
        "npy of objects": body("application/x-npy", objects.getvalue()),
        "npy of strings": body("application/x-npy", npy(np.array([url]))),
        "parts": {
            "files": [("file", (url, png_texts(url))), ("file", (f"{MARK}.svg", svg.encode()))],
            "data": {"text": url},
            "params": {"model": "tiny"},
        },
        "unknown part": {"files": [(MARK, ("x", url.encode()))]},
        "model": body("text/plain", "alpha") | {"params": {"model": url}},
        "version and detectors": body("text/plain", "alpha")
        | {"params": {"version": url, "detectors": url, "id_acceptance": url}},
        "headers": body(
            "text/plain",
            "alpha",
            **{
                name: url
                for name in ("Referer", "X-Forwarded-Host", "Forwarded", "X-Request-Timeout")
            },
        ),
        "text tensor": tensor("words", "texts", [url, svg], id=url),
        "image tensor": tensor("tiny", "images", [base64_of(png_texts(url))]),
        "svg tensor": tensor("tiny", "images", [base64_of(svg.encode()), url]),
        "tensor elsewhere": tensor("words", "texts", [url], parameters={"shared_memory": url}),
        "content type": body(f"text/plain; charset={MARK}", "alpha"),
    }


@pytest.fixture(scope="module")
def evidence(mixed_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Evidence]:
    report = tmp_path_factory.mktemp("watched") / "attempts"
    watched = Path(__file__).parents[1] / "watched_service.py"
    canary = Canary()
    serving = ServeProcess(
        mixed_dir,
        program=[str(watched), str(report)],
        log_level="debug",
        shutdown_delay_seconds="0",
    )
    peers: set[str] = set()
    try:
        serving.wait_ready()
        answers: dict[str, httpx.Response] = {}
        with httpx.Client(base_url=serving.url, trust_env=False, timeout=30) as client:
            for name, request in requests_of(canary.url).items():
                answers[name] = client.post(**{"url": "/score", **request})
                for connection in psutil.Process(serving.process.pid).net_connections("inet"):
                    if connection.raddr:
                        peers.add(f"{connection.laddr.port}")
            absolute = socket.create_connection(("127.0.0.1", serving.port), timeout=20)
            with absolute:
                absolute.sendall(
                    f"GET {canary.url} HTTP/1.1\r\nHost: {canary.host}\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                reply = b"".join(iter(lambda: absolute.recv(65536), b""))
            assert reply.startswith(b"HTTP/1.1 404")
        serving.process.terminate()
        status, log = serving.end()
        assert status == 0, log
        assert answers
        # both ends of a connection of its own would be two more
        assert peers == {str(serving.port)}
        yield Evidence(answers, report.read_text(), log, canary.calls, peers)
    finally:
        serving.process.kill()
        serving.process.communicate()
        canary.close()


def test_the_watch_sees_what_leaves(tmp_path: Path) -> None:
    """The watch itself: where it were blind, the next test would prove nothing."""
    report = tmp_path / "attempts"
    script = (
        f"import watched_service, socket; watched_service.watch({str(report)!r})\n"
        "try: socket.create_connection(('127.0.0.1', 9))\n"
        "except PermissionError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout == "refused\n"
    assert report.read_text().startswith("socket.connect")


def test_nothing_leaves_the_process(evidence: Evidence) -> None:
    assert evidence.attempts == ""
    assert evidence.canary_calls == 0


def test_every_one_of_them_is_scored_or_refused(evidence: Evidence) -> None:
    statuses = {name: answer.status_code for name, answer in evidence.answers.items()}
    assert {name: s for name, s in statuses.items() if s >= 500} == {}
    scored = (
        *("text", "texts", "svg as text", "png with texts", "jpeg", "webp", "gif", "parts"),
        *("text tensor", "image tensor"),
    )
    assert {name: statuses[name] for name in scored} == dict.fromkeys(scored, 200)
    refused = ("svg as png", "address in place of base64", "npy of objects", "npy of strings")
    assert {name: statuses[name] for name in refused} == dict.fromkeys(refused, 422)


def test_nothing_of_a_body_stands_in_the_log(evidence: Evidence) -> None:
    """At the most talkative level.  Base64 may begin at any of three places."""
    routes = re.findall(r'"route": "(/score|/v2/models/[^"]*)"', evidence.log)
    assert len(routes) == len(evidence.answers)
    forms = {base64.b64encode(b"x" * shift + LATIN)[4:-4].decode() for shift in range(3)}
    for form in {MARK, *forms}:
        lines = [line for line in evidence.log.splitlines() if form in line]
        assert lines == []
