"""ONNX parity of many networks, before and after their channels are rewritten: a table of the largest differences of an output.

Convolutional and recurrent networks, transformers, and backbones and segmentation networks of torchvision, all with new weights.
Each is written as ONNX and held against torch in onnxruntime on batches of 1 and 3; then every free space has a channel split, one
added and one removed, and the same is done with what that makes. Differences are divided by the largest output. Exits non-zero
where one is above the bar, or cannot be written.

    python tools/check_onnx.py                     all, some minutes on a quiet machine
    python tools/check_onnx.py resnet18 gru
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.zoo import build_seed

BAR = 1e-4
"""Of the largest output."""

Made = tuple[nn.Module, torch.Tensor]
"""A network and two samples for it."""


class Recurrent(nn.Module):
    """Two recurrent layers, and a class by the last state of the second.

    Args:
        kind: of the layers.
        directions: in which each reads, 1 or 2.
    """

    def __init__(self, kind: Callable[..., nn.Module], directions: int) -> None:
        super().__init__()
        self.layers = kind(6, 12, num_layers=2, batch_first=True, bidirectional=directions == 2)
        self.head = nn.Linear(12 * directions, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        states, _ = self.layers(x)
        y: torch.Tensor = self.head(states[:, -1])
        return y


class OneOutput(nn.Module):
    """A network of torchvision that returns a dictionary, of which one entry counts.

    Args:
        network: it.
        entry: name of the entry.
    """

    def __init__(self, network: nn.Module, entry: str) -> None:
        super().__init__()
        self.network, self.entry = network, entry

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        y: torch.Tensor = self.network(x)[self.entry]
        return y


def classifier(name: str, size: int = 64) -> Callable[[], Made]:
    """A classifier of torchvision for pictures of so many pixels a side."""

    def make() -> Made:
        import torchvision

        return torchvision.models.get_model(name, num_classes=10), torch.randn(2, 3, size, size)

    return make


def segmentation(name: str) -> Callable[[], Made]:
    """A segmentation network of torchvision."""

    def make() -> Made:
        from torchvision.models import segmentation as networks

        network = networks.__dict__[name](weights=None, weights_backbone=None, num_classes=5)
        return OneOutput(network, "out"), torch.randn(2, 3, 64, 64)

    return make


def backbone(name: str) -> Callable[[], Made]:
    """What a detector of torchvision reads pictures by: a network with a pyramid of features."""

    def make() -> Made:
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

        network = resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d)
        return OneOutput(network, "0"), torch.randn(2, 3, 64, 64)

    return make


def seed(name: str, shape: tuple[int, ...]) -> Callable[[], Made]:
    """A seed of gngraph's."""

    def make() -> Made:
        from gngraph.importing.examples import example_for

        module = build_seed(name, width=0.25, classes=10, input_shape=shape, seed=0)
        return module, example_for(module, shape)

    return make


def recurrent(kind: Callable[..., nn.Module], directions: int) -> Callable[[], Made]:
    """A recurrent network."""
    return lambda: (Recurrent(kind, directions), torch.randn(2, 7, 6))


NETWORKS: dict[str, Callable[[], Made]] = {
    **{name: seed(name, (3, 16, 16)) for name in ("vgg11", "resnet20", "mobilenet", "mlp", "vit")},
    "gpt": seed("gpt", (16,)),
    "lstm": recurrent(nn.LSTM, 1),
    "lstm-both": recurrent(nn.LSTM, 2),
    "gru": recurrent(nn.GRU, 1),
    "rnn": recurrent(nn.RNN, 1),
    **{
        name: classifier(name)
        for name in (
            "resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1",
            "densenet121", "efficientnet_b0", "regnet_y_400mf", "regnet_x_400mf", "mnasnet0_5", "convnext_tiny", "vgg11_bn",
            "alexnet",
        )
    },
    "vit_b_32": classifier("vit_b_32", 224),
    "swin_t": classifier("swin_t"),
    "resnet18-fpn": backbone("resnet18"),
    "resnet50-fpn": backbone("resnet50"),
    "lraspp_mobilenet_v3_large": segmentation("lraspp_mobilenet_v3_large"),
    "fcn_resnet50": segmentation("fcn_resnet50"),
}  # fmt: skip


def rewritten(graph: Graph) -> Graph:
    """The network with a channel split, one new and one removed in every free space."""
    spaces, morphisms = ChannelSpaces.of(graph), list[Morphism]()
    for space in spaces.free:
        # a table that is the head as well cannot be split exactly
        morphisms += [NewChannel(space.name) if space.tied else SplitChannel(space.name, 0), NewChannel(space.name)]
        morphisms += [PruneChannel(space.name, space.size - 1)] if space.size > 1 else []
    return morph(graph, spaces, morphisms).graph


def difference(graph: Graph, folder: Path) -> float:
    """The largest difference of an output from torch, divided by the largest output.

    Args:
        graph: the network.
        folder: for its file.

    Raises:
        GnGraphError: it cannot be written, or differs by more than the exporter allows.
    """
    parity = export_onnx(graph, folder / "network.onnx").parity
    if parity.max_abs_output == 0:
        raise GnGraphError("all outputs are zero, so that nothing is compared")
    return parity.max_abs_difference / parity.max_abs_output


def checked(name: str, folder: Path) -> bool:
    """Check a network, print its row, and say whether it keeps to the bar.

    Args:
        name: of `NETWORKS`.
        folder: for its files.
    """
    torch.manual_seed(0)
    module, example = NETWORKS[name]()
    for weight in module.parameters():
        if weight.dim() > 1 and not weight.any():  # a head that starts at zero, as torchvision's ViT has it
            nn.init.normal_(weight, std=0.02)
    try:
        graph = from_torch(module.eval(), example, train_only="drop")
        after = rewritten(graph)
        found = [difference(own, folder) for own in (graph, after)]
    except GnGraphError as error:
        click.echo(f"{name:26} {error}")
        return False
    free = len(ChannelSpaces.of(graph).free)
    click.echo(f"{name:26} {graph.num_params():>11,} {free:>6} {found[0]:>9.1e} {found[1]:>9.1e}")
    return max(found) <= BAR


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)))
def main(names: tuple[str, ...]) -> None:
    """Check, and exit with 1 where the bar is missed."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    click.echo(f"{'':26} {'parameters':>11} {'spaces':>6} {'before':>9} {'after':>9}")
    with tempfile.TemporaryDirectory() as folder:
        kept = [checked(name, Path(folder)) for name in names or NETWORKS]
    click.echo(f"{sum(kept)} of {len(kept)} networks within {BAR:g} of their largest output, before and after")
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
