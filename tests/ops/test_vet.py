"""Vetting: hostile graphs are refused before any source is generated from them, traced ones pass."""

from __future__ import annotations

import pytest

from gngraph.errors import IRError
from gngraph.ir import parse
from gngraph.ops.vet import vet

NET = """\
graph Net(%x) {
  param @"layer-0.conv.weight" : f32[8,3,3,3]
  %x = input() : f32[N,3,8,8]
  %conv = conv2d(%x, weight=@"layer-0.conv.weight") {dilation=(1, 1), groups=1, padding=(1, 1), padding_mode="zeros", \
stride=(1, 1)} : f32[N,8,8,8] module "layer-0.conv" scope "layer-0"
  %call = foreign(%conv) {args=(%conv, 2), kwargs={dim=1}, target=".chunk"} : (f32[N,4,8,8], f32[N,4,8,8])
  return %call
}
"""


def test_an_honest_graph_passes() -> None:
    vet(parse(NET))


@pytest.mark.parametrize(
    "target",
    [
        ".view",
        ".stride",
        "_operator.getitem",
        "operator.floordiv",
        "operator.and_",
        "torch.functional.einsum",
        "torch.nn.functional.layer_norm",
        "torch.nn.functional.max_pool2d",
        "torch._assert",
        "torch._C._nn.gelu",
        "math.sqrt",
        "builtins.len",
        "torchvision.ops.boxes.nms",
        "torchvision.models.swin_transformer.shifted_window_attention",
    ],
)
def test_functions_that_compute_with_tensors(target: str) -> None:
    vet(parse(NET.replace(".chunk", target)))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.__import__",
        "torch.load",
        "torch.save",
        "torch.compile",
        "torch.from_file",
        "torch.hub.load",
        "torch.os.system",
        "torch.utils.cpp_extension.load_inline",
        "torch.nn.functional.importlib.import_module",
        "operator.call",
        "operator.methodcaller",
        "operator.attrgetter",
        "math.__loader__",
        "torchvision.io.read_file",
        "torchvision.models.get_model",
        "torchvision.datasets.utils.download_url",
        ".__reduce_ex__",
        ".apply_",
        ".untyped_storage",
        ".resize_",
        ".set_",
        ".as_strided_",
        ".to_sparse",
        ".indices",
        ".pin_memory",
        "torch.quantize_per_tensor",
        "torchvision.ops.misc.Conv2dNormActivation",
        ".register_hook",
        '.view(1) or __import__(\\"os\\").system(\\"id\\")',
        ".",
        "",
    ],
)
def test_other_functions_are_refused(target: str) -> None:
    with pytest.raises(IRError, match="not known to compute with tensors only"):
        vet(parse(NET.replace(".chunk", target)))


@pytest.mark.parametrize(
    ("op", "target", "args"),
    [
        ("filled", "torch.tensor", "(8,)"),
        ("filled", ".new_empty", "(%conv, 1)"),
        ("new_empty", ".new_zeros", "(%conv, 1)"),
        ("number", "torch.arange", "(8,)"),
        ("cast", ".storage", "(%conv,)"),
    ],
)
def test_an_op_that_keeps_its_call_makes_no_other(op: str, target: str, args: str) -> None:
    call = f'{op}(%conv) {{args={args}, dtype=dtype(f32), kwargs={{}}, target="{target}"}} : f32[1]'
    net = "\n".join(f"  %call = {call}" if "%call =" in line else line for line in NET.splitlines())
    with pytest.raises(IRError, match=rf"node 'call' \({op}\) calls '{target}', which is none of "):
        vet(parse(net))


def test_attributes_are_read_from_a_list() -> None:
    read = NET.replace(".chunk", "builtins.getattr")
    vet(parse(read.replace("(%conv, 2)", '(%conv, "shape")')))
    for args in ("(%conv, 2)", '(%conv, "__class__")', '(%conv, "grad_fn")', "(%conv,)", "(%conv, %conv)"):
        with pytest.raises(IRError, match="reads an attribute other than"):
            vet(parse(read.replace("(%conv, 2)", args)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("graph Net", 'graph "Net:\\n  pass"', "the graph's name is 'Net:"),
        ("%x", '%"x=print(1)"', "which is not a Python identifier"),
        ("%call", "%class", "'class', which is not a Python identifier"),
        ("{dim=1}", '{"dim=print(1), x"=1}', "an argument of foreign op 'call'"),
        ("groups=1", '"groups=print(1), x"=1', "a name in node 'conv'"),
        ("weight=@", '"weight\\""=@', "a name in node 'conv'"),
        ('@"layer-0.conv.weight"', '@"a.b\\").c(\\"d"', "has a name with characters other than"),
        ('@"layer-0.conv.weight"', '@"a..b"', "has a name with characters"),
        ('@"layer-0.conv.weight"', '@"__class__.b"', "has a name with characters"),
        (" : f32[8,3,3,3]", ' : f32[8,3,3,3] aliases (@"a\\nb" at 0)', "has a name with characters"),
        ('@"layer-0.conv.weight"', '@"layer-0.training.weight"', "would hide what every nn.Module has"),
        ('@"layer-0.conv.weight"', '@"_modules.weight"', "would hide what every nn.Module has"),
        ('@"layer-0.conv.weight"', '@"code.weight"', "which torch.fx keeps for itself"),
        ('@"layer-0.conv.weight"', '@"meta"', "which torch.fx keeps for itself"),
        ("dilation=(1, 1)", "dilation=(0, 1)", "it must be at least 1 and finite"),
        ("stride=(1, 1)", "stride=(0, 1)", "it must be at least 1 and finite"),
        ('module "layer-0.conv"', 'module "a\\\\"', "has a name with characters"),
        ('scope "layer-0"', 'scope "a(b)"', "has a name with characters"),
        ("= conv2d", "= conv99", "'conv99' is not an op of gngraph's table"),
        ("= conv2d", "= mean", "lacks what op 'mean' needs: KeyError: 'dim'"),
        ("stride=(1, 1)", 'stride="a"', "node 'conv' lacks what op 'conv2d' needs"),
        ("stride=(1, 1)", "stride=(2, 2)", "is recorded as 'f32[N,8,8,8]', but op 'conv2d' gives 'f32[N,8,4,4]'"),
        ("kwargs={dim=1}, ", "", "must have a target"),
        ("args=(%conv, 2)", "args=%conv", "must have a target"),
        ("args=(%conv, 2)", "args=()", "not known to compute"),
    ],
)
def test_hostile_names_and_broken_nodes(old: str, new: str, message: str) -> None:
    assert old in NET
    with pytest.raises(IRError) as caught:
        vet(parse(NET.replace(old, new)))
    assert message in str(caught.value)
