"""Kinds of candidates: one of a user's own is scored as gngraph's are, and a name stands for one kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import pytest

from gngraph.errors import PassError
from gngraph.scoring import Context, GaussNewton, Proposer, register_proposer, registry
from gngraph.scoring.proposers.prunes import propose_prunes
from tests.scoring.test_exact_predictions import setting


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    known = dict(registry.PROPOSERS)
    monkeypatch.setattr(registry, "PROPOSERS", known)
    monkeypatch.setattr("gngraph.scoring.gauss_newton.PROPOSERS", known)


def first_space_alone(context: Context) -> Iterable[Proposer]:
    context.notes.append("the other spaces are left as they are")
    return [next(propose_prunes(context))]


def test_a_kind_of_ones_own_is_scored_as_gngraphs_are() -> None:
    graph, analyses = setting("chain")
    with pytest.raises(
        PassError, match="of kind 'prune-first' are unknown; choose among split, prune, new, merge, insert"
    ):
        GaussNewton(kinds=("prune-first",))
    register_proposer("prune-first", first_space_alone)
    own, all_of_them = (analyses.get(GaussNewton("exact", kinds=(kind,)), graph) for kind in ("prune-first", "prune"))
    known = {str(c.morphism.record()): c.gain for c in all_of_them.candidates}
    assert 0 < len(own.candidates) < len(known) and "the other spaces are left as they are" in own.notes
    for candidate in own.candidates:
        assert candidate.gain == pytest.approx(known[str(candidate.morphism.record())], rel=1e-6)


@pytest.mark.parametrize("kind", ["split", "prune-first"])
def test_a_name_is_registered_once(kind: str) -> None:
    register_proposer("prune-first", first_space_alone)
    with pytest.raises(
        PassError, match=f"^kind '{kind}' of candidates is registered already; give this one another name$"
    ):
        register_proposer(kind, propose_prunes)
    assert registry.PROPOSERS["prune-first"] is first_space_alone


def test_kinds_of_other_methods_are_known_once_they_are_imported() -> None:
    program = (
        "import gngraph.api, gngraph.cli, gngraph.passes\n"
        "from gngraph.errors import PassError\n"
        "from gngraph.scoring import GaussNewton\n"
        "try:\n"
        "    GaussNewton(kinds=('split-firefly',))\n"
        "except PassError as error:\n"
        "    print(error)\n"
        "import gngraph.baselines\n"
        "print(GaussNewton(kinds=('split-firefly',)).kinds)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "morphisms of kind 'split-firefly' are unknown; choose among split, prune, new, merge, insert, low-rank, "
        "separable",
        "('split-firefly',)",
    ]
