"""The README of a trained repository: task, data, results, how they came about, how to use them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .environment import (
    command_line,
    is_hub_id,
    is_public,
    last_name,
    names_a_place,
    package_versions,
    public_name,
)
from .files import Json
from .markdown import code, escape, fence

SPLITS = ("validation", "test")
# What the Hub lists as metrics: no loss or count, and no metric of a single class.
METRIC = re.compile(r"(?!(?:loss|(?:num_)?samples)$)[a-z0-9_]+")
#: What the Hub calls our tasks, where it has another name.
PIPELINE_TAGS = {"semantic-segmentation": "image-segmentation", "instance-segmentation": "image-segmentation"}
CARD = "README.md"
# What PEFT and `transformers.Trainer` leave in a card that nobody has filled.
BLANK = ("[More Information Needed]", "More information needed")
#: The last line of our cards. A card without it is its author's, and `mona_peft.save` leaves it alone.
MARK = "<!-- Written by mona-peft; without this line mona_peft.save leaves this card as it is. -->"

CLASSIFIER_USAGE = """
import mona_peft
from PIL import Image

loaded = mona_peft.load({repository})  # the base model with adapter, head and label names; and the image processor
print(loaded.predict([Image.open("image.jpg")]))
"""

DENSE_USAGE = """
import mona_peft
from PIL import Image

loaded = mona_peft.load({repository})
image = Image.open("image.jpg")
found = loaded.predict([image])[0]
loaded.draw(image).save("found.png")
"""

ADAPTER_NOTE = """`import mona_peft` must come before PEFT or transformers load this adapter: it registers the method
with PEFT, which otherwise ends in a `KeyError`."""

CITATION = """@inproceedings{yin2025mona,
  title     = {5\\%>100\\%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks},
  author    = {Yin, Dongshuo and Hu, Leiyi and Li, Bin and Zhang, Youqun and Yang, Xue},
  booktitle = {CVPR},
  year      = {2025},
  eprint    = {2408.08345},
}"""


def write_card(folder: Path, facts: Mapping[str, str], figures: Json, usage: str, command: bool = True) -> Path:
    """Write `README.md` with the metadata that the Hub reads.

    Args:
        folder (`Path`): The repository.
        facts (`Mapping[str, str]`): Where known `task`, `base_model`, `dataset`, `method`.
        figures (`Json`): Metrics of each split, under its name.
        usage (`str`): Python code that loads the model and predicts.
        command (`bool`): Whether to tell the command that runs.
    """
    place = folder.resolve()
    name = (place.parent if place.name == "model" else place).name  # a run keeps its model in such a folder
    versions = ", ".join(f"{package} {number}" for package, number in package_versions().items())
    adapter = (folder / "adapter_config.json").exists()
    ran = f"Command:\n\n{fence(command_line(), 'bash')}\n\n" if command else ""
    sections = [
        f"# {escape(name)}",
        _summary(facts),
        f"## Use\n\n{fence(install_line(), 'bash')}\n\n{fence(usage, 'python')}"
        + (f"\n\n{ADAPTER_NOTE}" if adapter else ""),
        f"## Results\n\n{_results_table(figures)}",
        f"## Training\n\n{ran}Versions: {versions}.",
        f"## Citation\n\n{fence(CITATION, 'bibtex')}",
        MARK,
    ]
    data = card_metadata(name, facts, figures, folder)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")
    path = folder / CARD
    card.save(path)
    return path


@contextmanager
def keeping_card(folder: Path) -> Iterator[None]:
    """Leave a card that is neither ours nor a blank template as it is, whatever is written meanwhile."""
    card = folder / CARD
    before = card.read_bytes() if card.is_file() else b""
    text = before.decode("utf-8", errors="replace")
    try:
        yield
    finally:
        if text.strip() and MARK not in text and not any(blank in text for blank in BLANK):
            card.write_bytes(before)


def card_metadata(name: str, facts: Mapping[str, str], figures: Json, folder: Path) -> ModelCardData:
    """The metadata: library, licence, base model, task, data set and results; nothing that is only guessed."""
    base, dataset = facts.get("base_model"), public_name(str(facts.get("dataset", "unknown")))
    task, on_hub = facts.get("task", ""), is_hub_id(base)
    adapter, whole = (folder / "adapter_config.json").exists(), (folder / "model.safetensors").exists()
    results = [
        EvalResult(
            task_type=facts.get("task", "other"),
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
        pipeline_tag=PIPELINE_TAGS.get(task, task) or None,
        base_model=base if on_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if on_hub else None,
        datasets=[dataset] if is_hub_id(dataset) else None,
        metrics=metrics or None,
        tags=["mona-peft", str(facts.get("method", "peft")), "vision"],
        model_name=name,
        eval_results=results or None,
    )


def install_line() -> str:
    """How to install this package: from where it came here, or from a copy of its source."""
    try:
        origin = json.loads(distribution("mona-peft").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    commit = origin.get("vcs_info", {}).get("commit_id")
    if commit and origin.get("url", "").startswith("https://"):
        return f'pip install "mona-peft[train] @ git+{origin["url"]}@{commit}"'
    return 'pip install "./mona-peft[train]"  # with a copy of its source in the folder mona-peft'


def usage_for(task: str | None, repository: str, base_model: str | None = None) -> str:
    """Code that loads a repository and predicts.

    Args:
        task (`str`, *optional*): What it solves.
        repository (`str`): Folder or Hub id.
        base_model (`str`, *optional*): To be named because the repository does not say it.
    """
    text = CLASSIFIER_USAGE if task in (None, "image-classification") else DENSE_USAGE
    repository = last_name(repository) if names_a_place(repository) else repository
    return text.format(repository=load_arguments(repository, base_model))


def load_arguments(repository: str, base_model: str | None = None) -> str:
    """Arguments of `mona_peft.load`, as code."""
    return json.dumps(repository, ensure_ascii=False) + (
        f", base_model={json.dumps(base_model, ensure_ascii=False)}" if base_model else ""
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


def _summary(facts: Mapping[str, str]) -> str:
    lines = [f"- Task: {code(facts['task'])}"] if facts.get("task") else []
    base = facts.get("base_model")
    if base:
        note = "" if is_public(base) else " (a folder of the author: give `base_model=` when loading)"
        lines.append(f"- Base model: {code(public_name(base))}{note}")
    lines += [
        f"- {label}: {code(public_name(str(facts[key])))}"
        for label, key in (("Data", "dataset"), ("Method", "method"))
        if facts.get(key)
    ]
    return "\n".join(lines)


def _results_table(figures: Json) -> str:
    if not any(_numbers(figures.get(split, {})) for split in SPLITS):
        return "The author gave none."
    rows = ["| split | metric | value |", "|---|---|---|"]
    for split in SPLITS:
        for name, value in _numbers(figures.get(split, {})).items():
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            rows.append(f"| {split} | {escape(name)} | {shown} |")
    return "\n".join(rows)


def _numbers(figures: Mapping[str, object]) -> dict[str, int | float]:
    return {
        name: value
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
