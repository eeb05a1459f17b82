"""Fig. 2 as data: what pays is marked, and every channel is followed."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from gngraph.growth.history import Record
from gngraph.report.architecture import Rates, in_order, new_pays, packed, pays
from tests.report.made_runs import VGG19, made_run, vgg19_run


def space(gain: list[float], loss: list[float], *, error: float = 0.0, params: int = 10) -> Record:
    errors = [error] * len(gain)
    return {
        "size": len(gain), "layers": ["a"], "frozen": None,
        "split": {"gain": gain, "error": errors, "params": params, "flops": 0},
        "prune": {"gain": [-x for x in loss], "error": errors, "params": -params, "flops": 0},
    }  # fmt: skip


def test_the_best_split_for_its_cost_is_the_reddest() -> None:
    cheap, dear = space([0.01, 0.02], [9.0, 9.0], params=10), space([0.02, 0.04], [9.0, 9.0], params=40)
    rates = Rates.of([cheap, dear], {"params": 1000})
    assert pays(cheap, rates).tolist() == [0.5, 1.0] and pays(dear, rates).tolist() == pytest.approx([0.25, 0.5])


def test_a_removal_pays_as_far_as_it_loses_less_than_its_cost_buys() -> None:
    one = space([0.02, 0.0, 0.0, 0.0], [9.0, 0.0, 0.005, 0.02])
    # the best split gains 0.02 for a cost of 10; at half of that rate the cost of a channel is worth 0.01
    assert pays(one, Rates.of([one], {"params": 1000})).tolist() == pytest.approx([1.0, -1.0, -0.5, 0.0])


def test_what_lies_within_its_noise_does_not_pay() -> None:
    one = space([0.02, 0.01], [9.0, 9.0], error=0.008)
    assert pays(one, Rates.of([one], {"params": 1000})).tolist() == [1.0, 0.0]


def test_where_nothing_is_split_removals_are_compared_with_each_other() -> None:
    one = space([], [])
    one |= {"size": 3, "prune": {"gain": [-0.01, -0.02, -0.04], "error": [0, 0, 0], "params": -10, "flops": 0}}
    del one["split"]
    assert pays(one, Rates.of([one], {"params": 1000})).tolist() == pytest.approx([-0.5, 0.0, 0.0])


def test_a_new_channel_is_held_against_splits() -> None:
    one = space([0.01], [9.0]) | {"new": {"gain": 0.02, "error": 0.0, "params": 10, "flops": 0, "layer": "a"}}
    rates = Rates.of([one], {"params": 1000})
    assert (new_pays(one, rates), pays(one, rates).tolist()) == (1.0, [0.5])
    assert new_pays(space([0.01], [9.0]), rates) is None


def test_spaces_keep_the_order_of_the_network() -> None:
    records = [{"spaces": dict.fromkeys(names)} for names in ("abc", "ac", "axc")]
    assert in_order(records) == ["a", "x", "b", "c"]


def test_every_channel_of_every_round_is_packed() -> None:
    run = made_run({"a": 30, "b": 20, "c": 12}, rounds=2)
    data = packed(run.channels, run.history)
    sizes = [row["size"] if row else 0 for frame in data["frames"] for row in frame["rows"]]
    source = np.frombuffer(base64.b64decode(data["source"]), "<i4")
    value = np.frombuffer(base64.b64decode(data["value"]), "<i1")
    assert len(source) == len(value) == sum(sizes)
    assert [frame["kind"] for frame in data["frames"]] == ["seed", "round", "round", "final"]
    assert data["names"] == ["a", "b", "c", "classifier"] and data["frames"][1]["rows"][1] is None
    gain = data["split_gain"]
    halves = np.frombuffer(base64.b64decode(gain["data"]), "<f2").astype(float) * gain["scale"]
    entries = [entry for record in run.channels for entry in record["spaces"].values()]
    none = {"gain": None}
    want = [g for e in entries for g in (e.get("split", none)["gain"] or [np.nan] * e["size"])]
    np.testing.assert_allclose(halves, want, rtol=1e-3, atol=1e-9)


def test_20_rounds_of_a_vgg19_have_all_its_channels() -> None:
    run = vgg19_run(2)
    assert sum(VGG19) == 5504
    assert sum(entry["size"] for entry in run.channels[0]["spaces"].values()) == 5504 + 10
