"""Tiny models of transformers' families."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import transformers as tr
from torch import Tensor, nn

from tests.families.family import Family, Size, interpolated, pixels
from tests.support.models import feed_forward

#: What the oldest supported release lacks.
IN_5_0 = tr.__version__.startswith("5.0.")
PLAIN: dict[str, Any] = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)
SWIN: dict[str, Any] = dict(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4)
TEXT: dict[str, Any] = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
)
PYRAMID: dict[str, Any] = dict(
    hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2], mlp_ratios=[2, 2, 2, 2]
)
SAM: dict[str, Any] = PLAIN | dict(window_size=3, global_attn_indexes=[1])
HIERA: dict[str, Any] = dict(
    image_size=[32, 48],
    embed_dim=8,
    depths=[1, 2, 1],
    num_heads=[1, 2, 2],
    masked_unit_size=[4, 4],
    num_query_pool=2,
    masked_unit_attention=[True, True, False],
    drop_path_rate=0.0,
)
QWEN: dict[str, Any] = dict(depth=3, hidden_size=16, num_heads=2, intermediate_size=32, patch_size=8)
SQUARE: tuple[Size, ...] = ((32, 32),)


def patches(size: int) -> Callable[[int, Size], Size]:
    """Every block sees the grid of patches of this size."""
    return lambda i, image: (image[0] // size, image[1] // size)


def stages(*blocks: tuple[int, int]) -> Callable[[int, Size], Size]:
    """Pairs of a number of blocks and the stride of their stage."""
    strides = [stride for number, stride in blocks for _ in range(number)]
    return lambda i, image: (image[0] // strides[i], image[1] // strides[i])


def tokens(prefix: int, suffix: int = 0) -> Callable[[int], tuple[int, int]]:
    return lambda i: (prefix, suffix)


def after_norm(norm: str, scale: str = "") -> Callable[[nn.Module, Tensor, Size], Tensor]:
    """The usual MLP branch: norm, MLP, and a scale if the family has one."""

    def branch(block: nn.Module, x: Tensor, grid: Size) -> Tensor:
        y = feed_forward(block, getattr(block, norm)(x))
        factor = getattr(block, scale) if scale else 1.0
        return factor(y) if isinstance(factor, nn.Module) else factor * y

    return branch


def silenced(cls: str) -> str:
    """Name of the MLP, or of its second half where a class has two."""
    return "output" if cls in TWO_HALVES else "mlp"


TWO_HALVES = ("swinv2", "maskformer-swin", "donut-swin", "data2vec-vision", "yolos", "dpt")


def plain(
    name: str,
    cls: type,
    config: type,
    prefix: int = 0,
    suffix: int = 0,
    norm: str = "layernorm_after",
    scale: str = "",
    inputs: Callable = interpolated,
    options: dict[str, Any] | None = None,
    **row: Any,
) -> Family:
    """A family with one grid, whose hidden states are the outputs of its blocks."""
    defaults: dict[str, Any] = dict(
        library="transformers",
        build=lambda: cls(config(**PLAIN | (options or {}))),
        blocks=2,
        mlp=after_norm(norm, scale),
        silence=silenced(name),
        grid=patches(8),
        inputs=inputs,
        extra=tokens(prefix, suffix),
        recorded=(0, 1),
    )
    return Family(name=name, **defaults | row)


def pvt_grid(i: int, image: Size) -> Size:
    return tuple(side // (4, 8, 16, 32)[i] for side in image)


def pyramid(name: str, build: Callable[[], nn.Module], mlp: Callable, **row: Any) -> Family:
    """A family with four stages of one block, at strides from 4 to 32."""
    defaults: dict[str, Any] = dict(
        library="transformers",
        blocks=4,
        silence="mlp",
        grid=pvt_grid,
        sizes=((64, 64), (64, 96)),
        recorded=(0, 1, 2, 3),
        processed=True,
    )
    return Family(name=name, build=build, mlp=mlp, **defaults | row)


def segformer_mlp(block: nn.Module, x: Tensor, grid: Size) -> Tensor:
    norm = block.layernorm_after if hasattr(block, "layernorm_after") else block.layer_norm_2
    return block.mlp(norm(x), *grid)


def swin(name: str, build: Callable[[], nn.Module], **row: Any) -> Family:
    """A family with stages, of which the last block's output is recorded as it leaves the stage."""
    defaults: dict[str, Any] = dict(
        library="transformers",
        build=build,
        blocks=4,
        mlp=after_norm("layernorm_after"),
        silence=silenced(name),
        grid=stages((2, 2), (2, 4)),
        sizes=((32, 32), (32, 48), (20, 36)),
        recorded=(3,),
    )
    return Family(name=name, **defaults | row)


def mae_noise(height: int, width: int) -> dict[str, Any]:
    noise = torch.rand(2, height * width // 64, generator=torch.Generator().manual_seed(5))
    return interpolated(height, width) | {"noise": noise}


def hiera_order(*pooled: int) -> Callable[[int, Size], Tensor]:
    """Where each patch stands: the steps still to come take the rests of its row and column, the first step first.

    Args:
        pooled: Of each block, how many of the two steps of 2 x 2 were taken once it is done.
    """

    def places(i: int, image: Size) -> Tensor:
        rows, columns = (side // 4 // 2 ** pooled[i] for side in image)
        steps = 2 - pooled[i]
        high, wide = rows // 2**steps, columns // 2**steps
        found = []
        for y in range(rows):
            for x in range(columns):
                place = 0
                for step in range(steps):
                    place = place * 4 + (y >> step) % 2 * 2 + (x >> step) % 2
                found.append((place * high + (y >> steps)) * wide + (x >> steps))
        return torch.tensor(found)

    return places


#: Two images of one grid, a video of two frames, and a wide image: time, height and width in patches.
GRIDS = [[1, 4, 6], [2, 6, 4], [1, 4, 6], [1, 2, 10]]


def packed_inputs(height: int, width: int) -> dict[str, Any]:
    patches = sum(t * h * w for t, h, w in GRIDS)
    values = torch.randn(patches, 3 * 2 * 64, generator=torch.Generator().manual_seed(5))
    return {"hidden_states": values, "grid_thw": torch.tensor(GRIDS)}


def packed_places(window: int) -> Callable[[dict[str, Any]], list[tuple[Size, Tensor]]]:
    """The places of the patches, counted one by one: windows of squares, in them squares of 2 x 2, in them patches."""

    def in_order(height: int, width: int) -> list[Size]:
        side = 2 * window or max(height, width)
        return [
            (y, x)
            for top in range(0, height, side)
            for left in range(0, width, side)
            for row in range(top, min(top + side, height), 2)
            for column in range(left, min(left + side, width), 2)
            for y in (row, row + 1)
            for x in (column, column + 1)
        ]

    def places(inputs: dict[str, Any]) -> list[tuple[Size, Tensor]]:
        found, start = [], 0
        for time, height, width in inputs["grid_thw"].tolist():
            for _ in range(time):
                place = {patch: start + number for number, patch in enumerate(in_order(height, width))}
                found.append(((height, width), torch.tensor([place[patch] for patch in sorted(place)])))
                start += height * width
        return found

    return places


def qwen2_vl() -> nn.Module:
    module = importlib.import_module("transformers.models.qwen2_vl.modeling_qwen2_vl")
    config = tr.Qwen2VLConfig(vision_config=QWEN | {"embed_dim": 16})
    return module.Qwen2VisionTransformerPretrainedModel(config.vision_config)


def qwen2_5_vl() -> nn.Module:
    module = importlib.import_module("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")
    windows = dict(window_size=32, fullatt_block_indexes=[1], out_hidden_size=16)
    return module.Qwen2_5_VisionTransformerPretrainedModel(
        tr.Qwen2_5_VLConfig(vision_config=QWEN | windows).vision_config
    )


def qwen3_vl() -> nn.Module:
    more = dict(out_hidden_size=16, num_position_embeddings=16, deepstack_visual_indexes=[0])
    return tr.Qwen3VLVisionModel(tr.Qwen3VLConfig(vision_config=QWEN | more).vision_config)


def siglip2_inputs(height: int, width: int) -> dict[str, Any]:
    """Two images of different grids, the smaller one padded."""
    shapes = torch.tensor([[height // 8, width // 8], [2, 3]])
    length = height * width // 64
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(length)[None] < shapes.prod(1)[:, None]
    values = torch.randn(2, length, 3 * 64, generator=generator)
    return {"pixel_values": values, "pixel_attention_mask": mask.long(), "spatial_shapes": shapes}


def two_towers(model: type, config: type) -> Callable[[], nn.Module]:
    return lambda: model(config(text_config=dict(TEXT), vision_config=dict(PLAIN), projection_dim=16))


def with_text(inputs: Callable) -> Callable[[int, int], dict[str, Any]]:
    ids = torch.tensor([[3, 5, 7, 2], [4, 6, 8, 2]])
    return lambda height, width: {"input_ids": ids} | inputs(height, width)


FAMILIES: tuple[Family, ...] = (
    swin("swin", lambda: tr.SwinModel(tr.SwinConfig(**SWIN))),
    swin(
        "swinv2",
        lambda: tr.Swinv2Model(tr.Swinv2Config(**SWIN)),
        mlp=lambda block, x, grid: block.layernorm_after(feed_forward(block, x)),
        silence="layernorm_after",
    ),
    swin(
        "maskformer-swin",
        lambda: tr.MaskFormerSwinBackbone(tr.MaskFormerSwinConfig(**SWIN, out_features=["stage1", "stage2"])),
        recorded=(1, 3),
        reentrant=False,
    ),
    swin("donut-swin", lambda: tr.DonutSwinModel(tr.DonutSwinConfig(**SWIN))),
    plain("vit", tr.ViTForImageClassification, tr.ViTConfig, prefix=1),
    plain(
        "vit_mae",
        tr.ViTMAEModel,
        tr.ViTMAEConfig,
        prefix=1,
        inputs=mae_noise,
        options={"mask_ratio": 0.0},
        places=lambda inputs: torch.argsort(torch.argsort(inputs["noise"], dim=1), dim=1),
    ),
    plain("vit_msn", tr.ViTMSNModel, tr.ViTMSNConfig, prefix=1),
    plain("deit", tr.DeiTForImageClassificationWithTeacher, tr.DeiTConfig, prefix=2),
    plain(
        "beit", tr.BeitModel, tr.BeitConfig, prefix=1, scale="lambda_2", options={"use_relative_position_bias": True}
    ),
    plain(
        "data2vec-vision",
        tr.Data2VecVisionModel,
        tr.Data2VecVisionConfig,
        prefix=1,
        scale="lambda_2",
        options={"use_relative_position_bias": True},
    ),
    plain("dinov2", tr.Dinov2Model, tr.Dinov2Config, prefix=1, norm="norm2", scale="layer_scale2", inputs=pixels),
    plain(
        "dinov2_with_registers",
        tr.Dinov2WithRegistersModel,
        tr.Dinov2WithRegistersConfig,
        prefix=4,
        norm="norm2",
        scale="layer_scale2",
        inputs=pixels,
        options={"num_register_tokens": 3},
    ),
    plain(
        "dinov3_vit",
        tr.DINOv3ViTModel,
        tr.DINOv3ViTConfig,
        prefix=4,
        norm="norm2",
        scale="layer_scale2",
        inputs=pixels,
        options={"num_register_tokens": 3},
    ),
    plain("ijepa", tr.IJepaModel, tr.IJepaConfig),
    plain("siglip", tr.SiglipVisionModel, tr.SiglipVisionConfig, norm="layer_norm2"),
    plain(
        "siglip2",
        tr.Siglip2VisionModel,
        tr.Siglip2VisionConfig,
        norm="layer_norm2",
        inputs=siglip2_inputs,
        options={"num_patches": 16},
        row_grids=lambda inputs: [tuple(shape) for shape in inputs["spatial_shapes"].tolist()],
    ),
    plain("clip", tr.CLIPVisionModel, tr.CLIPVisionConfig, prefix=1, norm="layer_norm2"),
    plain("metaclip_2", tr.MetaClip2VisionModel, tr.MetaClip2VisionConfig, prefix=1, norm="layer_norm2"),
    plain(
        "aimv2",
        tr.Aimv2VisionModel,
        tr.Aimv2VisionConfig,
        inputs=pixels,
        options={"is_native": True},
        mlp=lambda block, x, grid: block.ffn(block.rms_norm2(x)),
        silence="ffn",
        rounding=1e-6,  # its norms compute in float32
    ),
    plain(
        "yolos",
        tr.YolosForObjectDetection,
        tr.YolosConfig,
        prefix=1,
        suffix=5,
        inputs=pixels,
        options={"num_detection_tokens": 5, "image_size": [32, 32], "use_mid_position_embeddings": False},
    ),
    plain(
        "dpt",
        tr.DPTModel,
        tr.DPTConfig,
        prefix=1,
        inputs=pixels,
        sizes=SQUARE,
        options={"is_hybrid": False, "backbone_out_indices": [0, 1]},
    ),
    plain(
        "vitpose_backbone",
        tr.VitPoseBackbone,
        tr.VitPoseBackboneConfig,
        inputs=pixels,
        sizes=((32, 24),),
        options={"image_size": [32, 24], "out_indices": [1, 2]},
    ),
    Family(
        name="vitdet",
        library="transformers",
        build=lambda: tr.VitDetModel(
            tr.VitDetConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                pretrain_image_size=32,
                patch_size=4,
                window_block_indices=[0],
                window_size=3,
            )
        ),
        blocks=2,
        mlp=after_norm("norm2"),
        silence="mlp",
        grid=patches(4),
        arrangement="channels_first",
        recorded=(0, 1),
    ),
    Family(
        name="eomt",
        library="transformers",
        build=lambda: tr.EomtForUniversalSegmentation(
            tr.EomtConfig(
                hidden_size=16,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
                num_register_tokens=2,
                num_queries=4,
                num_blocks=1,
                mlp_ratio=2,
                num_upscale_blocks=1,
            )
        ),
        blocks=3,
        mlp=after_norm("norm2", "layer_scale2"),
        silence="mlp",
        grid=patches(8),
        sizes=SQUARE,
        extra=lambda i: (3 + 4 * (i == 2), 0),
        recorded=(0, 1),  # the last one is recorded after the final norm
        checkpointing=False,
    ),
    pyramid(
        "pvt",
        lambda: tr.PvtModel(tr.PvtConfig(**PYRAMID, image_size=64)),
        after_norm("layer_norm_2"),
        sizes=((64, 64),),
        extra=lambda i: (int(i == 3), 0),
        processed=False,
        checkpointing=False,
    ),
    pyramid(
        "pvt_v2",
        lambda: tr.PvtV2Model(tr.PvtV2Config(**PYRAMID, image_size=64)),
        lambda block, x, grid: block.mlp(block.layer_norm_2(x), *grid),
        reentrant=False,  # its checkpointed stages give nested tuples, whose tensors that kind does not see
    ),
    *(
        Family(
            name=name,
            library="transformers",
            build=build,
            blocks=2,
            mlp=after_norm("layer_norm2"),
            silence="mlp",
            grid=patches(8),
            sizes=SQUARE,
            arrangement="channels_last",
            recorded=None if name == "sam3" and IN_5_0 else (0, 1),
            rounding=1e-12,
        )
        for name, build in (
            ("sam", lambda: tr.SamVisionModel(tr.SamVisionConfig(**SAM, mlp_dim=32, output_channels=8))),
            ("sam_hq", lambda: tr.SamHQVisionModel(tr.SamHQVisionConfig(**SAM, mlp_dim=32, output_channels=8))),
            ("sam3", lambda: tr.Sam3ViTModel(tr.Sam3ViTConfig(**SAM, pretrain_image_size=32))),
        )
    ),
    Family(  # attention pools the image in the second block
        name="sam2",
        library="transformers",
        build=lambda: tr.Sam2HieraDetModel(
            tr.Sam2HieraDetConfig(
                hidden_size=8,
                image_size=[32, 32],
                window_positional_embedding_background_size=[4, 4],
                num_query_pool_stages=1,
                blocks_per_stage=[1, 2],
                embed_dim_per_stage=[8, 16],
                num_attention_heads_per_stage=[1, 2],
                window_size_per_stage=[4, 2],
                global_attention_blocks=[2],
            )
        ),
        blocks=3,
        mlp=after_norm("layer_norm2"),
        silence="mlp",
        grid=stages((1, 4), (2, 8)),
        sizes=((32, 32), (32, 48)),
        arrangement="channels_last",
        rounding=1e-12,
    ),
    Family(
        name="hiera",
        library="transformers",
        build=lambda: tr.HieraModel(tr.HieraConfig(**HIERA)),
        blocks=4,
        mlp=after_norm("layernorm_after"),
        silence="mlp",
        grid=stages((1, 4), (2, 8), (1, 16)),
        sizes=((32, 48),),
        order=hiera_order(0, 1, 1, 2),
        reentrant=False,
    ),
    *(
        Family(
            name=name,
            library="transformers",
            build=build,
            blocks=3,
            mlp=lambda block, x, grid: block.mlp(block.norm2(x)),
            silence="mlp",
            grid=patches(8),
            inputs=packed_inputs,
            sizes=SQUARE,
            packed=packed_places(window),
            recorded=(0, 1, 2),
        )
        for name, build, window in (
            ("qwen2_vl", qwen2_vl, 0),
            ("qwen2_5_vl", qwen2_5_vl, 2),
            ("qwen3_vl", qwen3_vl, 0),
        )
    ),
    pyramid(
        "segformer",
        lambda: tr.SegformerModel(tr.SegformerConfig(**PYRAMID, decoder_hidden_size=8, drop_path_rate=0.0)),
        segformer_mlp,
    ),
    plain(
        "clip (two towers)",
        tr.CLIPModel,
        tr.CLIPConfig,
        prefix=1,
        norm="layer_norm2",
        build=two_towers(tr.CLIPModel, tr.CLIPConfig),
        inputs=with_text(interpolated),
        recorded=None,
    ),
)
