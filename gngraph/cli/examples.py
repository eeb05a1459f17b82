"""Two examples of every command, as its help shows them; in this order they run in one folder."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, str]] = {
    "seed": (
        "gngraph seed mlp --width 0.03 --input-shape 1x8x8 -o seed.gng",
        "gngraph seed vgg11 --width 0.0625 --classes 37 -o vgg.gng",
    ),
    "inspect": ("gngraph inspect seed.gng", "gngraph inspect vgg.gng --text"),
    "show": ("gngraph show vgg.gng", "gngraph show vgg.gng -o vgg.svg"),
    "train": (
        "gngraph train seed.gng --data digits --epochs 20 -o trained.gng",
        "gngraph train seed.gng --data digits --optimizer adamw --lr 1e-3 --ema 0.99 -o averaged.gng",
    ),
    "evaluate": ("gngraph evaluate trained.gng --data digits", "gngraph evaluate trained.gng --data digits --json"),
    "score": (
        "gngraph score trained.gng --data digits",
        "gngraph score trained.gng --data digits --kinds split,new,merge --top 5",
    ),
    "passes": ("gngraph passes", "gngraph passes split-channels low-rank"),
    "apply": (
        'gngraph apply "split-channels{count=2},new-channels" trained.gng -o wider.gng --diff',
        "gngraph apply merge-channels trained.gng --data digits -o narrower.gng",
    ),
    "grow": (
        "gngraph grow seed.gng --data digits --max-params 4k -o run/",
        "gngraph grow seed.gng --data digits --max-params 3k,4k --kinds split,new -o both/",
    ),
    "extend": (
        "gngraph extend trained.gng --data digits -o larger/",
        "gngraph extend trained.gng --data digits --by 3 --epochs 2 -o three_times/",
    ),
    "reshape": (
        "gngraph reshape trained.gng --data digits -o reshaped/",
        "gngraph reshape trained.gng --data digits --round-to 2 --epochs 2 -o even/",
    ),
    "shrink": (
        "gngraph shrink trained.gng --data digits --to 0.7 -o smaller/",
        "gngraph shrink trained.gng --data digits --to 0.7 --epochs 2 --lr 0.01 -o small/",
    ),
    "resume": ("gngraph resume run/", "gngraph resume run/ --json"),
    "replay": ("gngraph replay run/", "gngraph replay run/ --quiet"),
    "report": ("gngraph report run/ --force", "gngraph report run/ smaller/ -o compared.html"),
    "diff": ("gngraph diff run@0 run", "gngraph diff trained.gng wider.gng --stat --html diff.html"),
    "export": (
        "gngraph export run --onnx net.onnx --source net/",
        "gngraph export run --data digits --onnx small.onnx --precision int8",
    ),
    "verify": ("gngraph verify net.onnx --against run", "gngraph verify net.onnx --against run --json"),
}
