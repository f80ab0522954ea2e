"""Stochastic depth on both branches of a Swin block, as in the official code.

transformers' Swin drops the attention branch alone. Here a hook on the module that ends the MLP branch drops that as
well, at the same rate and with a draw of its own. A hook, not a module around it, so that weights keep their names.
Adapters on the MLP's own layers are inside the branch and go with it; Mona's act on the stream and stay.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.swin.modeling_swin import SwinDropPath, SwinLayer


class _DropBranch:
    """A hook that drops the output of a branch in training.

    Args:
        rate (`float`): Probability of leaving the branch out, by image.
    """

    def __init__(self, rate: float) -> None:
        self.drop_path = SwinDropPath(rate)

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return self.drop_path(output) if module.training else output


def set_drop_path(config: PretrainedConfig, drop_path: float | None) -> None:
    """Set the stochastic depth rate in a model's configuration.

    Args:
        config (`PretrainedConfig`): Of a model or backbone.
        drop_path (`float`, *optional*): Rate of the last block; the model's own if left out.

    Raises:
        ValueError: If the configuration has no such setting.
    """
    if drop_path is None:
        return
    if config.model_type == "timm_wrapper":
        config.model_args = {**(config.model_args or {}), "drop_path_rate": drop_path}
        return
    if not hasattr(config, "drop_path_rate"):
        raise ValueError(
            f"drop_path is {drop_path}, but {config.model_type} models have no drop_path_rate; leave it out."
        )
    config.drop_path_rate = drop_path


def drop_mlp_branches(model: nn.Module) -> None:
    """Give the MLP branch of every Swin block the drop path that its attention branch has; once for a model."""
    for block in model.modules():
        if isinstance(block, SwinLayer) and isinstance(block.drop_path, SwinDropPath):
            block.mlp.register_forward_hook(_DropBranch(block.drop_path.drop_prob))
