"""Which modules are transformer blocks, where their residual stream can be reached, and where the token grid is known.

One row for each block class. A row says which child of the block starts the MLP branch (its input is the residual
stream after attention; convolutional blocks have none), how the height and width of the token grid are found, and how
many tokens stand before and after the patch tokens. What the fields mean is said in [`BlockSpec`].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from .modules import ancestors, find_kept, has_submodule
from .spec import PADDING, BlockSpec

_transformers = partial(BlockSpec, package="transformers.models")
_timm = partial(BlockSpec, prefix_tokens=("num_prefix_tokens",))
_torchvision = partial(BlockSpec, package="torchvision.models")

_PARALLEL = (
    "its attention and its MLP read the same input and are added at once, so there is no residual stream between them "
    "for an adapter to act on"
)

# Where a class has two rows, the block's children tell the release it comes from.
BLOCK_SPECS: tuple[BlockSpec, ...] = (
    # transformers: hierarchical, with the grid among the block's arguments
    _transformers("SwinLayer", "layernorm_after", "input_dimensions"),
    _transformers("Swinv2Layer", "intermediate", "input_dimensions"),  # norms after the branches
    _transformers("MaskFormerSwinLayer", "layernorm_after", "input_dimensions"),
    _transformers("DonutSwinLayer", "layernorm_after", "input_dimensions"),
    _transformers("PvtLayer", "layer_norm_2", "height,width", optional_tokens=(1,)),  # class token in the last stage
    _transformers("PvtV2BlockLayer", "layer_norm_2", "height,width"),
    _transformers("SegformerLayer", "layernorm_after", "height,width"),
    _transformers("SegformerLayer", "layer_norm_2", "height,width"),
    # transformers: plain
    _transformers("ViTLayer", "layernorm_after", prefix_tokens=(1,)),
    _transformers("ViTMAELayer", "layernorm_after", prefix_tokens=(1,), order="embeddings", inside="ViTMAEModel"),
    _transformers("ViTMSNLayer", "layernorm_after", prefix_tokens=(1,)),
    _transformers("DeiTLayer", "layernorm_after", prefix_tokens=(2,)),
    _transformers("BeitLayer", "layernorm_after", prefix_tokens=(1,)),
    _transformers("Data2VecVisionLayer", "layernorm_after", prefix_tokens=(1,)),
    _transformers("Dinov2Layer", "norm2", prefix_tokens=(1,)),
    _transformers("Dinov2WithRegistersLayer", "norm2", prefix_tokens=(1, "num_register_tokens")),
    _transformers("DINOv3ViTLayer", "norm2", prefix_tokens=(1, "num_register_tokens")),
    _transformers("IJepaLayer", "layernorm_after"),
    _transformers("YolosLayer", "layernorm_after", prefix_tokens=(1,), suffix_tokens=("num_detection_tokens",)),
    _transformers("DPTViTLayer", "layernorm_after", prefix_tokens=(1,)),
    _transformers("VitPoseBackboneLayer", "layernorm_after"),
    _transformers(
        "VitDetLayer",
        "norm2",
        "channels_first",
        refuse_if="use_residual_block",
        refusal="a convolutional residual block follows its MLP, so what is added to its result is not added to its "
        "residual stream",
    ),
    _transformers(  # the last blocks get the queries
        "EomtLayer", "norm2", prefix_tokens=(1, "num_register_tokens"), optional_tokens=("num_queries",)
    ),
    # transformers: two towers, of which the text tower has blocks of the same class
    _transformers("SiglipEncoderLayer", "layer_norm2", inside="SiglipVision"),
    _transformers(
        "Siglip2EncoderLayer",
        "layer_norm2",
        "embeddings.spatial_shapes",
        suffix_tokens=(PADDING,),
        inside="Siglip2Vision",
    ),
    _transformers("CLIPEncoderLayer", "layer_norm2", prefix_tokens=(1,), inside="CLIPVision"),
    _transformers("MetaClip2EncoderLayer", "layer_norm2", prefix_tokens=(1,), inside="MetaClip2Vision"),
    _transformers("Aimv2EncoderLayer", "rms_norm2", inside="Aimv2Vision"),
    _transformers("SamVisionLayer", "layer_norm2", "channels_last"),
    _transformers("SamHQVisionLayer", "layer_norm2", "channels_last"),
    _transformers("Sam3ViTLayer", "layer_norm2", "channels_last"),
    _transformers("Sam2MultiScaleBlock", "layer_norm2", "channels_last"),
    _transformers("HieraLayer", "layernorm_after", sequence="unrolled", inside="HieraEncoder"),
    # transformers: the images of a batch in one sequence
    _transformers("Qwen2VLVisionBlock", "norm2", ".grid_thw", sequence="packed"),
    _transformers("Qwen2_5_VLVisionBlock", "norm2", ".grid_thw", sequence="packed_windows"),
    _transformers("Qwen3VLVisionBlock", "norm2", ".grid_thw", sequence="packed"),
    # transformers: convolutional
    _transformers("ConvNextLayer", grid="channels_first"),
    _transformers("ConvNextV2Layer", grid="channels_first"),
    _transformers("ResNetBasicLayer", grid="channels_first"),
    _transformers("ResNetBottleNeckLayer", grid="channels_first"),
    # timm
    _timm("Block", "norm2", package="timm.models.vision_transformer"),
    _timm("ResPostBlock", "mlp", package="timm.models.vision_transformer"),
    _timm("Block", "norm2", package="timm.models.beit"),
    _timm("RelPosBlock", "norm2", package="timm.models.vision_transformer_relpos"),
    _timm("ResPostRelPosBlock", "mlp", package="timm.models.vision_transformer_relpos"),
    _timm("EvaBlock", "norm2", package="timm.models.eva"),
    _timm("EvaBlockPostNorm", "mlp", package="timm.models.eva"),
    BlockSpec("SwinTransformerBlock", "norm2", "channels_last", package="timm.models.swin_transformer"),
    BlockSpec("SwinTransformerV2Block", "mlp", "channels_last", package="timm.models.swin_transformer_v2"),
    BlockSpec("Block", "norm2", "channels_last", package="timm.models.vision_transformer_sam"),
    BlockSpec("ConvNeXtBlock", grid="channels_first", package="timm.models.convnext"),
    BlockSpec("BasicBlock", grid="channels_first", package="timm.models.resnet"),
    BlockSpec("Bottleneck", grid="channels_first", package="timm.models.resnet"),
    BlockSpec("HieraBlock", "norm2", package="timm.models.hiera", sequence="unrolled"),
    BlockSpec("ParallelScalingBlock", package="timm.models", refusal=_PARALLEL),
    BlockSpec("DiffParallelScalingBlock", package="timm.models", refusal=_PARALLEL),
    BlockSpec(
        "ParallelThingsBlock",
        package="timm.models.vision_transformer",
        refusal="several MLP branches read the residual stream side by side, and an adapter reaches only one of them",
    ),
    # torchvision
    _torchvision("EncoderBlock", "ln_2", prefix_tokens=(1,)),
    _torchvision("SwinTransformerBlock", "norm2", "channels_last"),
    _torchvision("SwinTransformerBlockV2", "mlp", "channels_last"),
    _torchvision("CNBlock", grid="channels_first"),
    _torchvision("BasicBlock", grid="channels_first"),
    _torchvision("Bottleneck", grid="channels_first"),
)


def find_spec(module: nn.Module, specs: Sequence[BlockSpec] | None = None) -> BlockSpec | None:
    """Return the row of the table for `module`, or None if it is not a known block; an adapted one remembers its row.

    Args:
        module (`nn.Module`): Any module.
        specs (`Sequence[BlockSpec]`, *optional*): Rows that go before those of the table.
    """
    tap = getattr(module, "_tap", None)
    return _find_row(module, specs) if tap is None else tap.spec


def _find_row(module: nn.Module, specs: Sequence[BlockSpec] | None) -> BlockSpec | None:
    """The row of the nearest class; among several for one class the first whose entry the block has."""
    table = (*(specs or ()), *BLOCK_SPECS)
    for cls in type(module).__mro__:
        rows = [spec for spec in table if spec.describes(cls)]
        if rows:
            return next((spec for spec in rows if has_submodule(module, spec.entry)), rows[0])
    return None


def find_blocks(model: nn.Module, specs: Sequence[BlockSpec] | None = None) -> dict[str, BlockSpec]:
    """Return the known blocks of `model` by module name, from the input to the output.

    Of a block that PEFT keeps copies of (`modules_to_save`) it is the original.

    Args:
        model (`nn.Module`): Any model.
        specs (`Sequence[BlockSpec]`, *optional*): Rows that go before those of the table.
    """
    blocks: dict[str, BlockSpec] = {}
    for name, module in model.named_modules():
        spec = find_spec(module, specs)
        if name and spec is not None and _is_inside(model, name, spec.inside) and not _is_copy(model, name):
            blocks[name] = spec
    return blocks


def refuse_other_row(name: str, block: nn.Module, specs: Sequence[BlockSpec] | None) -> None:
    """Refuse a block that has adapters by another row than the one that `specs` and the table have for it.

    Args:
        name (`str`): The block's name in its model.
        block (`nn.Module`): The block, adapted or not.
        specs (`Sequence[BlockSpec]`, *optional*): Rows that go before those of the table.

    Raises:
        ValueError: If it has.
    """
    present, row = find_spec(block, specs), _find_row(block, specs)
    if present != row:
        raise ValueError(
            f"Block '{name}' has adapters by the layout {present}, but for this adapter its block_specs and the known "
            f"blocks give {row or 'none'}. Pass the block_specs of the adapter that is there, or add this one to a "
            "model of its own."
        )


def known_block_classes() -> list[str]:
    """Names of the block classes in the table that can be adapted, for messages."""
    return sorted({spec.block for spec in BLOCK_SPECS if spec.entry or not spec.refusal})


def _is_inside(model: nn.Module, name: str, prefix: str) -> bool:
    return not prefix or any(type(module).__name__.startswith(prefix) for module in ancestors(model, name))


def _is_copy(model: nn.Module, name: str) -> bool:
    return name.startswith(f"{find_kept(model, name)}.modules_to_save.")
