"""What a graph from outside must satisfy before code is generated from it.

Lowering writes Python source, so a graph is code as well: names end up in that source, and foreign ops name functions.
A graph that passes `vet` can call only functions that compute with tensors, and no name in it can close a string or add
an expression.
"""

from __future__ import annotations

import keyword
import math
import re
from functools import cache

from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Graph, Items, Node, TensorType, TupleType, Type
from gngraph.ir.arguments import plain_name
from gngraph.ir.types import refs_in
from gngraph.ops.callables import TENSOR_FUNCTIONS, TENSOR_METHODS, VISION_FUNCTIONS
from gngraph.ops.table import infer_type

_PATH_PART = re.compile(r"(?!__)\w[\w -]*")
_TENSOR_MODULES = frozenset(
    f"torch.{name}"
    for name in (
        "functional",
        "nn.functional",
        "linalg",
        "fft",
        "special",
        "_C._nn",
        "_C._linalg",
        "_C._fft",
        "_C._special",
    )
) | {"torch"}
_VISION_MODULE = re.compile(r"torchvision\.ops(\.\w+)?")
_VISION_MODELS = re.compile(
    r"torchvision\.models\.(video\.)?swin_transformer\.(_get_relative_position_bias|shifted_window_attention(_3d)?"
    r"|_patch_merging_pad|_get_window_and_shift_size|_compute_pad_size_3d|_compute_attention_mask_3d)"
    r"|torchvision\.models\.video\.mvit\._(unsqueeze|squeeze|add_rel_pos|add_shortcut)"
)
_LEAST = {"eps": 0, "padding": 0, "output_padding": 0} | dict.fromkeys(
    ("dilation", "stride", "kernel_size", "groups", "num_groups", "num_heads", "upscale_factor", "downscale_factor"), 1
)
"""Least value of numbers in attributes, by the attribute's name."""
_OF_NUMBERS = ("operator", "_operator", "math", "builtins")
"""Modules whose functions of numbers alone can take any time: `9**9**9`."""
_A_MODULE = nn.Module()
_LOWERED = fx.GraphModule(nn.Module(), fx.Graph())
"""What a graph is lowered to has attributes of its own, such as `graph` and `code`, beside those of every module."""
_BUILTINS = frozenset({"abs", "bool", "float", "getattr", "int", "len", "max", "min", "round", "sum"})
_ATTRIBUTES = frozenset({"H", "T", "data", "device", "dtype", "imag", "is_cuda", "mH", "mT", "ndim", "real", "shape"})


def vet(graph: Graph) -> None:
    """Check that `graph` is safe to lower and that every op has the attributes it needs; in O(#nodes + #parameters).

    The rules: names are identifiers (parts of module paths may hold blanks and hyphens as well); every op is in the
    table; a foreign op calls a tensor method, or a function of torch, torchvision, operator, math or builtins that
    computes with tensors and numbers; each type rule gives the shapes that the graph records.

    Raises:
        IRError: the first rule that is broken, with the node or parameter.
    """
    _identifier(graph.name, "the graph's name")
    for name, parameter in graph.params.items():
        for path in (name, *(alias for alias, _ in parameter.aliases)):
            _path(path, "parameter")
    for name, _ in () if graph.arguments is None else graph.arguments.pairs:
        _identifier(plain_name(name), "an argument")
    for node in graph.nodes.values():
        _vet_names(node)
        if node.op == "foreign":
            _vet_call(node)
        else:
            _vet_numbers(node)
        _vet_type(node, graph)


def _vet_names(node: Node) -> None:
    for name in (node.name, *node.attrs, *node.params):
        _identifier(name, f"a name in node '{node.name}'")
    for path in (node.scope, node.module):
        if path:
            _path(path, f"node '{node.name}' with the module")


def _identifier(name: str, what: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise IRError(f"{what} is {name[:80]!r}, which is not a Python identifier")


def _path(path: str, what: str) -> None:
    for part in path.split("."):
        if not _PATH_PART.fullmatch(part):
            raise IRError(
                f"{what} {path[:80]!r} has a name with characters other than letters, digits, '_', '-' and blanks"
            )
        if hasattr(_A_MODULE, part):
            raise IRError(f"{what} {path[:80]!r} has the name '{part}', which would hide what every nn.Module has")
    first = path.partition(".")[0]
    if hasattr(_LOWERED, first):
        raise IRError(f"{what} {path[:80]!r} has the name '{first}', which torch.fx keeps for itself; give it another")


def _vet_call(node: Node) -> None:
    target, args, kwargs = (node.attrs.get(key) for key in ("target", "args", "kwargs"))
    if not (isinstance(target, str) and isinstance(args, tuple) and isinstance(kwargs, Items)):
        raise IRError(f"foreign op '{node.name}' must have a target (text), args (a tuple) and kwargs (items)")
    for key, _ in kwargs.pairs:
        _identifier(key, f"an argument of foreign op '{node.name}'")
    if not _may_call(target) or (target.startswith(".") and not args):
        raise IRError(
            f"foreign op '{node.name}' calls {target[:80]!r}, which is not known to compute with tensors only; register it as an "
            f"op (gngraph.ops.register)"
        )
    if not [*refs_in((args, kwargs))] and target.rpartition(".")[0] in _OF_NUMBERS:
        raise IRError(f"foreign op '{node.name}' calls {target!r} of numbers alone, which an import computes by itself")
    if target == "builtins.getattr" and not (len(args) > 1 and isinstance(args[1], str) and args[1] in _ATTRIBUTES):
        raise IRError(f"foreign op '{node.name}' reads an attribute other than {', '.join(sorted(_ATTRIBUTES))}")


def _vet_numbers(node: Node) -> None:
    """Numbers that kernels divide by, or count on, without looking."""
    for key, value in node.attrs.items():
        numbers = value if isinstance(value, tuple) else (value,)
        least = _LEAST.get(key)
        if least is None:
            continue
        for number in numbers:
            if isinstance(number, (int, float)) and not least <= number < math.inf:
                raise IRError(f"node '{node.name}' has {key}={value}, but it must be at least {least:g} and finite")


def _may_call(target: str) -> bool:
    module, _, name = target.rpartition(".")
    if module in ("operator", "_operator"):
        return name in _operators()
    if module in _TENSOR_MODULES:
        return name in TENSOR_FUNCTIONS
    if module == "math":
        return not name.startswith("_") and callable(getattr(math, name, None))
    if module == "builtins":
        return name in _BUILTINS
    if _VISION_MODULE.fullmatch(module):
        return name in VISION_FUNCTIONS
    return name in TENSOR_METHODS if not module else _VISION_MODELS.fullmatch(target) is not None


@cache
def _operators() -> frozenset[str]:
    """Functions of `operator` that torch.fx itself records for Python's operators."""
    names = (*fx.graph.magic_methods, *fx.graph.inplace_methods, "getitem", "setitem", "truth", "not_")
    return frozenset((*names, "and_", "or_", "contains", "concat", "is_", "is_not", "index", "abs"))


def _vet_type(node: Node, graph: Graph) -> None:
    try:
        inferred = infer_type(node, tuple(graph[name].type for name in node.inputs), graph.params)
    except IRError:
        raise
    except Exception as error:  # a type rule may trust attributes, and here an attribute can be missing or of any kind
        raise IRError(f"node '{node.name}' lacks what op '{node.op}' needs: {type(error).__name__}: {error}") from error
    if _shapes(inferred) != _shapes(node.type):
        raise IRError(f"node '{node.name}' is recorded as '{node.type}', but op '{node.op}' gives '{inferred}'")


def _shapes(kind: Type) -> object:
    """A type without its dtypes: these follow the parameters when a graph is cast, and the record does not."""
    if isinstance(kind, TupleType):
        return tuple(_shapes(item) for item in kind.items)
    return kind.shape if isinstance(kind, TensorType) else kind
