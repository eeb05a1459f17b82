"""torch.export files (.pt2): their graph is JSON and their values are bytes, and are read as such.

`torch.export.load` gives sizes that are written as text to sympy, which evaluates it, and names of ops to `getattr`; a file by
someone else can run code so. Here an op is one of a table, and a value bytes of a known type, or the file is refused.
"""

from __future__ import annotations

import json
import operator
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from gngraph.errors import ModelFileError
from gngraph.exchange.aten import ATEN, NOTHING, SIZES
from gngraph.exchange.foreign import OPEN, Foreign, Input, batch_of, require_same
from gngraph.exchange.program import Program, batch_norm

_ATEN = "torch.ops.aten."
_BATCH_NORM = "batch_norm.default"

_TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Numbers of types in torch.export's files."""

_STRIDED = 7


def read_pt2(path: str, shape: tuple[int, ...] | None = None) -> Foreign:
    """The network in a torch.export file, held against its own ops.

    Args:
        path: of the file.
        shape: of a sample, where the file leaves it open.

    Raises:
        ModelFileError: it is damaged, has ops or values that are not known, or was exported in train mode.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(path, archive).network(shape)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise ModelFileError(
            f"'{path}' is a torch.export archive that is damaged, or of a version that is not known ({type(error).__name__}: "
            f"{error}); export it again with this version of torch"
        ) from error


@dataclass
class _Reader:
    """Reads one file.

    Attributes:
        path: of it.
        archive: it.
        values: of the graph by name: what calls give, in the program.
        held: tensors by the names that the graph has for them, with those of the state dict.
    """

    path: str
    archive: zipfile.ZipFile
    values: dict[str, Any] = field(default_factory=dict)
    held: dict[str, tuple[str, Tensor, bool]] = field(default_factory=dict)

    def network(self, shape: tuple[int, ...] | None) -> Foreign:
        model = self._json("models/model.json")["graph_module"]
        graph, signature = model["graph"], model["signature"]
        tensors = self._tensors()
        self._metas: Mapping[str, Any] = graph["tensor_values"]
        inputs = []
        for spec in signature["input_specs"]:
            ((kind, given),) = spec.items()
            name = given["arg"]["as_tensor"]["name"] if "as_tensor" in given["arg"] else given["arg"].get("name")
            if kind == "user_input" and name in self._metas:
                inputs.append(self._input(name))
            elif kind in ("parameter", "buffer", "tensor_constant"):
                own = given[f"{kind}_name"]
                self.held[name] = (own, *tensors[own])
            else:
                raise ModelFileError(
                    f"'{self.path}' has an input that is no tensor ({kind}); export it with tensors alone"
                )
        outputs = [spec.get("user_output", {}).get("arg", {}).get("as_tensor") for spec in signature["output_specs"]]
        if None in outputs:
            raise ModelFileError(
                f"'{self.path}' changes what it holds, or returns something else than tensors; export the model in eval mode"
            )
        batch = batch_of(inputs, self.path)
        program = Program(batch)
        for own in inputs:
            self.values[own.name] = program.input(own.name)
        for node in graph["nodes"]:
            self._call(program, node)
        found = [self.values[output["name"]] for output in outputs]
        module = program.finished(found[0] if len(found) == 1 else tuple(found))
        examples = tuple(own.example(OPEN * (batch or 1), self.path, shape) for own in inputs)
        own_names = [own.name for own in inputs], [output["name"] for output in outputs]
        require_same(module, examples, batch or OPEN, lambda *x: self._run(graph["nodes"], x, *own_names), self.path)
        return Foreign(module, examples)

    def _json(self, end: str) -> Any:
        (name,) = [name for name in self.archive.namelist() if name.endswith(f"/{end}")]
        return json.loads(self.archive.read(name))

    def _input(self, name: str) -> Input:
        meta = self._metas[name]
        return Input(name, tuple(size.get("as_int") for size in meta["sizes"]), _TYPES[meta["dtype"]])

    def _tensors(self) -> dict[str, tuple[Tensor, bool]]:
        """Tensors by their names in the state dict, and whether they are parameters."""
        found = {}
        for kind in ("weights", "constants"):
            for name, entry in self._json(f"data/{kind}/model_{kind}_config.json")["config"].items():
                if entry["use_pickle"] or entry["tensor_meta"]["layout"] != _STRIDED:
                    raise ModelFileError(
                        f"'{self.path}' holds '{name}' as a pickle or in a layout of its own, which is not read; export a model of "
                        f"plain tensors"
                    )
                found[name] = self._tensor(kind, entry), bool(entry["is_param"])
        return found

    def _tensor(self, kind: str, entry: Mapping[str, Any]) -> Tensor:
        meta = entry["tensor_meta"]
        sizes, strides = ([part["as_int"] for part in meta[name]] for name in ("sizes", "strides"))
        start, dtype = meta["storage_offset"]["as_int"], _TYPES[meta["dtype"]]
        (name,) = [name for name in self.archive.namelist() if name.endswith(f"/data/{kind}/{entry['path_name']}")]
        if 0 in sizes:
            return torch.empty(sizes, dtype=dtype)
        stored = torch.frombuffer(bytearray(self.archive.read(name)), dtype=dtype)
        last = start + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if min(start, *sizes, *strides, 0) < 0 or last >= len(stored):
            raise ValueError(f"'{entry['path_name']}' is shorter than it says")
        return stored.as_strided(sizes, strides, start).clone()

    def _call(self, program: Program, node: Mapping[str, Any]) -> None:
        target, name = node["target"], node.get("name") or node["outputs"][0]
        op = target.removeprefix(_ATEN)
        if op in NOTHING:
            return
        modes = [entry["arg"].get("as_bool") for entry in node["inputs"] if entry["name"] in ("training", "train")]
        if any(modes):
            raise ModelFileError(f"'{self.path}' was exported in train mode ('{name}'); export the model in eval mode")
        if op == _BATCH_NORM:
            self._give(program, node, self._batch_norm(program, node))
            return
        args, named = self._arguments(node, lambda held: self._held(program, held))
        if target in SIZES:
            self._give(program, node, program.call(SIZES[target], *args))
        elif target.startswith(_ATEN) and op in ATEN:
            self._give(program, node, ATEN[op](program, *args, **named))
        else:
            raise ModelFileError(
                f"'{self.path}' has the op '{target}' at '{name}', which is not known; give the model that it was exported from"
            )

    def _arguments(self, node: Mapping[str, Any], held: Callable[[str], Any]) -> tuple[list[Any], dict[str, Any]]:
        """Arguments by position and by name; `held` gives what has a name."""
        args, named = [], {}
        for entry in node["inputs"]:
            value = self._value(entry["arg"], held)
            if entry.get("kind", 1) == 1:
                args.append(value)
            elif value is not None:
                named[entry["name"]] = value
        return args, named

    def _value(self, arg: Mapping[str, Any], held: Callable[[str], Any]) -> Any:
        ((kind, given),) = arg.items()
        if kind in ("as_tensor", "as_sym_int"):
            return _named(given, held)
        if kind in ("as_tensors", "as_sym_ints"):
            return tuple(_named(part, held) for part in given)
        if kind in ("as_int", "as_bool", "as_float", "as_string"):
            return float(given) if kind == "as_float" else given
        if kind in ("as_ints", "as_floats", "as_bools"):
            return tuple(given)
        if kind in ("as_none", "as_memory_format", "as_layout", "as_device", "as_scalar_type"):
            return None
        raise ModelFileError(f"'{self.path}' has an argument of the kind '{kind}', which is not known here")

    def _give(self, program: Program, node: Mapping[str, Any], made: fx.Node) -> None:
        """Name what a call gives; of a list each item."""
        for output in node["outputs"]:
            ((kind, given),) = output.items()
            if kind == "as_tensors":
                for number, part in enumerate(given):
                    self.values[part["name"]] = program.call(operator.getitem, made, number)
            else:
                self.values[given["as_name"] if kind == "as_sym_int" else given["name"]] = made

    def _held(self, program: Program, name: str) -> Any:
        if name not in self.values:
            own, value, trained = self.held[name]
            self.values[name] = program.tensor(own, value, trained=trained and value.is_floating_point())
        return self.values[name]

    def _batch_norm(self, program: Program, node: Mapping[str, Any]) -> fx.Node:
        """The norm as a module of its name, which trains by the batch."""
        args = [entry["arg"].get("as_tensor", {}).get("name") for entry in node["inputs"]]
        options = {entry["name"]: self._value(entry["arg"], str) for entry in node["inputs"][5:]}
        names = [self.held[name][0] if name in self.held else "" for name in args[1:5]]
        parents = {name.rpartition(".")[0] for name in names}
        if len(parents) != 1 or "" in names:
            raise ModelFileError(
                f"'{self.path}' has a norm over the batch, of '{args[0]}', whose values are missing, or of several modules; give "
                f"the model that it was exported from"
            )
        weight, bias, mean, variance = (self.held[name][1] for name in args[1:5])
        rank = len(self._metas[args[0]]["sizes"])
        tensors = (weight, bias, mean, variance)
        norm, parent = batch_norm(rank, tensors, options["eps"], options["momentum"]), parents.pop()
        for name, value, _ in self.held.values():
            if name == f"{parent}.num_batches_tracked":
                norm.num_batches_tracked = value
        return program.module(parent, norm, self._held(program, args[0]))

    def _run(
        self, nodes: Sequence[Mapping[str, Any]], x: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str]
    ) -> list[Tensor]:
        """What the ops of the graph themselves compute."""
        found: dict[str, Any] = {name: value.clone() for name, value in zip(inputs, x, strict=True)}

        def held(name: str) -> Any:
            return found[name] if name in found else self.held[name][1]

        for node in nodes:
            target = node["target"]
            op, _, overload = target.removeprefix(_ATEN).partition(".")
            if f"{op}.{overload}" in NOTHING:
                continue
            args, named = self._arguments(node, held)
            function = SIZES[target] if target in SIZES else getattr(getattr(torch.ops.aten, op), overload)
            made = function(*args, **named)
            for output in node["outputs"]:
                ((kind, given),) = output.items()
                parts = zip(given, made, strict=True) if kind == "as_tensors" else [(given, made)]
                found |= {part.get("as_name") or part["name"]: value for part, value in parts}
        return [found[name] for name in outputs]


def _named(given: Mapping[str, Any], held: Callable[[str], Any]) -> Any:
    """A tensor or a size that has a name, or a size that is a number."""
    return given["as_int"] if "as_int" in given else held(given.get("as_name") or given["name"])
