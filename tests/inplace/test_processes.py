"""Two processes with other data do the same to one network, and it is the first that decides."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from gngraph.growth.grower import Grower
from gngraph.inplace import agreed


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=1e-2)
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(rank))
    y = (x[:, rank] > 0).long() + (x[:, 2] > 0).long()
    grower = Grower(model, (x, y), max_params=300, rounds=1)
    for epoch in range(4):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(ddp(x), y))
        optimizer.step()
        if epoch == 1:
            grower.step(optimizer)
            ddp = DistributedDataParallel(model)
    torch.save((rank, agreed(rank), model.state_dict()), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_processes_make_the_same_step(tmp_path: Path) -> None:
    spawn(work, (str(tmp_path),), 2)  # type: ignore[no-untyped-call]
    (first, told, one), (second, heard, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert (first, told, second, heard) == (0, 0, 1, 0)
    assert one["0.weight"].shape[0] > 4 or one["2.weight"].shape[0] > 5
    assert all(torch.equal(one[name], other[name]) for name in one)
