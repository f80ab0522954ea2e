"""UperNet as the paper's ADE20K recipe has it: transformers', with mmsegmentation's dropout, norms and first weights.

transformers' heads have no dropout, batch norm alone, and draw every weight from one normal distribution; its loss
knows no weights by class. Parameters have the same names, so weights load either way (of `head_norm: group` in
this class alone).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import UperNetConfig, UperNetForSemanticSegmentation
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.upernet.modeling_upernet import UperNetConvModule

from .head_norms import find_head_norm
from .pixel_loss import pixel_loss

CLASSIFIER_STD = 0.01
HEAD_INITS = ("official", "normal")


class OfficialUperNetConfig(UperNetConfig):
    """Configuration of [`OfficialUperNet`]. The model type is transformers' own.

    Args:
        head_norm (`str`): Norm of the heads' convolutions: `batch`, `sync` (batch norm over all processes, the
            paper's), `group` or `frozen`.
        head_dropout (`float`): Share of the channels dropped before both classifiers in training.
        head_init (`str`): First weights of the heads: `official`, as in mmsegmentation (Kaiming's for the
            convolutions, a normal distribution of 0.01 for the classifiers), or `normal`, of `initializer_range`.
    """

    head_norm: str = "batch"
    head_dropout: float = 0.1
    head_init: str = "official"


def read_heads(config: UperNetConfig) -> tuple[Callable[[int], nn.Module], float, str]:
    """Norm, dropout and first weights of the heads; transformers' own configuration has the defaults.

    Raises:
        ValueError: If there is no such norm, no such weights, or a range of weights that nothing would use.
    """
    names = ("head_norm", "head_dropout", "head_init")
    norm, dropout, weights = (getattr(config, name, getattr(OfficialUperNetConfig, name)) for name in names)
    if weights not in HEAD_INITS:
        raise ValueError(f"head_init is {weights!r}; choose one of {', '.join(HEAD_INITS)}.")
    if weights == "official" and config.initializer_range != UperNetConfig.initializer_range:
        raise ValueError(
            f"initializer_range is {config.initializer_range}, which the official first weights do not use; give "
            "head_init: normal as well."
        )
    return find_head_norm(norm), dropout, weights


class PixelClassifier(nn.Conv2d):
    """A convolution of one pixel after a dropout of whole channels.

    Args:
        in_channels (`int`): Channels of the features.
        classes (`int`): Channels of the logits.
        dropout (`float`): Probability of dropping a channel in training.
    """

    def __init__(self, in_channels: int, classes: int, dropout: float) -> None:
        super().__init__(in_channels, classes, kernel_size=1)
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        """Logits `(B, classes, H, W)` of features `(B, C, H, W)`."""
        return super().forward(F.dropout2d(input, self.dropout, self.training))


class OfficialUperNet(UperNetForSemanticSegmentation):
    """UperNet.

    Args:
        config (`OfficialUperNetConfig` or `UperNetConfig`): The configuration; what transformers' own lacks has the
            default.

    Raises:
        ValueError: If a setting of the heads is not one of those there are.
    """

    config_class = OfficialUperNetConfig

    def __init__(self, config: UperNetConfig) -> None:
        super().__init__(config)
        make_norm, dropout, _ = read_heads(config)
        for head in (self.decode_head, self.auxiliary_head):
            if head is None:
                continue
            head.classifier = PixelClassifier(head.channels, len(config.id2label or {}), dropout)
            self._init_weights(head.classifier)
            for module in head.modules():
                if isinstance(module, UperNetConvModule):
                    module.batch_norm = make_norm(module.conv.out_channels)  # type: ignore[assignment]

    def _init_weights(self, module: nn.Module) -> None:
        """First weights of a module of the heads; `init` leaves out what was loaded."""
        if isinstance(module, _BatchNorm):  # transformers knows the kinds of batch norm by name, and not all
            norm: Any = module  # by its type it may have no tensors
            for value in (norm.weight, norm.running_var):
                init.ones_(value)
            for value in (norm.bias, norm.running_mean, norm.num_batches_tracked):
                init.zeros_(value)
        elif read_heads(self.config)[2] == "normal" or not isinstance(module, nn.Conv2d):
            super()._init_weights(module)
        else:
            if isinstance(module, PixelClassifier):
                init.normal_(module.weight, std=CLASSIFIER_STD)
            else:
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        class_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> SemanticSegmenterOutput | tuple:
        """Transformers' own, and with `class_weights` `(classes,)` the weighted losses of both heads."""
        if pixel_values is None or labels is None or class_weights is None or self.config.num_labels == 1:
            return super().forward(
                pixel_values,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                labels=labels,
                return_dict=return_dict,
                **kwargs,
            )
        features, size = self.backbone(pixel_values).feature_maps, pixel_values.shape[-2:]
        heads = [head for head in (self.decode_head, self.auxiliary_head) if head is not None]
        logits = [F.interpolate(head(features), size=size, mode="bilinear", align_corners=False) for head in heads]
        ignored = self.config.loss_ignore_index
        loss, *auxiliary = [pixel_loss(one, labels, class_weights, ignored) for one in logits]
        for one in auxiliary:
            loss = loss + self.config.auxiliary_loss_weight * one
        return SemanticSegmenterOutput(loss=loss, logits=logits[0])
