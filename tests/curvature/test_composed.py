"""Losses that ignore positions, read several outputs, or are the user's own, against dense references by autograd."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.nn import functional

from gngraph.curvature import (
    CrossEntropy,
    CustomLoss,
    Exact,
    Heads,
    Loss,
    MeanSquaredError,
    MonteCarlo,
    RankOne,
    as_loss,
    fallback,
    gradient,
    leaves,
    parts_of,
    pull_back,
    replaced,
    unstacked,
)
from gngraph.errors import DataError, GnGraphError

SAMPLES = 3
SHAPES: dict[str, tuple[int, ...]] = {"out": (3, 2, 2), "aux": (2,), "unread": (4,)}
IGNORED = 255


def outputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(SAMPLES, *shape, generator=generator, dtype=torch.float64) for key, shape in SHAPES.items()
    }


def labels() -> Tensor:
    """[N, 2, 2]: all known, two ignored, all ignored."""
    return torch.tensor([[[0, 1], [2, 1]], [[IGNORED, 2], [0, IGNORED]], [[IGNORED] * 2] * 2])


def targets() -> dict[str, Tensor]:
    aux = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"out": labels(), "aux": aux}


def flat(tree: Any) -> Tensor:
    """The entries of "out" and "aux" in one axis, [*lead, 14]."""
    found = leaves(tree)
    return torch.cat([found[(key,)].flatten(-len(SHAPES[key])) for key in ("out", "aux")], -1)


def dense_hessian(loss: Loss) -> Tensor:
    """[N, 14, 14] over the entries of "out" and "aux", by double backward, one sample at a time."""
    blocks = []
    for sample in range(SAMPLES):
        one = {key: tensor[sample : sample + 1] for key, tensor in outputs().items()}
        wanted = {key: tensor[sample : sample + 1] for key, tensor in targets().items()}

        def loss_of(entries: Tensor, one: dict[str, Tensor] = one, wanted: dict[str, Tensor] = wanted) -> Tensor:
            parts = {
                "out": entries[:12].reshape(1, 3, 2, 2),
                "aux": entries[12:].reshape(1, 2),
                "unread": one["unread"],
            }
            return loss.per_sample(parts, wanted).sum()

        blocks.append(hessian(loss_of, flat(one)[0]))  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return torch.stack(blocks)


def both() -> Heads:
    return Heads({"out": CrossEntropy(ignore_index=IGNORED), "aux": ("mse", 0.4)})


def test_ignored_positions_count_nowhere() -> None:
    loss = CrossEntropy(ignore_index=IGNORED)
    logits = outputs()["out"]
    losses = loss.per_sample(logits, labels())
    for sample in (0, 1):
        one = functional.cross_entropy(logits[sample : sample + 1], labels()[sample : sample + 1], ignore_index=IGNORED)
        torch.testing.assert_close(losses[sample], one)
    assert losses[2] == 0
    loss.check_targets(logits, labels())
    with pytest.raises(IndexError):  # torch's own default would ignore it
        CrossEntropy().per_sample(torch.zeros(1, 2), torch.tensor([-100]))


def test_exact_factors_of_a_sum_are_the_dense_hessian() -> None:
    factors = Exact().factors(both(), outputs(), targets(), torch.Generator())
    assert factors["out"].shape == (12 + 2, SAMPLES, 3, 2, 2) and "unread" not in factors
    rows = torch.stack([flat(factor) for factor in unstacked(factors)])
    reference = dense_hessian(both())
    assert reference[0].abs().max() > 0.1 and (reference[2, :12] == 0).all()
    torch.testing.assert_close(torch.einsum("rnm,rnk->nmk", rows, rows), reference, rtol=0, atol=1e-12)


def shifted(outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """A sampler for squares whose mean is not 0: the root of the Hessian's diagonal by a vector of signs, the first 1."""
    signs = torch.randint(2, outputs.shape, generator=generator).to(outputs.dtype) * 2 - 1
    signs[:, 0] = 1
    return signs * math.sqrt(2 / outputs.shape[1])


@pytest.mark.parametrize("uneven", [False, True])
def test_sampled_factors_of_a_sum_converge_to_the_dense_hessian(uneven: bool) -> None:
    squares = CustomLoss("squares", MeanSquaredError().per_sample, shifted)
    pooled = CustomLoss("pooled", lambda o, t: o.mean((2, 3)).square().mean(1), pooled_sampler)
    loss = Heads({"out": pooled, "aux": (squares, 0.4)}) if uneven else both()
    draws = 4_000
    factors = MonteCarlo(draws).factors(loss, outputs(), targets(), torch.Generator().manual_seed(0))
    rows = math.sqrt(draws) * torch.stack([flat(factor) for factor in unstacked(factors)])
    products = rows.unsqueeze(3) * rows.unsqueeze(2)
    error = products.std(0) / math.sqrt(draws)
    assert ((products.mean(0) - dense_hessian(loss)).abs() <= 5 * error + 1e-12).all()


def pooled_sampler(outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """For the mean over 3 channels of (mean over 4 positions)^2: again with a mean that is not 0."""
    return shifted(outputs[:, :, 0, 0], targets, generator)[:, :, None, None].expand(outputs.shape) / 4


def test_rank_one_of_a_sum_is_the_formula_of_the_paper() -> None:
    losses, slope = gradient(both(), outputs(), targets())
    factors = RankOne().factors(both(), outputs(), targets(), torch.Generator())
    assert leaves(slope).keys() == leaves(factors).keys() == {("out",), ("aux",)}
    expected = flat(slope) / (2 * losses).sqrt()[:, None]
    torch.testing.assert_close(flat(unstacked(factors)[0]), expected)


def test_a_cotangent_is_pulled_back_through_every_output() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    unused = torch.ones(2, requires_grad=True)
    returned = {"out": 2 * x, "rest": [x.sum(1), torch.zeros(2), 5]}
    cotangent = {"out": torch.ones(2, 3), "rest": (torch.tensor([1.0, 10.0]), torch.ones(2))}
    found = pull_back(returned, cotangent, [x, unused], retain_graph=True)
    assert found[0] is not None and found[0].tolist() == [[3.0] * 3, [12.0] * 3] and found[1] is None
    assert pull_back(returned, {"rest": (None, torch.ones(2))}, [x], retain_graph=True) == [None]


def test_structures_are_kept() -> None:
    tree = {"a": [torch.zeros(1), (torch.ones(1), None)], "b": "text"}
    assert list(leaves(tree)) == [("a", 0), ("a", 1, 0)]
    kept = replaced(tree, {("a", 1, 0): torch.ones(2)})
    assert kept["a"][0] is None and kept["a"][1][0].shape == (2,) and kept["b"] == "text"


class Pair(NamedTuple):
    """What a network may return, too."""

    out: Tensor
    aux: Tensor


def test_outputs_with_names_go_by_them() -> None:
    named = outputs()
    pair, loss, by_name = Pair(named["out"], named["aux"]), both(), targets()
    assert list(leaves({"a": pair})) == [("a", "out"), ("a", "aux")]
    assert isinstance(replaced(pair, {("aux",): pair.aux}), Pair) and replaced(pair, {("aux",): pair.aux}).out is None
    torch.testing.assert_close(loss.per_sample(pair, by_name), loss.per_sample(named, by_name))
    torch.testing.assert_close(flat(loss.hessian_factors(pair, by_name)), flat(loss.hessian_factors(named, by_name)))
    with pytest.raises(
        GnGraphError, match='the network has no output "0": it returns "out" and "aux", so name one of these'
    ):
        Heads({0: "mse"}).per_sample(pair, by_name)


def test_curvatures_of_a_sum_are_those_of_all_its_losses() -> None:
    squares = MeanSquaredError()
    bare, sampled = CustomLoss("bare", squares.per_sample), CustomLoss("s", squares.per_sample, squares.sample_factor)
    assert both().curvatures == ("exact", "mc", "rank1")
    assert Heads({"out": "mse", "aux": sampled}).curvatures == ("mc", "rank1")
    loss = Heads({"out": "mse", "aux": (bare, 0.5)})
    assert fallback(loss, MonteCarlo()) == (
        RankOne(),
        'loss "mse(out) + 0.5 bare(aux)" does not support curvature "mc": "rank1" is used instead',
    )


def test_functions_and_modules_are_losses() -> None:
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    assert as_loss(lambda outputs, targets: (outputs - targets).sum(1)).per_sample(x, y).tolist() == [3.0, 3.0]
    with pytest.raises(GnGraphError, match='loss "MSELoss" returned shape "scalar" for 2 samples: it must return one'):
        as_loss(torch.nn.MSELoss()).per_sample(x, y)
    with pytest.raises(GnGraphError, match='returned "float" for 2 samples'):
        as_loss(lambda outputs, targets: 1.0).per_sample(x, y)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({}, "there is no head: name outputs and their losses"),
        ({"out": ("mse", 0.0)}, 'the weight of head "out" is "0.0": it must be a number above 0'),
        ({"out": ("mse", math.nan)}, 'the weight of head "out" is "nan"'),
        ({"out": ("mse", math.inf)}, 'the weight of head "out" is "inf"'),
        ({"out": "hinge"}, 'unknown loss "hinge": choose one of'),
    ],
)
def test_sums_that_are_wrong_are_refused(heads: dict[str | int, Any], message: str) -> None:
    with pytest.raises(GnGraphError) as caught:
        Heads(heads)
    assert message in str(caught.value)


def test_three_heads_are_drawn_independently() -> None:
    """One sign for all would leave the second and the third correlated."""
    ones = CustomLoss("ones", lambda o, t: o.sum(1), lambda o, t, g: torch.ones_like(o))
    loss, given = Heads({"a": ones, "b": ones, "c": (ones, 4.0)}), {key: torch.zeros(4000, 1) for key in "abc"}
    drawn = loss.sample_factor(given, None, torch.Generator().manual_seed(0))
    rows = torch.cat([drawn[key] for key in "abc"], 1)
    products = rows.T @ rows / len(rows)
    torch.testing.assert_close(products, torch.diag(torch.tensor([1.0, 1.0, 4.0])), rtol=0, atol=0.15)


def test_every_head_checks_the_targets_that_it_reads() -> None:
    loss = Heads({"out": "cross-entropy", "aux": "mse"})
    given = {"out": torch.zeros(2, 3), "aux": torch.zeros(2, 1)}
    loss.check_targets(given, {"out": torch.tensor([0, 2]), "aux": torch.zeros(2, 1)})
    with pytest.raises(DataError, match='label "3" of sample 1 is out of range'):
        loss.check_targets(given, {"out": torch.tensor([0, 3]), "aux": torch.zeros(2, 1)})
    with pytest.raises(DataError, match='target "nan" of sample 1 at position'):
        loss.check_targets(given, {"out": torch.tensor([0, 2]), "aux": torch.tensor([[0.0], [math.nan]])})


def test_heads_by_position_read_targets_by_position_or_all_of_them() -> None:
    loss = Heads({0: "mse", 1: "mse"})
    given, shared = (torch.zeros(2, 1), torch.zeros(2, 1)), torch.ones(2, 1)
    assert loss.per_sample(given, (shared, 2 * shared)).tolist() == [1.0 + 4.0] * 2
    assert loss.per_sample(given, [shared, 2 * shared]).tolist() == [1.0 + 4.0] * 2
    assert loss.per_sample(given, shared).tolist() == [1.0 + 1.0] * 2


def test_the_parts_of_a_sum_are_losses_that_are_none() -> None:
    inner = Heads({"mean": ("mse", 0.5), "sign": "bce-with-logits"})
    loss = Heads({"out": "cross-entropy", "rest": inner})
    rest = {"mean": torch.zeros(2, 1), "sign": torch.ones(2, 1)}
    targets = {"mean": torch.ones(2, 1), "sign": torch.zeros(2, 1)}
    out = torch.zeros(2, 3)
    found = parts_of(loss, {"out": out, "rest": rest}, {"out": torch.tensor([0, 1]), "rest": targets})
    assert [part[0].name for part in found] == ["cross-entropy", "mse", "bce-with-logits"]
    assert all(part[1] is tree for part, tree in zip(found, (out, *rest.values()), strict=True))
    assert found[1][2] is targets["mean"]
    assert parts_of(inner.parts(rest, None)[0][0], 1, 2) == [(MeanSquaredError(), 1, 2)]


def test_a_stack_of_no_tensor_has_no_factor() -> None:
    assert unstacked({"out": None}) == []


def test_a_head_without_its_target_is_told_so() -> None:
    loss = Heads({"aux": "mse"})
    with pytest.raises(GnGraphError, match='loss "mse" reads one tensor, but the targets are "out" and "auxiliary"'):
        loss.per_sample(outputs(), {"out": labels(), "auxiliary": targets()["aux"]})


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ({"head": torch.zeros(3, 2)}, 'returned a tensor at "head", where the outputs have none'),
        ({"aux": torch.zeros(3)}, 'returned shape "3" for outputs of shape "3x2" at "aux": the two must be equal'),
        ({"aux": None}, 'the sampler of loss "mine" returned no tensor'),
    ],
)
def test_samplers_that_do_not_fit_are_refused(drawn: dict[str, Any], message: str) -> None:
    loss = CustomLoss("mine", lambda o, t: o["aux"].sum(1), lambda o, t, g: drawn)
    with pytest.raises(GnGraphError) as caught:
        loss.sample_factor(outputs(), targets(), torch.Generator())
    assert message in str(caught.value)
