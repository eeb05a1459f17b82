"""Gradients of a batch: computed as they come or, on a GPU, replayed from a CUDA graph."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gngraph.curvature import Loss
from gngraph.running.evaluation import correct
from gngraph.running.memory import in_halves, release

WHOLE = sys.maxsize
"""Samples at a time where a batch is computed whole."""

WARM_UP = 3
"""Passes before a capture, in which libraries choose their kernels and allocate; torch's own documentation asks for as many."""


@dataclass(frozen=True)
class _Captured:
    """Passes over one batch as a CUDA graph, which reads and writes the tensors that it was captured with."""

    graph: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor
    losses: Tensor
    right: Tensor | None

    def fits(self, x: Tensor, y: Any) -> bool:
        """Whether a batch has the shapes of the captured one."""
        return isinstance(y, Tensor) and (x.shape, y.shape, y.dtype) == (self.x.shape, self.y.shape, self.y.dtype)

    def replay(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """The passes over another batch."""
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.losses, self.right


class Gradients:
    """Forward and backward passes of the mean loss of a batch, which leave its gradients in the parameters.

    Python launches the some 200 kernels of a step in several times the time that a GPU needs for them where a network is
    small, as networks are while they grow. So on a GPU the passes over the first batch are captured, and replayed for every
    batch of its shape. What cannot be captured, as an op that waits for the device, runs as it comes: the result is the same,
    and takes longer.

    Args:
        module: in training mode, on `device`.
        loss: of each sample.
        optimizer: of the module's parameters; it clears their gradients.
        device: of the batches.
        piece: samples of a batch that are computed at a time; halved, and named in a `GnGraphNote`, where memory runs out.
        targets: makes of the targets of the data those that the module is trained to give.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        piece: int = WHOLE,
        targets: Callable[[Any], Any] = lambda y: y,
    ) -> None:
        self.module, self.loss, self.optimizer = module, loss, optimizer
        self.piece, self.targets = piece, targets
        self._untried = device.type == "cuda"
        self._captured: _Captured | None = None

    def __call__(self, x: Tensor, y: Any) -> tuple[Tensor, Tensor | None]:
        """Losses [N], and shares of right answers [N] as `correct` counts them; the next call may overwrite both."""
        y = self.targets(y)
        if self._untried and isinstance(y, Tensor):
            self._untried = False
            with torch.cuda.device(x.device):
                self._captured = self._capture(x, y) if self.piece >= len(x) else None
        if self._captured is not None and self._captured.fits(x, y):
            return self._captured.replay(x, y)

        def attempt(size: int) -> tuple[Tensor, Tensor | None]:
            # a graph writes gradients where they were when it was captured: there they must stay
            self.optimizer.zero_grad(set_to_none=self._captured is None)
            return self._passes(x, y) if size >= len(x) else self._in_pieces(x, y, size)

        size = min(self.piece, len(x))
        found, able = in_halves("a step of training", size, attempt, least=min(2, size))
        if able < size:
            self.piece = able
        return found

    def _passes(self, x: Tensor, y: Any, share: float = 1.0) -> tuple[Tensor, Tensor | None]:
        outputs = self.module(x)
        losses = self.loss.per_sample(outputs, y)
        torch.autograd.backward(losses.mean() * share)
        return losses.detach(), correct(self.loss, outputs, y)

    def _in_pieces(self, x: Tensor, y: Any, size: int) -> tuple[Tensor, Tensor | None]:
        """The same in pieces, whose gradients add up; norms over the batch are over a piece then. None has a single sample."""
        starts = [start for start in range(0, len(x), size) if not start or start + 1 < len(x)]
        losses, right = list[Tensor](), list[Tensor]()
        for own in (slice(start, end) for start, end in pairwise([*starts, len(x)])):
            targets = tree_map_only(Tensor, operator.itemgetter(own), y)
            found, hits = self._passes(x[own], targets, len(x[own]) / len(x))
            losses.append(found)
            right += [] if hits is None else [hits]
        return torch.cat(losses), torch.cat(right) if right else None

    def _capture(self, x: Tensor, y: Tensor) -> _Captured | None:
        """The passes as a graph, and gradients that it writes; None where they cannot be captured."""
        before = [buffer.clone() for buffer in self.module.buffers()]
        aside = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(x.device))
        short = False
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    self.optimizer.zero_grad()
                    self._passes(x, y)
        except torch.OutOfMemoryError:
            short = True
        torch.cuda.current_stream(x.device).wait_stream(aside)
        for buffer, value in zip(self.module.buffers(), before, strict=True):
            buffer.copy_(value)
        self.optimizer.zero_grad()
        if short:
            release()
            return None
        graph, inputs, targets = torch.cuda.CUDAGraph(), x.clone(), y.clone()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random = generator.clone_state()
        try:
            # other threads, such as those that pin batches, may use the device meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                losses, right = self._passes(inputs, targets)
        except RuntimeError as error:
            generator.graphsafe_set_state(random)  # which took itself to be captured, and would refuse to be drawn from
            self.optimizer.zero_grad()
            if not _by_capture(error):
                raise
            return None
        return _Captured(graph, inputs, targets, losses, right)


def _by_capture(error: BaseException) -> bool:
    """Whether passes failed because they were captured: torch says so, or there was no room for the memory that a graph keeps.

    What breaks off a capture comes first: leaving it fails as well, with a message of its own.
    """
    while error.__context__ is not None:
        error = error.__context__
    return isinstance(error, torch.OutOfMemoryError) or "captur" in str(error)
