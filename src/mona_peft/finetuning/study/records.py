"""The results of single runs: all that tables, plots and reports are made from.

A study has one JSON file each; results that are committed have one file with a line each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from urllib.parse import quote

from mona_peft.finetuning.files import write_json, write_text

# The testbed goes by this name in files, those of older studies too.
TESTBED_KEY = "benchmark"
#: In a folder of results: the table with what made it, and every run.
RESULTS_FILE = "results.json"
RECORDS_FILE = "records.jsonl"

#: Name of the metric that rates and weights are chosen by, where a table shows it in place of a test metric.
VALIDATION = "validation"
#: What a run tells besides its metrics. Tables show shares, which are better when greater.
NO_SHARES = ("loss", "num_samples")


@dataclass(frozen=True)
class RunKey:
    """Which run of a study.

    Args:
        label (`str`): Of the variant.
        learning_rate (`float`): Of the run.
        seed (`int`): Of the run.
    """

    label: str
    learning_rate: float
    seed: int

    @property
    def file_name(self) -> str:
        """Name of the run's result file; no other run has it."""
        return f"{quote(self.label, safe='=+')}-lr{float(self.learning_rate)!r}-seed{self.seed}.json"


@dataclass(frozen=True)
class Record:
    """What one run gave.

    Args:
        label (`str`): Of the variant.
        method (`str`): Its method.
        options (`dict[str, object]`): Its settings.
        backbone (`str`): Its backbone.
        group (`str`): The setting that it varies, in an ablation.
        learning_rate (`float`): Of the run.
        seed (`int`): Of the run.
        validation (`float`): Best metric on the validation split, the only one that choices are made by.
        test (`dict[str, float]`): Metrics on the test split, of the weights with that best one.
        backbone_trainable (`int`): Parameters trained in the backbone, the method's own included.
        backbone_total (`int`): All parameters of the backbone, the method's own included.
        head_trainable (`int`): Parameters of the head.
        seconds (`float`): Training time, evaluation included: of the processor where the model trains on the CPU,
            which other programs do not lengthen, else of the clock.
        memory_bytes (`int`): What training holds besides the weights; see `training_memory`.
        bytes_on_disk (`int`): Size of the saved weights.
        losses (`list[list[float]]`): Pairs of step and training loss.
        validations (`list[list[float]]`): Pairs of step and validation metric.
        data (`str`): Fingerprint of the data, with the training images that the seed drew.
        versions (`dict[str, str]`): Of the packages that computed it.
        created (`str`): When it ended, in UTC.
        drop_path (`float`, *optional*): The variant's own drop path.
        diverged (`str`): Why the run has no metrics: its loss or a weight was not finite. They count as zero.
    """

    label: str
    method: str
    learning_rate: float
    seed: int
    validation: float
    test: dict[str, float]
    options: dict[str, object] = field(default_factory=dict)
    backbone: str = ""
    group: str = ""
    backbone_trainable: int = 0
    backbone_total: int = 0
    head_trainable: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0
    bytes_on_disk: int = 0
    losses: list[list[float]] = field(default_factory=list)
    validations: list[list[float]] = field(default_factory=list)
    data: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    drop_path: float | None = None
    diverged: str = ""

    @property
    def key(self) -> RunKey:
        """Which run it is."""
        return RunKey(self.label, self.learning_rate, self.seed)

    def metrics(self) -> dict[str, float]:
        """What a table can show: the test metrics that are shares, and the validation metric under its own name."""
        shares = {name: value for name, value in self.test.items() if name not in NO_SHARES}
        return {**shares, VALIDATION: self.validation}

    def metric(self, name: str) -> float:
        """One of them; zero for a run that diverged."""
        return 0.0 if self.diverged else self.metrics()[name]

    def save(self, folder: Path) -> Path:
        """Write the record, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.key.file_name
        write_json(path, asdict(self))
        return path


def load_records(folder: Path) -> list[Record]:
    """Read all records in `folder`, in the order of their names.

    Raises:
        ValueError: If a file is no record.
    """
    return [_parse(path.read_text(encoding="utf-8"), str(path)) for path in sorted(folder.glob("*.json"))]


def write_lines(records: Iterable[Record], path: Path) -> None:
    """Write records to one file, a line each, in the order of their names."""
    lines = sorted(records, key=lambda record: record.key.file_name)
    write_text(path, "".join(json.dumps(asdict(record)) + "\n" for record in lines))


def read_lines(path: Path) -> list[Record]:
    """Read what [`write_lines`] wrote.

    Raises:
        ValueError: If a line is no record.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_parse(line, f"{path}, line {number},") for number, line in enumerate(lines, 1)]


def _parse(text: str, place: str) -> Record:
    try:
        return Record(**json.loads(text))
    except (ValueError, TypeError) as error:
        names = ", ".join(f.name for f in fields(Record))
        raise ValueError(f"{place} is no record of a run ({error}); it must hold {names}. Delete it.") from None
