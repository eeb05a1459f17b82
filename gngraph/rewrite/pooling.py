"""Poolings that come and go: where maps become coarser, and by what.

None of it preserves the function. What is behind a pooling that comes or goes sees maps of other extents, as behind another
stride; a pooling in the place of a stride leaves all extents as they are, and looks at every position before it drops some.
"""

from __future__ import annotations

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph, Node
from gngraph.ops import draft_of, lookup
from gngraph.rewrite.attachments import channel_axis
from gngraph.rewrite.building import Building
from gngraph.rewrite.kernels import kernel_of, not_taken, stride_of
from gngraph.rewrite.layers import called, end_of_unit, held_by_others, require
from gngraph.rewrite.structure import InsertPool, MovePool, RemovePool, StrideToPool


def pools_of(graph: Graph) -> tuple[str, ...]:
    """Names of the nodes that pool within windows, in order; not those that pool all of a map, or by sizes that they read."""
    pools = [node for node in graph.nodes.values() if "kernel_size" in node.attrs and len(node.inputs) == 1]
    return tuple(node.name for node in pools if _channelwise(node))


def not_pooled(graph: Graph, spaces: ChannelSpaces, value: str, size: int) -> str | None:
    """Why no pooling can stand behind a value, or None.

    Args:
        graph: has the value.
        spaces: of `graph`.
        value: name of its node.
        size: of the windows, along every spatial axis.
    """
    shape = graph.nodes[value].shape
    if len(shape) not in (3, 4, 5) or channel_axis(graph, spaces, value) != 1:
        return f"'{value}' has no maps of channels along axis 1"
    if min(int(extent) for extent in shape[2:]) < size:
        return f"its maps of {' x '.join(map(str, shape[2:]))} are smaller than the window"
    return not_taken(graph, lambda: _with_pool(graph, value, size))


def insert_pool(graph: Graph, spaces: ChannelSpaces, morphism: InsertPool) -> Graph:
    """`graph` with a pooling; everything that read the value reads the pooled one.

    Args:
        graph: before the insertion.
        spaces: of `graph`.
        morphism: where, and how far it looks.

    Raises:
        PassError: there can be none.
    """
    told = not_pooled(graph, spaces, morphism.at, morphism.size)
    require(told, f"no pooling can stand behind '{called(graph, morphism.at)}'")
    return _with_pool(graph, morphism.at, morphism.size)


def not_unpooled(graph: Graph, name: str) -> str | None:
    """Why a pooling cannot go, or None.

    Args:
        graph: has it.
        name: of its node.
    """
    if name not in pools_of(graph):
        return "it does not pool within windows"
    return not_taken(graph, lambda: _without(graph, name))


def remove_pool(graph: Graph, morphism: RemovePool) -> Graph:
    """`graph` without a pooling; everything that read it reads what it pooled.

    Args:
        graph: before the removal.
        morphism: which one.

    Raises:
        PassError: it cannot go.
    """
    require(not_unpooled(graph, morphism.at), f"'{called(graph, morphism.at)}' stays")
    return _without(graph, morphism.at)


def not_moved(graph: Graph, name: str, to: str) -> str | None:
    """Why a pooling cannot pool another value instead, or None.

    Args:
        graph: has both.
        name: of the node that pools.
        to: name of the node that would be pooled.
    """
    if name not in pools_of(graph):
        return "it does not pool within windows"
    if to in (name, graph.nodes[name].inputs[0]):
        return f"it pools '{to}' already"
    if len(graph.nodes[to].shape) != len(graph.nodes[name].shape):
        return f"'{to}' has no maps as it has"
    return not_taken(graph, lambda: _moved(graph, name, to))


def move_pool(graph: Graph, morphism: MovePool) -> Graph:
    """`graph` with a pooling behind another value; what read it reads what it pooled before.

    Args:
        graph: before the rewrite.
        morphism: which one, and where it goes.

    Raises:
        PassError: it cannot go there.
    """
    require(not_moved(graph, morphism.at, morphism.to), f"'{called(graph, morphism.at)}' stays where it is")
    return _moved(graph, morphism.at, morphism.to)


def not_pooled_instead(graph: Graph, name: str) -> str | None:
    """Why no pooling can stand in for the stride of a layer, or None.

    Args:
        graph: has the layer.
        name: of its node.
    """
    node = graph.nodes[name]
    if not kernel_of(graph, node) or "stride" not in node.attrs or "transpose" in node.op:
        return "it is no convolution"
    if max(stride_of(graph, node)) == 1:
        return "its stride is 1"
    held = held_by_others(graph, node)  # a module that runs twice has one stride
    if held is not None:
        return held
    return not_taken(graph, lambda: _pooled_instead(graph, name))


def stride_to_pool(graph: Graph, morphism: StrideToPool) -> Graph:
    """`graph` with a pooling in the place of a layer's stride, of the same extents; weights stay.

    Args:
        graph: before the rewrite.
        morphism: which layer.

    Raises:
        PassError: it has no stride, or a pooling gives other extents that what is behind it does not take.
    """
    name = morphism.at
    require(not_pooled_instead(graph, name), f"the stride of '{called(graph, name)}' stays")
    return _pooled_instead(graph, name)


def _with_pool(graph: Graph, value: str, size: int) -> Graph:
    return _pooling(Building(graph, value), value, (size,) * (len(graph.nodes[value].shape) - 2), ceil=False)


def _pooled_instead(graph: Graph, name: str) -> Graph:
    node, end = graph.nodes[name], end_of_unit(graph, name)
    building, stride = Building(graph, end), stride_of(graph, node)
    building.draft.set_attrs(name, stride=(1,) * len(stride))
    # a padded convolution looks at the last positions however many are left, and so does the pooling
    return _pooling(building, end, stride, ceil=True)


def _pooling(building: Building, value: str, window: tuple[int, ...], *, ceil: bool) -> Graph:
    ones = (1,) * len(window)
    attrs = {
        "kernel_size": window,
        "stride": window,
        "padding": (0,) * len(window),
        "dilation": ones,
        "ceil_mode": ceil,
    }
    building.call("pool", f"max_pool{len(window)}d", value, **attrs)
    return building.behind(value)


def _moved(graph: Graph, name: str, to: str) -> Graph:
    building, node = Building(graph, to), graph.nodes[name]
    building.draft.replace_uses(name, node.inputs[0])
    building.draft.remove(name)
    building.call("pool", node.op, to, **node.attrs)
    return building.behind(to)


def _without(graph: Graph, name: str) -> Graph:
    draft = draft_of(graph)
    draft.replace_uses(name, graph.nodes[name].inputs[0])
    draft.remove(name)
    return draft.commit()


def _channelwise(node: Node) -> bool:
    return lookup(node.op).channelwise and len(node.inputs) == 1
