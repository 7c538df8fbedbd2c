"""Bulk runs of the command line: a table of scores, what was printed, the exit code; and what
/score answers to the same inputs."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from live_server import LiveServer
from typer.testing import CliRunner

from service.bulk.engines import ENGINES
from service.bulk.worker import score_partition
from service.cli import app


@dataclass
class BulkRun:
    status: int
    printed: str
    out: Path
    partitions: list[int]  # numbers of those that were scored

    @property
    def rows(self) -> list[dict[str, Any]]:
        return pq.read_table(self.out).to_pylist()


class InThisProcess:
    """An engine without workers, so that most tests start none; `dies_at`: partition before
    which it is stopped; `loses`: one that it never gives back."""

    def __init__(self) -> None:
        self.scored: list[int] = []
        self.dies_at: int | None = None
        self.loses: int | None = None

    def __call__(self, job: Any, partitions: Any, workers: int, address: str | None) -> Any:
        for partition in partitions:
            if partition.number == self.dies_at:
                raise KeyboardInterrupt
            if partition.number == self.loses:
                continue
            self.scored.append(partition.number)
            yield partition, score_partition(job, partition)


class BulkRunner:
    def __init__(self, folder: Path, models_dir: Path, engine: InThisProcess) -> None:
        self.folder = folder
        self.models_dir = models_dir
        self.engine = engine

    def __call__(self, *arguments: object, out: str = "scores.parquet") -> BulkRun:
        self.engine.scored = []
        target = self.folder / out
        words = [*map(str, arguments), "--out", str(target), "--models-dir", str(self.models_dir)]
        result = CliRunner().invoke(app, ["score", *words])
        return BulkRun(result.exit_code, result.output, target, self.engine.scored)


def bulk_runner(folder: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> BulkRunner:
    engine = InThisProcess()
    monkeypatch.setitem(ENGINES, "process", engine)
    return BulkRunner(folder, models_dir, engine)


def online(server: LiveServer, body: bytes, kind: str, query: str = "") -> dict[str, Any]:
    """The columns that /score gives one input sent alone."""
    answer = server.client.post(f"/score{query}", content=body, headers={"Content-Type": kind})
    if answer.status_code != 200:
        return {"error_code": answer.json()["code"]}
    (result,) = answer.json()["results"]
    cells = {name: value for name, value in result.items() if name not in ("index", "detectors")}
    for name, each in result["detectors"].items():
        cells |= {f"{name}_score": each["score"], f"{name}_p_value": each["p_value"]}
    return cells


def bits(value: object) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else value


def assert_same(row: dict[str, Any], cells: dict[str, Any]) -> None:
    """Every column that /score speaks of, to the bit; the others are empty."""
    assert {name: bits(row[name]) for name in cells} == {n: bits(v) for n, v in cells.items()}
    places = {"index", "file", "row", "error_detail"}
    assert not {n for n, v in row.items() if v is not None} - set(cells) - places
