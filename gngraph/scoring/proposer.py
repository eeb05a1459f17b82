"""`Proposer`: where candidates of one kind come from. `Context`: what proposers are made from.

However a morphism was found, it is judged by the same model: a proposer says how it changes the network at some edges, and
the gradients there give its effect on the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Cost, CostModel
from gngraph.analysis.scope import EVERYTHING, Scope
from gngraph.ir import Graph
from gngraph.rewrite.morphism import Morphism
from gngraph.scoring.collect import Collected
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.sites import Edge


class Proposer(Protocol):
    """C candidates of one kind at one place; they are learned on one split of the data and scored on others."""

    def edges(self) -> Iterable[Edge]:
        """Edges whose gradients it needs."""
        ...

    def learn(self, batch: Collected) -> None:
        """Learn from one batch of the learn split; with no batch at all the candidates are as they start."""
        ...

    def effect(self, batch: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """First- and second-order effect of every candidate on every sample, as it is now: s [N, C], q [R, N, C]."""
        ...

    def morphisms(self) -> Iterator[tuple[Morphism, str]]:
        """Every candidate with the name of its site, in the order of the columns of `effect`, as it is now."""
        ...

    def cost(self, model: CostModel) -> Cost:
        """Cost of one candidate alone at the widths of the graph; negative for what is removed."""
        ...


@dataclass(frozen=True)
class Context:
    """What proposers are made from.

    Attributes:
        graph: on the device of the problem.
        spaces: its channel spaces.
        options: the options of the analysis.
        generator: for everything random, on the CPU.
        samples: of the learn split, each of which is seen once an epoch.
        notes: what is not proposed, and why; to be appended to.
        borders: numbers of samples at which a stage of some proposer is settled.
        scope: what may change.
    """

    graph: Graph
    spaces: ChannelSpaces
    options: ScoringOptions
    generator: torch.Generator
    samples: int
    notes: list[str] = field(default_factory=list)
    borders: set[int] = field(default_factory=set)
    scope: Scope = EVERYTHING

    def settled(self, share: float) -> int:
        """How many samples of the first epoch are a share of the learn split: what was learned of them is settled then.

        No batch that proposers see lies across it. Stages that follow each other are to be over with the first epoch, so that each
        has samples of its own: a second epoch brings the samples of all stages again.
        """
        border = round(share * self.samples)
        self.borders.add(border)
        return border
