"""`OpSpec`: everything gngraph knows of an op, in one place, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Attr, Dim, Node, Parameter, Ref, TensorType, Type
from gngraph.ops.stepwise import Read, first_input
from gngraph.ops.traits import BatchStatistics, ChannelStatistics, Claim, ComputedWeight, Start, no_padding, no_products


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()
"""Stands for an argument that has no default."""

Layout = tuple["Segment", ...]
"""An axis as a concatenation of segments; each belongs to one channel space."""

AttrPath = tuple[str | int, ...]
"""Where an integer stands in a node's attributes: the attribute, then positions in tuples and fields of slices."""

ReadAttrs = Callable[[Any], dict[str, Attr]]
"""Reads the attributes of an op off a module."""

Fresh = Literal["random", "zeros", "ones", "copied"]
"""How a parameter's entries of a new channel start: "copied" are those of a channel that is there."""


class Segment(NamedTuple):
    """`size` channels of the space variable `var`, each of which owns `inner` consecutive entries of the axis.

    In the layout of a size (a number that a forward computes with) `inner` may be a `Fraction`: C // 2 grows by 1/2 with each
    channel of C.
    """

    var: int
    size: int
    inner: int = 1

    @property
    def length(self) -> int:
        """Entries of the axis that the segment covers."""
        return self.size * self.inner


class ChannelRules(Protocol):
    """What a channel rule may say about a node; implemented by the channel-space analysis.

    A rule reads the layouts of the inputs' axes, declares how parameters and the value are laid out, and freezes what it does not
    understand. Axes are counted from 0. None stands for an axis that belongs to no space.
    """

    def layout(self, operand: int, axis: int) -> Layout | None:
        """Layout of axis `axis` of input number `operand`."""

    def produce(self, role: str, axis: int) -> Layout:
        """A layout for a parameter axis that writes channels; the same one each time the parameter is read."""

    def see(self, role: str, axis: int) -> Layout | None:
        """The layout of a parameter axis that others say something of, where only its size and kind are read."""

    def follow(self, role: str, axis: int, layout: Layout | None, fresh: Fresh) -> None:
        """Axis `axis` of parameter `role` holds an entry (or `inner`) a channel of `layout`, of new ones as `fresh` says."""

    def consume(self, role: str, axis: int, layout: Layout | None) -> None:
        """Axis `axis` of parameter `role` holds the weights that read the channels of `layout`."""

    def unify(self, layouts: list[Layout | None]) -> Layout | None:
        """One layout for axes that must agree entry by entry; freezes them where they cannot."""

    def join(self, layouts: Sequence[Layout | None], sizes: Sequence[Dim]) -> Layout | None:
        """One axis that has the `layouts`, of `sizes`, one behind another.

        Parts of no space stay as they are beside the others where nothing but weights that read them uses them; else all freezes.
        """

    def divide(self, layout: Layout | None, lengths: Sequence[int], reason: str) -> list[Layout | None]:
        """Stretches of `lengths` of `layout`, in order; freezes it, for `reason`, where one would end inside a channel."""

    def group(self, layout: Layout | None, entries: int, reason: str) -> Layout | None:
        """The layout of an axis whose every entry stands for `entries` consecutive ones of `layout`.

        Channels that own fewer entries are bundled: they can then only change together. None, with the axis frozen because of
        `reason`, where they cannot be.
        """

    def blank(self, size: int) -> Layout:
        """A layout of `size` channels of a value that no parameter writes, and that has the same entry for each of them."""

    def same_amount(self, a: Layout | None, b: Layout | None) -> bool:
        """Whether two axes, or sizes, grow by the same number of entries with every channel of every space."""

    def measure(self, path: AttrPath, layout: Layout | None) -> None:
        """The integer, or the size, at `path` in the node's attributes is the length of `layout`; surgery keeps it so."""

    def count(self, axis: int) -> None:
        """The node takes statistics over axis `axis` of its first input, or the first channels of it, for statistics."""

    def only_counted(self, axis: int) -> bool:
        """Whether all that reads the node's value takes statistics over its axis `axis`, so that its channels go no further."""

    def unread(self) -> bool:
        """Whether nothing reads the entries of the node's value, but at most its sizes and kind."""

    def contract(self, axes: Sequence[tuple[int, int]], reason: str) -> None:
        """The node multiplies two values and sums over `axes` of them, each an (input, axis), which must agree entry by entry.

        The weights that write one side then read the channels of the other; both freeze, for `reason`, where neither side's weights
        are found.
        """

    def sum_factors(self, axis: int, reason: str, *, counts: bool) -> bool:
        """Whether the node sums products of two values along `axis` of its input; what `contract` says then holds of these two.

        Where neither side's weights are found, the axis is one that is counted if the node `counts`, else it freezes for `reason`.
        """

    def freeze(self, layout: Layout | None, reason: str) -> None:
        """No morphism may change the spaces of `layout`, because of `reason` (the node's name is added)."""

    def held(self, layout: Layout | None) -> bool:
        """Whether it is known by now that no channel of `layout` may change."""

    def set(self, axis: int, layout: Layout | None, item: int = 0) -> None:
        """Axis `axis` of the value (of item `item`, where the value is a tuple) has this `layout`."""

    def item_layouts(self, operand: int, item: int) -> Mapping[int, Layout]:
        """Layouts by axis of item `item` of a tuple-valued input."""


@dataclass(frozen=True)
class Operands:
    """A node with the types of what it reads.

    Attributes:
        node: the node.
        inputs: types of its inputs.
        params: types of its parameters by role.
    """

    node: Node
    inputs: tuple[Type, ...]
    params: Mapping[str, TensorType]

    def values(self, first: int = 0) -> list[int]:
        """Numbers of the inputs from `first` on, but for sizes that stand for a number (attributes `literal0` and `literal1`)."""
        literals = [self.node.attrs.get(key) for key in ("literal0", "literal1")]
        return [i for i in range(first, len(self.inputs)) if Ref(self.node.inputs[i]) not in literals]

    def tensor(self, index: int = 0) -> TensorType:
        """Type of input `index`; IRError when it is not a tensor."""
        type_ = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(type_, TensorType):
            raise IRError(f"node '{self.node.name}' ({self.node.op}) needs a tensor as input {index}, not '{type_}'")
        return type_


class Emitter(Protocol):
    """What a lowering rule writes to: a torch.fx graph under construction."""

    def value(self, name: str) -> fx.Node:
        """The fx node of an IR value."""

    def param(self, name: str) -> fx.Node:
        """An fx node that reads a parameter."""

    def shape(self, param: str) -> tuple[int, ...]:
        """Shape of a parameter."""

    def resolve(self, attr: Attr) -> Any:
        """An attribute as fx arguments: references become fx nodes."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of `function`; `args` and `kwargs` are fx nodes and constants."""

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of the method `name` of the first of `args`; all, and `kwargs`, are fx nodes and constants."""

    def module(self, build: Callable[[], nn.Module], *args: fx.Node, **kwargs: Any) -> fx.Node:
        """A call, with `args` and `kwargs`, of the leaf module that `build` makes, once a path; the graph fills its parameters."""

    def training(self) -> fx.Node:
        """An fx node that reads the root's `training` flag at run time."""


Factor = int | tuple[int, int] | tuple[str, int]
"""A factor of a number of multiplications: a number, or the size of (input, axis), where the batch counts as one sample, or that of
(role, axis) of a parameter; `VALUE` stands for the node's own value among the inputs."""


def no_positions(operands: Operands, result: Type) -> tuple[Factor, ...]:
    """For ops without weights: no multiplications with a weight."""
    return (0,)


@dataclass(frozen=True)
class Call:
    """How an op is written in a forward method.

    Attributes:
        signature: names of the arguments in order; the text "input weight bias=None stride=1" gives defaults.
        operands: arguments that are values.
        params: arguments that are parameters, by role.
        ignored: arguments without meaning here, such as `inplace`.
        sizes: attributes that may refer to sizes that the forward computes; those become inputs behind the operands.
    """

    signature: tuple[tuple[str, Attr], ...]
    operands: tuple[str, ...] = ("input",)
    params: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpSpec:
    """Everything gngraph knows of an op.

    Attributes:
        name: the op's name in the IR.
        infer: type rule.
        channels: channel rule: how axes of inputs, parameters and the value are coupled.
        emit: lowering to torch.fx.
        positions: how often each entry of the parameter "weight" is multiplied for one sample, as a product of factors; FLOPs are
            twice that.
        products: multiplications of values with values for one sample, each a product of factors; FLOPs are twice their sum.
        apply: the layer without its bias for another weight, as a function of (node, input, weight); None for what is no layer.
        computed: set where a layer computes that weight from its parameter "weight" and others.
        channelwise: in eval mode, channel c of the value depends on channel c of the inputs alone, whichever of the axes that the
            channel rule lets change.
        linear: whether the value is, in eval mode, affine in some of the inputs together, the others held; of all of them, or as a
            claim says.
        nonnegative: whether no entry of the value is below 0, where none of some inputs is; always, or as a claim says.
        rearranges: the value has exactly the entries of the first input, in another order or shape.
        of_sizes: the value depends on the shapes and kinds of the inputs, not on their entries.
        statistics: set where it normalises by the batch in train mode, as BatchNorm does.
        counts: set where it takes statistics over channels, as LayerNorm does and a mean may do; its channel rule says over which.
        evaluated: the node that one is whose module stays in eval mode while the network trains; None for ops that are the same in
            both modes.
        of_part: whether it is a layer that multiplies by a part of its parameter "weight", beside which others may be read too.
        channel_axis: axis of the channels in what a layer or norm reads, and in its value.
        reads: which of the inputs a node's weight of some role reads; `OWN_STATE`, `PASSED_BY` or `OF_SEVERAL` where it is none of
            them alone, and None where it reads nothing.
        stepwise: for ops some weights of which read their own state: the value step by step (`gngraph.ops.stepwise`).
        looked_up: set where one of the inputs holds numbers of entries: which input, and how many entries there are.
        padding_row: the row of a node's weight that stands for no entry, so that no gradient reaches it; None where it has none.
        starts: how parameters start that no `reset_parameters` draws, by role (`gngraph.ops.starts`).
        modules: module classes that are this op, each with a function that reads the attributes. A class may stand here by its
            path, such as "torchvision.ops.stochastic_depth.StochasticDepth", so that nothing imports its library before a network
            does.
        functions: functions (or method names) that are this op; a function may stand here by its path.
        call: how the modules are called, where other arguments than values, which become attributes, are taken.
    """

    name: str
    infer: Callable[[Operands], Type]
    channels: Callable[[ChannelRules, Operands], None]
    emit: Callable[[Emitter, Node], fx.Node]
    positions: Callable[[Operands, Type], tuple[Factor, ...]] = no_positions
    products: Callable[[Operands], tuple[tuple[Factor, ...], ...]] = no_products
    apply: Callable[[Node, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    computed: ComputedWeight | None = None
    channelwise: bool = False
    linear: bool | Claim = False
    nonnegative: bool | Claim = False
    rearranges: bool = False
    of_sizes: bool = False
    statistics: BatchStatistics | None = None
    counts: ChannelStatistics | None = None
    evaluated: Callable[[Node], Node] | None = None
    of_part: bool = False
    channel_axis: int = 1
    reads: Callable[[Node, str], int | None] = first_input
    stepwise: Callable[[Node, Mapping[str, torch.Tensor], torch.Tensor, Any, Read], Any] | None = None
    looked_up: Callable[[Operands], tuple[int, Dim]] | None = None
    padding_row: Callable[[Node], int | None] = no_padding
    starts: Mapping[str, Start] = field(default_factory=dict)
    modules: Mapping[type[nn.Module] | str, ReadAttrs] = field(default_factory=dict)
    functions: Mapping[Callable[..., Any] | str, Call] = field(default_factory=dict)
    call: Call | None = None

    def is_linear(self, node: Node, changed: Collection[str]) -> bool:
        """Whether a node's value is, in eval mode, affine in those of its inputs that are `changed`, together."""
        return _holds(self.linear, node, changed)

    def is_nonnegative(self, node: Node, known: Collection[str]) -> bool:
        """Whether no entry of a node's value is below 0, where no entry of the values `known` is."""
        return _holds(self.nonnegative, node, known)

    @property
    def is_layer(self) -> bool:
        """Whether it multiplies what it reads by its parameter "weight", or by a part of that."""
        return self.apply is not None or self.of_part

    def is_dense(self, node: Node) -> bool:
        """Whether a node is a layer all of whose outputs read all of its inputs, by its parameter itself."""
        apart = self.channelwise or self.computed is not None
        return self.apply is not None and not apart and int(node.attrs.get("groups", 1)) == 1

    def call_of(self, function: Callable[..., Any] | str) -> Call | None:
        """How a function, or the tensor method of that name, is called as this op; None where it is not this op."""
        return self.functions.get(key_in(function, self.functions))


def _holds(trait: bool | Claim, node: Node, values: Collection[str]) -> bool:
    if isinstance(trait, bool):
        return trait
    return trait(node, frozenset(i for i, name in enumerate(node.inputs) if name in values))


def key_in(thing: Any, table: Mapping[Any, object]) -> Any:
    """What a class or function stands under in `table`: itself, or its path."""
    return thing if thing in table else f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"


def operands_of(node: Node, inputs: tuple[Type, ...], params: Mapping[str, Parameter]) -> Operands:
    """`node` with the types of the `inputs` that it reads, in order, and of those of all `params` that it reads."""
    return Operands(node, inputs, {role: params[name].type for role, name in node.params.items()})


def signature(text: str) -> tuple[tuple[str, Attr], ...]:
    """Argument names with defaults from text; a name without default is required.

    >>> signature("input inplace=False")
    (('input', REQUIRED), ('inplace', False))
    """
    pairs = (item.partition("=")[::2] for item in text.split())
    return tuple((name, _DEFAULTS[given] if given in _DEFAULTS else _constant(given)) for name, given in pairs)


_DEFAULTS: dict[str, Attr] = {"": REQUIRED, "None": None, "True": True, "False": False}


def _constant(text: str) -> int | float | str:
    """A number, or for anything else the text itself."""
    try:
        return float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        return text
