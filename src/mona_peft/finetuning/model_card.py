"""The README of a trained repository: task, data, results, how they came about, how to use them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mona_peft.finetuning.environment import command_line, is_hub_id, package_versions, public_name

SPLITS = ("validation", "test")
#: Characters that mean something in Markdown, HTML or a table.
MARKUP = re.compile(r"[\\`*_{}\[\]()#+!|<>&~$:@-]")
# What the Hub lists as metrics: no loss, and no metric of a single class.
METRIC = re.compile(r"(?!loss$)[a-z0-9_]+")
INSTALL = 'pip install "mona-peft[train]"'

ADAPTER_NOTE = """`import mona_peft` must come before PEFT or transformers load this adapter: it registers the method
with PEFT, which otherwise ends in a `KeyError`."""

CITATION = """@inproceedings{yin2025mona,
  title     = {5\\%>100\\%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks},
  author    = {Yin, Dongshuo and Hu, Leiyi and Li, Bin and Zhang, Youqun and Yang, Xue},
  booktitle = {CVPR},
  year      = {2025},
  eprint    = {2408.08345},
}"""


def write_card(folder: Path, facts: dict[str, Any], figures: dict[str, Any], usage: str) -> Path:
    """Write `README.md` with the metadata that the Hub reads.

    Args:
        folder (`Path`): The repository.
        facts (`dict[str, Any]`): `task`, and where known `base_model`, `dataset`, `method`.
        figures (`dict[str, Any]`): Metrics of each split, under its name.
        usage (`str`): Python code that loads the model and predicts.
    """
    name = folder.resolve().parent.name
    versions = ", ".join(f"{package} {number}" for package, number in package_versions().items())
    adapter = (folder / "adapter_config.json").exists()
    sections = [
        f"# {escape(name)}",
        _summary(facts),
        f"## Use\n\n{fence(INSTALL, 'bash')}\n\n{fence(usage, 'python')}" + (f"\n\n{ADAPTER_NOTE}" if adapter else ""),
        f"## Results\n\n{_results_table(figures)}",
        f"## Training\n\nCommand:\n\n{fence(command_line(), 'bash')}\n\nVersions: {versions}.",
        f"## Citation\n\n{fence(CITATION, 'bibtex')}",
    ]
    data = card_metadata(name, facts, figures, folder)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")
    path = folder / "README.md"
    card.save(path)
    return path


def card_metadata(name: str, facts: dict[str, Any], figures: dict[str, Any], folder: Path) -> ModelCardData:
    """The metadata: library, licence, base model, task, data set and results; nothing that is only guessed."""
    base, dataset = facts.get("base_model"), public_name(str(facts.get("dataset", "unknown")))
    on_hub = is_hub_id(base)
    adapter, whole = (folder / "adapter_config.json").exists(), (folder / "model.safetensors").exists()
    results = [
        EvalResult(
            task_type=facts["task"],
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_value=value,
        )
        for split in SPLITS
        for metric, value in _numbers(figures.get(split, {})).items()
        if math.isfinite(value)
    ]
    metrics = sorted({result.metric_type for result in results if METRIC.fullmatch(result.metric_type)})
    return ModelCardData(
        library_name="peft" if adapter else "transformers" if whole else "mona-peft",
        license=base_licence(base),
        pipeline_tag=facts["task"],
        base_model=base if on_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if on_hub else None,
        datasets=[dataset] if is_hub_id(dataset) else None,
        metrics=metrics or None,
        tags=["mona-peft", str(facts.get("method", "peft")), "vision"],
        model_name=name,
        eval_results=results or None,
    )


def base_licence(base: str | None) -> str | None:
    """The licence that the base model's own card names, or `None` where that is not known."""
    if not base:
        return None
    card = Path(base) / "README.md"
    try:
        licence = ModelCard.load(card if Path(base).is_dir() else base).data.get("license")
    except Exception:
        return None  # no card, no connection, or a card that cannot be read: whatever it is, the licence is not known
    return licence if isinstance(licence, str) else None


def escape(text: str) -> str:
    """Text that Markdown, HTML and tables show as it is."""
    line = " ".join(text.split())
    return MARKUP.sub(lambda found: f"&#{ord(found.group())};", line)


def code(text: str) -> str:
    """Text as inline code, whatever backticks it holds."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def fence(text: str, language: str) -> str:
    """Text as a block of code, whatever backticks it holds."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"


def _summary(facts: dict[str, Any]) -> str:
    lines = [f"- Task: {escape(facts['task'])}"]
    base = facts.get("base_model")
    if base:
        note = "" if is_hub_id(base) else " (a folder of the author: give `base_model=` when loading)"
        lines.append(f"- Base model: {code(public_name(base))}{note}")
    lines += [
        f"- {label}: {code(public_name(str(facts[key])))}"
        for label, key in (("Data", "dataset"), ("Method", "method"))
        if facts.get(key)
    ]
    return "\n".join(lines)


def _results_table(figures: dict[str, Any]) -> str:
    rows = ["| split | metric | value |", "|---|---|---|"]
    for split in SPLITS:
        for name, value in _numbers(figures.get(split, {})).items():
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            rows.append(f"| {split} | {escape(name)} | {shown} |")
    return "\n".join(rows)


def _numbers(figures: dict[str, Any]) -> dict[str, int | float]:
    return {
        name: value
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
