"""Who runs the workers: processes of this machine, a Dask cluster, a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from service.bulk.engines import on_dask, on_ray, processes
from service.bulk.job import Job
from service.bulk.partitions import Partition

EngineName = Literal["process", "dask", "ray"]

# yields each partition once, in any order, with its table of scores as an Arrow stream;
# `address` of a cluster, None: workers of this machine
Engine = Callable[[Job, Sequence[Partition], int, str | None], Iterator[tuple[Partition, bytes]]]

ENGINES: dict[EngineName, Engine] = {
    "process": processes.run,
    "dask": on_dask.run,
    "ray": on_ray.run,
}
