"""Gradients of a batch: computed as they come or, on a GPU, replayed from a CUDA graph."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gngraph.data.inputs import SampleInputs, count_of, each
from gngraph.ranks import here, whole_batches
from gngraph.running.memory import in_halves, release
from gngraph.training.objective import Objective

WHOLE = sys.maxsize
"""Samples at a time where a batch is computed whole."""

WARM_UP = 3
"""Passes before a capture, in which libraries choose their kernels and allocate; torch's own documentation asks for as many."""


@dataclass(frozen=True)
class Sums:
    """Sums over a batch, on its device.

    Attributes:
        loss: of the losses.
        right, answered: of the shares of right answers as `correct` counts them, and how many samples have one.
    """

    loss: Tensor
    right: Tensor
    answered: Tensor


@dataclass(frozen=True)
class _Captured:
    """Passes over one batch as a CUDA graph, which reads and writes the tensors that it was captured with."""

    graph: torch.cuda.CUDAGraph
    x: SampleInputs
    y: Tensor
    sums: Sums

    def fits(self, x: SampleInputs, y: Any) -> bool:
        """Whether a batch has the shapes of the captured one."""
        alike = [tensor.shape for tensor in each(x)] == [tensor.shape for tensor in each(self.x)]
        return alike and isinstance(y, Tensor) and (y.shape, y.dtype) == (self.y.shape, self.y.dtype)

    def replay(self, x: SampleInputs, y: Tensor) -> Sums:
        """The passes over another batch."""
        for own, given in zip(each(self.x), each(x), strict=True):
            own.copy_(given)
        self.y.copy_(y)
        self.graph.replay()
        return self.sums


class Gradients:
    """Forward and backward passes of what is minimised, the mean loss of a batch, which leave its gradients in the parameters.

    Processes that work together each take a share of the batch, or of every piece of it, and add their gradients up; norms over the
    batch see the shares of all (`gngraph.ranks.whole_batches`).

    Python launches the some 200 kernels of a step in several times the time that a GPU needs for them where a network is
    small, as networks are while they grow. So on a GPU the passes over the first batch are captured, and replayed for every
    batch of its shape. What cannot be captured, as an op that waits for the device or a step of the user's own, runs as it comes:
    the result is the same, and takes longer.

    Args:
        module: in training mode, on `device`.
        objective: what is minimised.
        optimizer: of the module's parameters; it clears their gradients.
        device: of the batches.
        piece: samples of a batch that are computed at a time; halved, and named in a `GnGraphNote`, where memory runs out.
        targets: makes of the targets of the data those that the module is trained to give.
        scaler: of the loss, and so of the gradients; it takes the steps of the optimizer, and unscales them before.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        piece: int = WHOLE,
        targets: Callable[[Any], Any] = lambda y: y,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
        self.module, self.objective, self.optimizer = module, objective, optimizer
        self.piece, self.targets = piece, targets
        self.ranks = here()
        # processes that wait for each other are not captured
        self._untried = device.type == "cuda" and self.ranks.size == 1 and objective.repeats
        self._captured: _Captured | None = None

    def __call__(self, x: SampleInputs, y: Any) -> Sums:
        """The sums over a batch, x and y; the next call may overwrite them."""
        y = self.targets(y)
        if self._untried and isinstance(y, Tensor):
            self._untried = False
            with torch.cuda.device(y.device):
                self._captured = self._capture(x, y) if self.piece >= count_of(x) else None
        if self._captured is not None and self._captured.fits(x, y):
            return self._captured.replay(x, y)

        def attempt(size: int) -> Sums:
            # a graph writes gradients where they were when it was captured: there they must stay
            self.optimizer.zero_grad(set_to_none=self._captured is None)
            return self._reduced(self._in_pieces(x, y, size))

        size = min(self.piece, count_of(x))
        found, able = in_halves("a step of training", size, attempt, least=min(2, size))
        if able < size:
            self.piece = able
        return found

    def _reduced(self, own: Sums) -> Sums:
        """The sums of all processes; so are gradients, of which those that none has stay None."""
        if self.ranks.size == 1:
            return own
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        known = torch.tensor([float(p.grad is not None) for p in parameters], device=own.loss.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sums = torch.stack([own.loss.double(), own.right.double(), own.answered.double()])
        known, sums, *gradients = self.ranks.total(known, sums, *gradients)
        for p, some, gradient in zip(parameters, known.tolist(), gradients, strict=True):
            p.grad = gradient if some else None
        return Sums(*sums.unbind())

    def _passes(self, x: SampleInputs, y: Any, share: float = 1.0) -> tuple[Tensor, Tensor | None]:
        losses, right = self.objective(self.module, x, y)
        torch.autograd.backward(self.scaler.scale(losses.mean() * share))
        return losses.detach(), right

    def _in_pieces(self, x: SampleInputs, y: Any, size: int) -> Sums:
        """The same in pieces, whose gradients add up; norms over the batch are over a piece then. None has a single sample.

        A piece of fewer samples than there are processes is the first one's alone.
        """
        starts = [start for start in range(0, count_of(x), size) if not start or start + 1 < count_of(x)]
        losses, right = list[Tensor](), list[Tensor]()
        for start, end in pairwise([*starts, count_of(x)]):
            together = self.ranks.of(end - start)
            if together is not self.ranks and not self.ranks.first:
                continue
            rows = together.share(end - start)
            own = slice(start + rows.start, start + rows.stop)
            some, targets = tree_map_only(Tensor, operator.itemgetter(own), (x, y))
            with whole_batches(together):
                found, hits = self._passes(some, targets, (own.stop - own.start) / count_of(x))
            losses.append(found)
            right += [] if hits is None else [hits]
        return _sums(losses, right, each(x)[0].device)

    def _capture(self, x: SampleInputs, y: Tensor) -> _Captured | None:
        """The passes as a graph, and gradients that it writes; None where they cannot be captured."""
        before = [buffer.clone() for buffer in self.module.buffers()]
        aside = torch.cuda.Stream(y.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(y.device))
        short = False
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    self.optimizer.zero_grad()
                    self._passes(x, y)
        except torch.OutOfMemoryError:
            short = True
        torch.cuda.current_stream(y.device).wait_stream(aside)
        for buffer, value in zip(self.module.buffers(), before, strict=True):
            buffer.copy_(value)
        self.optimizer.zero_grad()
        if short:
            release()
            return None
        graph, inputs, targets = torch.cuda.CUDAGraph(), tree_map_only(Tensor, Tensor.clone, x), y.clone()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random = generator.clone_state()
        try:
            # other threads, such as those that pin batches, may use the device meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                losses, right = self._passes(inputs, targets)
                sums = _sums([losses], [] if right is None else [right], y.device)
        except RuntimeError as error:
            generator.graphsafe_set_state(random)  # which took itself to be captured, and would refuse to be drawn from
            self.optimizer.zero_grad()
            if not _by_capture(error):
                raise
            return None
        return _Captured(graph, inputs, targets, sums)


def _sums(losses: Sequence[Tensor], right: Sequence[Tensor], device: torch.device) -> Sums:
    """Sums of what pieces of a batch gave, which may be nothing."""
    none = torch.zeros((), device=device)
    loss = torch.cat([*losses]).sum() if losses else none
    if not right:
        return Sums(loss, none, none)
    answers = torch.cat([*right])
    return Sums(loss, answers.nansum(), (~answers.isnan()).sum())


def _by_capture(error: BaseException) -> bool:
    """Whether passes failed because they were captured: torch says so, or there was no room for the memory that a graph keeps.

    What breaks off a capture comes first: leaving it fails as well, with a message of its own.
    """
    while error.__context__ is not None:
        error = error.__context__
    return isinstance(error, torch.OutOfMemoryError) or "captur" in str(error)
