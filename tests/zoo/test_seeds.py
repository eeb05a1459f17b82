"""Every seed family builds, runs in train and eval mode, is reproducible, and refuses what it cannot be."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.share import share_free_both_ways
from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.zoo import SEEDS, build_seed, vgg_with_widths
from gngraph.zoo.transformer import ANGLES, turned

SHAPES = [(3, 32, 32), (1, 8, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=["3x32x32", "1x8x8"])
@pytest.mark.parametrize("name", sorted(SEEDS.keys() - {"gpt", "unet"}))
def test_runs_in_train_and_eval_mode(name: str, shape: tuple[int, ...]) -> None:
    network = build_seed(name, width=0.125, classes=7, input_shape=shape)
    x = torch.randn(2, *shape)
    assert network.training
    assert network(x).shape == (2, 7)
    network.eval()
    scores = network(x)
    assert scores.shape == (2, 7)
    assert not torch.equal(scores[0], scores[1])
    assert torch.equal(network(x), scores)


@pytest.mark.parametrize("name", ["gpt", "gpt{norm=rms,positions=rotary,queries=2}"])
def test_a_gpt_gives_scores_of_the_next_token_and_sees_none_that_comes_later(name: str) -> None:
    network = build_seed(name, width=0.125, classes=7, input_shape=(6,)).eval()
    x = torch.randint(7, (2, 6))
    assert network(x).shape == (2, 6, 7)
    torch.testing.assert_close(network(x[:, :4]), network(x)[:, :4])
    assert network.get_parameter("head.weight") is network.get_parameter("tokens.weight")
    graph = from_torch(network, x)
    spaces = ChannelSpaces.of(graph)
    assert share_free_both_ways(graph, spaces) == 1
    assert spaces["blocks.0.attention.qkv"].size == 1  # heads that share keys come and go together
    with pytest.raises(UnsupportedModelError, match='"gpt" takes windows of tokens'):
        build_seed(name)


def test_what_a_gpt_is_made_of() -> None:
    plain, other = (
        build_seed(name, classes=7, input_shape=(6,)) for name in ("gpt", "gpt{norm=rms,positions=rotary,queries=2}")
    )
    assert plain.get_parameter("blocks.0.attention.qkv.weight").shape[0] == 3 * 128
    assert other.get_parameter("blocks.0.attention.qkv.weight").shape[0] == 2 * 128
    assert plain.state_dict().keys() - other.state_dict().keys() == {
        "positions.weight", "norm.bias", *(f"blocks.{i}.norm{k}.bias" for i in range(4) for k in (1, 2)),
    }  # fmt: skip


def test_rotary_positions_tell_how_far_apart_tokens_are_and_no_more() -> None:
    angles = torch.arange(9.0).unsqueeze(1) * torch.tensor(ANGLES)
    q, k = torch.randn(2, 1, 1, 1, 32).expand(2, 1, 1, 9, 32)
    scores = (turned(q, angles.cos(), angles.sin()) @ turned(k, angles.cos(), angles.sin()).mT)[0, 0]
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores[0], scores[0, 0].expand(9), atol=0.1)


@pytest.mark.parametrize(("shape", "halvings"), [((1, 8, 8), 3), ((3, 12, 20), 2), ((2, 3, 5), 0)])
def test_a_unet_gives_every_pixel_scores_and_halves_as_often_as_the_image_allows(
    shape: tuple[int, ...], halvings: int
) -> None:
    network = build_seed("unet", width=0.125, classes=4, input_shape=shape)
    assert network(torch.randn(2, *shape)).shape == (2, 4, *shape[1:])
    assert len(network.get_submodule("up")._modules) == halvings


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 3, 5), (3, 64, 48)])
@pytest.mark.parametrize("name", ["vgg11", "resnet20", "mobilenet", "mlp", "vit"])
def test_odd_image_sizes(name: str, shape: tuple[int, ...]) -> None:
    network = build_seed(name, width=0.125, classes=3, input_shape=shape)
    assert network(torch.randn(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Counted from the published layer tables; the CIFAR ResNets here have 1x1 projections (option B), the VGGs no
    # convolution bias and one linear layer.
    [("vgg11", 9_228_362), ("resnet20", 272_474), ("resnet32", 466_906), ("resnet56", 855_770), ("mlp", 855_050)],
)
def test_parameter_count_at_width_one(name: str, parameters: int) -> None:
    network = build_seed(name)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", ["vgg11", "resnet20", "mobilenet", "mlp"])
def test_width_scales_every_hidden_layer(name: str) -> None:
    full = {k: v.shape for k, v in build_seed(name).state_dict().items() if v.dim() == 1}
    half = {k: v.shape for k, v in build_seed(name, width=0.5).state_dict().items() if v.dim() == 1}
    assert full.keys() == half.keys()
    assert all(half[key][0] * 2 == full[key][0] for key in full if key != "head.bias")


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (build_seed("mlp", width=0.1, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_whole_networks_can_be_saved_and_copied() -> None:
    network = build_seed("mobilenet", width=0.1)
    buffer = io.BytesIO()
    torch.save(network, buffer)
    assert list(copy.deepcopy(network).state_dict()) == list(network.state_dict())


def test_vgg_with_widths_keeps_the_layout_of_the_family() -> None:
    seed = build_seed("vgg13", width=0.125, classes=10, input_shape=(3, 16, 16))
    widths = [v.shape[0] for k, v in seed.state_dict().items() if v.dim() == 4]
    rebuilt = vgg_with_widths("vgg13", widths, classes=10, input_shape=(3, 16, 16))
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in seed.state_dict().items()}
    rebuilt.load_state_dict(seed.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(rebuilt.eval()(x), seed.eval()(x))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_torchvision_classifiers(name: str) -> None:
    network = build_seed(f"torchvision:{name}", classes=4, input_shape=(3, 32, 32))
    assert network.training
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vgg12", {}, ['"vgg12"', "mobilenet", "torchvision:NAME", 'did you mean "vgg1']),
        ("zebra", {}, ['"zebra"', "choose from vgg11"]),
        ("vgg11", {"input_shape": (64,)}, ['"64"', '"mlp"']),
        ("vgg11", {"width": 0.0}, ["width multiplier", '"0.0"']),
        ("vgg11", {"width": float("nan")}, ["width multiplier"]),
        ("vgg11", {"classes": 0}, ["class", '"0"']),
        ("vgg11{norm=rms}", {}, ['"vgg11" has no options', "gpt"]),
        ("gpt{norm=batch}", {}, ["'batch'", "layer", "rms"]),
        ("gpt{queries=0}", {}, ["queries must be at least 1"]),
        ("vgg11", {"input_shape": (3, 0, 32)}, ['"3x0x32"']),
        ("torchvision:resnet81", {}, ['"resnet81"', 'did you mean "resnet1']),
        ("torchvision:resnet18", {"input_shape": (1, 8, 8)}, ["3 input channels", '"1x8x8"', "has 1"]),
        ("torchvision:resnet18", {"width": 0.5}, ["fixed width", '"0.5"']),
        ("torchvision:alexnet", {}, ["does not run on inputs of 3x32x32"]),
        ("torchvision:vit_b_16", {"input_shape": (3, 33, 33)}, ['"torchvision:vit_b_16"']),
    ],
)
def test_refusals_are_one_sentence_with_the_choices(name: str, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        build_seed(name, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "widths", "words"),
    [("vgg11", [4] * 7, ["8 widths"]), ("vgg11", [0] * 8, ["at least 1"]), ("vgg15", [4] * 8, ['"vgg15"', "did you"])],
)
def test_vgg_with_widths_refuses_other_shapes(name: str, widths: list[int], words: list[str]) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        vgg_with_widths(name, widths, classes=10, input_shape=(3, 32, 32))
    assert all(word in str(caught.value) for word in words), str(caught.value)
