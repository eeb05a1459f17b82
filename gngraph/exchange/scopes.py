"""Names of modules, as a torch exporter leaves them in names of nodes and weights."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ENDS = (".weight_bias", ".weight", ".bias", ".running_mean", ".running_var", "_weight", "_bias")
_MADE = re.compile(r"(onnx::|val_|/)|^\d+$")
"""What names that an exporter made up begin with."""


def scope_of(node: str, weights: Sequence[str], *, whole: bool = False) -> str:
    """The module that a node stands for.

    Args:
        node: its name.
        weights: names of its weights.
        whole: whether the name of the weight itself is asked for.

    >>> scope_of("node_Conv_3", ["layer1.0.conv1.weight"])
    'layer1.0.conv1'
    >>> scope_of("/layer1/layer1.0/conv1/Conv", ["onnx::Conv_193"])
    'layer1.0.conv1'
    >>> scope_of("node_linear_2", ["val_3"])
    'linear_2'
    """
    own = [name for name in weights if not _MADE.search(name)]
    if whole:
        return own[0] if own else "constant"
    path = _path(node)
    for name in own:
        end = next((end for end in _ENDS if name.endswith(end)), "")
        base = name.removesuffix(end)
        if (
            not path or base == path or base.startswith(f"{path}.")
        ):  # an exporter joins vectors that are equal by chance
            return base
    return path or node.strip("/").replace("/", ".").removeprefix("node_") or "layer"


def _path(node: str) -> str:
    """The module in a name such as /layer1/layer1.0/conv1/Conv."""
    path, last = "", ""
    for part in node.split("/")[1:-1]:
        if last and part.startswith(f"{last}."):  # a container's items bear its name again
            path = path.removesuffix(last) + part
        else:
            path = f"{path}.{part}".lstrip(".")
        last = part
    return path
