"""A network imported at one size computes at others what its module does, or says which size it must have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.errors import DataError, IRError, UnsupportedModelError
from gngraph.files.archive import load, save
from gngraph.importing.from_torch import from_torch
from gngraph.importing.imported import Imported
from gngraph.importing.inputs import ExampleInputs
from gngraph.importing.other_sizes import by_numbers, unlike_axes
from gngraph.importing.same_calls import same_calls
from gngraph.ir import Graph, format_graph, parse
from gngraph.lowering.to_torch import to_torch
from gngraph.ops import draft_of
from gngraph.source.export import to_source
from gngraph.source.proof import execute
from tests.importing.size_forwards import IMAGES, SEQUENCES, Forward, Net

OTHERS: dict[int, list[tuple[int, ...]]] = {
    2: [(3, 15, 5), (1, 12, 5), (2, 7, 5), (3, 30, 5)],
    3: [(1, 3, 12, 8), (3, 3, 8, 16), (2, 3, 11, 9), (1, 3, 16, 16)],
}
"""Other inputs, by the number of axes behind the batch."""
DECIDED = {
    *("split in fours", "unbind", "branch", "loop", "window mask", "assert", "halving", "square", "resampled"),
    *("product by NumPy", "rounded"),
}
"""Forwards in which Python looks at a size."""


def decided(graph: Graph) -> tuple[int, ...]:
    """The axes of the first input that must have the size of the example."""
    axes: tuple[int, ...] = graph.nodes[graph.inputs[0]].attrs.get("decided", ())
    return axes


def outputs(network: nn.Module, x: Tensor) -> Any:
    """What a network gives, or that it refuses x."""
    with torch.no_grad():
        try:
            return network(x)
        except DataError as error:
            return error
        except (IndexError, RuntimeError) as error:
            return type(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*SEQUENCES, *IMAGES])
def test_at_other_sizes_it_is_the_module_or_says_what_it_needs(name: str) -> None:
    torch.manual_seed(0)
    network = Net({**SEQUENCES, **IMAGES}[name]).eval()
    example = torch.randn(2, 10, 5) if name in SEQUENCES else torch.randn(2, 3, 8, 8)
    graph = from_torch(network, example)
    lowered, agreed = to_torch(graph), 0
    for shape in OTHERS[example.dim() - 1]:
        x = torch.randn(shape)
        expected, found = outputs(network, x), outputs(lowered, x)
        if isinstance(found, DataError):
            axis = next(axis for axis in decided(graph) if x.shape[axis] != example.shape[axis])
            assert f"input 'x' must have {example.shape[axis]} entries along axis {axis}" in str(found)
            continue
        agreed += 1
        if isinstance(expected, Tensor):
            assert isinstance(found, Tensor) and torch.equal(found, expected), shape
        else:
            assert found is expected, shape
    assert (agreed < 4) == bool(decided(graph)) == (name in DECIDED)


def imported(forward: Forward) -> Graph:
    return from_torch(Net(forward), torch.randn(2, 10, 5))


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.inner(x) if x.dim() == 3 and len(x.shape) == 3 else x,
        lambda net, x: net.inner(x) if x.shape == torch.relu(x).shape and x.numel() > 0 else x,
        lambda net, x: net.inner(x) if net.inner(x).shape[:2] == x.shape[:2] else x,
        lambda net, x: net.inner(x) if net.inner(x).shape != x.shape else x,
        lambda net, x: torch.roll(net.inner(x), x.shape[1] // 2, 1),
        lambda net, x: F.avg_pool1d(net.inner(x).mT, x.shape[1]),
        lambda net, x: torch.reshape(net.inner(x), (x.shape[0], x.shape[1] * 8)),
    ],
)
def test_what_holds_for_every_length_decides_none(forward: Forward) -> None:
    assert 1 not in decided(imported(forward))


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.inner(x) if x.shape[1] % 2 == 0 else x,
        lambda net, x: net.inner(x) if F.avg_pool1d(x.mT, 2).shape[-1] * 2 == x.shape[1] else x,
        lambda net, x: net.inner(x) if x[:, 8:].shape[1] > 0 else x,
        lambda net, x: sum(torch.roll(net.inner(x), x.shape[1] - i, 1) for i in range(x.shape[1])),
        lambda net, x: net.inner(x) * torch.ones(32)[: x.shape[1], None],
        lambda net, x: net.inner(x) * len(x[0]) / float(x.shape[1]),
        lambda net, x: net.inner(x) * [float(i) for i in range(20)][x.shape[1]],
    ],
)
def test_what_python_looks_at_is_marked(forward: Forward) -> None:
    assert 1 in decided(imported(forward))


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.inner(x) if x.shape[0] > 1 else x,
        lambda net, x: torch.stack([net.inner(x[i]) for i in range(x.shape[0])]),
        lambda net, x: net.inner(x) * int(x.shape[0] * 0.5),
    ],
)
def test_what_depends_on_the_number_of_samples_is_refused(forward: Forward) -> None:
    with pytest.raises(UnsupportedModelError, match="number of samples"):
        imported(forward)


def refuses(network: Callable[[Tensor], Any], kind: type[Exception]) -> None:
    """Whether a network imported for 10 steps takes these, and says so of others."""
    network(torch.randn(3, 10, 5))
    with pytest.raises(kind, match="must have 10 entries along axis 1"):
        network(torch.randn(3, 9, 5))


def test_marks_survive_text_archive_source_and_a_rewrite(tmp_path: Path) -> None:
    graph = imported(SEQUENCES["branch"])
    draft = draft_of(graph)
    save(graph, tmp_path / "net.gng")
    for kept in (graph, draft.commit(), load(tmp_path / "net.gng")):
        refuses(to_torch(kept), DataError)
    assert decided(parse(format_graph(graph))) == decided(graph)
    text = to_source(graph)
    assert "import gngraph" not in text and "from gngraph" not in text
    refuses(execute(text)["Net"](), AssertionError)


def test_source_keeps_what_is_counted_from_the_end() -> None:
    text = to_source(imported(lambda net, x: net.inner(x)[:, -1].unflatten(-1, (2, -1))))
    assert "[:, -1]" in text and "unflatten(1, (2, -1))" in text


def test_a_mark_that_is_no_axis_is_refused() -> None:
    graph = imported(SEQUENCES["last step"])
    with pytest.raises(IRError, match="no axes of fixed size"):
        draft = draft_of(graph)
        draft.set_attrs("x", decided=(7,))
        draft.commit()


def test_the_proof_finds_the_axis_along_which_graph_and_module_part() -> None:
    example, whole = torch.randn(2, 10, 5), Net(lambda net, x: net.inner(x[:, :]))
    for forward, unlike in (
        (lambda net, x: net.inner(x[:, :10]), frozenset({(0, 1)})),
        (lambda net, x: net.inner(x[:, : x.shape[1]]), frozenset()),
    ):
        cut = Net(forward)
        cut.load_state_dict(whole.state_dict())
        claim = Imported(
            whole, from_torch(cut, example), ExampleInputs.batch_first((example,)), lambda output: output, True, (), {}
        )
        assert same_calls(claim, to_torch(claim.graph)) == unlike
        assert unlike_axes(claim, by_numbers(claim)) == (unlike, True)


def test_an_image_is_tried_with_other_heights_and_widths_than_each_other() -> None:
    example, whole = torch.randn(2, 3, 8, 8), Net(lambda net, x: net.first(x)[:, :, :, :])
    turned = Net(lambda net, x: net.first(x)[:, :, :, : x.shape[2]])
    turned.load_state_dict(whole.state_dict())
    claim = Imported(
        whole, from_torch(turned, example), ExampleInputs.batch_first((example,)), lambda output: output, True, (), {}
    )
    assert same_calls(claim, to_torch(claim.graph))


def test_one_sample_may_be_asked_for_where_it_takes_what_several_take() -> None:
    def repeated(net: Net, x: Tensor) -> Any:
        rows = torch.arange(5.0, device=x.device)[None]
        if x.shape[0] != rows.shape[0]:
            rows = rows.expand(x.shape[0], -1)
        return net.inner(x + rows[:, None])

    def alone(net: Net, x: Tensor) -> Any:
        return net.inner(2 * x if x.shape[0] == 1 else x)

    for samples, forward in ((1, repeated), (2, repeated), (2, lambda net, x: net.inner(x) * len(x))):
        net = Net(forward)
        module = to_torch(from_torch(net, torch.randn(samples, 10, 5)))
        for count in (1, 2, 7):
            x = torch.randn(count, 10, 5)
            assert torch.equal(module(x), net.eval()(x))
    with pytest.raises(UnsupportedModelError, match="one sample does not take what several take"):
        from_torch(Net(alone), torch.randn(2, 10, 5))
    with pytest.raises(UnsupportedModelError):
        from_torch(Net(alone), torch.randn(1, 10, 5))
    with pytest.raises(UnsupportedModelError, match="depends on the number of samples"):
        from_torch(Net(lambda net, x: net.inner(2 * x if x.shape[0] > 2 else x)), torch.randn(2, 10, 5))


def test_sizes_that_a_module_of_torch_fx_does_not_run_for_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    module = torch.fx.symbolic_trace(Net(lambda net, x: net.inner(x).transpose(1, 2).reshape(-1, 8, 2, 2)))
    from_torch(module, torch.randn(2, 4, 5))
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("method", "further"), [("to", ()), ("contiguous", ()), ("clone", ()), ("to", (torch.float32,)), ("float", ())]
)
def test_kernels_go_by_the_format_that_a_forward_asks_for(method: str, further: tuple[Any, ...]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = getattr(x, method)(*further, memory_format=torch.channels_last)
        out: Tensor = net.second(net.first(x).relu()).mean((2, 3))
        return out

    torch.manual_seed(0)
    net, x = Net(forward), torch.randn(2, 3, 9, 8)
    graph = from_torch(net, x)
    values = {name: parameter.data for name, parameter in graph.params.items()}
    written = execute(to_source(graph))["Net"]()
    written.load_state_dict(net.state_dict())
    for other in (to_torch(graph), to_torch(parse(format_graph(graph)).with_params(values)), written.eval()):
        assert [node.op for node in from_torch(other, x).nodes.values()] == [node.op for node in graph.nodes.values()]
        torch.testing.assert_close(other(x), net.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.inner(x) * torch.nonzero(x > 0).shape[0],
        lambda net, x: net.inner(x) * torch.where(x > 0)[0].sum(),
    ],
)
def test_sizes_that_depend_on_the_data_are_refused_with_what_to_do(forward: Forward) -> None:
    with pytest.raises(UnsupportedModelError, match="its size depends on the data") as caught:
        imported(forward)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.inner(x) + torch.arange(8.0).expand(x.shape[0], x.shape[1], -1),
        lambda net, x: net.inner(x) + torch.ones(1).new_zeros(x.shape[0], 1, 8),
        lambda net, x: net.inner(x) * torch.ones(1).new_full((x.shape[0], 1, 1), 0.5),
        lambda net, x: net.inner(x) + torch.arange(16.0)[torch.arange(x.shape[1]), None],
    ],
)
def test_tensors_of_the_forward_itself_take_sizes(forward: Forward) -> None:
    graph, x = imported(forward), torch.randn(3, 12, 5)
    torch.manual_seed(0)
    network = Net(forward).eval()
    with torch.no_grad():
        made = to_torch(from_torch(network, torch.randn(2, 10, 5)))
        assert 1 not in decided(graph) and torch.equal(made(x), network(x))
    assert "expand" not in vars(Tensor) and "new_zeros" not in vars(Tensor)
