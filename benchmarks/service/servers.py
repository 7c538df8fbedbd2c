"""Starting, stopping and weighing a server with all its processes."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

READY_SECONDS = 120


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A command that serves HTTP on a port of loopback."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        environment: Mapping[str, str],
        log: Path,
        probe: bytes,
        folder: Path | None = None,
    ) -> None:
        """`probe`: a whole HTTP request that is answered 200 once the server is ready."""
        self.port = port
        self._ended_seconds = 0.0
        started = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=folder,
            )
        try:
            self._wait(probe, log)
        except BaseException:
            self.stop()
            raise
        self.ready_seconds = time.perf_counter() - started

    def _wait(self, probe: bytes, log: Path) -> None:
        give_up = time.monotonic() + READY_SECONDS
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended; see {log}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
                    connection.sendall(probe)
                    response = http.client.HTTPResponse(connection)
                    response.begin()
                    if response.status == 200:
                        return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the server was not ready within {READY_SECONDS} s; see {log}")

    @property
    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time of all processes, those that ended included."""
        total = 0.0
        for process in self._tree:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def resident_bytes(self) -> int:
        """Proportional share of all processes: pages that several use count once."""
        total = 0
        for process in self._tree:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total

    @property
    def threads(self) -> int:
        return sum(process.num_threads() for process in self._tree)

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        tree = self._tree
        os.killpg(self._process.pid, signal.SIGTERM)
        psutil.wait_procs(tree, timeout=15)
        for process in tree:
            if process.is_running():
                process.kill()
        self._process.wait(15)


def http_request(
    path: str, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def run_load(port: int, requests: Sequence[bytes], **spec: Any) -> dict[str, Any]:
    """What load.py found; keyword arguments as its Spec."""
    document = {
        "host": "127.0.0.1",
        "port": port,
        "requests": [base64.b64encode(request).decode() for request in requests],
        **spec,
    }
    command = [sys.executable, str(Path(__file__).with_name("load.py"))]
    done = subprocess.run(command, input=json.dumps(document).encode(), capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return json.loads(done.stdout)
