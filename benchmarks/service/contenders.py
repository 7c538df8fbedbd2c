"""Who is measured: the command of each, its environment, and how one asks it."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.service.servers import Server, free_port, http_request

PEERS = Path(__file__).with_name("peers")
ROOT = Path(__file__).parents[2]
# what the peers' environments need, beside the peer itself
LIBRARIES = ("onnxruntime", "pillow", "numpy", "tokenizers")
PACKAGES = {
    "litserve": "litserve",
    "mlserver": "mlserver",
    "bentoml": "bentoml",
    "ray": "ray[serve]",
}

Encode = Callable[[bytes, str], tuple[bytes, str]]


@dataclass(frozen=True)
class Setting:
    """What is served: a bundle's folder, threads of one inference, and where logs go."""

    bundle: Path
    threads: int
    logs: Path
    environments: Path  # of the peers, a folder each


@dataclass(frozen=True)
class Contender:
    name: str
    title: str
    command: Callable[[Setting, int], tuple[Sequence[str], Mapping[str, str], Path | None]]
    path: Callable[[Setting], str]
    encode: Encode

    def request(self, setting: Setting, body: bytes, content_type: str) -> bytes:
        return http_request(self.path(setting), *self.encode(body, content_type))

    def start(
        self, setting: Setting, probe: bytes, more: Mapping[str, str] | None = None
    ) -> Server:
        """`more`: further environment variables."""
        port = free_port()
        command, environment, folder = self.command(setting, port)
        log = setting.logs / f"{self.name}.log"
        return Server(command, port, {**environment, **(more or {})}, log, probe, folder)

    def version(self, setting: Setting) -> str:
        if self.name not in PACKAGES:
            return "this commit"
        program = f"import importlib.metadata as m; print(m.version({self.name!r}))"
        python = str(setting.environments / self.name / "bin" / "python")
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.strip()


def _raw(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body, content_type


def _base64_json(wrap: Callable[[str], object]) -> Encode:
    def encode(body: bytes, _: str) -> tuple[bytes, str]:
        return json.dumps(wrap(base64.b64encode(body).decode())).encode(), "application/json"

    return encode


def _ours(setting: Setting, port: int) -> tuple[Sequence[str], Mapping[str, str], Path | None]:
    environment = {
        "OODSCORE_MODELS_DIR": str(setting.bundle.parents[1]),
        "OODSCORE_PORT": str(port),
        "OODSCORE_PROVIDER": "cpu",
        "OODSCORE_SHUTDOWN_DELAY_SECONDS": "0",
    }
    return [sys.executable, "-m", "service", "serve"], environment, ROOT


def _torch(setting: Setting, port: int) -> tuple[Sequence[str], Mapping[str, str], Path | None]:
    environment = {
        "BUNDLE": str(setting.bundle),
        "THREADS": str(setting.threads),
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    return [sys.executable, str(PEERS / "torch_app.py")], environment, ROOT


def _peer(
    name: str, *, bento: bool = False
) -> Callable[[Setting, int], tuple[Sequence[str], Mapping[str, str], Path | None]]:
    def command(
        setting: Setting, port: int
    ) -> tuple[Sequence[str], Mapping[str, str], Path | None]:
        programs = setting.environments / name / "bin"
        environment = {
            "BUNDLE": str(setting.bundle),
            "THREADS": str(setting.threads),
            "PORT": str(port),
            "PORT2": str(free_port()),
            "PORT3": str(free_port()),
            "PYTHONPATH": "",
            "PATH": f"{programs}:{os.environ['PATH']}",
            "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        if bento:
            arguments = ["serve", "bentoml_app:Scoring", "--host", "127.0.0.1", "--port", str(port)]
            return [str(programs / "bentoml"), *arguments], environment, PEERS
        return [str(programs / "python"), str(PEERS / f"{name}_app.py")], environment, PEERS

    return command


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            "oodscore", "oodscore", _ours, lambda s: f"/score?model={s.bundle.parent.name}", _raw
        ),
        Contender("torch", "FastAPI + torch + pytorch-ood", _torch, lambda _: "/score", _raw),
        Contender(
            "litserve",
            "LitServe",
            _peer("litserve"),
            lambda _: "/score",
            _base64_json(lambda text: {"input": text}),
        ),
        Contender(
            "mlserver",
            "MLServer",
            _peer("mlserver"),
            lambda _: "/v2/models/scoring/infer",
            _base64_json(
                lambda text: {
                    "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [text]}]
                }
            ),
        ),
        Contender(
            "bentoml",
            "BentoML",
            _peer("bentoml", bento=True),
            lambda _: "/score",
            _base64_json(lambda text: {"inputs": [text]}),
        ),
        Contender("ray", "Ray Serve", _peer("ray"), lambda _: "/score", _raw),
    )
}
