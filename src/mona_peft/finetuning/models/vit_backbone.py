"""Plain ViT as a transformers backbone, which transformers itself does not have: feature maps of chosen blocks.

Loads the weights of any ViT, of a classifier or not; position tables are interpolated to the image at hand.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, ViTConfig, ViTModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.models.vit.modeling_vit import ViTPreTrainedModel


class ViTBackboneConfig(BackboneConfigMixin, ViTConfig):
    """A ViT's configuration with the blocks whose output is wanted.

    Args:
        out_features (`list[str]`, *optional*): Among `stem`, `stage1`, `stage2`, ... (`stageN` is the Nth block).
        out_indices (`list[int]`, *optional*): The same as indices.
        **kwargs: Of `ViTConfig`.
    """

    model_type = "mona_vit_backbone"

    def __init__(
        self, out_features: list[str] | None = None, out_indices: list[int] | None = None, **kwargs: Any
    ) -> None:
        kwargs.pop("stage_names", None)
        super().__init__(**kwargs)
        self.stage_names = ["stem"] + [f"stage{number}" for number in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)


class ViTBackbone(BackboneMixin, ViTPreTrainedModel):
    """Feature maps `(B, C, H / patch, W / patch)` of a plain ViT, each through a layer norm of its own.

    Args:
        config (`ViTBackboneConfig`): A ViT's, with `out_features`.
    """

    config_class = ViTBackboneConfig
    base_model_prefix = "vit"

    def __init__(self, config: ViTBackboneConfig) -> None:
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.hidden_states_norms = nn.ModuleDict(
            {name: nn.LayerNorm(config.hidden_size) for name in self.out_features}
        )
        self.post_init()

    def forward(self, pixel_values: Tensor, *args: Any, **kwargs: Any) -> BackboneOutput:
        """Feature maps of an image whose sides are multiples of the patch size (the rest is cut off)."""
        outputs = self.vit(pixel_values, output_hidden_states=True, interpolate_pos_encoding=True)
        patch: Any = self.config.patch_size
        height, width = (side // patch for side in pixel_values.shape[-2:])
        maps = []
        for name, hidden_states in zip(self.stage_names, outputs.hidden_states, strict=True):
            if name in self.out_features:
                tokens = self.hidden_states_norms[name](hidden_states[:, 1:])  # without the class token
                maps.append(tokens.transpose(1, 2).unflatten(2, (height, width)))  # (B, C, H, W)
        return BackboneOutput(feature_maps=tuple(maps))


AutoConfig.register(ViTBackboneConfig.model_type, ViTBackboneConfig, exist_ok=True)
AutoBackbone.register(ViTBackboneConfig, ViTBackbone, exist_ok=True)
