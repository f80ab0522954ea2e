"""SegFormer's all-MLP head (arXiv 2105.15203) on any backbone, such as a plain ViT."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig, PretrainedConfig, PreTrainedModel, SegformerConfig
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from .pixel_loss import pixel_loss


class BackboneSegformerConfig(PretrainedConfig):
    """Configuration of [`BackboneSegformer`].

    Args:
        backbone_config (`PretrainedConfig` or `dict`): With `out_features`.
        decoder_hidden_size (`int`): Width of the head.
        classifier_dropout_prob (`float`): Dropout before the last layer.
        **kwargs: Of `PretrainedConfig`.
    """

    model_type = "mona_backbone_segformer"
    has_no_defaults_at_init = True

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, Any] | None = None,
        decoder_hidden_size: int = 256,
        classifier_dropout_prob: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            values = dict(backbone_config)
            backbone_config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.backbone_config = backbone_config
        self.decoder_hidden_size = decoder_hidden_size
        self.classifier_dropout_prob = classifier_dropout_prob
        super().__init__(**kwargs)


class BackboneSegformer(PreTrainedModel):
    """A backbone and SegFormer's head over all its feature maps.

    Args:
        config (`BackboneSegformerConfig`): The configuration.
    """

    config_class = BackboneSegformerConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: BackboneSegformerConfig) -> None:
        super().__init__(config)
        self.backbone = AutoBackbone.from_config(config.backbone_config)
        make_config: Any = SegformerConfig
        self.decode_head = SegformerDecodeHead(
            make_config(
                num_encoder_blocks=len(self.backbone.channels),
                hidden_sizes=list(self.backbone.channels),
                decoder_hidden_size=config.decoder_hidden_size,
                classifier_dropout_prob=config.classifier_dropout_prob,
                num_labels=config.num_labels,
            )
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the head's layers initialise themselves."""

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        class_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> SemanticSegmenterOutput:
        """Logits `(B, classes, H, W)`, and the loss where labels `(B, H, W)` are given."""
        logits = self.decode_head(self.backbone(pixel_values).feature_maps)
        logits = F.interpolate(logits, size=pixel_values.shape[-2:], mode="bilinear", align_corners=False)
        ignored = self.decode_head.config.semantic_loss_ignore_index
        loss = None if labels is None else pixel_loss(logits, labels, class_weights, ignored)
        return SemanticSegmenterOutput(loss=loss, logits=logits)


AutoConfig.register(BackboneSegformerConfig.model_type, BackboneSegformerConfig, exist_ok=True)
