"""What runs of one network for several budgets share, up to the first rewrite; from there each is the run of its budget alone."""

from __future__ import annotations

from gngraph.analysis.manager import AnalysisManager
from gngraph.growth.state import RunState

_TRAINED = ("graph", "optimizer", "epochs_done", "piece")
"""What the training before the first rewrite changes of a state, beside its record and its notes."""


class Trunk:
    """The training before the first rewrite, done once, and the analyses of the network that it gives.

    Args:
        analyses: of the runs, which find what was found of the same network before.
    """

    def __init__(self, analyses: AnalysisManager) -> None:
        self.analyses = analyses
        self._trained: dict[str, object] | None = None
        self._record: dict[str, object] = {}
        self._notes: list[str] = []

    def leave(self, state: RunState) -> None:
        """Keep what later runs need not train.

        Args:
            state: of the first run, behind the training of its first round.
        """
        self._trained = {name: getattr(state, name) for name in _TRAINED}
        self._record, self._notes = dict(state.record), list(state.notes)

    def enter(self, state: RunState) -> bool:
        """Bring a run behind that training.

        Args:
            state: of the run, before it; changed in place.

        Returns:
            whether a run was there before.
        """
        if self._trained is None:
            return False
        for name, value in self._trained.items():
            setattr(state, name, value)
        state.record, state.notes = dict(self._record), list(self._notes)
        return True
