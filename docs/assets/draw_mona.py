"""Draws `mona.svg`: a transformer block with its two Monas, and one Mona from inside, by the defaults of `MonaConfig`.

`python docs/assets/draw_mona.py` writes the file into its own folder.
"""

from __future__ import annotations

from pathlib import Path

from mona_peft import MonaConfig

TARGET = Path(__file__).with_name("mona.svg")
FROZEN, TRAINED = ("#e8edf3", "#8193a8"), ("#fde7d3", "#e0762a")
HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 400" font-family="Helvetica, Arial, sans-serif" '
    'font-size="14" fill="#1f2933">\n<rect width="860" height="400" fill="white"/>\n<defs><marker id="arrow" '
    'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" '
    'fill="#52606d"/></marker></defs>'
)


def box(x: int, y: int, width: int, text: str, colours: tuple[str, str], height: int = 34) -> str:
    """A labelled part."""
    fill, line = colours
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{line}"/>'
        f'<text x="{x + width // 2}" y="{y + height // 2 + 5}" text-anchor="middle">{text}</text>'
    )


def arrow(*points: tuple[int, int]) -> str:
    """A line through `points` with a head at its end."""
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="#52606d" stroke-width="1.4" marker-end="url(#arrow)"/>'


def plus(x: int, y: int) -> str:
    """The sum of two streams."""
    circle = f'<circle cx="{x}" cy="{y}" r="9" fill="white" stroke="#52606d"/>'
    return circle + note(x, y + 5, "+")


def note(x: int, y: int, text: str, anchor: str = "middle", weight: str = "normal") -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{text}</text>'


def block() -> list[str]:
    """The block, from bottom to top: its two branches are frozen, a Mona follows each sum."""
    x, left, middle = 40, 110, 190
    parts = [note(middle, 26, "Block of Swin or ViT", weight="bold"), arrow((middle, 385), (middle, 366))]
    for bottom, branch in ((366, "Attention"), (201, "MLP")):
        parts += [
            box(left, bottom - 34, 160, "Norm", FROZEN),
            arrow((middle, bottom - 34), (middle, bottom - 46)),
            box(left, bottom - 80, 160, branch, FROZEN),
            arrow((middle, bottom - 80), (middle, bottom - 91)),
            arrow((middle, bottom + 7), (x + 20, bottom + 7), (x + 20, bottom - 100), (middle - 9, bottom - 100)),
            plus(middle, bottom - 100),
            arrow((middle, bottom - 109), (middle, bottom - 118)),
            box(left, bottom - 152, 160, "Mona", TRAINED),
        ]
    return [*parts, arrow((middle, 49), (middle, 34)), arrow((middle, 214), (middle, 202))]


def mona(config: MonaConfig) -> list[str]:
    """One Mona, from left to right in two rows."""
    kernels = [f"{size} x {size}" for size in config.kernel_sizes]
    n = config.bottleneck_dim
    parts = [note(600, 26, f"Mona: m channels, bottleneck n = {n}", weight="bold")]
    parts += [
        note(330, 117, "x"),
        arrow((338, 112), (358, 112)),
        box(360, 80, 130, "Scaled norm", TRAINED, 40),
        note(425, 140, "s1 LN(x) + s2 x"),
        arrow((490, 100), (516, 100)),
        box(518, 80, 90, "Down", TRAINED, 40),
        note(563, 140, "m to n"),
        arrow((608, 100), (636, 100)),
    ]
    for row, kernel in enumerate(kernels):
        parts.append(box(638, 52 + 36 * row, 150, f"depthwise {kernel}", TRAINED, 30))
    parts += [
        note(713, 176, "their mean + their input"),
        arrow((788, 100), (826, 100), (826, 240), (770, 240)),
        box(650, 220, 120, "1 x 1", TRAINED, 40),
        note(710, 280, "+ its input"),
        arrow((650, 240), (612, 240)),
        box(490, 220, 120, "GELU, dropout", TRAINED, 40),
        arrow((490, 240), (462, 240)),
        box(370, 220, 90, "Up", TRAINED, 40),
        note(405, 280, "n to m", "end"),
        arrow((415, 260), (415, 321)),
        plus(415, 330),
        arrow((330, 124), (330, 330), (406, 330)),
        arrow((424, 330), (470, 330)),
        note(476, 335, "x + Up(...)", "start"),
    ]
    for y, colours, text in ((352, FROZEN, "frozen"), (374, TRAINED, "trains")):
        fill, line = colours
        parts.append(f'<rect x="640" y="{y}" width="18" height="14" rx="3" fill="{fill}" stroke="{line}"/>')
        parts.append(note(666, y + 12, text, "start"))
    return parts


def draw() -> str:
    """The picture as SVG."""
    return "\n".join([HEAD, *block(), *mona(MonaConfig()), "</svg>\n"])


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
    print(f"Wrote {TARGET.name}")
