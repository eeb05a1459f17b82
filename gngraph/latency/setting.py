"""What milliseconds are of: a runtime, with so many samples at a time, on so many threads, of this machine."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


@dataclass(frozen=True)
class LatencySetting:
    """Where a network is to be fast.

    Attributes:
        runtime: "onnxruntime-cpu" or "torch", both on the CPU.
        batch: samples at a time.
        threads: that it computes with.
    """

    runtime: str
    batch: int = 1
    threads: int = 1

    @property
    def text(self) -> str:
        """The setting in words.

        >>> LatencySetting("torch", 8).text
        'torch, a batch of 8, 1 thread'
        """
        return f"{self.runtime}, a batch of {self.batch}, {self.threads} thread{'s' * (self.threads != 1)}"

    @property
    def block(self) -> int:
        """Channels that this machine takes at a time; both runtimes pad to them."""
        return 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8

    def identity(self) -> dict[str, str]:
        """All that times depend on beside the network."""
        package = "onnxruntime" if self.runtime.startswith("onnxruntime") else "torch"
        try:
            release = version(package)
        except PackageNotFoundError:
            release = "none"
        return {
            "setting": self.text,
            "release": f"{package} {release}",
            "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} CPUs",
            "capability": torch.backends.cpu.get_cpu_capability(),
        }


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
