"""The demos: a study of three methods that is printed, and whose models stay.

Every method gets the same grid of learning rates and chooses from it on the validation split; the table is of the
test split. `python -m mona_peft.finetuning.study.demo FOLDER` evaluates a model of the demo on digits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from statistics import mean
from typing import TypedDict

from transformers.utils import logging as transformers_logging

from mona_peft.finetuning.environment import made_by
from mona_peft.finetuning.files import write_json
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.study.testbeds.digits import DEMO_SIZES, DigitsTestbed, adaptation_task
from mona_peft.finetuning.study.testbeds.scene_models import SCENES
from mona_peft.finetuning.study.testbeds.scenes import SIZES as SCENES_SIZES
from mona_peft.finetuning.study.testbeds.scenes import ScenesTestbed
from mona_peft.finetuning.study.testbeds.testbed import Testbed
from mona_peft.finetuning.training.evaluation import evaluate_model, number_of

from .demo_pictures import draw_predictions
from .plan import Plan
from .records import Record
from .runs import Study
from .selection import chosen_records
from .statistics import spread
from .variants import method_variants

METHODS = ("mona", "fixed", "full")
# The paper's 64 is a third of the width of Swin-L's first stage; this is half of the small backbones'.
METHOD_OPTIONS = {"mona": {"bottleneck_dim": 16}}


class DemoRow(TypedDict):
    """A method in the table of a demo, at the learning rate that was chosen for it.

    Args:
        method (`str`): Its name.
        learning_rate (`float`): That rate.
        backbone_trainable (`int`): Parameters that train in the backbone.
        head_trainable (`int`): Those in the head.
        metric (`str`): What was measured.
        test (`list[float]`): The metric on the test split, one a seed.
        seconds (`float`): Of a run, on average.
        bytes_on_disk (`int`): Of the trained part.
    """

    method: str
    learning_rate: float
    backbone_trainable: int
    head_trainable: int
    metric: str
    test: list[float]
    seconds: float
    bytes_on_disk: int


def run_demo(size_name: str, folder: Path) -> dict[str, object]:
    """Pretrain, adapt by every method, print the table, and evaluate the saved Mona adapter in a new process.

    Args:
        size_name (`str`): A key of `DEMO_SIZES`.
        folder (`Path`): Where everything is written, under the name of the size.

    Returns:
        `dict[str, object]`: The rows of the table, and the reloaded adapter's folder and accuracies.

    Raises:
        ValueError: If there is no such size.
        RuntimeError: If the reloaded adapter does not reach the accuracy it had.
    """
    _check_size(size_name, DEMO_SIZES)
    testbed = DigitsTestbed(DEMO_SIZES[size_name])
    study = _study(testbed, folder / size_name, folder / size_name / "pretrained", testbed.seeds)
    rows, chosen = _run(study, "digits 5 to 9")
    write_json(
        folder / f"{_named('digits', size_name)}.json",
        {"task": "classification", "rows": rows, **made_by(("--demo_dir",))},
    )
    return {"rows": rows, **_reload(study, chosen["mona"][0])}


def run_dense_demo(task_name: str, architecture: str, size_name: str, folder: Path) -> dict[str, object]:
    """Pretrain (once for all models), train every method, print the table and draw predictions next to the truth.

    Rates are tried with the first seed, and the other seeds run at the one that serves the method best.

    Args:
        task_name (`str`): A key of `DENSE_KINDS`.
        architecture (`str`): One of the task's.
        size_name (`str`): A key of `SIZES` of the scenes.
        folder (`Path`): Where everything is written, the models under the name of the size.

    Returns:
        `dict[str, object]`: The rows of the table and the path of the pictures.

    Raises:
        ValueError: If there is no such size, or the task has no such architecture.
    """
    _check_size(size_name, SCENES_SIZES)
    testbed = ScenesTestbed(task_name, architecture, SCENES_SIZES[size_name])
    study = _study(testbed, folder / size_name / architecture, folder / size_name, 1)
    rows, chosen = _run(study, f"{testbed.model.title}, {task_name.replace('_', ' ')}")
    name = _named(architecture, size_name)
    pictures = folder / f"{name}.png"
    models = {method: study.model(records[0]) for method, records in chosen.items()}
    draw_predictions(models, task_name, SCENES, pictures)
    print(f"Predictions next to the truth: {pictures}")
    result: dict[str, object] = {
        "architecture": architecture,
        "task": task_name,
        "rows": rows,
        "pictures": str(pictures),
    }
    write_json(folder / f"{name}.json", {**result, **made_by(("--demo_dir",))})
    return result


def _check_size(name: str, sizes: Collection[str]) -> None:
    if name not in sizes:
        raise ValueError(f"Unknown demo size {name!r}; choose one of {', '.join(sizes)}.")


def _named(what: str, size_name: str) -> str:
    """What results are called: those of another size than the full one beside it, not in its place."""
    return what if size_name == "full" else f"{what}-{size_name}"


def _study(testbed: Testbed, folder: Path, prepared: Path, search_seeds: int) -> Study:
    variants = tuple(method_variants(METHODS, METHOD_OPTIONS))
    plan = Plan(variants, testbed.learning_rates, testbed.seeds, search_seeds)
    return Study(testbed, plan, folder, prepared, keep_models=True, measure_memory=False)


def _run(study: Study, title: str) -> tuple[list[DemoRow], dict[str, list[Record]]]:
    """Do the runs that are missing and print the table; gives its rows and the runs at the chosen rates."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if found := study.records():
        print(f"{len(found)} runs are in {study.folder} already; another --demo_dir makes all of them.")
    study.run()
    chosen = chosen_records(study.records(), study.plan.searched)
    rows = [demo_row(records, study.testbed.metric) for records in chosen.values()]
    print(f"\n{title}: {study.testbed.sizes()}, {study.plan.seeds} seeds\n{format_rows(rows)}")
    return rows, chosen


def demo_row(records: list[Record], metric: str) -> DemoRow:
    """What the table says of a method: its runs at the chosen learning rate."""
    first = records[0]
    return {
        "method": first.method,
        "learning_rate": first.learning_rate,
        "backbone_trainable": first.backbone_trainable,
        "head_trainable": first.head_trainable,
        "metric": metric,
        "test": [record.test.get(metric, 0.0) for record in records],
        "seconds": mean(record.seconds for record in records),
        "bytes_on_disk": first.bytes_on_disk,
    }


def format_rows(rows: list[DemoRow]) -> str:
    """The rows as text; the metric as mean and standard deviation over the seeds."""
    title = f"test {rows[0]['metric']}"
    lines = [
        f"{'method':<8}{'rate':>8}{'backbone':>10}{'head':>9}{title:>20}{'seconds':>9}{'on disk':>11}",
        f"{'':<8}{'':>8}{'trains':>10}{'trains':>9}{'mean ± std':>20}{'a run':>9}",
    ]
    for row in rows:
        values = [100 * value for value in row["test"]]
        lines.append(
            f"{row['method']:<8}{row['learning_rate']:>8.0e}{row['backbone_trainable']:>10,}{row['head_trainable']:>9,}"
            f"{f'{mean(values):.1f}% ± {spread(values):.1f}':>20}{row['seconds']:>9.1f}"
            f"{row['bytes_on_disk'] / 1000:>8,.0f} kB"
        )
    return "\n".join(lines)


def _reload(study: Study, record: Record) -> dict[str, object]:
    """Evaluate the saved adapter of a run in a new process and compare."""
    repository, before = study.model(record), record.test["accuracy"]
    command = [sys.executable, "-m", "mona_peft.finetuning.study.demo", str(repository)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = json.loads(output.splitlines()[-1])["accuracy"]
    print(f"\nThe Mona adapter is in {repository}")
    print(f"Test accuracy when it was trained: {before:.2%}; loaded again in a new process: {after:.2%}")
    if before != after:
        raise RuntimeError(f"The adapter in {repository} reached {before} and, loaded again, {after}.")
    return {"adapter": str(repository), "accuracy_before": before, "accuracy_after": after}


def evaluate_saved(repository: Path) -> float:
    """Accuracy of a saved repository on the held-out scans of 5 to 9."""
    task = adaptation_task(str(repository), seed=0, shots=1, method="fixed")
    return number_of(evaluate_model(task, load(repository).model, "test", batch_size=100), "accuracy")


if __name__ == "__main__":
    transformers_logging.disable_progress_bar()
    print(json.dumps({"accuracy": evaluate_saved(Path(sys.argv[1]))}))
