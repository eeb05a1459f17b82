"""`Ranks`: the processes of a job. One process alone is the case of one rank, in which all that is asked for is there already."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import distributed

from gngraph.errors import GnGraphError

Sent = TypeVar("Sent")


class LostRankError(GnGraphError):
    """Another process of the job ended, or does not answer."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, as one of them sees them.

    All of them call the same methods in the same order: each waits until the others have called it as well. Every method raises
    `LostRankError` where one of them does not.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        group: of torch.distributed; None: there is no other process.

    >>> Ranks().share(10), Ranks(1, 4).share(10)
    (slice(0, 10, None), slice(2, 5, None))
    """

    rank: int = 0
    size: int = 1
    group: Any = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """What this process takes of `count` rows."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def of(self, count: int) -> Ranks:
        """Who works on `count` rows together: all, or where these are fewer than there are processes, each on all of them."""
        return self if count >= self.size else ALONE

    def seed(self, seed: int) -> int:
        """A seed for what each process draws for its own share; that of the first is the one given."""
        return (seed + self.rank * 0x9E3779B97F4A7C15) % 2**63

    def total(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Sums over all processes, the same bits in each.

        Args:
            tensors: of one shape and dtype in all processes, on one device.
        """
        if self.size == 1:
            return tensors
        sums: dict[int, torch.Tensor] = {}
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            own = [i for i, tensor in enumerate(tensors) if tensor.dtype is dtype]
            flat = torch.cat([tensors[i].detach().reshape(-1) for i in own])
            self._call(lambda flat=flat: distributed.all_reduce(flat, group=self.group))  # type: ignore[misc]
            parts = torch.split(flat, [tensors[i].numel() for i in own])
            sums |= {i: part.view(tensors[i].shape) for i, part in zip(own, parts, strict=True)}
        return tuple(sums[i] for i in range(len(tensors)))

    def rows(self, tensor: torch.Tensor, axis: int = 0) -> torch.Tensor:
        """The rows of all processes, those of the first first.

        Args:
            tensor: of shapes that are the same in all processes but along the axis.
            axis: of the rows.
        """
        if self.size == 1:
            return tensor
        (counted,) = self.total(torch.eye(self.size, dtype=torch.int64)[self.rank] * tensor.shape[axis])
        counts: list[int] = counted.tolist()
        padded = tensor.new_zeros(max(counts), *tensor.movedim(axis, 0).shape[1:])
        padded[: tensor.shape[axis]] = tensor.detach().movedim(axis, 0)
        parts = [torch.empty_like(padded) for _ in counts]
        self._call(lambda: distributed.all_gather(parts, padded, group=self.group))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).movedim(0, axis)

    def gathered(self, value: Sent) -> list[Sent]:
        """What every process has, in their order.

        Args:
            value: of any kind that pickles; its tensors are on the CPU.
        """
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        self._call(lambda: distributed.all_gather_object(found, value, group=self.group))
        return found

    def agreed(self, value: Sent) -> Sent:
        """What the first process has.

        Args:
            value: of any kind that pickles; its tensors are on the CPU afterwards.
        """
        if self.size == 1:
            return value
        written = io.BytesIO()
        if self.first:
            torch.save(value, written)
        held = [written.getvalue()]
        self._call(lambda: distributed.broadcast_object_list(held, group_src=0, group=self.group))
        found: Sent = torch.load(io.BytesIO(held[0]), map_location="cpu", weights_only=False)
        return found

    def copied(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The tensors of the first process, of the names, shapes and dtypes that all have; those of this one change to them."""
        if self.size > 1:
            for tensor in tensors.values():
                whole = tensor.detach().contiguous()
                bits = whole.reshape(-1).view(torch.uint8)  # of whatever type
                self._call(lambda bits=bits: distributed.broadcast(bits, group_src=0, group=self.group))  # type: ignore[misc]
                tensor.detach().copy_(whole)
        return tensors

    def by_first(self, work: Callable[[], Sent]) -> Sent:
        """What `work` gives in the first process, which does it alone; where it fails there, it fails in all.

        Args:
            work: gives something that pickles.
        """
        if self.size == 1:
            return work()
        found: list[Sent] = []
        failed: Exception | None = None
        if self.first:
            try:
                with working(ALONE):
                    found.append(work())
            except Exception as error:
                failed = error
        result, told = self.agreed((found, failed and sent(failed)))
        if told is not None:
            raise failed or told
        return found[0] if self.first else result[0]

    def only_first(self, work: Callable[[], Sent]) -> Sent | None:
        """The same, for what stays in the first process; None in the others."""
        held: list[Sent] = []

        def done() -> None:
            held.append(work())

        self.by_first(done)
        return held[0] if held else None

    def joined(self, own: Iterable[Sent]) -> list[Sent]:
        """Results of all processes, which take turns; what fails in one fails in all.

        Args:
            own: gives the results of the turns of this one, which pickle, and waits for no other process.
        """
        if self.size == 1:
            return [*own]
        found, failed = list[Sent](), None
        try:
            found += own
        except Exception as error:
            failed = error
        parts, told = zip(*self.gathered((found, failed and sent(failed))), strict=True)
        for one in told:
            if one is not None:
                raise failed or one
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def _call(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:  # of gloo and nccl
            raise LostRankError(
                f"another process of the job ended, or did not answer ({_reason(error)}): look at what it said"
            ) from error


ALONE = Ranks()
"""One process."""

_working: list[Ranks] = []


def here() -> Ranks:
    """The processes that work together now: those of the innermost `working`, or this one alone."""
    return _working[-1] if _working else ALONE


@contextmanager
def working(ranks: Ranks) -> Iterator[None]:
    """These processes work together inside."""
    _working.append(ranks)
    try:
        yield
    finally:
        _working.pop()


def sent(error: BaseException) -> BaseException:
    """An error as other processes can be told of it: its cause and where it was raised stay behind."""
    try:
        return type(error)(*error.args)
    except Exception:
        return GnGraphError(str(error))


def _reason(error: RuntimeError) -> str:
    first = (str(error).splitlines() or [""])[0]
    return first.rpartition(".cc:")[2].partition("] ")[2].partition(". ")[0][:160] or first[:160]
