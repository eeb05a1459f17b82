"""What the variables of the environment change of a run's result. They are read here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from gngraph.errors import GnGraphError

_LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

CHANGING = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Variables by which torch computes otherwise. What they set of threads and devices a run records as such."""

_RECORDED = tuple(name for name in CHANGING if not name.endswith("_THREADS") and name != "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Environment:
    """What the variables of the environment say.

    Attributes:
        ranks: processes of the job.
        rank: of this one.
        device: number of its GPU, on its machine.
        changing: variables of `CHANGING` that are set.
    """

    ranks: int
    rank: int
    device: int
    changing: Mapping[str, str]

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Environment:
        """As it is.

        Args:
            variables: of the environment; None: those of the process.

        Raises:
            GnGraphError: it names several processes, but not how they find each other.

        >>> Environment.read({"WORLD_SIZE": "4"})
        Traceback (most recent call last):
        gngraph.errors.GnGraphError: the environment has WORLD_SIZE=4, but no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: ...
        """
        given = os.environ if variables is None else variables
        changing = {name: given[name] for name in CHANGING if name in given}
        size = given.get("WORLD_SIZE", "1")
        if size == "1":
            return cls(1, 0, 0, changing)
        missing = [name for name in _LAUNCHED if not given.get(name)]
        if missing:
            raise GnGraphError(
                f"the environment has WORLD_SIZE={size}, but no {', '.join(missing)}: start the processes by torchrun, or unset "
                f"WORLD_SIZE to work in one process"
            )
        try:
            count, rank, device = int(size), int(given["RANK"]), int(given["LOCAL_RANK"])
        except ValueError:
            count, rank, device = 0, 0, 0
        if not 0 <= rank < count or device < 0:
            raise GnGraphError(
                f"the environment has WORLD_SIZE={size}, RANK={given['RANK']} and LOCAL_RANK={given['LOCAL_RANK']}, which name no "
                f"process of a job: start the processes by torchrun"
            )
        return cls(count, rank, device, changing)

    @property
    def text(self) -> str | None:
        """What the environment changes, for whoever starts a job; None where it changes nothing.

        >>> Environment.read({"OMP_NUM_THREADS": "1"}).text
        'by the environment: OMP_NUM_THREADS=1'
        """
        told = [f"{name}={value}" for name, value in self.changing.items()]
        if self.ranks > 1:
            told.insert(0, f"{self.ranks} processes, each with a share of every batch")
        return f"by the environment: {', '.join(told)}" if told else None

    @property
    def arithmetic(self) -> dict[str, str]:
        """Variables that change how torch computes, beside the number of threads, by which a run records it."""
        return {name: value for name, value in self.changing.items() if name in _RECORDED}
