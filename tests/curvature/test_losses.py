"""Losses per sample, their target checks, and their Hessian factors against autograd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian

from gngraph.curvature import LOSSES, BinaryCrossEntropy, CrossEntropy, CustomLoss, Loss, MeanSquaredError, loss_named
from gngraph.errors import DataError, GnGraphError

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]

OF_ROWS = sorted(LOSSES.keys() - {"next-token", "segmentation"})
"""Losses that take rows of numbers; `tests/data/test_tokens.py` has that of positions."""


def targets_for(loss: Loss, outputs: Tensor) -> Tensor:
    """Targets that fit, the same at every call."""
    generator = torch.Generator().manual_seed(5)
    if isinstance(loss, CrossEntropy):
        return torch.randint(outputs.shape[1], (outputs.shape[0], *outputs.shape[2:]), generator=generator)
    if isinstance(loss, BinaryCrossEntropy):
        return torch.rand(outputs.shape, generator=generator, dtype=torch.float64)
    return torch.randn(outputs.shape, generator=generator, dtype=torch.float64)


def outputs_of(*shape: int) -> Tensor:
    return 1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def dense_hessian(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """[N, M, M], by autograd's double backward, one sample at a time."""
    blocks = []
    for sample in range(len(outputs)):
        one = slice(sample, sample + 1)

        def loss_of(f: Tensor, one: slice = one) -> Tensor:
            return loss.per_sample(f, targets[one]).sum()

        block = hessian(loss_of, outputs[one])  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        entries = math.prod(outputs.shape[1:])
        blocks.append(block.reshape(entries, entries))
    return torch.stack(blocks)


def second_moment(factors: Tensor) -> Tensor:
    """sum_r v_r v_r^T for each sample: [R, N, ...] -> [N, M, M]."""
    flat = factors.reshape(*factors.shape[:2], -1)
    return torch.einsum("rnm,rnk->nmk", flat, flat)


CASES = [
    ("cross-entropy", (3, 4)),
    ("cross-entropy", (2, 3, 2)),
    ("cross-entropy", (2, 3, 2, 3)),
    ("mse", (3, 4)),
    ("mse", (3,)),
    ("mse", (2, 3, 2)),
    ("bce-with-logits", (3, 4)),
    ("bce-with-logits", (3,)),
    ("bce-with-logits", (2, 3, 2)),
]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_exact_factors_sum_to_the_dense_hessian(name: str, shape: tuple[int, ...]) -> None:
    loss, outputs = loss_named(name), outputs_of(*shape)
    factors = loss.hessian_factors(outputs, targets_for(loss, outputs))
    assert factors.shape[1:] == outputs.shape
    assert not factors.requires_grad
    reference = dense_hessian(loss, outputs, targets_for(loss, outputs))
    torch.testing.assert_close(second_moment(factors), reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_per_sample_losses_average_to_the_loss_torch_computes(name: str, shape: tuple[int, ...]) -> None:
    loss, outputs = loss_named(name), outputs_of(*shape)
    targets = targets_for(loss, outputs)
    reference = {
        "cross-entropy": torch.nn.CrossEntropyLoss(),
        "mse": torch.nn.MSELoss(),
        "bce-with-logits": torch.nn.BCEWithLogitsLoss(),
    }[name]
    losses = loss.per_sample(outputs, targets)
    assert losses.shape == (shape[0],)
    torch.testing.assert_close(losses.mean(), reference(outputs, targets), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cross-entropy", (3, 4)),
        ("cross-entropy", (2, 3, 2, 2)),
        ("mse", (3, 4)),
        ("bce-with-logits", (3, 4)),
        ("bce-with-logits", (2, 2, 2)),
        ("bce-with-logits", (3,)),
    ],
)
def test_sampled_factors_enumerated_over_all_signs_equal_the_hessian(name: str, shape: tuple[int, ...]) -> None:
    loss, outputs = loss_named(name), outputs_of(*shape)
    targets = targets_for(loss, outputs)
    every = list(itertools.product((-1.0, 1.0), repeat=math.prod(shape[1:])))
    drawn = torch.stack(
        [sign_factor(loss, outputs, targets, torch.tensor(signs).reshape(shape[1:])) for signs in every]
    )
    reference = dense_hessian(loss, outputs, targets)
    torch.testing.assert_close(second_moment(drawn) / len(every), reference, rtol=0, atol=1e-12)


def sign_factor(loss: Loss, outputs: Tensor, targets: Tensor, signs: Tensor) -> Tensor:
    """What `sample_factor` gives for these signs, [*shape[1:]], in every sample."""

    def given(like: Tensor, _: torch.Generator) -> Tensor:
        return signs.to(like).expand(like.shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gngraph.curvature.losses._signs", given)
        factor = loss.sample_factor(outputs, targets, torch.Generator())
    assert isinstance(factor, Tensor)
    return factor


@pytest.mark.parametrize("name", OF_ROWS)
def test_signs_are_fair_and_independent(name: str) -> None:
    loss, row = loss_named(name), torch.zeros(3, dtype=torch.float64)
    draws = 20_000
    many = row.expand(draws, 3)
    factor = loss.sample_factor(many, targets_for(loss, many), torch.Generator().manual_seed(0))
    correlation = torch.corrcoef(factor.T)
    expected = torch.eye(3, dtype=torch.float64)
    if name == "cross-entropy":  # the factor is orthogonal to a common shift of all logits
        expected = 1.5 * expected - 0.5
    assert (factor.mean(0).abs() < 4 * factor.std(0) / math.sqrt(draws)).all()
    assert ((correlation - expected).abs() < 4 / math.sqrt(draws)).all()


def test_an_improbable_class_makes_little_noise() -> None:
    # logits 0 and 4, and a change of the first by 1: squared effects spread less than with labels drawn from p
    many = torch.tensor([0.0, 4.0], dtype=torch.float64).expand(20_000, 2)
    effect = CrossEntropy().sample_factor(
        many, torch.zeros(20_000, dtype=torch.int64), torch.Generator().manual_seed(0)
    )
    p = float(many[0].softmax(0)[0])
    squares = effect[:, 0].square()
    assert float(squares.mean()) == pytest.approx(p * (1 - p), rel=0.05)
    labels_spread = math.sqrt(p * (1 - p)) * (1 - 2 * p)  # of (p - label)^2
    assert float(squares.std()) < 0.1 * labels_spread


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_second_moment_of_sampled_factors_converges_to_the_hessian(name: str, shape: tuple[int, ...]) -> None:
    loss, outputs, draws = loss_named(name), outputs_of(*shape), 4_000
    many = outputs.unsqueeze(0).expand(draws, *shape).reshape(draws * shape[0], *shape[1:])
    drawn = loss.sample_factor(many, targets_for(loss, many), torch.Generator().manual_seed(1))
    flat = drawn.reshape(draws, shape[0], -1)
    products = flat.unsqueeze(3) * flat.unsqueeze(2)
    error = products.std(0) / math.sqrt(draws)
    reference = dense_hessian(loss, outputs, targets_for(loss, outputs))
    assert ((products.mean(0) - reference).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OF_ROWS)
def test_factors_keep_dtype_and_device_and_repeat_with_the_seed(name: str, dtype: torch.dtype, device: str) -> None:
    loss, outputs = loss_named(name), outputs_of(3, 4).to(device, dtype).requires_grad_()
    targets = targets_for(loss, outputs).to(device)
    drawn = [loss.sample_factor(outputs, targets, torch.Generator(device).manual_seed(seed)) for seed in (7, 7, 8)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for factor in (drawn[0], loss.hessian_factors(outputs, targets)[0]):
        assert factor.dtype == dtype
        assert factor.device == outputs.device
        assert factor.shape == outputs.shape
        assert not factor.requires_grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["cross-entropy", "bce-with-logits"])
def test_outputs_that_are_not_finite_give_factors_that_are_not_finite(name: str, device: str) -> None:
    outputs = torch.tensor([[float("nan"), 0.0], [1.0, 0.0]], device=device)
    loss = loss_named(name)
    targets = targets_for(loss, outputs).to(device)
    factor = loss.sample_factor(outputs, targets, torch.Generator(device).manual_seed(0))
    assert factor[0].isnan().any()
    assert factor[1].isfinite().all()


def test_confident_predictions_keep_finite_factors_in_float32() -> None:
    outputs = torch.tensor([[200.0, -200.0], [-200.0, 200.0]])
    for name in OF_ROWS:
        loss = loss_named(name)
        targets = targets_for(loss, outputs)
        assert loss.hessian_factors(outputs, targets).isfinite().all()
        assert loss.sample_factor(outputs, targets, torch.Generator().manual_seed(0)).isfinite().all()


def test_mean_squared_error_and_binary_cross_entropy_accept_integer_targets() -> None:
    outputs = torch.zeros(2, 2)
    targets = torch.tensor([[0, 1], [1, 1]])
    assert MeanSquaredError().per_sample(outputs, targets).tolist() == [0.5, 1.0]
    BinaryCrossEntropy().check_targets(outputs, targets)
    assert BinaryCrossEntropy().per_sample(outputs, targets).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "shape", "targets", "message"),
    [
        ("cross-entropy", (2, 3), torch.tensor([0, 3]), 'label "3" of sample 1 is out of range for 3 classes'),
        ("cross-entropy", (2, 3), torch.tensor([-100, 0]), 'label "-100" of sample 0 is out of range'),
        ("cross-entropy", (2, 3), torch.tensor([0.0, 1.0]), 'int64 class labels, but the targets are "float32"'),
        (
            "cross-entropy",
            (2, 3),
            torch.tensor([[0, 1], [1, 0]]),
            'shape "2x2", but outputs of shape "2x3" need targets of',
        ),
        ("cross-entropy", (2, 1), torch.tensor([0, 0]), 'at least 2 classes, but they have shape "2x1"'),
        ("cross-entropy", (1, 3, 2, 2), torch.tensor([[[0, 1], [2, 5]]]), 'label "5" of sample 0 at position (1, 1)'),
        ("mse", (2, 1), torch.zeros(3), 'shape "3", but outputs of shape "2x1" need targets of shape "2x1"'),
        ("mse", (2,), torch.tensor([0.0, float("nan")]), 'target "nan" of sample 1 is not finite'),
        ("mse", (1,), torch.zeros(1, dtype=torch.complex64), 'mse needs real targets, but they are "complex64"'),
        ("cross-entropy", (2,), torch.tensor([0, 0]), 'at least 2 classes, but they have shape "2"'),
        (
            "bce-with-logits",
            (2, 1),
            torch.zeros(2, 2),
            'shape "2x2", but outputs of shape "2x1" need targets of shape "2x1"',
        ),
        ("bce-with-logits", (2,), torch.tensor([0.0, 1.5]), 'target "1.5" of sample 1 is not a probability'),
        ("bce-with-logits", (1,), torch.tensor([float("nan")]), 'target "nan" of sample 0 is not a probability'),
    ],
)
def test_targets_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], targets: Tensor, message: str) -> None:
    with pytest.raises(DataError) as caught:
        loss_named(name).check_targets(torch.zeros(shape), targets)
    assert message in str(caught.value)


def test_two_classes_are_enough() -> None:
    loss_named("cross-entropy").check_targets(torch.zeros(3, 2), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_targets_that_fit_are_accepted(name: str, shape: tuple[int, ...]) -> None:
    loss = loss_named(name)
    targets = targets_for(loss, outputs_of(*shape))
    loss.check_targets(outputs_of(*shape), targets)
    loss.check_targets(outputs_of(*shape)[:0], targets[:0])


def test_unknown_loss_lists_the_choices() -> None:
    with pytest.raises(
        GnGraphError,
        match='unknown loss "hinge": choose one of cross-entropy, segmentation, next-token, mse, bce-with-logits',
    ):
        loss_named("hinge")


def test_custom_loss_without_sampler_has_rank_one_only() -> None:
    loss = CustomLoss("l1", lambda outputs, targets: (outputs - targets).abs().sum(1))
    assert loss.per_sample(torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [3.0, 3.0]
    with pytest.raises(GnGraphError, match='no sampler, so only curvature "rank1" is available'):
        loss.sample_factor(torch.ones(2, 3), torch.zeros(2, 3), torch.Generator())
    with pytest.raises(GnGraphError, match='no sampler, so only curvature "rank1" is available'):
        loss.hessian_factors(torch.ones(2, 3), torch.zeros(2, 3))


def test_custom_loss_with_sampler_uses_it() -> None:
    plain = MeanSquaredError()
    loss = CustomLoss("squares", plain.per_sample, plain.sample_factor)
    outputs = torch.ones(2, 3)
    mine = loss.sample_factor(outputs, outputs, torch.Generator().manual_seed(0))
    assert torch.equal(mine, plain.sample_factor(outputs, outputs, torch.Generator().manual_seed(0)))
    with pytest.raises(GnGraphError, match='curvature "exact" is not available: choose "mc" or "rank1"'):
        loss.hessian_factors(outputs, outputs)


def test_custom_loss_of_the_wrong_shape_is_refused() -> None:
    reduced = CustomLoss("mean", lambda outputs, targets: (outputs - targets).abs().mean(), lambda o, t, g: o.sum(1))
    with pytest.raises(GnGraphError, match='loss "mean" returned shape "scalar" for 2 samples'):
        reduced.per_sample(torch.ones(2, 3), torch.zeros(2, 3))
    with pytest.raises(GnGraphError, match='sampler of loss "mean" returned shape "2" for outputs of shape "2x3"'):
        reduced.sample_factor(torch.ones(2, 3), torch.zeros(2, 3), torch.Generator())
    with pytest.raises(DataError, match="give one target a sample"):
        reduced.check_targets(torch.zeros(2, 3), torch.zeros(3, 3))
