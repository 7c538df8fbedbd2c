"""Small parts: the error table, settings, logs, processors, multipart, the session seam."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_bundle import id_images, publish_tiny_bundle
from tiny_text_bundle import publish_tiny_text_bundle

from service.bundle import FORWARD, BundleCorrupt, BundleIncomplete
from service.cpus import usable_cpus
from service.errors import (
    MalformedRequest,
    ModalityNotServed,
    ServiceError,
    UnknownModel,
    UnknownVersion,
)
from service.graphs import SessionOptions
from service.http_errors import STATUS
from service.logs import JsonFormatter, fields, request_id
from service.multipart import parse_multipart
from service.onnx_session import OnnxSession, ProviderUnavailable
from service.repository import Repository, open_repository
from service.settings import Settings


def leaves(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    if not kind.__subclasses__():
        yield kind
    for child in kind.__subclasses__():
        yield from leaves(child)


def test_every_error_has_a_status_and_a_code_of_its_own() -> None:
    kinds = set(leaves(ServiceError))
    assert kinds == set(STATUS)
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_every_error_stands_in_the_overview() -> None:
    from service import errors

    for kind in leaves(ServiceError):
        assert kind.__name__ in (errors.__doc__ or "")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODSCORE_MAX_BODY_BYTES", "1MiB")
    monkeypatch.setenv("OODSCORE_MODELS_DIR", "/somewhere")
    settings = Settings()
    assert settings.max_body_bytes == 2**20
    assert settings.models_dir == Path("/somewhere")
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("provider", "tpu"),
        ("request_timeout_seconds", "nan"),
        ("max_queued_inputs", "10"),
        ("max_decoded_pixels", "10000000"),
        ("threads", "0"),
        ("int8_models", "a,,b"),
        ("int8_models", "Cifar 10"),
        ("int8_models", "../x"),
    ],
)
def test_impossible_settings_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"OODSCORE_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", set()),
        (" ", set()),
        ("cifar10", {"cifar10"}),
        ("cifar10, fashion-mnist", {"cifar10", "fashion-mnist"}),
    ],
)
def test_int8_models_are_names_between_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, names: set[str]
) -> None:
    assert Settings().int8_models == set()
    monkeypatch.setenv("OODSCORE_INT8_MODELS", value)
    assert Settings().int8_models == names


def test_log_lines_are_json_with_the_request() -> None:
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "INFO", "msg": "a %s", "args": ("b",)} | fields(status=200)
    )
    token = request_id.set("r1")
    try:
        line = json.loads(JsonFormatter().format(record))
    finally:
        request_id.reset(token)
    assert (line["message"], line["request_id"], line["status"]) == ("a b", "r1", 200)
    assert "\n" not in JsonFormatter().format(record)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
)
def test_processors_follow_the_containers_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cpus(tmp_path) == limit


@given(st.binary(max_size=200))
def test_any_multipart_body_raises_nothing_else(body: bytes) -> None:
    for whole in (body, b"--b\r\n" + body, b"--b\r\nContent-Disposition: " + body + b"\r\n--b--"):
        with contextlib.suppress(ServiceError):
            parse_multipart("multipart/form-data; boundary=b", whole, 10)


def test_multipart_keeps_order_and_bytes() -> None:
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % part
        for part in [(b"file", b"\r\n--a\x00"), (b"text", "ä".encode())]
    )
    parts = parse_multipart("multipart/form-data; boundary=b", body + b"--b--\r\n", 2)
    assert [(part.name, bytes(part.data)) for part in parts] == [
        ("file", b"\r\n--a\x00"),
        ("text", "ä".encode()),
    ]
    with pytest.raises(MalformedRequest, match="closing boundary"):
        parse_multipart("multipart/form-data; boundary=b", body, 2)


def test_an_empty_batch_never_reaches_onnxruntime(models_dir: Path) -> None:
    session = OnnxSession(models_dir / "tiny" / "1" / FORWARD, provider="cpu", threads=1)
    with pytest.raises(ValueError, match="empty"):
        session.run(id_images(3, 1)[:0], ["logits"])
    assert session.run(id_images(3, 1), ["logits"])["logits"].shape == (3, 3)


def test_cuda_that_is_not_there_is_a_clear_error(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.onnx_session._providers", lambda _: ["CPUExecutionProvider"])
    path = models_dir / "tiny" / "1" / FORWARD
    with pytest.raises(ProviderUnavailable, match="OODSCORE_PROVIDER=auto"):
        OnnxSession(path, provider="cuda", threads=1)
    assert OnnxSession(path, provider="auto", threads=1).provider == "cpu"


def test_cuda_computes_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, onnxruntime's default since Ampere, would fail the golden check."""

    class Recording(Exception):
        pass

    given: list[Any] = []

    def record(*_: Any, providers: list[Any]) -> None:
        given.extend(providers)
        raise Recording

    known = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: known)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr("onnxruntime.InferenceSession", record)
    with pytest.raises(BundleCorrupt):
        OnnxSession(Path("forward.onnx"), provider="cuda", threads=1)
    (name, options), fallback = given
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["use_tf32"] == "0"


def test_repository_serves_the_highest_version_by_number(models_dir: Path) -> None:
    repository = open_repository(models_dir, SessionOptions("cpu"), {"image": "tiny"})
    assert repository.get("tiny").version == "2"
    assert repository.get("tiny", "1").version == "1"
    with pytest.raises(UnknownModel, match="other, tiny"):
        repository.get("nope")
    with pytest.raises(UnknownVersion, match="1, 2"):
        repository.get("tiny", "10")
    assert repository.default("image") == "tiny"
    with pytest.raises(UnknownModel, match="no image model 'nope'; served: other, tiny"):
        Repository(repository.all(), {"image": "nope"})
    assert Repository(repository.all()).default("image") == "other"


def test_each_modality_has_its_default(tmp_path: Path) -> None:
    publish_tiny_text_bundle(tmp_path, "words", "1")
    publish_tiny_text_bundle(tmp_path, "answers", "1")
    publish_tiny_bundle(tmp_path, "tiny", "1", seed=1)
    bundles = open_repository(tmp_path, SessionOptions("cpu")).all()
    assert Repository(bundles).defaults == {"text": "answers", "image": "tiny"}
    assert Repository(bundles, {"text": "words"}).default("text") == "words"
    with pytest.raises(UnknownModel, match="no image model 'words'; served: tiny"):
        Repository(bundles, {"image": "words"})
    images = Repository([bundle for bundle in bundles if bundle.modality == "image"])
    with pytest.raises(ModalityNotServed, match="no text model is served; served: tiny"):
        images.default("text")
    with pytest.raises(UnknownModel, match="no text model 'tiny'; served: none"):
        Repository(images.all(), {"text": "tiny"})


def test_no_bundles_say_where_they_were_looked_for(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BundleIncomplete, match=str(folder)):
            open_repository(folder, SessionOptions())


@pytest.mark.parametrize(("small_seconds", "threads"), [(1e9, {1}), (0.0, {1, 8})])
def test_slow_networks_get_all_processors(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, small_seconds: float, threads: set[int]
) -> None:
    opened: list[int] = []

    class Recorded(OnnxSession):
        def __init__(self, path: Path, *, provider: str, threads: int) -> None:
            opened.append(threads)
            super().__init__(path, provider=provider, threads=1)

    monkeypatch.setattr("service.graphs.OnnxSession", Recorded)
    monkeypatch.setattr("service.graphs.usable_cpus", lambda: 8)
    monkeypatch.setattr("service.graphs.SMALL_NETWORK_SECONDS", small_seconds)
    open_repository(models_dir, SessionOptions("cpu"))
    assert set(opened) == threads
    opened.clear()
    open_repository(models_dir, SessionOptions("cpu", threads=3))
    assert set(opened) == {3}


def test_every_code_is_documented_with_its_status() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "http-api.md").read_text() + (docs / "drift.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    documented = {
        code.strip(" `"): row[1].strip()
        for row in rows
        if row[1].strip().isdigit()
        for code in row[2].split(",")
    }
    for kind, status in STATUS.items():
        assert documented[kind.code] == str(status)


def test_every_limit_is_documented_with_its_default() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "http-api.md").read_text() + (docs / "drift.md").read_text()
    for name in Settings.model_fields:
        if name.startswith("max_") or "seconds" in name:
            assert f"OODSCORE_{name.upper()}" in page
