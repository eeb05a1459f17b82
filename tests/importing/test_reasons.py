"""What a forward does that is not traced is refused in one sentence, with what to write in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.bodies import Body, head
from tests.training_steps import steps_differ

X = torch.randn(4, 1, 8, 8)


def doubled(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter * 2 for name, parameter in module.named_parameters()}


def packed(s: Any, x: Tensor) -> Tensor:
    lengths = torch.tensor([6, 5, 4, 6])
    _, state = s.recurrent(pack_padded_sequence(x[:, 0], lengths.to(x.device), batch_first=True, enforce_sorted=False))
    return cast(Tensor, state[-1])


class Aliased(Body):
    """A tensor that a step changes, though nothing says so."""

    def __init__(self) -> None:
        super().__init__(lambda s, x: head(s, s.a(x)) + F.linear(x.mean((1, 2)), s.seen[0]))
        self.extra = nn.Linear(8, 3)
        self.seen = [self.extra.weight.data]


class Closed(Body):
    """The same in a closure."""

    def __init__(self) -> None:
        super().__init__(lambda s, x: head(s, s.a(x)))
        weight = self.h.weight.detach()
        self.call = lambda s, x: head(s, s.a(x)) + F.linear(s.a(x).mean((2, 3)), weight)


class Statistics(Body):
    """A view of what a norm counts."""

    def __init__(self) -> None:
        super().__init__(lambda s, x: head(s, s.n(s.a(x)) + s.mean), n=nn.BatchNorm2d(4))
        self.register_buffer("mean", cast(Any, self.n).running_mean.view(4, 1, 1))


class Unseen(Body):
    def __init__(self) -> None:
        super().__init__(lambda s, x: head(s, s.a(x) * s.hidden[0]))
        self.hidden = [nn.Parameter(torch.ones(4, 1, 1))]


class FirstRun(Body):
    """What it consists of is made when it first runs."""

    def __init__(self, make: Callable[[Any], None]) -> None:
        super().__init__(lambda s, x: head(s, s.a(x) * s.scale))
        self.make = make

    def forward(self, x: Tensor) -> Any:
        if not hasattr(self, "scale"):
            self.make(self)
        return super().forward(x)


class Initialised(Body):
    """Sets itself up by the first batch."""

    def __init__(self) -> None:
        super().__init__(lambda s, x: head(s, s.a(x) * s.scale), scale=nn.Parameter(torch.ones(4, 1, 1)))
        self.known = False

    def forward(self, x: Tensor) -> Any:
        if not self.known:
            with torch.no_grad():
                cast(Tensor, self.scale).copy_(1 / self.a(x).std((0, 2, 3))[:, None, None])
            self.known = True
        return super().forward(x)


def in_training_alone(s: Any, x: Tensor) -> Tensor:
    return head(s, s.a(x) * (2.0 if s.training and torch.is_grad_enabled() else 3.0))


@torch.library.custom_op("gngraph_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


def assigned(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y.data = y * 2
    return head(s, y)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "vmap": (lambda: Body(lambda s, x: head(s, torch.vmap(torch.sin)(s.a(x)))), "calls 'vmap', which is not traced; write out"),
    "a derivative": (lambda: Body(lambda s, x: head(s, s.a(torch.func.jvp(torch.sin, (x,), (x,))[1]))), "calls 'jvp', which"),
    "packed": (lambda: Body(packed, recurrent=nn.GRU(8, 3, batch_first=True)), "calls 'pack_padded_sequence', .* by a mask"),
    "a constructor": (lambda: Body(lambda s, x: head(s, s.a(x) + torch.Tensor(x.size(0), 4, 1, 1))), "write torch.zeros"),
    "a list of parameters": (
        lambda: Body(lambda s, x: head(s, torch.func.functional_call(s.sub, doubled(s.sub), s.a(x))), sub=nn.Conv2d(4, 4, 1)),
        "module 'sub' computes with parameters that it takes from a list",
    ),
    "a sum over parameters": (
        lambda: Body(lambda s, x: head(s, s.a(x)) + sum(p.square().sum() for p in s.parameters())),
        "module 'Body' computes with parameters that it takes from a list",
    ),
    "the memory of a parameter": (Aliased, "'extra.weight' and 'seen' share memory"),
    "the same in a closure": (Closed, "'call' and 'h.weight' share memory"),
    "statistics of a norm": (Statistics, "'mean' and 'n.running_mean' share memory"),
    "no parameter of its own": (Unseen, "reads a parameter of shape .4, 1, 1. that is none of the network's"),
    "an op of the user's": (lambda: Body(lambda s, x: head(s, twice(s.a(x)))), "'torch.ops.gngraph_tests.twice.default', which is"),
    "assigned data": (lambda: Body(assigned), "module 'Body' assigns the data of a value"),
    "gradients in eval mode": (
        lambda: Body(lambda s, x: head(s, s.a(x) * (2.0 if torch.is_grad_enabled() else 3.0))),
        "module 'Body' asks for 'torch.is_grad_enabled'",
    ),
    "gradients in train mode": (lambda: Body(in_training_alone), "module 'Body' asks for 'torch.is_grad_enabled'"),
    "gradients of a value": (
        lambda: Body(lambda s, x: head(s, s.a(x) * (2.0 if s.b(s.a(x)).requires_grad else 3.0))),
        "module 'Body' asks for 'requires_grad'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_it_is_refused_with_what_to_do(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        from_torch(make(), X)
    assert "\n" not in str(caught.value)


MADE: dict[str, Callable[[Any], None]] = {
    "a buffer": lambda s: s.register_buffer("scale", torch.full((4, 1, 1), 2.0)),
    "a parameter": lambda s: s.register_parameter("scale", nn.Parameter(torch.full((4, 1, 1), 2.0))),
}


@pytest.mark.parametrize("name", list(MADE))
def test_what_is_made_in_the_first_run_is_there_before_an_import(name: str) -> None:
    module = FirstRun(MADE[name])
    with pytest.raises(
        UnsupportedModelError, match="'FirstRun' makes 'scale' when it runs for the first time; run it once"
    ):
        from_torch(module, X)
    assert not hasattr(module, "scale")
    module(X)
    assert steps_differ(module, to_torch(from_torch(module, X)), X) == []


def test_a_network_that_sets_itself_up_is_run_once_before() -> None:
    module = Initialised()
    with pytest.raises(
        UnsupportedModelError, match=r"changes 'scale' .*run the network once before if it only sets itself up"
    ):
        from_torch(module, X)
    module(X)
    assert steps_differ(module, to_torch(from_torch(module, X)), X) == []


def test_gradients_may_decide_where_they_change_nothing() -> None:
    module = Body(lambda s, x: head(s, s.a(x) if torch.is_grad_enabled() else F.conv2d(x, s.a.weight, s.a.bias)))
    assert steps_differ(module, to_torch(from_torch(module, X)), X) == []


class Auxiliary(Body):
    """With a head for training, and changes in place, which an import runs."""

    def forward(self, x: Tensor) -> Any:
        maps = torch.relu_(self.b(self.a(x)))
        further = (F.avg_pool2d(maps[:, :, : x.shape[2] // 2], 4),) if self.training else ()
        return self.h(maps.mean((2, 3))), *further


def test_heads_that_take_no_input_that_small_are_told_of() -> None:
    network = Auxiliary(head)
    with pytest.raises(
        UnsupportedModelError, match=r"'Auxiliary' does not run in train mode: .*or leave out what only trains"
    ):
        from_torch(network, torch.randn(2, 1, 7, 7), train_only="drop")
    from_torch(network, torch.randn(2, 1, 16, 16), train_only="drop")
