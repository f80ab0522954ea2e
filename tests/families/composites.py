"""Tiny models whose backbone is one of the families, with something else behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tr
from torch import nn

from tests.families.family import pixels
from tests.families.transformers_models import PLAIN, SWIN, TEXT

STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN4: dict[str, Any] = SWIN | dict(depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], image_size=64, out_features=STAGES)
DINOV2: dict[str, Any] = PLAIN | dict(out_features=STAGES[:2], reshape_hidden_states=False)
TOWER = "model.vision_tower."
DETECTION: dict[str, Any] = dict(
    d_model=32,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    num_queries=5,
    num_labels=3,
    use_timm_backbone=False,
    use_pretrained_backbone=False,
    backbone=None,
)


@dataclass(frozen=True)
class Composite:
    """A model and where the blocks of its backbone are.

    Args:
        name: As the table of backbones shows it.
        build: Makes the model.
        inside: What the name of every adapted block begins with.
        blocks: Number of the backbone's blocks.
        inputs: Arguments of a call.
        trains: Whether the outputs of one call reach every adapter.
        heads: Whether all outside the backbone is its head; a language model is none.
    """

    name: str
    build: Callable[[], nn.Module]
    inside: str
    blocks: int
    inputs: Callable[[], dict[str, Any]] = lambda: pixels(64, 64)
    trains: bool = True
    heads: bool = True


def swin4() -> tr.SwinConfig:
    return tr.SwinConfig(**SWIN4)


def upernet(**options: Any) -> nn.Module:
    return tr.UperNetForSemanticSegmentation(
        tr.UperNetConfig(
            backbone_config=swin4(),
            hidden_size=16,
            num_labels=3,
            auxiliary_in_channels=32,
            auxiliary_channels=8,
            auxiliary_num_convs=1,
            pool_scales=[1, 2],
            use_pretrained_backbone=False,
        )
    )


def mask2former() -> nn.Module:
    return tr.Mask2FormerForUniversalSegmentation(
        tr.Mask2FormerConfig(
            backbone_config=swin4(),
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=32,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            dim_feedforward=32,
            num_queries=5,
            num_labels=3,
            use_pretrained_backbone=False,
        )
    )


def maskformer() -> nn.Module:
    decoder = tr.DetrConfig(**DETECTION | {"backbone_config": tr.ResNetConfig(out_features=["stage4"])})
    return tr.MaskFormerForInstanceSegmentation(
        tr.MaskFormerConfig(
            fpn_feature_size=32,
            mask_feature_size=32,
            backbone_config=swin4(),
            decoder_config=decoder,
            num_labels=3,
            use_pretrained_backbone=False,
        )
    )


def oneformer() -> nn.Module:
    return tr.OneFormerForUniversalSegmentation(
        tr.OneFormerConfig(
            backbone_config=swin4(),
            hidden_dim=32,
            mask_dim=32,
            conv_dim=32,
            encoder_feedforward_dim=32,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            dim_feedforward=32,
            num_queries=5,
            num_labels=3,
            task_seq_len=4,
            use_task_norm=True,
            query_dec_layers=1,
            text_encoder_width=32,
            text_encoder_num_layers=1,
            text_encoder_vocab_size=50,
            is_training=False,
            use_pretrained_backbone=False,
        )
    )


def oneformer_inputs() -> dict[str, Any]:
    return pixels(64, 64) | {"task_inputs": torch.ones(2, 4)}


def detr() -> nn.Module:
    return tr.DetrForObjectDetection(
        tr.DetrConfig(**DETECTION | {"backbone_config": tr.SwinConfig(**SWIN4 | {"out_features": ["stage4"]})})
    )


def deformable_detr() -> nn.Module:
    config = tr.SwinConfig(**SWIN4 | {"out_features": STAGES[1:]})
    return tr.DeformableDetrForObjectDetection(
        tr.DeformableDetrConfig(**DETECTION | {"backbone_config": config}, num_feature_levels=3)
    )


def grounding_dino() -> nn.Module:
    text = tr.BertConfig(**{k: v for k, v in TEXT.items()}, max_position_embeddings=64)
    return tr.GroundingDinoForObjectDetection(
        tr.GroundingDinoConfig(
            backbone_config=tr.SwinConfig(**SWIN4 | {"out_features": STAGES[1:]}),
            text_config=text,
            d_model=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_queries=5,
            num_feature_levels=3,
            max_text_len=16,
            use_pretrained_backbone=False,
        )
    )


def grounding_inputs() -> dict[str, Any]:
    return pixels(64, 64) | {"input_ids": torch.tensor([[10, 11, 12, 13]] * 2)}


def dpt_with_dinov2() -> nn.Module:
    config = tr.Dinov2Config(**DINOV2)
    return tr.DPTForDepthEstimation(
        tr.DPTConfig(
            backbone_config=config,
            neck_hidden_sizes=[8, 8],
            reassemble_factors=[1, 0.5],
            fusion_hidden_size=8,
            head_in_index=-1,
            use_pretrained_backbone=False,
            patch_size=8,
            image_size=32,
            hidden_size=16,
        )
    )


def depth_anything() -> nn.Module:
    return tr.DepthAnythingForDepthEstimation(
        tr.DepthAnythingConfig(
            backbone_config=tr.Dinov2Config(**DINOV2),
            reassemble_hidden_size=16,
            patch_size=8,
            neck_hidden_sizes=[8, 8],
            reassemble_factors=[1, 0.5],
            fusion_hidden_size=8,
            head_hidden_size=4,
        )
    )


def captioner(encoder: Any) -> nn.Module:
    decoder = tr.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=16, add_cross_attention=True)
    config = tr.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return tr.VisionEncoderDecoderModel(config)


def captions() -> dict[str, Any]:
    return pixels(32, 32) | {"decoder_input_ids": torch.tensor([[1, 2, 3]] * 2)}


def masked_autoencoder() -> nn.Module:
    return tr.ViTMAEForPreTraining(
        tr.ViTMAEConfig(
            **PLAIN,
            mask_ratio=0.0,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=32,
        )
    )


def llava(vision: Any) -> nn.Module:
    """A language model that reads the last features of a vision tower: CLIP's class token is left out."""
    text = tr.LlamaConfig(**TEXT, num_key_value_heads=2)
    return tr.LlavaForConditionalGeneration(
        tr.LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=49,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default" if isinstance(vision, tr.CLIPVisionConfig) else "full",
        )
    )


def conversation() -> dict[str, Any]:
    return pixels(32, 32) | {"input_ids": torch.tensor([[1, *[49] * 16, 2, 3]] * 2)}


COMPOSITES: tuple[Composite, ...] = (
    Composite("UperNet with Swin", upernet, "backbone.", 4),
    Composite("Mask2Former with Swin", mask2former, "model.pixel_level_module.encoder.", 4),
    Composite("MaskFormer with Swin", maskformer, "model.pixel_level_module.encoder.", 4),
    Composite("OneFormer with Swin", oneformer, "model.pixel_level_module.encoder.", 4, oneformer_inputs),
    Composite("DETR with Swin", detr, "model.backbone.", 4),
    Composite("Deformable DETR with Swin", deformable_detr, "model.backbone.", 4),
    Composite("Grounding DINO with Swin", grounding_dino, "model.backbone.", 4, grounding_inputs),
    Composite("DPT with DINOv2", dpt_with_dinov2, "backbone.", 2, lambda: pixels(32, 32)),
    Composite("Depth Anything with DINOv2", depth_anything, "backbone.", 2, lambda: pixels(32, 32)),
    Composite("VisionEncoderDecoder with Swin", lambda: captioner(tr.SwinConfig(**SWIN)), "encoder.", 4, captions),
    Composite("VisionEncoderDecoder with ViT", lambda: captioner(tr.ViTConfig(**PLAIN)), "encoder.", 2, captions),
    Composite("LLaVA with CLIP", lambda: llava(tr.CLIPVisionConfig(**PLAIN)), TOWER, 2, conversation, heads=False),
    Composite("LLaVA with SigLIP", lambda: llava(tr.SiglipVisionConfig(**PLAIN)), TOWER, 2, conversation, heads=False),
    Composite("ViTMAEForPreTraining, nothing masked", masked_autoencoder, "vit.", 2, lambda: pixels(32, 32)),
)
