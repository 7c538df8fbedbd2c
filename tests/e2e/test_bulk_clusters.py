"""Dask and Ray give the rows that one process gives, when a worker is killed too."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bulk_runs import bulk_runner
from named_pipe import PATIENCE, being_read, reader_of, wait_for
from pictures import id_png, ood_png

ROOT = Path(__file__).parents[2]
INPUTS = 12
HELD = 5  # the input that keeps its reader waiting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]


def start(*words: str | Path, **more: Any) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        **more.pop("env", {}),
    }
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, text=True, **more)


@contextmanager
def two_dask_workers(folder: Path) -> Generator[str]:
    """One thread each, without nannies: a killed one is not replaced."""
    told = folder / "scheduler.json"
    with ExitStack() as stack:

        def run(module: str, *words: str) -> None:
            process = start(
                "-m", f"distributed.cli.{module}", "--scheduler-file", str(told), *words
            )
            stack.callback(process.wait, 30)
            stack.callback(process.kill)

        run("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = wait_for(lambda: told.exists() and json.loads(told.read_text())["address"])
        for number in range(2):
            place = str(folder / f"dask-{number}")
            run("dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard",
                "--local-directory", place, "--host", "127.0.0.1")  # fmt: skip
        wait_for(lambda: len(list(folder.glob("dask-[01]"))) == 2)
        yield address


@contextmanager
def two_ray_nodes(folder: Path) -> Generator[str]:
    place = tempfile.mkdtemp(prefix="r")  # paths of sockets are short
    process = start(
        "-m", "ray_cluster",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"RAY_TMPDIR": place},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield next(line.strip() for line in process.stdout if line.startswith("127.0.0.1:"))
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        shutil.rmtree(place, ignore_errors=True)


CLUSTERS = {"dask": (two_dask_workers, "distributed"), "ray": (two_ray_nodes, "ray")}


@pytest.mark.parametrize("engine", CLUSTERS)
def test_a_killed_worker_of_a_cluster_costs_no_row_and_doubles_none(
    tmp_path: Path, models_dir: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, package = CLUSTERS[engine]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(INPUTS):
        picture = id_png(index) if index % 2 else ood_png(index)
        (folder / f"{index:02}.png").write_bytes(picture)
    held = folder / f"{HELD:02}.png"
    held.unlink()
    os.mkfifo(held)

    out = tmp_path / "scores.parquet"
    with cluster(tmp_path) as address:
        run = start(
            "-m", "service", "score", folder, "--model", "tiny", "--models-dir", models_dir,
            "--partition-rows", "1", "--engine", engine, "--cluster", address, "--out", out,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        pipe = wait_for(lambda: run.poll() is not None or being_read(held))
        assert run.poll() is None, run.communicate()[0]
        worker = wait_for(lambda: reader_of(held))
        worker.kill()
        wait_for(lambda: (reader := reader_of(held)) and reader.pid != worker.pid)
        os.write(pipe, id_png(HELD))
        os.close(pipe)
        printed, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, printed
    assert f"{INPUTS} inputs" in printed

    held.unlink()
    held.write_bytes(id_png(HELD))
    whole = bulk_runner(tmp_path, models_dir, monkeypatch)(
        folder, "--model", "tiny", out="2.parquet"
    )
    assert pq.read_table(out).to_pylist() == whole.rows
    assert [row["index"] for row in whole.rows] == list(range(INPUTS))
