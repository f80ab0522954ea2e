"""Swin and ViT blocks written out from their parts, with places for what an adapter changes."""

import torch


def plain_attention(block, h):
    """The attention output as it is."""
    return h


def nothing(block, normed, grid):
    """What no adapter adds."""
    return 0.0


def unchanged(block, x):
    """The stream as it is."""
    return x


def run_swin(
    model,
    pixels,
    attention_output=plain_attention,
    mlp_output=None,
    beside_attention=nothing,
    after_attention=unchanged,
    after_mlp=unchanged,
):
    """The last hidden state of a `SwinModel` whose windows divide its grids.

    Args:
        attention_output: Called with the block and the attention output in windows; gives what is added to the stream.
        mlp_output: Called with the block, the MLP output and the stream after attention.
        beside_attention: Called with the block, the normalised tokens and their grid; gives what is added beside
            attention.
        after_attention: Called with the block and the stream after attention; gives that stream changed.
        after_mlp: Called with the block and its result; gives that changed.
    """
    x, grid = model.embeddings(pixels)
    for stage in model.encoder.layers:
        for block in stage.blocks:
            beside = beside_attention(block, plain_norm(block.layernorm_before, x), grid)
            x1 = after_attention(block, swin_attention(block, x, grid, attention_output) + beside)
            x = after_mlp(block, x1 + mlp_output(block, plain_mlp(block, x1), x1))
        if stage.downsample is not None:
            x, grid = stage.downsample(x, grid), (grid[0] // 2, grid[1] // 2)
    return model.layernorm(x)


def swin_attention(block, x, grid, attention_output):
    """The stream after attention, which runs in windows."""
    (height, width), (batch, _, channels) = grid, x.shape
    size, shift = min(block.window_size, height), block.shift_size if height > block.window_size else 0
    normed = plain_norm(block.layernorm_before, x).view(batch, height, width, channels)
    windows = torch.roll(normed, (-shift, -shift), (1, 2))
    windows = windows.view(batch, height // size, size, width // size, size, channels).transpose(2, 3)
    windows = windows.reshape(-1, size * size, channels)
    mask = block.get_attn_mask(height, width, x.dtype, x.device) if shift else None
    h = attention_output(block, plain_output(block.attention, windows, mask))
    h = h.view(batch, height // size, width // size, size, size, channels).transpose(2, 3)
    h = torch.roll(h.reshape(batch, height, width, channels), (shift, shift), (1, 2))
    return x + h.reshape(batch, height * width, channels)


def run_vit(
    model,
    pixels,
    attention_output=plain_attention,
    mlp_output=None,
    beside_attention=nothing,
    after_attention=unchanged,
    after_mlp=unchanged,
):
    """The last hidden state of a `ViTModel`; arguments as for [`run_swin`]."""
    x = model.embeddings(pixels)
    size = model.config.patch_size
    grid = pixels.shape[2] // size, pixels.shape[3] // size
    for block in model.layers if hasattr(model, "layers") else model.encoder.layer:
        normed = plain_norm(block.layernorm_before, x)
        attended = x + attention_output(block, plain_output(block.attention, normed))
        x1 = after_attention(block, attended + beside_attention(block, normed, grid))
        x = after_mlp(block, x1 + mlp_output(block, plain_mlp(block, x1), x1))
    return model.layernorm(x)


def base(module):
    """The module itself, or what a tuner layer wraps."""
    return getattr(module, "base_layer", module)


def plain_output(attention, tokens, mask=None):
    """The attention output without adapters, whatever stands in the place of its output projection."""
    kept = attention.o_proj
    attention.o_proj = base(kept)
    try:
        return attention(tokens, mask)[0]
    finally:
        attention.o_proj = kept


def plain_norm(norm, x):
    """A layer norm apart from its hooks."""
    return torch.nn.functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def plain_mlp(block, x1):
    """The MLP output without adapters."""
    normed = plain_norm(block.layernorm_after, x1)
    return base(block.mlp.fc2)(torch.nn.functional.gelu(block.mlp.fc1(normed)))
