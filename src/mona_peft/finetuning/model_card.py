"""The README of a trained repository: task, data, results, how they came about, how to use them."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

PACKAGES = ("mona-peft", "torch", "transformers", "peft", "accelerate", "datasets")

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
        folder (`Path`): the repository.
        facts (`dict[str, Any]`): `task`, and where known `base_model`, `dataset`, `method`.
        figures (`dict[str, Any]`): figures of each split, under its name.
        usage (`str`): Python code that loads the model and predicts.
    """
    metadata = yaml.safe_dump(card_metadata(folder.parent.name, facts, figures), sort_keys=False).strip()
    sections = [
        f"---\n{metadata}\n---",
        f"# {folder.parent.name}",
        _summary(facts),
        f"## Use\n\n```python\n{usage.strip()}\n```",
        f"## Results\n\n{_results_table(figures)}",
        f"## Training\n\nCommand:\n\n```bash\n{command_line()}\n```\n\n{_versions()}",
        f"## Citation\n\n```bibtex\n{CITATION}\n```",
    ]
    path = folder / "README.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def card_metadata(name: str, facts: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """The YAML head: library, licence, base model, task, data set and results."""
    task, dataset = facts["task"], facts.get("dataset", "unknown")
    metadata: dict[str, Any] = {"library_name": "peft", "license": "apache-2.0", "pipeline_tag": task}
    if facts.get("base_model"):
        metadata["base_model"] = facts["base_model"]
    metadata["tags"] = ["mona-peft", str(facts.get("method", "peft")), "vision"]
    results = [
        {
            "task": {"type": task},
            "dataset": {"name": dataset, "type": dataset, "split": split},
            "metrics": [{"type": key, "value": value} for key, value in _numbers(figures[split]).items()],
        }
        for split in ("validation", "test")
        if split in figures
    ]
    if results:
        metadata["model-index"] = [{"name": name, "results": results}]
    return metadata


def command_line() -> str:
    """The command that runs, fit for a shell."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def _summary(facts: dict[str, Any]) -> str:
    lines = [f"- Task: {facts['task']}"]
    lines += [
        f"- {label}: `{facts[key]}`"
        for label, key in (("Base model", "base_model"), ("Data", "dataset"), ("Method", "method"))
        if facts.get(key)
    ]
    return "\n".join(lines)


def _results_table(figures: dict[str, Any]) -> str:
    rows = ["| split | figure | value |", "|---|---|---|"]
    for split in ("validation", "test"):
        for name, value in _numbers(figures.get(split, {})).items():
            rows.append(
                f"| {split} | {name} | {value:.4f} |"
                if isinstance(value, float)
                else f"| {split} | {name} | {value} |"
            )
    return "\n".join(rows)


def _numbers(figures: dict[str, Any]) -> dict[str, int | float]:
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}


def _versions() -> str:
    """Versions of Python and of the packages that matter, as a list."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "Versions: " + ", ".join(found) + "."
