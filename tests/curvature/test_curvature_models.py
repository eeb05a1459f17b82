"""Curvature models against a dense float64 reference built by autograd, on tiny networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian

from gngraph.curvature import (
    CURVATURES,
    LOSSES,
    CrossEntropy,
    Curvature,
    CustomLoss,
    Exact,
    Loss,
    MeanSquaredError,
    MonteCarlo,
    RankOne,
    curvature_named,
    fallback,
    loss_named,
    predicted_change,
)
from gngraph.errors import GnGraphError

SAMPLES, HIDDEN = 5, 6
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perceptron(activations: Tensor) -> Tensor:
    """[N, 6] -> [N, 3], not linear."""
    return (activations @ random(HIDDEN, 5, seed=1)).tanh() @ random(5, 3, seed=2)


def segmenter(activations: Tensor) -> Tensor:
    """[N, 6] -> [N, 3, 1, 2]: 3 classes at 2 positions."""
    return ((activations @ random(HIDDEN, 5, seed=1)).tanh() @ random(5, 6, seed=2)).reshape(-1, 3, 1, 2)


Network = Callable[[Tensor], Tensor]
CASES: list[tuple[str, Network]] = [
    ("cross-entropy", perceptron),
    ("cross-entropy", segmenter),
    ("mse", perceptron),
    ("mse", segmenter),
    ("bce-with-logits", perceptron),
]


class Problem:
    """Activations [N, 6], a change of them, targets, and the dense terms of the Gauss-Newton model."""

    def __init__(self, name: str, network: Network) -> None:
        self.loss = loss_named(name)
        self.network = network
        self.activations = random(SAMPLES, HIDDEN, seed=3)
        self.change = random(SAMPLES, HIDDEN, seed=4)
        self.outputs = network(self.activations)
        self.targets = self.make_targets()

    def make_targets(self) -> Tensor:
        if isinstance(self.loss, CrossEntropy):
            shape = (SAMPLES, *self.outputs.shape[2:])
            return torch.randint(3, shape, generator=torch.Generator().manual_seed(6))
        return random(*self.outputs.shape, seed=6).sigmoid()

    def pushed_back(self, cotangent: Tensor) -> Tensor:
        """<cotangent_i, J_i D_i> by one backward pass, [N]."""
        leaf = self.activations.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.network(leaf), leaf, cotangent)
        return (gradient * self.change).sum(1)

    def model_terms(self, curvature: Curvature, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """s [N] and q [R, N]."""
        leaf = self.outputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss.per_sample(leaf, self.targets).sum(), leaf)
        factors = curvature.factors(self.loss, self.outputs, self.targets, generator)
        return self.pushed_back(gradient), torch.stack([self.pushed_back(factor) for factor in factors])

    def dense_terms(self) -> tuple[Tensor, Tensor]:
        """grad l . D and D^T J^T H J D for each sample, from dense Jacobians and Hessians."""
        first, second = [], []
        for sample in range(SAMPLES):
            one = slice(sample, sample + 1)
            change, output = self.change[sample], self.outputs[one]

            def loss_of(outputs: Tensor, one: slice = one) -> Tensor:
                return reference_loss(self.loss.name, outputs, self.targets[one])

            moved = dense_jacobian(self.network, self.activations[one]).reshape(output.numel(), HIDDEN) @ change
            gradient = dense_jacobian(loss_of, output).reshape(-1)
            curvature = dense_hessian(loss_of, output).reshape(output.numel(), output.numel())
            first.append(gradient @ moved)
            second.append(moved @ curvature @ moved)
        return torch.stack(first), torch.stack(second)


def dense_jacobian(function: Network, at: Tensor) -> Tensor:
    result: Tensor = jacobian(function, at)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return result


def dense_hessian(function: Network, at: Tensor) -> Tensor:
    result: Tensor = hessian(function, at)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return result


def reference_loss(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of one sample, written out without the code under test."""
    if name == "cross-entropy":
        logs = outputs - outputs.exp().sum(1, keepdim=True).log()
        return -logs.gather(1, targets.unsqueeze(1)).mean()
    if name == "mse":
        return ((outputs - targets) ** 2).mean()
    p = 1 / (1 + (-outputs).exp())
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


@pytest.mark.parametrize(("name", "network"), CASES)
def test_exact_equals_the_dense_gauss_newton_model(name: str, network: Network) -> None:
    problem = Problem(name, network)
    s, q = problem.model_terms(Exact(), torch.Generator())
    first, second = problem.dense_terms()
    torch.testing.assert_close(s, first, rtol=0, atol=1e-10)
    torch.testing.assert_close(predicted_change(s, q), first + 0.5 * second, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "network"), CASES)
def test_monte_carlo_converges_to_the_dense_model(name: str, network: Network) -> None:
    problem, draws = Problem(name, network), 2_000
    s, q = problem.model_terms(MonteCarlo(draws), torch.Generator().manual_seed(0))
    assert q.shape == (draws, SAMPLES)
    first, second = problem.dense_terms()
    squares = draws * q.square()
    error = squares.std(0) / math.sqrt(draws)
    assert ((squares.mean(0) - second).abs() < 4 * error).all()
    torch.testing.assert_close(predicted_change(s, q), first + 0.5 * squares.mean(0), rtol=1e-12, atol=1e-12)


def test_monte_carlo_enumerated_over_all_signs_is_the_dense_model() -> None:
    problem = Problem("cross-entropy", perceptron)
    every = list(itertools.product((-1.0, 1.0), repeat=3))
    expected = torch.zeros(SAMPLES, dtype=torch.float64)
    for signs in every:
        drawn = torch.tensor(signs, dtype=torch.float64).expand(problem.outputs.shape)
        factor = CrossEntropy().sign_factor(problem.outputs, problem.targets, drawn)
        expected += problem.pushed_back(factor).square() / len(every)
    torch.testing.assert_close(expected, problem.dense_terms()[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "network"), CASES)
def test_rank_one_equals_the_formula_of_the_paper(name: str, network: Network) -> None:
    problem = Problem(name, network)
    s, q = problem.model_terms(RankOne(), torch.Generator())
    first, _ = problem.dense_terms()
    losses = problem.loss.per_sample(problem.outputs, problem.targets)
    assert q.shape == (1, SAMPLES)
    torch.testing.assert_close(predicted_change(s, q), first + first**2 / (4 * losses), rtol=1e-10, atol=1e-12)


def test_exact_is_the_change_itself_for_a_linear_network_with_squared_error() -> None:
    problem = Problem("mse", nn.Linear(HIDDEN, 3).double())
    problem.outputs = problem.outputs.detach()
    s, q = problem.model_terms(Exact(), torch.Generator())
    after = problem.loss.per_sample(problem.network(problem.activations + problem.change), problem.targets)
    before = problem.loss.per_sample(problem.outputs, problem.targets)
    torch.testing.assert_close(predicted_change(s, q), (after - before).detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"next-token", "segmentation"}))
@pytest.mark.parametrize("text", ["mc", "mc{draws=3}", "exact", "rank1"])
def test_factors_are_detached_and_repeat_with_the_seed(text: str, name: str, dtype: torch.dtype, device: str) -> None:
    problem, curvature = Problem(name, perceptron), curvature_named(text)
    outputs = problem.outputs.to(device, dtype).requires_grad_()
    targets = problem.targets.to(device)
    with torch.no_grad():
        first, second = (
            curvature.factors(problem.loss, outputs, targets, torch.Generator(device).manual_seed(9)) for _ in range(2)
        )
    assert torch.equal(first, second)
    assert first.shape[1:] == outputs.shape
    assert first.dtype == dtype
    assert first.device == outputs.device
    assert not first.requires_grad
    assert outputs.grad is None


def test_rank_one_refuses_a_negative_loss() -> None:
    loss = CustomLoss("margin", lambda outputs, targets: (outputs * targets).sum(1))
    outputs, targets = torch.ones(3, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    with pytest.raises(GnGraphError, match='loss "margin" is "-2" for sample 1'):
        RankOne().factors(loss, outputs, targets, torch.Generator())


def test_rank_one_stays_bounded_where_the_loss_vanishes() -> None:
    loss = MeanSquaredError()
    outputs = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1e-12, 0.0]])
    targets = torch.zeros(3, 2)
    factors = RankOne().factors(loss, outputs, targets, torch.Generator())
    assert factors.isfinite().all()
    assert factors[0, 1:].abs().max() < factors[0, 0].abs().max()
    perfect = RankOne().factors(loss, targets, targets, torch.Generator())
    assert torch.equal(perfect, torch.zeros(1, 3, 2))


@pytest.mark.parametrize("text", ["mc", "mc{draws=4}", "exact", "rank1"])
def test_curvatures_print_the_text_that_names_them(text: str) -> None:
    assert str(curvature_named(text)) == text


def test_curvature_text_may_hold_spaces_and_empty_braces() -> None:
    assert curvature_named(" mc { draws = 2 } ") == MonteCarlo(draws=2)
    assert curvature_named("mc{}") == MonteCarlo()
    assert curvature_named("exact{}") == Exact()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ggn",
            "there is no curvature 'ggn'; choose from exact, mc, rank1 (at character 1 of the curvature text 'ggn')",
        ),
        ("exat", "there is no curvature 'exat'; did you mean 'exact'? Choose from exact, mc, rank1 (at character 1 of"),
        ("", "expected the name of a curvature: one of exact, mc, rank1 (at character 1 of the curvature text '')"),
        (
            "mc{draws=4",
            "expected ',' or '}' in the options of 'mc' (at character 11 of the curvature text 'mc{draws=4')",
        ),
        ("mc,exact", "expected the end, not ',' (at character 3 of the curvature text 'mc,exact')"),
        ("mc{samples=4}", "curvature 'mc' has no option 'samples'; choose from draws (at character 4 of"),
        ("exact{draws=4}", "curvature 'exact' has no option 'draws'; choose from none (at character 7 of"),
        ("mc{draws=2,draws=4}", "option 'draws' of curvature 'mc' is given twice (at character 12 of"),
        ("mc{draws=1.5}", "option 'draws' of curvature 'mc' is '1.5', but must be a whole number (at character 10 of"),
        (
            "mc{draws}",
            "expected option=value in the options of 'mc' (at character 4 of the curvature text 'mc{draws}')",
        ),
        ("mc{draws=0}", "curvature 'mc' cannot take '0' draws: draws must be at least 1 (at character 1 of"),
    ],
)
def test_curvature_text_that_is_wrong_is_refused(text: str, message: str) -> None:
    with pytest.raises(GnGraphError) as caught:
        curvature_named(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "loss", [loss for name, loss in LOSSES.items() if name not in ("next-token", "segmentation")], ids=str
)
def test_built_in_losses_support_every_curvature(loss: Loss) -> None:
    assert set(loss.curvatures) == set(CURVATURES)
    for name in CURVATURES:
        assert fallback(loss, curvature_named(name)) == (curvature_named(name), None)


def test_fallback_takes_the_best_the_loss_supports_and_says_so() -> None:
    squares = MeanSquaredError()
    bare = CustomLoss("bare", squares.per_sample)
    sampled = CustomLoss("sampled", squares.per_sample, squares.sample_factor)
    for asked in (MonteCarlo(draws=4), Exact()):
        used, note = fallback(bare, asked)
        assert used == RankOne()
        assert note == f'loss "bare" does not support curvature "{asked}": "rank1" is used instead'
    assert fallback(bare, RankOne()) == (RankOne(), None)
    assert fallback(sampled, MonteCarlo(draws=4)) == (MonteCarlo(draws=4), None)
    assert fallback(sampled, Exact())[0] == MonteCarlo()
