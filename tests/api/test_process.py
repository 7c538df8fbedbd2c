"""The service as a process: `oodscore serve`, its log, its end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pictures import id_png, npy
from tiny_bundle import id_images

from service.bundle import FORWARD

PNG = {"Content-Type": "image/png"}


class ServeProcess:
    def __init__(
        self,
        models_dir: Path,
        program: Sequence[str] = ("-m", "service"),
        *,
        at: int | None = None,
        log: Any = subprocess.PIPE,
        **settings: str,
    ) -> None:
        """`at`: a port; a free one if left out."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = self.port = at or free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {f"OODSCORE_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, *program, "serve", "--models-dir", str(models_dir)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=os.environ | environment,
            stderr=log,
            text=True,
        )

    def wait_ready(self) -> None:
        give_up = time.monotonic() + 90  # a busy machine
        while True:
            assert self.process.poll() is None
            assert time.monotonic() < give_up
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        """Exit status and what stood on stderr."""
        _, log = self.process.communicate(timeout=30)
        return self.process.returncode, log


@pytest.fixture
def started(models_dir: Path) -> Generator[ServeProcess]:
    serving = ServeProcess(models_dir, shutdown_delay_seconds="0.5")
    try:
        serving.wait_ready()
        yield serving
    finally:
        serving.process.kill()
        serving.process.communicate()


def test_sigterm_finishes_what_was_accepted_and_exits_0(started: ServeProcess) -> None:
    rows = npy(id_images(2, 90))
    head = (
        "POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\n"
        f"Content-Length: {len(rows)}\r\nX-Request-Id: slow-one\r\nConnection: close\r\n\r\n"
    )
    address = ("127.0.0.1", int(started.url.rpartition(":")[2]))
    assert "connection" not in httpx.get(f"{started.url}/livez", trust_env=False).headers
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(head.encode() + rows[:50])
        time.sleep(0.2)
        started.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert httpx.get(f"{started.url}/readyz", trust_env=False).json()["code"] == "shutting_down"
        # new requests are still answered until balancers have noticed, each on its last connection
        late = httpx.post(f"{started.url}/score", content=id_png(), headers=PNG, trust_env=False)
        assert late.is_success
        assert late.headers["connection"] == "close"
        time.sleep(1.0)  # beyond the delay: the socket is closed, the request still open
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{started.url}/livez", trust_env=False)
        connection.sendall(rows[50:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["results"]) == 2
    status, log = started.end()
    assert status == 0, log
    lines = [json.loads(line) for line in log.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "slow-one"]
    assert (line["route"], line["status"]) == ("/score", 200)
    assert any(line.get("provider") == "cpu" for line in lines)


def test_what_outlives_the_grace_is_told_so(models_dir: Path) -> None:
    serving = ServeProcess(models_dir, shutdown_delay_seconds="0", shutdown_grace_seconds="0.5")
    try:
        serving.wait_ready()
        head = (
            "POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            "Content-Length: 100\r\nX-Request-Id: too-slow\r\n\r\n"
        )
        address = ("127.0.0.1", int(serving.url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(head.encode() + b"half")
            time.sleep(0.2)
            serving.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status, log = serving.end()
    finally:
        serving.process.kill()
        serving.process.communicate()
    assert answer.startswith(b"HTTP/1.1 503"), answer
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in headers.lower()
    assert json.loads(body)["code"] == "shutting_down"
    assert status == 0, log
    lines = [json.loads(line) for line in log.splitlines()]
    told = [line for line in lines if line.get("request_id") == "too-slow"]
    assert told[-1]["status"] == 503
    assert "Traceback" not in log
    assert "CancelledError" not in log


def test_a_wrong_bundle_stops_the_start(models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir, tmp_path / "models")
    graph = tmp_path / "models" / "tiny" / "1" / FORWARD
    graph.write_bytes(graph.read_bytes()[:-1] + b"\xff")
    status, log = ServeProcess(tmp_path / "models").end()
    assert status == 1
    assert str(graph) in log.splitlines()[-1]
    assert "Traceback" not in log


def test_no_bundles_and_unknown_default_stop_the_start(models_dir: Path, tmp_path: Path) -> None:
    status, log = ServeProcess(tmp_path).end()
    assert status == 1
    assert "holds no bundle" in log
    status, log = ServeProcess(models_dir, default_image_model="nope").end()
    assert status == 1
    assert "no image model 'nope'" in log


def test_a_bad_setting_is_wrong_usage(models_dir: Path) -> None:
    status, log = ServeProcess(models_dir, max_inputs="many").end()
    assert status == 2
    assert log.startswith("error: setting max_inputs (OODSCORE_MAX_INPUTS): ")
    status, log = ServeProcess(models_dir, api_keys_file="/nonexistent").end()
    assert status == 2
    assert log == "error: key file /nonexistent: No such file or directory\n"


def test_a_misspelt_setting_is_wrong_usage(models_dir: Path) -> None:
    """Otherwise OODSCORE_API_KEY_FILE would leave the service open."""
    status, log = ServeProcess(models_dir, api_key_file="keys").end()
    assert status == 2
    assert log == "error: OODSCORE_API_KEY_FILE is no setting: OODSCORE_API_KEYS_FILE is one\n"


def test_a_taken_port_stops_the_start(models_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, log = ServeProcess(models_dir, at=port, nonsense="1").end()
    assert status == 1
    lines = log.splitlines()
    assert lines[-1].startswith(f"error: cannot listen on 127.0.0.1, port {port}: ")
    assert "address already in use" in lines[-1]
    told = [json.loads(line)["message"] for line in lines[:-1]]
    assert "OODSCORE_NONSENSE is no setting, and ignored" in told


def test_sigterm_loses_no_request_it_has_accepted(started: ServeProcess) -> None:
    """Sixteen connections in the middle of their bodies when the signal comes."""
    rows = npy(id_images(2, 91))
    head = (
        "POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\n"
        f"Content-Length: {len(rows)}\r\nConnection: close\r\n\r\n"
    )
    clients = [socket.create_connection(("127.0.0.1", started.port), 20) for _ in range(16)]
    try:
        for client in clients:
            client.sendall(head.encode() + rows[:50])
        give_up = time.monotonic() + 20
        # and the question itself
        while "oodscore_in_flight 17.0" not in metrics_of(started):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        started.process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        for client in clients:
            client.sendall(rows[50:])
        answers = [b"".join(iter(lambda c=client: c.recv(65536), b"")) for client in clients]
    finally:
        for client in clients:
            client.close()
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 16
    assert all(len(json.loads(a.partition(b"\r\n\r\n")[2])["results"]) == 2 for a in answers)
    status, log = started.end()
    assert status == 0, log


def metrics_of(serving: ServeProcess) -> str:
    return httpx.get(f"{serving.url}/metrics", trust_env=False).text


def test_after_sigkill_the_next_one_takes_over(models_dir: Path, tmp_path: Path) -> None:
    settings = {"drift_state_file": str(tmp_path / "drift.json")}
    first = ServeProcess(models_dir, **settings)
    second = None
    try:
        first.wait_ready()
        assert httpx.post(
            f"{first.url}/score", content=id_png(), headers=PNG, trust_env=False
        ).is_success
        first.process.kill()
        assert first.process.wait(20) == -signal.SIGKILL
        second = ServeProcess(models_dir, at=first.port, **settings)
        second.wait_ready()
        assert httpx.post(
            f"{second.url}/score", content=id_png(), headers=PNG, trust_env=False
        ).is_success
    finally:
        for serving in (first, second):
            if serving is not None:
                serving.process.kill()
                serving.process.communicate()


def test_a_full_disk_for_the_log_stops_nothing(models_dir: Path) -> None:
    with open("/dev/full", "wb") as full:
        serving = ServeProcess(models_dir, log=full, shutdown_delay_seconds="0")
        try:
            serving.wait_ready()
            with httpx.Client(base_url=serving.url, trust_env=False) as client:
                for _ in range(50):
                    assert client.post("/score", content=id_png(), headers=PNG).is_success
                broken = client.post("/score", content=b"no image", headers=PNG)
            assert broken.status_code == 422
            serving.process.send_signal(signal.SIGTERM)
            assert serving.process.wait(20) == 0
        finally:
            serving.process.kill()
            serving.process.communicate()
