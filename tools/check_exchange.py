"""Networks as files of torch's exporters, read again: the largest difference of an output, and how many channel spaces are free.

Each network, with new weights that are all different and statistics of its own, is written by both ONNX exporters of torch and by
torch.export, with a dynamic batch, and read by gngraph. A line a file: the largest difference from the network in torch on batches
of 1 and 3, of the largest output; free channel spaces beside those of the network itself; parameters that kept their names. Exits
non-zero where a difference is above the bar, or a file is refused.

    python tools/check_exchange.py                  all, some minutes
    python tools/check_exchange.py resnet18 mlp
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import torch
import torchvision
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import GnGraphError
from gngraph.files.loading import load
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import run

BAR = 1e-5
"""Of the largest output."""

BATCH = {0: torch.export.Dim.DYNAMIC}


def _mlp() -> nn.Module:
    hidden = [nn.Linear(3 * 64 * 64, 32), nn.BatchNorm1d(32), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 10))


def _vgg() -> nn.Module:
    net: nn.Module = torchvision.models.vgg11_bn()  # which pools pictures of 64 x 64 to more than they are
    net.avgpool, net.classifier = nn.Identity(), nn.Linear(512 * 4, 10)
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "vgg11_bn": _vgg,
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "densenet": lambda: torchvision.models.DenseNet(16, (3, 3, 3), 16, num_classes=10),
    "vit": lambda: torchvision.models.VisionTransformer(64, 16, 2, 4, 32, 64, num_classes=10),
}
"""Networks for pictures of 3 x 64 x 64."""


def _older(net: nn.Module, x: torch.Tensor, path: Path) -> None:
    torch.onnx.export(net, (x,), str(path), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})


def _newer(net: nn.Module, x: torch.Tensor, path: Path) -> None:
    torch.onnx.export(net, (x,), str(path), dynamo=True, external_data=False, verbose=False, dynamic_shapes=(BATCH,))


def _exported(net: nn.Module, x: torch.Tensor, path: Path) -> None:
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=(BATCH,)), str(path))


WRITERS: dict[str, Callable[[nn.Module, torch.Tensor, Path], None]] = {
    "older.onnx": _older,
    "newer.onnx": _newer,
    "export.pt2": _exported,
}
"""How files are called, and who writes them."""


def made(name: str) -> nn.Module:
    """A network in eval mode whose parameters are all different; an exporter joins those that are equal.

    Args:
        name: of it.
    """
    torch.manual_seed(0)
    net = NETWORKS[name]()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
        net.train()(torch.randn(8, 3, 64, 64))
    return net.eval()


def difference(net: nn.Module, graph: Graph) -> float:
    """The largest of an output, of the largest output.

    Args:
        net: the network.
        graph: what was read of its file.
    """
    largest = 0.0
    for count in (1, 3):
        x = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            wanted = net(x)
            largest = max(largest, float((run(graph, x) - wanted).abs().max() / wanted.abs().max()))
    return largest


def checked(name: str, folder: Path) -> bool:
    """Whether a network comes back from all files; a line is printed for each.

    Args:
        name: of the network.
        folder: for files.
    """
    net, x, well = made(name), torch.randn(2, 3, 64, 64), True
    own, names = from_torch(net, x), dict(net.named_parameters())
    for file, write in WRITERS.items():
        path = folder / file
        write(net, x, path)
        try:
            graph = load(path)
        except GnGraphError as error:
            print(f"{name:14} {file:11} refused: {error}", flush=True)
            well = False
            continue
        found, (free, all_free) = difference(net, graph), (len(ChannelSpaces.of(g).free) for g in (graph, own))
        kept = sum(n in names for n, p in graph.params.items() if p.kind == "parameter")
        print(
            f"{name:14} {file:11} {found:8.1e}   {free:3} of {all_free:3} spaces free   {kept} names kept", flush=True
        )
        well = well and found <= BAR
    return well


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*NETWORKS]))
def main(names: tuple[str, ...]) -> None:
    """Write the networks NAMES, or all, and read them again."""
    warnings.simplefilter("ignore")  # of exporters about their own internals
    with tempfile.TemporaryDirectory() as folder:
        found = [checked(name, Path(folder)) for name in names or NETWORKS]
    sys.exit(0 if all(found) else 1)


if __name__ == "__main__":
    main()
