"""Tiny models of timm, directly and through transformers' wrapper, and of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm.models as tm
import torchvision.models as tv
import transformers as tr
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from tests.families.family import Family, Size
from tests.families.transformers_models import SQUARE, hiera_order, patches, stages, tokens

PLAIN: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3)
SWIN: dict[str, Any] = dict(
    img_size=(32, 48), patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=3
)
HIERA: dict[str, Any] = dict(
    img_size=(32, 48),
    embed_dim=8,
    num_heads=1,
    num_classes=3,
    stages=(1, 2, 1),
    q_pool=2,
    mask_unit_size=(4, 4),
    mask_unit_attn=(True, True, False),
)


def pre_norm(block: nn.Module, x: Tensor, grid: Size) -> Tensor:
    """timm's usual MLP branch, with the scale under any of its names."""
    y = block.mlp(block.norm2(x))
    if getattr(block, "gamma_2", None) is not None:
        return block.gamma_2 * y
    return block.ls2(y) if hasattr(block, "ls2") else y


def post_norm(block: nn.Module, x: Tensor, grid: Size) -> Tensor:
    return block.norm2(block.mlp(x))


def vit(name: str, build: Callable[[], nn.Module], prefix: int = 0, post: bool = False, **row: Any) -> Family:
    defaults: dict[str, Any] = dict(
        library="timm",
        build=build,
        blocks=2,
        mlp=post_norm if post else pre_norm,
        silence="norm2" if post else "mlp",
        grid=patches(8),
        extra=tokens(prefix),
        reentrant=False,
    )
    return Family(name=name, **defaults | row)


def swin(name: str, build: Callable[[], nn.Module], post: bool = False, **row: Any) -> Family:
    defaults: dict[str, Any] = dict(
        library="timm",
        build=build,
        blocks=4,
        mlp=post_norm if post else pre_norm,
        silence="norm2" if post else "mlp",
        grid=stages((2, 2), (2, 4)),
        sizes=((32, 48),),
        arrangement="channels_last",
        reentrant=False,
    )
    return Family(name=name, **defaults | row)


def wrapped(architecture: str, **arguments: Any) -> nn.Module:
    """A timm model inside transformers' wrapper."""
    config = tr.TimmWrapperConfig(architecture=architecture, model_args=arguments, num_labels=3)
    return tr.TimmWrapperForImageClassification(config)


WRAPPED_VIT = {k: v for k, v in PLAIN.items() if k != "num_classes"} | {"dynamic_img_size": True}

FAMILIES: tuple[Family, ...] = (
    vit("vit", partial(tm.VisionTransformer, **PLAIN, dynamic_img_size=True), prefix=1),
    vit(
        "vit with registers and layer scale",
        partial(tm.VisionTransformer, **PLAIN, dynamic_img_size=True, reg_tokens=3, init_values=0.1),
        prefix=4,
    ),
    vit(
        "vit without prefix tokens",
        partial(tm.VisionTransformer, **PLAIN, dynamic_img_size=True, class_token=False, global_pool="avg"),
        rounding=1e-12,
    ),
    vit(
        "vit, norms after the branches",
        partial(tm.VisionTransformer, **PLAIN, dynamic_img_size=True, block_fn=ResPostBlock),
        prefix=1,
        post=True,
    ),
    vit("deit, distilled", partial(tm.deit.VisionTransformerDistilled, **PLAIN), prefix=2, sizes=SQUARE),
    vit("beit", partial(tm.Beit, **PLAIN, init_values=0.1, use_shared_rel_pos_bias=True), prefix=1, sizes=SQUARE),
    vit("vit, relative positions", partial(tm.VisionTransformerRelPos, **PLAIN), sizes=SQUARE),
    vit(
        "eva",
        partial(tm.Eva, **PLAIN, init_values=0.1, use_rot_pos_emb=True, swiglu_mlp=True, dynamic_img_size=True),
        prefix=1,
    ),
    vit(
        "eva, norms after the branches",
        partial(tm.Eva, **PLAIN, use_post_norm=True),
        prefix=1,
        post=True,
        sizes=SQUARE,
    ),
    vit(
        "sam vit",
        partial(tm.VisionTransformerSAM, **PLAIN, window_size=3, global_attn_indexes=(1,), use_rel_pos=True),
        sizes=SQUARE,
        arrangement="channels_last",
        rounding=1e-12,
    ),
    Family(
        name="hiera",
        library="timm",
        build=lambda: tm.Hiera(**HIERA),
        blocks=4,
        mlp=pre_norm,
        silence="mlp",
        grid=stages((1, 4), (2, 8), (1, 16)),
        sizes=((32, 48),),
        order=hiera_order(0, 1, 1, 2),
        reentrant=False,
    ),
    swin("swin", partial(tm.SwinTransformer, **SWIN, window_size=4)),
    swin("swinv2", partial(tm.SwinTransformerV2, **SWIN, window_size=4), post=True),
    vit(
        "vit",
        partial(wrapped, "vit_tiny_patch16_224", **WRAPPED_VIT),
        prefix=1,
        library="transformers' TimmWrapper",
        recorded=(0, 1),
        processed=True,
    ),
    swin(
        "swin",
        partial(
            wrapped,
            "swin_tiny_patch4_window7_224",
            **{k: v for k, v in SWIN.items() if k != "num_classes"},
            window_size=4,
        ),
        library="transformers' TimmWrapper",
        recorded=(1, 3),
        processed=True,
    ),
    vit(
        "vit",
        lambda: tv.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3),
        prefix=1,
        library="torchvision",
        mlp=lambda block, x, grid: block.mlp(block.ln_2(x)),
        sizes=SQUARE,
        checkpointing=False,
    ),
    *(
        swin(
            name,
            partial(
                tv.SwinTransformer,
                [2, 2],
                8,
                [2, 2],
                [1, 2],
                [4, 4],
                num_classes=3,
                block=block,
                downsample_layer=merging,
                stochastic_depth_prob=0.0,
            ),
            post=post,
            library="torchvision",
            sizes=((32, 32), (32, 48), (20, 36)),
            checkpointing=False,
        )
        for name, block, merging, post in (
            ("swin", tv.swin_transformer.SwinTransformerBlock, tv.swin_transformer.PatchMerging, False),
            ("swinv2", tv.swin_transformer.SwinTransformerBlockV2, tv.swin_transformer.PatchMergingV2, True),
        )
    ),
)
