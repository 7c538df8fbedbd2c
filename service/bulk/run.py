"""One bulk run: what is missing is scored, put away, and at the end put together."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.bulk.arrow import Table
from service.bulk.engines import ENGINES, EngineName
from service.bulk.errors import PartitionFailed
from service.bulk.job import Job
from service.bulk.partitions import DataSet, Partition
from service.bulk.store import Store
from service.bulk.tables import scores_schema

Done = Iterator[tuple[Partition, bytes]]
# hears what was there already and what comes, and hands it on
Watch = Callable[[Done, int, int], Done]


@dataclass(frozen=True)
class Outcome:
    """Of all inputs, those of earlier runs included."""

    inputs: int
    ood: int
    failed: int
    partitions: int
    found: int  # partitions that were there already


@dataclass(frozen=True)
class Workers:
    engine: EngineName
    count: int  # on this machine
    address: str | None = None  # of a cluster


def run_bulk(
    job: Job,
    detectors: tuple[str, ...],
    data: DataSet,
    out: Path,
    workers: Workers,
    watch: Watch,
    *,
    restart: bool = False,
) -> Outcome:
    """`detectors`: those of the columns.  `watch`: sees the partitions, their inputs done, and all.

    Raises BulkError.
    """
    store = Store(out, {**job.settings, **data.settings}, scores_schema(detectors))
    if not restart and store.complete:
        store.clean()
        return _outcome(store.rows(), data, len(data.partitions))
    with store.opened(restart=restart):
        missing = [partition for partition in data.partitions if not store.has(partition)]
        there = data.count - sum(partition.count for partition in missing)
        if missing:
            run = ENGINES[workers.engine]
            count = min(workers.count, len(missing))
            for partition, scores in watch(
                run(job, missing, count, workers.address), there, data.count
            ):
                store.put(partition, scores)
        if lost := [str(partition.number) for partition in missing if not store.has(partition)]:
            raise PartitionFailed(
                f"no worker gave back partitions {', '.join(lost)}; the same command scores them"
            )
        store.finish(data.partitions)
    return _outcome(store.rows(), data, len(data.partitions) - len(missing))


def _outcome(rows: Iterable[Table], data: DataSet, found: int) -> Outcome:
    ood = failed = 0
    for table in rows:
        decisions = table.column("decision").to_pylist()
        ood += decisions.count("OOD")
        failed += decisions.count(None)
    return Outcome(data.count, ood, failed, len(data.partitions), found)
