"""Import: any nn.Module that torch.fx can trace becomes a graph, proved to compute and to train as the module does."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache, partial
from typing import Any, Literal

from torch import nn

from gngraph.errors import GnGraphError, IRError, UnsupportedModelError
from gngraph.importing.building import built
from gngraph.importing.checks import check_module, refuse_shared_memory
from gngraph.importing.copies import Guard, copy_of, on_meta
from gngraph.importing.decided import with_decided
from gngraph.importing.examples import Example, example_of, reading_leaves
from gngraph.importing.extrema import with_values_alone
from gngraph.importing.freeing import return_free_memory, take_apart
from gngraph.importing.heads import with_heads
from gngraph.importing.imported import (
    Imported,
    asks_for_gradients,
    changes_constant,
    changes_in_forward,
    does_not_train,
    function_of_its_own,
)
from gngraph.importing.in_place import without_changes_in_place
from gngraph.importing.joining import joined
from gngraph.importing.norm_counters import fold_counters
from gngraph.importing.proof import Expected, expected_of, in_train_mode, prove
from gngraph.importing.reached import Reached
from gngraph.importing.reasons import reason_of
from gngraph.importing.surroundings import masks_as_given, plain_torch
from gngraph.importing.trace import trace
from gngraph.ir import Graph
from gngraph.ops import spec_of_module
from gngraph.ops.vet import vet

TrainOnly = Literal["refuse", "drop"]
"""What to do with heads that give outputs in train mode alone: refuse the model, or drop them."""


def from_torch(
    module: nn.Module, example_inputs: Any, *, output: str | None = None, train_only: TrainOnly = "refuse"
) -> Graph:
    """The graph of an unmodified module, which computes and trains as the module does. The module is not changed in any way.

    Everything runs on a copy of the module, and the graph has parameters of its own. What a forward does in train mode alone is
    part of the graph, as are values that pass no gradient (`torch.no_grad`), and modules that the network's own `train` leaves in
    eval mode. What a graph cannot hold is refused: gradients that are changed on their way, draws of random numbers that decide
    what is called, updates of buffers other than those of norms, state that is kept in Python.

    The graph has an input for every tensor among the arguments of the example, be it in a dictionary, a list or a tuple, and
    `to_torch` gives a module that is called as this one is. Numbers, flags, text and None are held as they are in the example,
    and the module checks that they are the same; arguments without an example keep their defaults.

    What all samples share, such as `generate_square_subsequent_mask(T)`, positions or a temperature, is told by running the module
    with another number of samples, and with others among them. It keeps its sizes. The graph keeps the example's values of it,
    for data sets, which give samples alone. A mask is added as it is given: torch's transformers, which look whether it is the
    causal one, differ from that in the last bits.

    What wraps modules for a training loop is taken off, and state_dict names are those of what is inside: DataParallel,
    DistributedDataParallel, compiled and averaged modules.

    Of a module that returns a record, as transformers' model outputs are, the graph gives one tensor: the one that `output` names,
    else `logits`, `last_hidden_state`, `pooler_output` or the only one, and a `GnGraphNote` says which.

    Python control flow on sizes is decided as it is for the example inputs, and the axes that decide are marked: run for another
    size of theirs, the network raises a `DataError`. All others are as free as the module leaves them. Torch's
    transformer layers are read as their plain arithmetic: where torch takes its fused fast path (in eval mode, without gradients)
    they differ from it in the last bits.

    Args:
        module: any nn.Module that torch.fx can trace. Its training mode does not matter.
        example_inputs: a tensor, a tuple or list of the positional arguments of `forward`, or a dictionary of its keyword
            arguments, as in {"batch": {"image": x}}; axis 0 of a tensor is the batch, or axis 1 where outputs depend on each other
            along axis 0, as on tokens in front of the samples, but not of what all samples share, such as a mask for all of them.
            They give the shapes, and the graph is run on them to prove that it computes bit for bit what the module computes in
            eval mode.
        output: the tensor that the graph gives, of a module that returns a record, a dictionary or a named tuple; one that is
            returned alone goes by `logits`, `last_hidden_state` and `pooler_output`.
        train_only: what to do when the module returns more in train mode than in eval mode (auxiliary heads).

    Raises:
        UnsupportedModelError: the module cannot be copied or traced, has hooks, the inputs do not fit, it returns no such
            output, or the graph would not compute or train as the module does.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = from_torch(net, torch.zeros(1, 4))
    >>> [node.op for node in graph.nodes.values()]
    ['input', 'linear', 'relu', 'linear']
    """
    check_module(module)
    with plain_torch(), ExitStack() as stack:
        own, reached = copy_of(module), Reached(module)
        refuse_shared_memory(module, reached.tensors)
        guard, changed = Guard(module, own), list[str]()
        example = example_of(own, example_inputs)
        try:
            expected, example = expected_of(own, example, output)
            if example.inputs.shared:
                guard.restore()
                stack.enter_context(masks_as_given())
                expected, example = expected_of(own, example, output)
            changed = guard.restore()  # the graph is made of what that run began with
            own = own if example.is_flat else reading_leaves(own, example)
            graph = _imported(own, example, expected, guard, drop=train_only == "drop")
        except GnGraphError:
            raise
        except Exception as error:  # whatever a forward does that nobody has thought of
            if (training := in_train_mode(module, example)) is not None:
                raise UnsupportedModelError(does_not_train(type(module).__name__, reason_of(training))) from error
            raise UnsupportedModelError(
                f"'{type(module).__name__}' cannot be read: {reason_of(error)}; its forward does what a graph cannot hold, or this "
                f"is a defect of gngraph"
            ) from error
        finally:
            changed = [*changed, *guard.restore()]
            reached.restore()
    if changed:
        raise UnsupportedModelError(
            f"'{type(module).__name__}' changes its own '{changed[0]}' when a copy of it runs, since its forward refers to it past "
            f"'self'; let forward reach its modules by self alone"
        )
    return_free_memory()
    return graph


def _imported(module: nn.Module, example: Example, expected: Expected, guard: Guard, *, drop: bool) -> Graph:
    """The graph of a module that is the import's own, with its tensors, and whose forward takes those of the example one by one."""
    name, known, inputs = type(module).__name__, dict[Any, Any](), example.inputs
    evaluated, trained = (trace(module, example, known, training=training) for training in (False, True))
    if (updated := guard.updated()) is not None:
        raise UnsupportedModelError(changes_in_forward(name, updated))
    for path in sorted(evaluated.unlike):
        if spec_of_module(evaluated.root.get_submodule(path)) is not None:
            raise UnsupportedModelError(
                f"module '{path}' stays in train mode under eval(), where every run must give the same outputs; let train(False) "
                f"put it into eval mode"
            )
    twin = cache(partial(on_meta, module))  # made where a forward changes something in place
    for traced in (evaluated, trained):
        updates = without_changes_in_place(traced, module, twin, inputs, known)
        if traced is trained:
            updates = fold_counters(traced.graph, updates)
        if updates:
            changed, node = next(iter(updates.items()))
            if changed in traced.constants:
                raise UnsupportedModelError(changes_constant(name, node.name))
            raise UnsupportedModelError(changes_in_forward(name, changed, node.name))
    joint = joined(evaluated, trained, name, drop=drop)
    take_apart(trained.graph)
    for constant, tensor in joint.constants.items():
        setattr(evaluated.root, constant, tensor)
    graph = built(module, joint, evaluated.root, trained.unlike, example, known)
    graph = with_heads(with_values_alone(graph))
    graph = with_decided(graph, evaluated.decided.axes | trained.decided.axes)
    try:
        vet(graph)
    except IRError as error:
        raise UnsupportedModelError(f"'{name}' cannot be read: {error}") from error
    take_apart(joint.graph)
    suspects = [function_of_its_own(function, f" in {where}") for function, where in trained.functions.items()]
    of_gradients = {**evaluated.of_gradients, **trained.of_gradients}
    suspects += [asks_for_gradients(what, where) for what, where in of_gradients.items()]
    alone = evaluated.decided.alone or trained.decided.alone
    claim = Imported(module, graph, inputs, joint.part, joint.whole, suspects, known, alone, bool(of_gradients))
    return with_decided(graph, prove(claim, expected))
