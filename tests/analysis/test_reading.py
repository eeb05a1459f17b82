"""Which axis of a sequence is the channels is told by the layer that reads it first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from gngraph import from_torch
from gngraph.analysis.reading import reads_of
from gngraph.cli import gngraph as main
from gngraph.data import Preprocess, Reads, load_data


class Network(nn.Module):
    """A layer that reads sequences [N, 12, 5] behind what stands before it."""

    def __init__(self, layer: nn.Module, before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.layer, self.before = layer, before

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(self.before(x))
        y: Tensor = found[0] if isinstance(found, tuple) else found
        return y


class Recurrent(nn.Module):
    """A recurrent network of six features a step that classifies by its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.cells(x)[0][:, -1])
        return y


LAST = {
    "linear": Network(nn.Linear(5, 3)),
    "recurrent": Network(nn.LSTM(5, 3, batch_first=True)),
    "steps first": Network(nn.GRU(5, 3), lambda x: x.transpose(0, 1)),
    "a step at a time": Network(nn.GRUCell(5, 3), lambda x: x[:, 0]),
    "norm": Network(nn.LayerNorm(5), lambda x: 2.0 * x),
    "convolution over steps": Network(nn.Conv1d(5, 3, 3), lambda x: x.permute(0, 2, 1)),
}
FIRST = {
    "convolution": Network(nn.Conv1d(12, 3, 3)),
    "norm": Network(nn.BatchNorm1d(12)),
    "both": Network(nn.Linear(60, 3), lambda x: x.flatten(1)),
    "turned": Network(nn.Linear(12, 3), lambda x: x.transpose(1, 2)),
}


@pytest.mark.parametrize("name", LAST)
def test_channels_are_last_where_the_first_layer_reads_them_there(name: str) -> None:
    assert reads_of(from_torch(LAST[name], torch.zeros(2, 12, 5))) is Reads.CHANNELS_LAST


@pytest.mark.parametrize("name", FIRST)
def test_channels_are_first_elsewhere(name: str) -> None:
    assert reads_of(from_torch(FIRST[name], torch.zeros(2, 12, 5))) is Reads.CHANNELS_FIRST


def arrays(folder: Path) -> str:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 9, 6)) * 10.0 ** np.arange(6) + np.arange(6)
    np.savez(folder / "series.npz", x_train=x.astype(np.float32), y_train=np.arange(60) % 2)
    return str(folder / "series.npz")


def test_a_sequence_is_standardised_by_its_channels(tmp_path: Path) -> None:
    data = load_data(arrays(tmp_path), reads=Reads.CHANNELS_LAST)
    x = torch.stack([data.train[i][0] for i in range(len(data.train))])
    assert x.shape[1:] == (9, 6)
    torch.testing.assert_close(x.mean((0, 1)), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 1), correction=0), torch.ones(6), atol=1e-4, rtol=0)
    kept = data.preprocess
    assert isinstance(kept, Preprocess) and Preprocess.from_record(kept.record()) == kept


def test_a_command_standardises_as_the_network_reads(tmp_path: Path) -> None:
    data, network = arrays(tmp_path), "tests.analysis.test_reading:Recurrent"
    runner = CliRunner()
    trained = ["train", network, "--data", data, "--epochs", "1", "-o", str(tmp_path / "net.gng")]
    first = runner.invoke(main, trained, catch_exceptions=False)
    assert first.exit_code == 0 and "(raw - 6 numbers) / 6 numbers" in first.output
    again = runner.invoke(main, ["evaluate", str(tmp_path / "net.gng"), "--data", data], catch_exceptions=False)
    assert again.exit_code == 0 and "(raw - 6 numbers) / 6 numbers" in again.output
