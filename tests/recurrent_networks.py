"""Recurrent networks whose hidden sizes are spaces: layers of every kind, their states, and cells in a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SHAPE = (2, 4, 5)


class Layers(nn.Module):
    """A recurrent layer of 6 units behind a linear one, of which the last step is read."""

    def __init__(self, kind: Any = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(5, 4), kind(4, 6, batch_first=True, **options)
        self.last = nn.Linear(12 if options.get("bidirectional") else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.layer(self.first(x))[0][:, -1])
        return y


class LastStates(Layers):
    """The last states of both directions, joined."""

    def __init__(self) -> None:
        super().__init__(num_layers=2, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, c) = self.layer(self.first(x))
        y: Tensor = self.last(torch.cat([h[-2], c[-1]], 1))
        return y


class FirstStates(Layers):
    """First states that the forward makes, of a width that it writes as a number."""

    def forward(self, x: Tensor) -> Tensor:
        h, c = torch.zeros(1, x.size(0), 6), x.new_full((1, x.shape[0], 6), 0.5)
        y: Tensor = self.last(self.layer(self.first(x), (h, c))[0].mean(1))
        return y


class HandedOn(nn.Module):
    """Two layers, time first, the second of which starts where the first ends."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(5, 6), nn.LSTM(5, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        _, states = self.encoder(x)
        y: Tensor = self.last(self.decoder(x, states)[0][-1])
        return y


class Cells(nn.Module):
    """Cells of every kind, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.gate = nn.LSTMCell(5, 6), nn.GRUCell(6, 5)
        self.plain, self.last = nn.RNNCell(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 6)
        gate = plain = None
        for step in range(4):
            h, c = self.cell(x[:, step], (h, c))
            gate = self.gate(h, gate)
            plain = self.plain(gate, plain)
        y: Tensor = self.last(plain)
        return y


class TupleOfStates(nn.Module):
    """A cell whose states are passed on as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTMCell(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = None
        for step in range(3):
            states = self.cell(x[:, step], states)
        assert states is not None
        y: Tensor = self.last(states[0])
        return y


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "lstm": (Layers, {"first": 4, "layer": 6}),
    "gru, two layers, both ways": (
        lambda: Layers(nn.GRU, num_layers=2, bidirectional=True),
        {"first": 4, "layer": 6},
    ),
    "rnn without biases": (lambda: Layers(nn.RNN, bias=False, nonlinearity="relu"), {"first": 4, "layer": 6}),
    "last states": (LastStates, {"first": 4, "layer": 6}),
    "first states": (FirstStates, {"first": 4, "layer": 6}),
    "handed on": (HandedOn, {"encoder": 6}),
    "cells": (Cells, {"cell": 6, "gate": 5, "plain": 4}),
    "tuple of states": (TupleOfStates, {"cell": 6}),
}
"""Name -> what builds it, and the free spaces with their widths."""
