"""What could run code, read foreign memory or exhaust the machine is refused, in one sentence, and nothing runs."""

from __future__ import annotations

import functools
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gngraph.errors import ModelFileError
from gngraph.files.checkpoint import Trust, load_module
from tests.files.model_files import message_of, saved, small

MARKER = "code-was-executed"


class Reduces:
    """Pickles as whatever `__reduce__` result it is given."""

    def __init__(self, *result: Any) -> None:
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return self.result


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def _with_attribute(name: str, value: object, module: nn.Module | None = None) -> nn.Module:
    module = module or nn.Linear(2, 2)
    module.__dict__[name] = value
    return module


def _cyclic() -> nn.Module:
    module = nn.Sequential(nn.ReLU())
    module._modules["1"] = module
    return module


def _hooked_parameter() -> nn.Module:
    module = nn.Linear(2, 2)
    hooks = OrderedDict({0: nn.ReLU()})
    tensor = (torch._utils._rebuild_parameter, (torch.zeros(2), True, hooks))
    module._parameters["bias"] = Reduces(*tensor)  # type: ignore[assignment]
    return module


def _hostile_values() -> dict[str, object]:
    touch = f"touch {MARKER}"
    in_python = f"open({MARKER!r}, 'w')"
    rebuild: Any = torch._utils._rebuild_tensor_v2
    from_type: Any = torch._tensor._rebuild_from_type_v2
    typed_storage: Any = torch.storage.TypedStorage
    storage = typed_storage(2, dtype=torch.float32, _internal=True)
    huge = 10**6
    return {
        "os.system": Reduces(os.system, (touch,)),
        "eval": Reduces(eval, (in_python,)),
        "exec": Reduces(exec, (in_python,)),
        "getattr": Reduces(getattr, (nn.Linear, "forward")),
        "partial of os.system": Reduces(functools.partial, (os.system, touch)),
        "partial overwritten": Reduces(functools.partial, (nn.ReLU,), (os.system, (touch,), {}, None)),
        "partial of torch.load": Reduces(functools.partial, (torch.load,)),
        "call of a listed class": Reduces(nn.Linear, (huge, huge)),
        "call through a rebuild": Reduces(from_type, (nn.Linear, torch.Tensor, (huge, huge), {})),
        "bytearray": Reduces(bytearray, (huge**2,)),
        "tensor outside its memory": Reduces(rebuild, (storage, 0, (huge,), (1,), False, OrderedDict())),
        "tensor before its memory": Reduces(rebuild, (storage, -4, (2,), (1,), False, OrderedDict())),
        "expanded tensor": Reduces(rebuild, (storage, 0, (huge, huge), (0, 0), False, OrderedDict())),
        "forward": _with_attribute("forward", nn.ReLU()),
        "method of a submodule": nn.Sequential(_with_attribute("_conv_forward", nn.ReLU(), nn.Conv2d(1, 1, 1))),
        "forward hook": _with_attribute("_forward_hooks", OrderedDict({0: nn.ReLU()})),
        "state dict hook": nn.Sequential(_with_attribute("_state_dict_hooks", OrderedDict({0: nn.ReLU()}))),
        "parameter that is a module": _with_attribute("_parameters", {"weight": nn.ReLU()}),
        "child that is a string": _with_attribute("_modules", {"a": "b"}),
        "no tables": _with_attribute("_buffers", None),
        "hooks of a parameter": _hooked_parameter(),
        "module outside the table": _with_attribute("activation", nn.ReLU(), nn.Sequential()),
        "module inside itself": _cyclic(),
    }


@pytest.mark.parametrize("name", _hostile_values())
@pytest.mark.parametrize("wrap", ["alone", "checkpoint", "beside a module"])
def test_hostile_files_are_refused_and_run_nothing(name: str, wrap: str, path: Path, tmp_path: Path) -> None:
    value = _hostile_values()[name]
    if wrap == "checkpoint":
        value = {"model": value}
    elif wrap == "beside a module":
        value = {"model": small(), "net": value}
    message = message_of(lambda: load_module(saved(value, path)))
    assert "--trust" in message
    assert not (tmp_path / MARKER).exists()


def test_a_legacy_file_runs_nothing(path: Path, tmp_path: Path) -> None:
    hostile = {"w": torch.zeros(1), "x": Reduces(os.system, (f"touch {MARKER}",))}
    saved(hostile, path, _use_new_zipfile_serialization=False)
    assert "system" in message_of(lambda: load_module(path, arch="mlp"))
    assert not (tmp_path / MARKER).exists()


def _legacy(value: object, path: Path) -> bytes:
    return saved(value, path, _use_new_zipfile_serialization=False).read_bytes()


def test_an_honest_legacy_module_comes_in(path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    _legacy(module, path)
    loaded = load_module(path)
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_a_legacy_file_whose_records_are_missing_is_refused(path: Path) -> None:
    content = _legacy(nn.Linear(4, 4), path)
    keys = content.rindex(b"\x80\x02]q\x00(")  # the list of the tensors' keys, and behind it their bytes
    path.write_bytes(content[:keys] + b"\x80\x02]q\x00.")
    assert "its list of tensors is not that of its object" in message_of(lambda: load_module(path))
    path.write_bytes(content[:-4])
    assert "do not end where the file does" in message_of(lambda: load_module(path))
    last = content.rindex((4).to_bytes(8, "little"))
    path.write_bytes(content[:last] + (3).to_bytes(8, "little") + content[last + 8 :])
    assert "elements, which does not fit its tensor" in message_of(lambda: load_module(path))


@pytest.mark.parametrize("position", range(5))
def test_no_pickle_of_a_legacy_file_runs_anything(position: int, path: Path, tmp_path: Path) -> None:
    content = _legacy(nn.Linear(2, 2), path)
    evil = (
        b"\x80\x02cposix\nsystem\n(X"
        + len(f"touch {MARKER}").to_bytes(4, "little")
        + f"touch {MARKER}".encode()
        + b"tR."
    )
    starts = [i for i in range(len(content)) if content.startswith(b"\x80\x02", i)]
    ends = [*starts[1:], len(content)]
    path.write_bytes(content[: starts[position]] + evil + content[ends[position] :])
    message_of(lambda: load_module(path))
    assert not (tmp_path / MARKER).exists()


def test_a_state_that_is_set_twice_is_refused(path: Path) -> None:
    saved(nn.ReLU(), path)
    # BUILD, and once more with the same state, before the end.
    _rewrite(path, lambda name, content: content[:-2] + b"b}b." if name.endswith("data.pkl") else content)
    assert "sets the state of an object twice" in message_of(lambda: load_module(path))


@pytest.mark.parametrize("layers", [10**9, 0, -1, 2.5])
def test_a_recurrent_network_of_any_number_of_layers_is_refused(layers: float, path: Path) -> None:
    module = nn.LSTM(2, 2)
    module.num_layers = layers  # type: ignore[assignment]
    saved(module, path)
    assert "has a recurrent layer of" in message_of(lambda: load_module(path))


def test_modules_that_share_two_by_two_are_refused(path: Path) -> None:
    module: nn.Module = nn.ReLU()
    for _ in range(40):
        module = nn.Sequential(module, module)
    saved(module, path)
    assert "runs its shared modules 2.2e+12 times" in message_of(lambda: load_module(path))


def test_a_bit_that_flipped_in_the_weights_is_found(path: Path) -> None:
    content = bytearray(saved(nn.Linear(64, 64), path).read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "checksum" in message_of(lambda: load_module(path))


def test_a_tensor_that_is_marked_as_a_folder_is_refused(path: Path) -> None:
    """torch would take whatever is in memory for it."""
    content = bytearray(saved(nn.Linear(4, 4), path).read_bytes())
    record = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))
    content[record + 38] |= 0x10
    path.write_bytes(content)
    assert "marks a member as a folder" in message_of(lambda: load_module(path))


def test_a_module_that_is_not_whole_is_refused(path: Path) -> None:
    module = nn.Linear(4, 4)
    del module.in_features
    saved(module, path)
    assert "holds a module that is not whole (AttributeError" in message_of(lambda: load_module(path))


def test_the_marker_would_be_written_if_the_file_were_trusted(path: Path, tmp_path: Path) -> None:
    saved(_hostile_values()["os.system"], path)
    message_of(lambda: load_module(path, trust=Trust.FILE))
    assert (tmp_path / MARKER).exists()


def _rewrite(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, change(name, content))


def test_a_record_shorter_than_its_tensor_is_refused(path: Path) -> None:
    saved(nn.Linear(8, 8), path)
    _rewrite(path, lambda name, content: content[:4] if name.endswith("data/0") else content)
    assert "does not fit its record" in message_of(lambda: load_module(path))


def test_a_compressed_file_is_refused(path: Path) -> None:
    saved(nn.Linear(8, 8), path)
    _rewrite(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert "compressed" in message_of(lambda: load_module(path))


def test_nested_tuples_as_keys_are_refused_in_linear_time(path: Path) -> None:
    # Written by hand, because a dictionary with such a key can hardly be made: hashing it takes 2**60 steps.
    body = b"\x80\x02}(" + b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"K\x01u."
    saved(nn.Linear(2, 2), path)
    _rewrite(path, lambda name, content: body if name.endswith("data.pkl") else content)
    message_of(lambda: load_module(path))


@pytest.mark.parametrize("seed", range(3))
def test_bytes_changed_at_random_never_crash_the_loader(seed: int, path: Path) -> None:
    original = saved(small(), path).read_bytes()
    generator = torch.Generator().manual_seed(seed)
    with zipfile.ZipFile(path) as archive:
        length = archive.getinfo("model/data.pkl").file_size
    start = original.index(b"\x80\x02ctorch.nn")
    for _ in range(60):
        damaged = bytearray(original)
        at = start + int(torch.randint(length, (1,), generator=generator))
        damaged[at] = int(torch.randint(256, (1,), generator=generator))
        path.write_bytes(damaged)
        try:
            load_module(path)
        except ModelFileError:
            continue
