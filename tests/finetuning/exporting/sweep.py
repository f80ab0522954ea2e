"""Every backbone of the matrix as a classifier, exported: the table in docs/export.md.

`python -m tests.finetuning.exporting.sweep [NAME ...]` tries the named families, or all, and stores what it found;
`--write` writes the table from what is stored.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers as tr
from peft import get_peft_model
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, ViTImageProcessor

import mona_peft
from mona_peft import MonaConfig
from mona_peft.finetuning.exporting import export as export_module
from mona_peft.finetuning.inference.classification import LoadedClassifier
from mona_peft.finetuning.study.report import replace_block
from tests.families.family import Family
from tests.families.matrix import FAMILIES
from tests.families.table import family_id
from tests.families.transformers_models import TEXT
from tests.support.models import randomise

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "export.md"
FOUND = ROOT / "outputs" / "exports"
BLOCK = "exports"  # of the page, by its markers
NO_CLASSIFIER = "no image classifier"
SIZES = "dynamic height and width"
ONNX_ALONE = "with ONNX"
#: Configurations of what has a classifier where its tower alone has none.
WHOLE: dict[str, Any] = {
    "siglip": tr.SiglipConfig,
    "siglip2": tr.Siglip2Config,
    "clip": tr.CLIPConfig,
    "metaclip_2": tr.MetaClip2Config,
}
#: Columns, with the file that is written and the options of the export.
COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "ONNX": ("model.onnx", {"format": "onnx"}),
    "torch.export": ("model.pt2", {"format": "torch"}),
    SIZES: ("sizes.pt2", {"format": "torch", "dynamic_size": True}),
}


def classifier(family: Family) -> torch.nn.Module | None:
    """The family with a classifier's head; `None` where its library has no such model."""
    torch.manual_seed(0)
    model = family.model()
    if not family.library.startswith("transformers"):
        return model
    config: Any = model.config
    if family.name in WHOLE:
        config = WHOLE[family.name](text_config=dict(TEXT), vision_config=config.to_dict())
    if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        kinds: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
        return (kinds[0] if isinstance(kinds, tuple) else kinds)(config).eval()
    return model if "ForImageClassification" in type(model).__name__ else None


def try_family(family: Family) -> dict[str, str]:
    """What came of each column: `yes`, `with ONNX` alone, or the reason why not."""
    model = classifier(family)
    if model is None:
        return dict.fromkeys(COLUMNS, NO_CLASSIFIER)
    model = get_peft_model(model, MonaConfig(bottleneck_dim=4)).eval()  # type: ignore[arg-type]
    randomise(model)
    height, width = family.sizes[0]
    loaded = LoadedClassifier(model, ViTImageProcessor(size={"height": height, "width": width}))
    found = {}
    with tempfile.TemporaryDirectory() as folder, traced_once():
        for column, (name, options) in COLUMNS.items():
            found[column] = try_export(loaded, Path(folder) / name, **options)
        if found["torch.export"] == "yes" != found[SIZES]:  # torch's loader is the stricter one
            onnx = try_export(loaded, Path(folder) / "sizes.onnx", dynamic_size=True)
            found[SIZES] = ONNX_ALONE if onnx == "yes" else found[SIZES]
    return found


def try_export(loaded: LoadedClassifier, path: Path, **options: Any) -> str:
    """`yes`, or the reason why not."""
    try:
        mona_peft.export(loaded, path, **options)
    except ValueError as error:
        return str(error)
    return "yes"


@contextmanager
def traced_once() -> Iterator[None]:
    """One trace serves both formats, as tracing takes the most time."""
    traces: dict[Any, Any] = {}
    trace = export_module.trace

    def traced(outputs: Any, inputs: Any, frame: Any, replaced: Any) -> Any:
        if frame not in traces:
            try:
                traces[frame] = trace(outputs, inputs, frame, replaced)
            except ValueError as error:
                traces[frame] = error
        if isinstance(traces[frame], ValueError):
            raise traces[frame]
        return traces[frame]

    with mock.patch.object(export_module, "trace", traced):
        yield


def place(family: Family) -> Path:
    """The file of what was found of a family."""
    return FOUND / f"{re.sub('[^a-z0-9]+', '-', family_id(family).lower())}.json"


def render() -> str:
    """The table of the families that were tried as Markdown, its reasons as notes below."""
    header = ["library", "backbone", *COLUMNS]
    lines, notes = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)], []
    for family in filter(lambda family: place(family).exists(), FAMILIES):
        cells = []
        for reason in json.loads(place(family).read_text()).values():
            if reason not in ("yes", ONNX_ALONE, NO_CLASSIFIER):
                notes += [reason] if reason not in notes else []
                reason = f"no ({notes.index(reason) + 1})"
            cells.append("." if reason == NO_CLASSIFIER else reason)
        lines.append("| " + " | ".join([family.library, family.name, *cells]) + " |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Try families, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families, such as transformers-vit; all if none is named")
    parser.add_argument("--write", action="store_true", help="write the table into docs/export.md")
    asked = parser.parse_args(arguments)
    if asked.write:
        PAGE.write_text(replace_block(PAGE.read_text(), render(), BLOCK))
        return
    FOUND.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        if not asked.names or family_id(family) in asked.names:
            found = try_family(family)
            place(family).write_text(json.dumps(found, indent=1))
            print(family_id(family), found, flush=True)


if __name__ == "__main__":
    main()
