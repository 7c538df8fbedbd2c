"""Real worker processes, killed and stopped.  A named pipe among the inputs holds a worker until
the test has seen to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from bulk_runs import bulk_runner
from named_pipe import PATIENCE, being_read, feeding, wait_for
from pictures import id_png, ood_png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three partitions of two; the last input is a pipe nobody writes to."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(5):
        picture = id_png(index) if index % 2 else ood_png(index)
        (folder / f"{index}.png").write_bytes(picture)
    os.mkfifo(folder / "5.png")
    return folder


@contextmanager
def running(folder: Path, models_dir: Path, *more: str) -> Generator[psutil.Popen]:
    # a shell's background ignores SIGINT, and what it starts would, too
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = psutil.Popen(
        [
            *(sys.executable, "-m", "service", "score", str(folder), "--model", "tiny"),
            *("--models-dir", str(models_dir), "--partition-rows", "2"),
            *("--workers", "1", "--out", str(folder.parent / "scores.parquet"), *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a signal to its group does not reach this test
    )
    signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        for child in workers_of(process):
            child.kill()
        if process.poll() is None:
            process.kill()
        process.communicate()


def workers_of(process: psutil.Popen) -> list[psutil.Process]:
    if has_ended(process):
        return []
    children = process.children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def has_ended(process: psutil.Process) -> bool:
    """Also where nobody has asked for its exit code yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def finished_parts(folder: Path) -> list[str]:
    parts = folder.parent / "scores.parquet.parts"
    return sorted(part.name for part in parts.glob("part-*.parquet"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes and signals")
@pytest.mark.parametrize(
    "stop", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_killed_workers_and_runs_lose_no_row_and_double_none(
    folder: Path, models_dir: Path, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(folder, models_dir) as run:
        pipe = wait_for(lambda: being_read(folder / "5.png"))
        (worker,) = workers_of(run)
        wait_for(lambda: len(finished_parts(folder)) == 2)
        worker.kill()
        wait_for(lambda: has_ended(worker))
        os.close(pipe)
        pipe = wait_for(lambda: being_read(folder / "5.png"))
        (another,) = wait_for(lambda: workers_of(run))
        assert another.pid != worker.pid
        run.send_signal(stop)
        printed, _ = run.communicate(timeout=PATIENCE)
        wait_for(lambda: has_ended(another))
        os.close(pipe)
    assert run.returncode == (1 if stop == signal.SIGINT else -stop)
    assert (b"the same command goes on" in printed) is (stop == signal.SIGINT)
    assert finished_parts(folder) == ["part-000000.parquet", "part-000001.parquet"]

    with running(folder, models_dir) as run, feeding(folder / "5.png", id_png(5)):
        printed, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, printed
    assert b"(3 partitions, 2 of them there already" in printed

    (folder / "5.png").unlink()
    (folder / "5.png").write_bytes(id_png(5))
    whole = bulk_runner(tmp_path, models_dir, monkeypatch)(
        folder, "--model", "tiny", out="2.parquet"
    )
    assert pq.read_table(folder.parent / "scores.parquet").to_pylist() == whole.rows
    assert [row["index"] for row in whole.rows] == list(range(6))
