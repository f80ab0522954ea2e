"""Mona's settings, one changed at a time: those that its paper studies (arXiv 2408.08345, section 4), and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .variants import Variant

DEFAULT_LABEL = "mona"

# Group: settings by name. The default of each is the variant `mona` itself.
DEFAULT_INIT = {"init_weights": True}
SETTINGS: dict[str, dict[str, dict[str, object]]] = {
    "design": {f"design {name}": {"variant": name} for name in ("v1", "v2", "v3")},
    "positions": {f"{name} only": {"positions": [name]} for name in ("attention", "mlp")},
    "kernels": {
        f"kernels {'+'.join(map(str, sizes))}": {"kernel_sizes": list(sizes)}
        for sizes in ((3,), (5,), (7,), (3, 5), (3, 5, 7, 9))
    },
    "scale": {"scalar scales": {"scale": "scalar"}},
    "norm": {f"norm {name}": {"norm": name} for name in ("batch", "none")},
    "biases": {"convolutions without biases": {"conv_bias": False}},
    "initialisation": {
        "zero weights": {"init_weights": True},
        "official weights": {"init_weights": "official"},
        "random weights": {"init_weights": False},
    },
    "dropout": {f"dropout {share:g}": {"mona_dropout": share} for share in (0.0, 0.3)},
    "output": {"in proportion to the stream": {"output_scale": "stream"}},
    "depth": {f"last {count} blocks": {"layers_to_transform": list(range(-count, 0))} for count in (3, 6)},
}

GROUPS = ("bottleneck", "backbone", *SETTINGS)
#: What the paper does not study, and a backbone of a few blocks has no room for.
EXTRA_GROUPS = ("dropout", "output", "depth")
PAPER_GROUPS = tuple(group for group in GROUPS if group not in EXTRA_GROUPS)


def ablation_variants(
    groups: Sequence[str] = PAPER_GROUPS,
    bottleneck_dim: int = 64,
    bottlenecks: Sequence[int] = (16, 32, 128),
    backbones: Sequence[str] = (),
    own_backbone: str = "",
    options: Mapping[str, object] | None = None,
    full_options: Mapping[str, object] | None = None,
) -> list[Variant]:
    """The default Mona, and every setting of the groups.

    Args:
        groups (`Sequence[str]`): Some of `GROUPS`.
        bottleneck_dim (`int`): Of the default.
        bottlenecks (`Sequence[int]`): The other sizes of the bottleneck.
        backbones (`Sequence[str]`): Names of the testbed's backbones, each trained with Mona and in full.
        own_backbone (`str`): The one of these that the default has already been trained on.
        options (`Mapping[str, object]`, *optional*): Other settings of the default.
        full_options (`Mapping[str, object]`, *optional*): Settings of full fine-tuning.

    Raises:
        ValueError: If a group is unknown.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise ValueError(f"Unknown groups {', '.join(unknown)}; choose from {', '.join(GROUPS)}.")
    base = {**(options or {}), "bottleneck_dim": bottleneck_dim}
    variants = [Variant(DEFAULT_LABEL, "mona", base, group="default")]
    for group in groups:
        if group == "bottleneck":
            sizes = [size for size in bottlenecks if size != bottleneck_dim]
            variants += [Variant(f"bottleneck {n}", "mona", {**base, "bottleneck_dim": n}, group=group) for n in sizes]
        elif group == "backbone":
            trained = [_on_backbone(backbone, base, full_options or {}) for backbone in backbones]
            variants += [
                one for pair in trained for one in pair if (one.method, one.backbone) != ("mona", own_backbone)
            ]
        else:
            settings = {label: {**base, **changes} for label, changes in SETTINGS[group].items()}
            variants += [
                Variant(label, "mona", changed, group=group)
                for label, changed in settings.items()
                if changed != {**DEFAULT_INIT, **base}
            ]
    return variants


def _on_backbone(backbone: str, options: dict[str, object], full_options: Mapping[str, object]) -> list[Variant]:
    """Mona and full fine-tuning of one backbone."""
    return [
        Variant(f"{backbone} backbone, mona", "mona", options, backbone, "backbone"),
        Variant(f"{backbone} backbone, full", "full", dict(full_options), backbone, "backbone"),
    ]
