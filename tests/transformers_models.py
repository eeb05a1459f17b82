"""Tiny networks of transformers with random weights, each with an example as a user calls it; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

_WORDS, _LENGTH, _SAMPLES = 99, 7, 2
_DECODER = {
    "vocab_size": _WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ENCODER = {key: value for key, value in _DECODER.items() if key not in ("num_key_value_heads", "bos_token_id")}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_BOTH = {
    "vocab_size": _WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
_SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_T5 = {
    "vocab_size": _WORDS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
_SPEECH = {
    **_ENCODER,
    "conv_dim": (16, 16),
    "conv_kernel": (5, 3),
    "conv_stride": (4, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}
_TOWERS = {
    "text_config": {**_ENCODER, "projection_dim": 16},
    "vision_config": {**_VISION, "projection_dim": 16},
}


@dataclass(frozen=True)
class Tiny:
    """One network.

    Attributes:
        kind: what sort of network.
        model: its class.
        config: fields of its configuration.
        given: keywords of the call: words, mask, image, wave, answer (of the decoder), spectrum.
        output: what a loss reads of a model output that has no leading tensor.
    """

    kind: str
    model: str
    config: Mapping[str, Any]
    given: str = "words mask"
    output: str | None = None

    def build(self) -> tuple[nn.Module, dict[str, torch.Tensor]]:
        """The network, of one seed, and keywords for its call."""
        torch.manual_seed(0)
        transformers = import_module("transformers")
        kind = getattr(transformers, self.model)
        network: nn.Module = kind(kind.config_class(**self.config))
        return network, {key: value for name in self.given.split() for key, value in _given(name).items()}


def _given(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, _WORDS, (_SAMPLES, _LENGTH), generator=generator)
    mask = torch.ones(_SAMPLES, _LENGTH, dtype=torch.long)
    mask[1, -2:] = 0
    return {
        "words": {"input_ids": words},
        "mask": {"attention_mask": mask},
        "answer": {"decoder_input_ids": words[:, :5].contiguous()},
        "image": {"pixel_values": torch.randn(_SAMPLES, 3, 32, 32, generator=generator)},
        "wave": {"input_values": torch.randn(_SAMPLES, 400, generator=generator)},
        "mel": {"input_features": torch.randn(_SAMPLES, 16, 40, generator=generator)},
        "spectrum": {"input_values": torch.randn(_SAMPLES, 48, 32, generator=generator)},
        "series": {"past_values": torch.randn(_SAMPLES, 32, 3, generator=generator)},
    }[name]


MODELS: dict[str, Tiny] = {
    "bert": Tiny("encoder", "BertForSequenceClassification", _ENCODER),
    "roberta": Tiny("encoder", "RobertaForMaskedLM", _ENCODER),
    "albert": Tiny("encoder", "AlbertForSequenceClassification", {**_ENCODER, "embedding_size": 16}),
    "distilbert": Tiny(
        "encoder",
        "DistilBertForSequenceClassification",
        {"vocab_size": _WORDS, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
    ),
    "electra": Tiny("encoder", "ElectraForTokenClassification", {**_ENCODER, "embedding_size": 16}),
    "deberta-v2": Tiny(
        "encoder",
        "DebertaV2ForSequenceClassification",
        {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    ),
    "modernbert": Tiny("encoder", "ModernBertForSequenceClassification", {**_ENCODER, "local_attention": 4}),
    "mpnet": Tiny("encoder", "MPNetForSequenceClassification", _ENCODER),
    "convbert": Tiny("encoder", "ConvBertForSequenceClassification", {**_ENCODER, "embedding_size": 16}),
    "fnet": Tiny("encoder", "FNetForSequenceClassification", _ENCODER, "words"),
    "mobilebert": Tiny(
        "encoder",
        "MobileBertForSequenceClassification",
        {**_ENCODER, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    "roformer": Tiny("encoder", "RoFormerForSequenceClassification", _ENCODER),
    "squeezebert": Tiny("encoder", "SqueezeBertForSequenceClassification", {**_ENCODER, "embedding_size": 32}),
    "gpt2": Tiny("decoder", "GPT2LMHeadModel", {"vocab_size": _WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt-neo": Tiny(
        "decoder",
        "GPTNeoForCausalLM",
        {
            "vocab_size": _WORDS,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "window_size": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
    ),
    "gpt-neox": Tiny("decoder", "GPTNeoXForCausalLM", _ENCODER),
    "gptj": Tiny(
        "decoder",
        "GPTJForCausalLM",
        {"vocab_size": _WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
    ),
    "codegen": Tiny(
        "decoder",
        "CodeGenForCausalLM",
        {"vocab_size": _WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
    ),
    "opt": Tiny("decoder", "OPTForCausalLM", {**_ENCODER, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": Tiny("decoder", "BloomForCausalLM", {"vocab_size": _WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "llama": Tiny("decoder", "LlamaForCausalLM", _DECODER),
    "mistral": Tiny("decoder", "MistralForCausalLM", {**_DECODER, "sliding_window": 4}),
    "qwen2": Tiny("decoder", "Qwen2ForCausalLM", _DECODER),
    "qwen3": Tiny("decoder", "Qwen3ForCausalLM", {**_DECODER, "head_dim": 8}),
    "gemma": Tiny("decoder", "GemmaForCausalLM", {**_DECODER, "head_dim": 8}),
    "gemma2": Tiny("decoder", "Gemma2ForCausalLM", {**_DECODER, "head_dim": 8, "sliding_window": 4}),
    "gemma3": Tiny("decoder", "Gemma3ForCausalLM", {**_DECODER, "head_dim": 8, "sliding_window": 4}),
    "phi": Tiny("decoder", "PhiForCausalLM", _DECODER),
    "phi3": Tiny("decoder", "Phi3ForCausalLM", _DECODER),
    "falcon": Tiny("decoder", "FalconForCausalLM", _ENCODER),
    "stablelm": Tiny("decoder", "StableLmForCausalLM", _DECODER),
    "olmo2": Tiny("decoder", "Olmo2ForCausalLM", _DECODER),
    "cohere": Tiny("decoder", "CohereForCausalLM", _DECODER),
    "smollm3": Tiny("decoder", "SmolLM3ForCausalLM", _DECODER),
    "starcoder2": Tiny("decoder", "Starcoder2ForCausalLM", _DECODER),
    "mamba": Tiny(
        "decoder",
        "MambaForCausalLM",
        {"vocab_size": _WORDS, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2},
        "words",
    ),
    "mixtral": Tiny("experts", "MixtralForCausalLM", {**_DECODER, "num_local_experts": 4}),
    "qwen2-moe": Tiny(
        "experts", "Qwen2MoeForCausalLM", {**_DECODER, **_EXPERTS, "shared_expert_intermediate_size": 24}
    ),
    "qwen3-moe": Tiny("experts", "Qwen3MoeForCausalLM", {**_DECODER, **_EXPERTS, "head_dim": 8}),
    "olmoe": Tiny("experts", "OlmoeForCausalLM", {**_DECODER, **_EXPERTS}),
    "granite-moe": Tiny("experts", "GraniteMoeForCausalLM", {**_DECODER, "num_local_experts": 4}),
    "t5": Tiny("both", "T5ForConditionalGeneration", _T5, "words mask answer"),
    "umt5": Tiny("both", "UMT5ForConditionalGeneration", _T5, "words mask answer"),
    "bart": Tiny("both", "BartForConditionalGeneration", _BOTH, "words mask answer"),
    "mbart": Tiny("both", "MBartForConditionalGeneration", _BOTH, "words mask answer"),
    "marian": Tiny("both", "MarianMTModel", _BOTH, "words mask answer"),
    "pegasus": Tiny("both", "PegasusForConditionalGeneration", _BOTH, "words mask answer"),
    "vit": Tiny("vision", "ViTForImageClassification", _VISION, "image"),
    "deit": Tiny("vision", "DeiTForImageClassification", _VISION, "image"),
    "beit": Tiny("vision", "BeitForImageClassification", {**_VISION, "use_relative_position_bias": True}, "image"),
    "dinov2": Tiny("vision", "Dinov2ForImageClassification", _VISION, "image"),
    "swin": Tiny("vision", "SwinForImageClassification", _SWIN, "image"),
    "swinv2": Tiny("vision", "Swinv2ForImageClassification", _SWIN, "image"),
    "convnext": Tiny("vision", "ConvNextForImageClassification", _STAGES, "image"),
    "convnextv2": Tiny("vision", "ConvNextV2ForImageClassification", _STAGES, "image"),
    "resnet": Tiny("vision", "ResNetForImageClassification", {"embedding_size": 8, **_STAGES}, "image"),
    "segformer": Tiny(
        "vision",
        "SegformerForSemanticSegmentation",
        {**_STAGES, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
        "image",
    ),
    "mobilevit": Tiny(
        "vision",
        "MobileViTForImageClassification",
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 24, 32, 32, 40],
            "num_attention_heads": 4,
            "image_size": 32,
        },
        "image",
    ),
    "clip": Tiny("towers", "CLIPModel", {**_TOWERS, "projection_dim": 16}, "words mask image", "logits_per_image"),
    "siglip": Tiny("towers", "SiglipModel", _TOWERS, "words image", "logits_per_image"),
    "wav2vec2": Tiny("audio", "Wav2Vec2ForCTC", _SPEECH, "wave"),
    "hubert": Tiny("audio", "HubertForCTC", _SPEECH, "wave"),
    "whisper": Tiny(
        "audio",
        "WhisperForConditionalGeneration",
        {**_BOTH, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 16},
        "mel answer",
    ),
    "spectrogram": Tiny(
        "audio",
        "ASTForAudioClassification",
        {**_VISION, "max_length": 48, "num_mel_bins": 32, "frequency_stride": 8, "time_stride": 8},
        "spectrum",
    ),
    "patchtst": Tiny(
        "series",
        "PatchTSTForPrediction",
        {
            "num_input_channels": 3,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "d_model": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "prediction_length": 4,
        },
        "series",
    ),
}
"""The networks by name."""
