"""Names of open lists, told and completed without importing what bears them."""

from __future__ import annotations

SEED_NAMES = (
    *("vgg11", "vgg13", "vgg16", "vgg19", "resnet20", "resnet32", "resnet56", "mobilenet", "mlp", "vit", "gpt", "unet"),
)
"""Of gngraph's own seeds, told without importing them; those of torchvision are many."""

PASS_NAMES = (
    *("change-stride", "cleanup", "collapse-layers", "head-sizes", "insert-layer", "insert-norm", "insert-pool"),
    *("insert-skip", "insert-squeeze-excite", "join-layers", "low-rank", "make-residual"),
    *("merge-channels", "move-pool", "narrow-kernel", "new-channels", "prune-channels", "remove-layer", "remove-pool"),
    *("remove-skip", "repeat-blocks", "separable", "split-channels", "stride-to-pool", "whole-heads", "widen-kernel"),
)
"""Of gngraph's own passes."""

AUGMENT_NAMES = (
    *("auto", "none", "flip", "crop", "resized-crop", "randaugment", "trivialaugment", "autoaugment", "erasing"),
    *("mixup", "cutmix"),
)
"""Of what `--augment` takes."""
