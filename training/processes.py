"""The processes that torchrun starts: they train one network together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as distributed


@contextmanager
def process_group() -> Iterator[None]:
    """Joined while the block runs, where torchrun started several; otherwise nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def world() -> int:
    """Processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This one's number; the first one, 0, writes and goes on after the training."""
    return distributed.get_rank() if distributed.is_initialized() else 0
