"""Networks of timm and transformers by their names: sizes, weights, inputs, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gngraph
from gngraph.errors import UnsupportedModelError
from gngraph.files.archive import recorded_inputs
from gngraph.zoo import Weights, build_seed, published
from tests.command_line import Commands

pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

TIMM = "timm:test_resnet.r160_in1k"
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier of images as transformers saves it."""
    folder = tmp_path_factory.mktemp("hub")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3, image_size=16
    )
    torch.manual_seed(1)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    transformers.ViTImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def test_a_network_of_timm_has_its_own_size_and_that_asked_for() -> None:
    kept = published(TIMM)
    assert kept is not None and (kept.input_shape, kept.classes) == ((3, 160, 160), 1000) and kept.mean and kept.std
    network = build_seed(TIMM, classes=4, input_shape=(1, 32, 32))
    assert network.training and network(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    network = build_seed("timm:test_vit.r160_in1k", classes=4, input_shape=(3, 32, 32))  # made for one size
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 4)
    assert published("vgg11") is None


def test_pretrained_weights_come_with_their_inputs(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command, name = Commands(capsys), f"hf:{saved}"
    command.ok("seed", name, "--pretrained", "-o", "seed.gng")
    x = torch.randn(2, 3, 16, 16)
    original = transformers.AutoModelForImageClassification.from_pretrained(saved).eval()
    torch.testing.assert_close(gngraph.to_torch(gngraph.load("seed.gng")).eval()(x), original(x).logits)
    record = recorded_inputs("seed.gng")["preprocess"]
    assert (record["scale"], record["mean"], record["std"]) == (255.0, MEAN, STD)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    np.savez("data.npz", x_train=pixels, y_train=np.arange(30) % 3)
    said = command.ok("evaluate", "seed.gng", "--data", "data.npz")
    assert "inputs: (raw / 255 - (0.4, 0.5, 0.6)) / (0.2, 0.25, 0.3)" in said
    said = command.ok(
        "evaluate", name, "--data", "data.npz"
    )  # as a MODEL, with new weights and the classes of the data
    assert "with 1," in said and "samples of 3x16x16" in said
    command.ok("seed", name, "--classes", 5, "-o", "new.gng")
    assert recorded_inputs("new.gng") is None and "f32[N,5]" in command.ok("inspect", "new.gng")


def test_texts_are_read_by_networks_of_tokens(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    transformers.BertConfig(**sizes, max_position_embeddings=16).save_pretrained(tmp_path / "bert")
    transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16).save_pretrained(
        tmp_path / "gpt"
    )
    tokens = torch.randint(20, (2, 6))
    classifier = build_seed(f"hf:{tmp_path / 'bert'}", classes=3, input_shape=(6,))
    assert classifier(tokens).logits.shape == (2, 3)
    assert build_seed(f"hf:{tmp_path / 'gpt'}", classes=30, input_shape=(6,))(tokens).logits.shape == (2, 6, 30)
    with pytest.raises(UnsupportedModelError, match="reads tokens, such as 64, but the input shape is"):
        build_seed(f"hf:{tmp_path / 'bert'}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "timm:test_resnot",
            'timm has no network "test_resnot", choose from timm.list_models(); did you mean "test_resnet"',
        ),
        ("hf:./nowhere", "no folder with a config.json"),
        ("hf:sam", 'is of the type "sam", which classifies neither'),
    ],
)
def test_what_is_not_there_is_one_sentence(name: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnsupportedModelError) as refused:
        build_seed(name)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_weights_that_cannot_be_fetched_and_packages_that_are_not_there_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise OSError("no route to host.\nTry later.")

    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(
        UnsupportedModelError, match=r"could not be fetched \(OSError: no route to host\); check the conn"
    ):
        build_seed(TIMM, input_shape=(3, 32, 32), weights=Weights.PRETRAINED)
    with pytest.raises(UnsupportedModelError, match='"vgg11" has no pretrained weights'):
        build_seed("vgg11", weights=Weights.PRETRAINED)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnsupportedModelError, match=r"need the package 'timm': install it \(pip install timm\)"):
        build_seed(TIMM)
