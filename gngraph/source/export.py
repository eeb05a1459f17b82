"""Readable source: a graph becomes a Python file with nn.Module classes, and a weights file, that need no gngraph."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import nn

from gngraph.errors import IRError
from gngraph.ir import Graph, Parameter
from gngraph.ir.inputs import is_shared
from gngraph.ir.types import dtype_of
from gngraph.lowering.to_torch import Lowered, lower
from gngraph.source.classes import WITH_MODULES, Classes, is_written
from gngraph.source.expressions import path_code
from gngraph.source.layout import class_lines, plain, used_as
from gngraph.source.modules import Imports
from gngraph.source.proof import prove, prove_loading
from gngraph.source.text import camel, is_name, literal, wrapped
from gngraph.source.tree import Tree
from gngraph.writing import VALUES_HASH, replacing, with_values_hash

CODE_FILE, WEIGHTS_FILE = "model.py", "weights.safetensors"


class SourceFiles(NamedTuple):
    """The files of a network written as source.

    Attributes:
        model: the classes and `load`.
        weights: the values that `load` reads.
    """

    model: Path
    weights: Path


def to_source(graph: Graph) -> str:
    """The text of a Python file that defines the network of `graph` as a class called `graph.name`, and `load`.

    The modules keep their paths, so `list(state_dict())` is that of the lowered graph. Blocks of one structure share a
    class whose arguments are the widths and constants that differ. Names of inner classes come from module paths, for a
    graph does not keep those of its source. The file needs torch and safetensors, and torchvision for ops from there.

    Before it is returned the text is executed and compared with the lowered graph (see `source_proof.prove`).

    Raises:
        IRError: an op cannot be written as source, or the text does not compute what the graph does.
    """
    return _written(graph, lower(graph), {})


def export_source(
    graph: Graph, folder: str | os.PathLike[str], *, inputs: Mapping[str, Any] | None = None
) -> SourceFiles:
    """Write `model.py` and `weights.safetensors` into `folder`, which is made if need be.

    `from model import load; net = load()` gives the network in eval mode. Both files are written beside their names
    and renamed once what is in them has been loaded and compared.

    Args:
        graph: the network, with values.
        folder: where the files go; files of these names are replaced.
        inputs: how samples become inputs ("preprocess") and the names of the classes ("classes"), kept in the file as
            `PREPROCESSING` and `CLASSES`.

    Raises:
        IRError: as for `to_source`, or a parameter has no values or a dtype that safetensors lacks.
    """
    for name, parameter in graph.params.items():
        if parameter.data.is_meta:
            raise IRError(f"parameter '{name}' has no values; load an archive, or set them by graph.with_params(...)")
    lowered = lower(graph)
    text = _written(graph, lowered, inputs or {})
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = SourceFiles(target / CODE_FILE, target / WEIGHTS_FILE)
    with replacing(*files) as (model, weights):
        model.write_text(text, encoding="utf-8")
        _save_weights(graph, weights)
        prove_loading(text, graph, lowered.module, weights)
    return files


def _save_weights(graph: Graph, path: Path) -> None:
    tensors = {name: p.data.detach().cpu().contiguous().clone() for name, p in graph.params.items() if _is_stored(p)}
    try:
        # not save_file, which makes a file that only its owner can read
        path.write_bytes(with_values_hash(safetensors.torch.save(tensors, {"format": "pt"})))
    except Exception as error:  # the Rust writer's own class, KeyError for a dtype it lacks, OSError
        raise IRError(f"the weights of graph '{graph.name}' cannot be written: {error}") from error


def _is_stored(parameter: Parameter) -> bool:
    return parameter.kind != "constant" or not is_written(parameter.data)


def _written(graph: Graph, lowered: Lowered, inputs: Mapping[str, Any]) -> str:
    name = _class_name(graph.name)
    text = "\n".join(_File(graph, lowered, name).lines(inputs)) + "\n"
    prove(text, name, graph, lowered.module)
    return text


def _with_modules() -> Iterator[str]:
    yield from ("", "")
    yield f"def {WITH_MODULES}(module: nn.Module, **inside: nn.Module) -> nn.Module:"
    yield '    """A module with further ones in it, which are called beside it."""'
    yield "    for name, inner in inside.items():"
    yield "        module.add_module(name, inner)"
    yield "    return module"


def _class_name(name: str) -> str:
    """`name` where a class can have it without hiding what the file imports."""
    wanted = name if is_name(name) and name.isascii() else camel(name)
    taken = {
        "Any",
        "F",
        "OrderedDict",
        "Path",
        "PREPROCESSING",
        "Tensor",
        WITH_MODULES,
        "hashlib",
        "load",
        "load_bytes",
        "nn",
        "safe_open",
        "torch",
    }
    return wanted if is_name(wanted) and wanted not in taken and not hasattr(nn, wanted) else "Network"


class _File:
    def __init__(self, graph: Graph, lowered: Lowered, name: str) -> None:
        self.graph = graph
        self.name = name
        self.tree = Tree(graph, lowered)
        self.imports = Imports()
        self.classes = Classes(self.tree, self.imports, name)

    def lines(self, inputs: Mapping[str, Any]) -> Iterator[str]:
        body = list(self._body(inputs))
        yield from self._docstring(inputs)
        yield ""
        yield "from __future__ import annotations"
        yield from self._imports("\n".join(body))
        yield from body

    def _docstring(self, inputs: Mapping[str, Any]) -> Iterator[str]:
        graph = self.graph
        yield f'"""{self.name}, a network with {graph.num_params():,} parameters, generated by gngraph.'
        yield ""
        for kind, names in (("Input", graph.inputs), ("Output", graph.outputs)):
            for node in (graph.nodes[name] for name in names):
                whose = "for all samples" if is_shared(node) else "N samples"
                yield f"{kind} `{plain(node.name)}`: {plain(str(node.type))}, {whose}."
        if "mean" in inputs.get("preprocess", {}):
            yield "Inputs are (raw / scale - mean) / std with the numbers of `PREPROCESSING`, one along axis `axis` of a sample."
        yield ""
        yield f"    from model import {self.name}, load"
        yield "    net = load()  # in eval mode, from weights.safetensors beside this file"
        yield '"""'

    def _imports(self, body: str) -> Iterator[str]:
        standard = ["import hashlib"]
        standard += ["from collections import OrderedDict"] if "OrderedDict(" in body else []
        standard += ["from pathlib import Path"]
        standard += ["from typing import Any"] if re.search(r"\bAny\b", body) else []
        torch_names = "Tensor, nn" if re.search(r"\bTensor\b", body) else "nn"
        functional = ["from torch.nn import functional as F"] if re.search(r"\bF\.", body) else []
        plain_torch = ["import torch"] if re.search(r"\btorch\.", body) else []
        reading = ["from safetensors import safe_open", "from safetensors.torch import load as load_bytes"]
        names = sorted([*reading, f"from torch import {torch_names}", *functional])
        yield from ("", *standard, "", *plain_torch, *sorted([*names, *self.imports.lines()]))

    def _body(self, inputs: Mapping[str, Any]) -> Iterator[str]:
        for key, constant in (("preprocess", "PREPROCESSING"), ("classes", "CLASSES")):
            if inputs.get(key):
                yield from ("", wrapped(f"{constant} = {literal(inputs[key])}", 0))
        lines = []
        for written in self.classes:
            lines += ["", ""]
            root = written.name == self.name
            docstring = "The whole network." if root else used_as(written.paths)
            lines += class_lines(written, docstring, list(self._last_statements()) if root else ())
        yield from _with_modules() if any(f"{WITH_MODULES}(" in line for line in lines) else ()
        yield from lines
        yield from ("", "", *self._load())

    def _last_statements(self) -> Iterator[str]:
        """What the root's constructor does once all modules are there: dtype, tied and frozen tensors."""
        params = self.graph.params
        dtypes = {dtype_of(p.type.dtype) for p in params.values() if p.data.is_floating_point()}
        if len(dtypes) == 1 and dtypes != {torch.float32}:
            yield f"self.to({literal(dtypes.pop())})"
        for name, parameter in params.items():
            yield from (f"{self._tensor_code(alias)} = {self._tensor_code(name)}" for alias, _ in parameter.aliases)
        for name, parameter in params.items():
            if parameter.kind == "parameter" and not parameter.trainable:
                yield f"{self._tensor_code(name)}.requires_grad_(False)"

    def _tensor_code(self, key: str) -> str:
        owner, _, name = key.rpartition(".")
        if not is_name(name):
            raise IRError(
                f"parameter '{key}' is tied or frozen, but '{name}' is no Python name, so it cannot be written"
            )
        return f"{path_code(self.tree, '', owner)}.{name}"

    def _load(self) -> Iterator[str]:
        stored = {name: p for name, p in self.graph.params.items() if p.kind == "constant" and _is_stored(p)}
        ties = {a: n for n, p in self.graph.params.items() if p.kind != "constant" for a, _ in p.aliases}
        yield f"def load(path: str | Path | None = None) -> {self.name}:"
        yield '    """The network in eval mode, with the values in the file `path`.'
        yield ""
        yield "    Raises:"
        yield "        ValueError: they are not those that were written to it."
        yield '    """'
        yield f"    file = Path(path or Path(__file__).with_name({literal(WEIGHTS_FILE)}))"
        yield '    with safe_open(file, "pt") as opened:'
        yield f'        written = (opened.metadata() or {{}}).get("{VALUES_HASH}")'
        yield "    content = file.read_bytes()"
        yield '    values = memoryview(content)[8 + int.from_bytes(content[:8], "little") :]'
        yield "    if written and hashlib.sha256(values).hexdigest() != written:"
        yield "        raise ValueError(f\"'{file}' is damaged; copy it again\")"
        yield f"    net = {self.name}()"
        yield "    weights = load_bytes(content)"
        yield from (f"    weights[{literal(alias)}] = weights[{literal(name)}]" for alias, name in ties.items())
        for name in stored:
            yield f"    net.get_buffer({literal(name)}).copy_(weights.pop({literal(name)}))"
        yield "    net.load_state_dict(weights)"
        yield "    return net.eval()"
