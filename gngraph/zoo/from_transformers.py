"""Networks of Hugging Face's transformers as seeds: `hf:NAME`, a type of model, a folder, or a name on the hub."""

from __future__ import annotations

from typing import Any

from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.zoo.published import Library, Published, Weights, first_line, refused
from gngraph.zoo.spec import SeedSpec

WINDOW = 64
"""Tokens of a sample of text, where nothing is said."""


def published(name: str) -> Published:
    """What the configuration and the image processor of `name` say.

    Raises:
        UnsupportedModelError: transformers is not installed, has no such type, or no folder or name on the hub answers.
    """
    config = _config(name)
    classes = int(getattr(config, "num_labels", 2))
    if _head(name, config) == "AutoModelForCausalLM":
        return Published((WINDOW,), int(config.vocab_size), output="logits")
    if _head(name, config) == "AutoModelForSequenceClassification":
        return Published((WINDOW,), classes, output="logits")
    size = getattr(config, "image_size", None) or 224
    sides = (size, size) if isinstance(size, int) else tuple(size)
    mean, std = _colours(name)
    return Published((getattr(config, "num_channels", 3), *sides), classes, mean, std, "logits")


def build(name: str, spec: SeedSpec, weights: Weights) -> nn.Module:
    """A classifier of images or of texts, or a language model, for classes (of a language model, tokens) and an input shape.

    Args:
        name: that the library has for it.
        spec: classes and input shape.
        weights: that it begins with.

    Raises:
        UnsupportedModelError: transformers is not installed, has no such network or not for this size, or its weights could not be
            fetched.
    """
    import transformers

    config = _config(name)
    head = _head(name, config)
    causal, images = head == "AutoModelForCausalLM", head == "AutoModelForImageClassification"
    if len(spec.input_shape) != (3 if images else 1):
        raise UnsupportedModelError(
            f'"hf:{name}" reads {"images, such as 3x224x224" if images else "tokens, such as 64"}, but the input shape is '
            f'"{spec.shape_text}"'
        )
    if images:
        channels, height, width = spec.image()
        config.num_channels = channels
        if hasattr(config, "image_size"):
            config.image_size = height if height == width else (height, width)
    config.return_dict, config.use_cache = True, False
    if causal and weights is Weights.NEW:
        config.vocab_size = spec.classes
    elif not causal:
        config.num_labels = spec.classes
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 0
    kind: Any = getattr(transformers, head)
    try:
        if weights is Weights.NEW:
            made: nn.Module = kind.from_config(config)
        else:
            made = kind.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
    except Exception as error:  # whatever a network of anybody's, a hub or a connection raises
        raise refused(f"hf:{name}", weights, error) from error
    return made.train()


def _config(name: str) -> Any:
    try:
        from transformers import CONFIG_MAPPING, AutoConfig
    except ModuleNotFoundError as error:
        raise UnsupportedModelError(
            "networks of hf: need the package 'transformers': install it (pip install transformers)"
        ) from error
    try:
        return AutoConfig.for_model(name) if name in CONFIG_MAPPING else AutoConfig.from_pretrained(name)
    except Exception as error:  # whatever a hub, a connection or a file raises
        raise UnsupportedModelError(
            f'"hf:{name}" is no type of model of transformers, no folder with a config.json, and nothing that the hub gives '
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def _head(name: str, config: Any) -> str:
    """The class that makes a network with a head for what it is: images, sentences, or the next token."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    if kind in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return "AutoModelForImageClassification"
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "AutoModelForCausalLM"
    if kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return "AutoModelForSequenceClassification"
    raise UnsupportedModelError(
        f'"hf:{name}" is of the type "{kind}", which classifies neither images nor texts and tells no next token'
    )


def _colours(name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation of the colours, where the network comes with an image processor that says them."""
    from transformers import CONFIG_MAPPING, AutoImageProcessor

    if name in CONFIG_MAPPING:
        return None, None
    try:
        processor: Any = AutoImageProcessor
        found = processor.from_pretrained(name)
    except Exception:  # there is none
        return None, None
    return tuple(found.image_mean), tuple(found.image_std)


TRANSFORMERS_HUB = Library(published, build)
