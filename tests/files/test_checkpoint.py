"""Every format is recognised by content, and what is safe loads unchanged."""

from __future__ import annotations

import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals
from torchvision.models import VisionTransformer, mobilenet_v3_small, resnet18

from gngraph.errors import GnGraphError
from gngraph.files.checkpoint import FileFormat, Trust, load_module, sniff
from gngraph.zoo import SEEDS, build_seed
from tests.files.model_files import message_of, saved, small


class Custom(nn.Module):
    """A class that no allow-list knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def assert_same_network(loaded: nn.Module, original: nn.Module, x: Tensor) -> None:
    assert type(loaded) is type(original)
    assert list(loaded.state_dict()) == list(original.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), original.eval()(x))


# --- formats ---------------------------------------------------------------------------------------------------------


def _write_gng(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("graph.json", "{}")
        archive.writestr("weights.safetensors", b"")


def _write_other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


def _write_truncated(path: Path) -> None:
    torch.save(small(), path)
    path.write_bytes(path.read_bytes()[:-200])


def _write_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2)), str(path))  # type: ignore[no-untyped-call]


def _write_pt2(path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.zeros(1, 2),)), file)


def _write_onnx(path: Path) -> None:
    from onnx import helper

    graph = helper.make_graph([], "empty", [], [])
    path.write_bytes(helper.make_model(graph, producer_name="test").SerializeToString())


WRITERS: dict[FileFormat, Callable[[Path], object]] = {
    FileFormat.WHOLE_MODULE: lambda path: torch.save(small(), path),
    FileFormat.STATE_DICT: lambda path: torch.save(small().state_dict(), path),
    FileFormat.CHECKPOINT: lambda path: torch.save({"epoch": 3, "model": small()}, path),
    FileFormat.FX_GRAPH_MODULE: lambda path: torch.save(fx.symbolic_trace(small()), path),
    FileFormat.TORCH_OBJECT: lambda path: torch.save(torch.zeros(3), path),
    FileFormat.TORCH_LEGACY: lambda path: torch.save(small().state_dict(), path, _use_new_zipfile_serialization=False),
    FileFormat.TORCHSCRIPT: _write_torchscript,
    FileFormat.EXPORT_PT2: _write_pt2,
    FileFormat.PICKLE: lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    FileFormat.GNG_ARCHIVE: _write_gng,
    FileFormat.SAFETENSORS: lambda path: save_file(small().state_dict(), path),
    FileFormat.ONNX: _write_onnx,
    FileFormat.OTHER_ZIP: _write_other_zip,
    FileFormat.TRUNCATED_ZIP: _write_truncated,
    FileFormat.EMPTY: lambda path: path.write_bytes(b""),
    FileFormat.LFS_POINTER: lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    FileFormat.TEXT: lambda path: path.write_text("Größe, not a model\n" * 1000, encoding="utf-8"),
    FileFormat.UNKNOWN: lambda path: path.write_bytes(bytes(range(100, 256)) + bytes(100)),
}


def test_there_is_an_example_of_every_format() -> None:
    assert set(WRITERS) == set(FileFormat)


@pytest.mark.parametrize("expected", FileFormat, ids=lambda f: f.name)
def test_formats_are_told_apart_by_content(expected: FileFormat, path: Path) -> None:
    WRITERS[expected](path)
    assert sniff(path) is expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (FileFormat.STATE_DICT, ["state dict", "--arch", "vgg11"]),
        (FileFormat.SAFETENSORS, ["state dict", "--arch"]),
        (FileFormat.TORCH_LEGACY, ["state dict", "--arch"]),
        (FileFormat.FX_GRAPH_MODULE, ["GraphModule", "reduce_graph_module", "--trust"]),
        (FileFormat.TORCH_OBJECT, ["Tensor", "torch.save(model, path)"]),
        (FileFormat.TORCHSCRIPT, ["TorchScript", "torch.save(model, path)"]),
        (FileFormat.EXPORT_PT2, ["torch.export", "gngraph.load"]),
        (FileFormat.PICKLE, ["plain pickle", "--trust"]),
        (FileFormat.GNG_ARCHIVE, ["gngraph archive", "gngraph.load"]),
        (FileFormat.ONNX, ["ONNX", "gngraph.load"]),
        (FileFormat.OTHER_ZIP, ["zip archive"]),
        (FileFormat.TRUNCATED_ZIP, ["cut off", "again"]),
        (FileFormat.EMPTY, ["empty"]),
        (FileFormat.LFS_POINTER, ["git lfs pull"]),
        (FileFormat.TEXT, ["text file", "torch.save"]),
        (FileFormat.UNKNOWN, ["unknown format"]),
    ],
    ids=lambda value: value.name if isinstance(value, FileFormat) else "",
)
def test_what_holds_no_safe_module_is_refused_with_the_way_out(given: FileFormat, words: list[str], path: Path) -> None:
    WRITERS[given](path)
    message = message_of(lambda: load_module(path))
    assert str(path) in message
    assert all(word in message for word in words), message


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "there is no file" in message_of(lambda: load_module(tmp_path / "gone.pt"))
    assert "is a folder" in message_of(lambda: load_module(tmp_path))


@pytest.mark.parametrize("keep", [1, 3, 30, 500])
@pytest.mark.parametrize("trust", Trust)
def test_cut_off_files_are_refused_whatever_their_format(keep: int, trust: Trust, path: Path) -> None:
    for written in (FileFormat.WHOLE_MODULE, FileFormat.TORCH_LEGACY, FileFormat.SAFETENSORS, FileFormat.PICKLE):
        WRITERS[written](path)
        path.write_bytes(path.read_bytes()[: min(keep, path.stat().st_size - 1)])
        message_of(lambda: load_module(path, arch="mlp", trust=trust))


# --- whole modules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SEEDS.keys() - {"gpt"}))
def test_every_seed_loads_without_trust(name: str, path: Path) -> None:
    network = build_seed(name, width=0.125, classes=4, input_shape=(1, 8, 8))
    assert_same_network(load_module(saved(network, path)), network, torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize(
    "network",
    [
        resnet18(num_classes=3),
        mobilenet_v3_small(num_classes=3),
        VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8),
    ],
    ids=lambda network: type(network).__name__,
)
def test_torchvision_networks_load_without_trust(network: nn.Module, path: Path) -> None:
    assert_same_network(load_module(saved(network, path)), network, torch.randn(2, 3, 32, 32))


def test_a_module_in_a_checkpoint_and_in_data_parallel(path: Path) -> None:
    x = torch.randn(2, 1, 4, 4)
    network = small()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(x).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "model": network, "optimizer": optimizer.state_dict()}
    assert_same_network(load_module(saved(checkpoint, path)), network, x)
    assert_same_network(load_module(saved(nn.DataParallel(network), path)), network, x)


def test_shared_layers_and_half_precision_stay_as_they_are(path: Path) -> None:
    layer = nn.Linear(4, 4)
    network = nn.Sequential(layer, nn.ReLU(), layer).to(torch.bfloat16)
    loaded = load_module(saved(network, path))
    assert isinstance(loaded, nn.Sequential) and loaded[0] is loaded[2]
    assert_same_network(loaded, network, torch.randn(2, 4, dtype=torch.bfloat16))


def test_the_mode_is_kept(path: Path) -> None:
    assert load_module(saved(small(), path)).training
    assert not load_module(saved(small().eval(), path)).training


def test_arch_beside_a_whole_module_is_a_mistake(path: Path) -> None:
    saved(small(), path)
    assert "already holds a Sequential" in message_of(lambda: load_module(path, arch="vgg11"))


def test_the_callers_own_safe_globals_survive(path: Path) -> None:
    saved(small(), path)
    add_safe_globals([nn.Linear, Custom])
    try:
        load_module(path)
        assert {nn.Linear, Custom} <= set(get_safe_globals())
        assert nn.Conv2d not in get_safe_globals()
    finally:
        clear_safe_globals()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save(Custom(), path),
        lambda path: torch.save({"model": Custom()}, path),
        lambda path: torch.save(Custom(), path, pickle_protocol=4),
        lambda path: torch.save(Custom(), path, _use_new_zipfile_serialization=False),
        lambda path: path.write_bytes(pickle.dumps(Custom())),
        lambda path: torch.save(fx.symbolic_trace(Custom()), path),
    ],
    ids=["module", "checkpoint", "protocol 4", "legacy", "pickle", "graph module"],
)
def test_custom_classes_need_trust(write: Callable[[Path], object], path: Path) -> None:
    write(path)
    assert "--trust" in message_of(lambda: load_module(path))
    loaded = load_module(path, trust=Trust.FILE)
    assert loaded(torch.zeros(5, 2)).shape == (5, 3)


def test_a_refusal_names_the_missing_globals(path: Path) -> None:
    saved(nn.Sequential(Custom(), nn.ReLU()), path)
    message = message_of(lambda: load_module(path))
    assert f'"{Custom.__module__}.Custom"' in message
    assert "torch.nn" not in message


def test_a_trusted_class_that_cannot_be_imported(path: Path, tmp_path: Path) -> None:
    (tmp_path / "vanishing.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"
    )
    network = load_module("vanishing:Net")
    saved(network, path)
    assert type(load_module(path, trust=Trust.FILE)).__name__ == "Net"
    (tmp_path / "vanishing.py").unlink()
    del sys.modules["vanishing"]
    assert "vanishing" in message_of(lambda: load_module(path, trust=Trust.FILE))


# --- state dicts -----------------------------------------------------------------------------------------------------


def _wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "shape_of_file",
    [
        lambda state: state,
        dict,
        _wrapped,
        lambda state: {f"_orig_mod.{key}": value for key, value in _wrapped(state).items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": _wrapped(state), "optimizer": {"state": {}, "param_groups": []}},
        lambda state: {"model_state_dict": state, "rng": torch.get_rng_state(), "best": 0.5, "name": "x"},
    ],
    ids=["plain", "dict", "DataParallel", "compiled", "state_dict", "model", "model_state_dict"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_state_dicts_in_their_usual_shapes(shape_of_file: Callable[[Any], object], zipped: bool, path: Path) -> None:
    network = build_seed("resnet20", width=0.25, classes=5)
    saved(shape_of_file(network.state_dict()), path, _use_new_zipfile_serialization=zipped)
    loaded = load_module(path, arch="resnet20", width=0.25)
    assert_same_network(loaded, network, torch.randn(2, 3, 32, 32))


def test_state_dict_in_safetensors(path: Path) -> None:
    network = build_seed("vgg11", width=0.125, classes=6, input_shape=(1, 8, 8))
    save_file({key: value for key, value in network.state_dict().items() if value.dim()}, path)
    loaded = load_module(path, arch="vgg11", width=0.125, input_shape=(1, 8, 8))
    assert_same_network(loaded, network, torch.randn(2, 1, 8, 8))


def test_state_dict_of_a_torchvision_classifier(path: Path) -> None:
    network = resnet18(num_classes=3)
    loaded = load_module(saved(network.state_dict(), path), arch="torchvision:resnet18")
    assert_same_network(loaded, network, torch.randn(1, 3, 32, 32))


def test_state_dict_with_a_factory(path: Path, tmp_path: Path) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Linear(2, 3))\n"
    )
    network = nn.Sequential(nn.Linear(2, 3))
    loaded = load_module(saved(network.state_dict(), path), arch="own_nets:make")
    assert_same_network(loaded, network, torch.randn(2, 2))


def test_a_mismatch_names_the_first_keys_and_shapes(path: Path) -> None:
    saved(build_seed("vgg11", width=0.25).state_dict(), path)
    message = message_of(lambda: load_module(path, arch="vgg11"))
    assert '"features.0.weight" is 16x3x3x3 in the file but 64x3x3x3 in the network and' in message
    message = message_of(lambda: load_module(path, arch="mlp"))
    assert 'missing "hidden.0.weight" (256x3072)' in message
    assert 'unexpected "features.0.weight" (16x3x3x3)' in message


@pytest.mark.parametrize(
    ("value", "words"),
    [({}, ["no entries"]), ({"epoch": 3, "loss": 0.5}, ['"epoch", "loss"', "state_dict"]), ([1, 2], ["list"])],
)
def test_files_without_a_model_in_them(value: object, words: list[str], path: Path) -> None:
    saved(value, path)
    message = message_of(lambda: load_module(path, arch="vgg11"))
    assert all(word in message for word in words), message


def test_an_unknown_arch_lists_the_choices(path: Path) -> None:
    saved(build_seed("mlp", width=0.1).state_dict(), path)
    with pytest.raises(GnGraphError, match=r'no seed "mlq".*did you mean "mlp"'):
        load_module(path, arch="mlq")


# --- factories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no_such_module_here:make", ["ModuleNotFoundError", "no_such_module_here"]),
        ("factories:missing", ["AttributeError", "missing"]),
        ("factories:needs_more", ["TypeError", "without required arguments"]),
        ("factories:gives_text", ["returned a str"]),
        ("factories:fails", ["ValueError: boom"]),
    ],
)
def test_factories_that_fail(source: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "factories.py").write_text(
        "def needs_more(x): ...\ndef gives_text(): return 'x'\ndef fails(): raise ValueError('boom')\n"
    )
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    path_before = list(sys.path)
    message = message_of(lambda: load_module(source))
    assert all(word in message for word in words), message
    assert sys.path == path_before
