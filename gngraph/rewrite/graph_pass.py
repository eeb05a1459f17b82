"""`Pass`: a rewrite of whole graphs with options, which is also a line of text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from gngraph.ir import Graph
from gngraph.options.text import written
from gngraph.rewrite.morphism import Morphism
from gngraph.rewrite.surgery import Gather, Rewritten

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager

Effect = Literal["preserves", "rounds", "masks", "changes"]
"""What a pass promises: the function is preserved; it is but for the rounding of new weights to the network's precision; it is that
of the masked network; or it changes."""


@dataclass(frozen=True)
class PassResult:
    """What a pass made of a graph.

    Attributes:
        graph: the new graph.
        morphisms: what was done, numbered as in the graph before.
        gathers: parameter -> how it was rebuilt, for the optimiser's state (`gngraph.rewrite.surgery.carry`).
        copies: new parameter -> the one that it starts as a copy of.
        rounded: whether a pass that preserves the function had to round a weight, see `gngraph.rewrite.surgery.Rewritten`.
    """

    graph: Graph
    morphisms: tuple[Morphism, ...] = ()
    gathers: Mapping[str, tuple[Gather, ...]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    rounded: bool = False

    @classmethod
    def of(cls, rewritten: Rewritten, morphisms: tuple[Morphism, ...]) -> PassResult:
        """The result of applying `morphisms` by `rewrite`."""
        return cls(rewritten.graph, morphisms, rewritten.gathers, rewritten.copies, rewritten.rounded)


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes. A pass is a frozen dataclass whose fields are its options.

    `str(pass)` is its text, `split-channels{count=8,space=features.*}`, with the options that differ from their
    defaults in alphabetical order; `parse_passes` reads it back.

    Attributes:
        name: what the text calls it.
        effect: what it promises about the function; the pass manager checks it.
    """

    name: ClassVar[str]
    effect: ClassVar[Effect]

    @abstractmethod
    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """The rewritten graph; `graph` stays as it is.

        Raises:
            PassError: the pass cannot apply.
        """

    def __str__(self) -> str:
        return written(self)


REGISTRY: dict[str, type[Pass]] = {}
"""Every pass by the name that its text has; `gngraph.passes` fills it."""

PassClass = TypeVar("PassClass", bound=type[Pass])


def register_pass(cls: PassClass) -> PassClass:
    """Class decorator: make a pass known to `parse_passes`.

    Raises:
        ValueError: another class has the name.
    """
    if REGISTRY.get(cls.name, cls) is not cls:
        raise ValueError(f"two passes are called '{cls.name}'")
    REGISTRY[cls.name] = cls
    return cls
