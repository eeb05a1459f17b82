"""How a process comes to work with the others that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from gngraph.environment import Environment
from gngraph.errors import GnGraphError
from gngraph.ranks.group import ALONE, LostRankError, Ranks, here, working

STARTING, ANSWERING = timedelta(seconds=60), timedelta(minutes=10)
"""How long a process waits for the others to be there at all, and then for an answer. One that dies is noticed at once, for its
connections close; the second is for one that hangs."""

_store: list[Any] = []


def local_device() -> torch.device | None:
    """The GPU of this process, where several work together and there are GPUs."""
    environment = Environment.read()
    if environment.ranks == 1 or not torch.cuda.is_available():
        return None
    return torch.device("cuda", environment.device % torch.cuda.device_count())


def default_group() -> Ranks:
    """The processes of the default group of torch.distributed, which training of a user's own may have; else this one alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return Ranks(distributed.get_rank(), distributed.get_world_size(), distributed.group.WORLD)


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started work together inside; one that was started alone does so alone.

    Messages go by gloo, between GPUs by nccl. A group of torch.distributed that is there already is not touched.

    Raises:
        GnGraphError: the environment names several processes, but not how they find each other, or they do not find each other.
    """
    environment = Environment.read()
    if here().size > 1 or environment.ranks == 1:
        yield here()
        return
    own = not distributed.is_initialized()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        if own:
            device = local_device()
            if device is not None:
                torch.cuda.set_device(device)
            store, rank, size = next(rendezvous("env://", timeout=STARTING))
            store.set_timeout(STARTING)
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=ANSWERING)
            _store[:] = [distributed.PrefixStore("gngraph", store)]  # type: ignore[attr-defined]
        group = distributed.group.WORLD if own else distributed.new_group(backend=backend, timeout=ANSWERING)
        ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), group)
        ranks.gathered(0)
    except (RuntimeError, ValueError, LostRankError) as error:
        raise GnGraphError(
            f"the {environment.ranks} processes that the environment names (WORLD_SIZE) do not find each other "
            f"({str(error).splitlines()[0][:160]}): start all of them by torchrun, or unset WORLD_SIZE to work in one process"
        ) from error
    try:
        with working(ranks):
            yield ranks
    finally:
        if own:
            distributed.destroy_process_group()


def tells() -> bool:
    """Whether this process is the one to say why the job ends: the first of them that comes to it."""
    if not _store:
        return True
    me = str(os.getpid())
    try:
        told: bytes = _store[0].compare_set("ended", "", me)
    except RuntimeError:  # whoever holds the store is gone
        return True
    return told.decode() == me
