"""The demo: a small Swin pretrained on scanned digits 0 to 4 is adapted to 5 to 9 from a few labelled scans.

Every method gets the same grid of learning rates and chooses from it on the validation split; the test split is read
once, for the chosen rate. `python -m mona_peft.finetuning.study.digits_demo FOLDER` evaluates a saved adapter on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from tqdm.auto import tqdm
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor
from transformers.utils import logging as transformers_logging

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.embedded.digits import load_adaptation_digits, load_pretraining_digits
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.repository import weights_size
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.finetuning.training import Trainer, TrainingConfig
from mona_peft.finetuning.training.evaluation import evaluate_model
from mona_peft.summary import summary

METHODS = ("mona", "fixed", "full")
# The paper's 64 is a third of the width of Swin-L's first stage; this is half of the small Swin's.
METHOD_OPTIONS = {"mona": '{"bottleneck_dim": 16}'}
IMAGE_SIZE = 32


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does.

    Args:
        pretraining_epochs (`int`): over the scans of 0 to 4.
        epochs (`int`): over the few scans of 5 to 9.
        shots (`int`): labelled scans a class.
        seeds (`int`): runs of each method at each learning rate.
        learning_rates (`tuple[float, ...]`): the grid of every method.
    """

    pretraining_epochs: int
    epochs: int
    shots: int
    seeds: int
    learning_rates: tuple[float, ...]


SIZES = {
    "full": DemoSize(
        pretraining_epochs=12, epochs=30, shots=8, seeds=3, learning_rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    ),
    "tiny": DemoSize(pretraining_epochs=2, epochs=4, shots=4, seeds=2, learning_rates=(3e-3,)),
}


@dataclass(frozen=True)
class Run:
    """One adaptation run: what it reached on the validation split, and its trainer with the best weights."""

    method: str
    learning_rate: float
    seed: int
    validation: float
    seconds: float
    trainer: Trainer
    repository: Path

    def test_accuracy(self) -> float:
        """Accuracy on the held-out scans."""
        result = self.trainer.evaluate("test")
        assert result is not None, "the demo's data has a test split"
        return result[0]["accuracy"]


def small_swin(class_names: tuple[str, ...], embed_dim: int = 32) -> SwinForImageClassification:
    """A Swin of two stages of two blocks for 32x32 images, an 8x8 grid of 4x4 patches, with random weights."""
    labels = dict(enumerate(class_names))
    config = SwinConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        embed_dim=embed_dim,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        drop_path_rate=0.0,
        initializer_range=0.2,  # the usual 0.02 is for widths of hundreds: here signals would fade
        id2label=labels,
        label2id={name: label for label, name in labels.items()},
    )
    return SwinForImageClassification(config)


def digits_data(seed: int, shots: int) -> ClassificationData:
    """Scans of 5 to 9 with few training scans."""
    splits = load_adaptation_digits(shots=shots, seed=seed)
    return ClassificationData("digits-5-9", splits, tuple(splits["train"].features["label"].names))


def demo_task(
    data: ClassificationData, method: str, model: str | None = None, embed_dim: int = 32
) -> ClassificationTask:
    """The task of one run: pretraining where `model` is left out, else adapting the model in that folder."""
    # Mirrored digits are other signs, and a scan is cropped tightly as it is.
    recipe = ClassificationConfig(
        model_name_or_path=model or "",
        method=method,
        method_options=METHOD_OPTIONS.get(method, "{}"),
        crop_scale=[0.7, 1.0],
        horizontal_flip=0.0,
        resize_ratio=1.0,
    )
    if model is not None:
        return ClassificationTask(data, recipe)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return ClassificationTask(
        data, recipe, model_factory=partial(small_swin, embed_dim=embed_dim), processor=processor
    )


def pretrain(folder: Path, size: DemoSize, embed_dim: int = 32) -> Path:
    """Train the small Swin on 0 to 4 and give back the folder with the model."""
    splits = load_pretraining_digits()
    data = ClassificationData("digits-0-4", splits, tuple(splits["train"].features["label"].names))
    trainer = Trainer(
        demo_task(data, "full", embed_dim=embed_dim),
        TrainingConfig(
            output_dir=str(folder),
            overwrite_output_dir=True,
            num_epochs=size.pretraining_epochs,
            batch_size=32,
            learning_rate=2e-3,
            warmup_epochs=1,
            no_checkpoints=True,
            report_to=["none"],
        ),
    )
    figures = trainer.train()
    trainer.save(figures)
    trainer.close()
    print(f"Pretrained on digits 0-4: validation accuracy {figures['best_accuracy']:.1%}")
    return (folder / "model").resolve()


def adapt(pretrained: Path, folder: Path, method: str, rate: float, seed: int, size: DemoSize) -> Run:
    """Train one method at one learning rate from one draw of labelled scans, and save it to `folder`."""
    trainer = Trainer(
        demo_task(digits_data(seed, size.shots), method, str(pretrained)),
        TrainingConfig(
            output_dir=str(folder),
            overwrite_output_dir=True,
            num_epochs=size.epochs,
            batch_size=20,
            eval_batch_size=100,
            learning_rate=rate,
            warmup_epochs=size.epochs / 10,
            eval_epochs=max(1, size.epochs // 8),
            seed=seed,
            no_checkpoints=True,
            report_to=["none"],
            progress_bar=False,
        ),
    )
    figures = trainer.train()
    trainer.save(figures)
    return Run(method, rate, seed, figures["best_accuracy"], figures["seconds"], trainer, folder / "model")


def choose_rate(runs: list[Run]) -> list[Run]:
    """The runs, one a seed, of the learning rate with the best mean validation accuracy; the lowest such rate."""
    rates = sorted({run.learning_rate for run in runs})
    by_rate = [[run for run in runs if run.learning_rate == rate] for rate in rates]
    return max(by_rate, key=lambda group: mean(run.validation for run in group))


def table_row(chosen: list[Run]) -> dict[str, object]:
    """Figures of a method at its chosen learning rate, over the seeds."""
    accuracies = [run.test_accuracy() for run in chosen]
    counts = summary(chosen[0].trainer.bare_model)
    return {
        "method": chosen[0].method,
        "learning_rate": chosen[0].learning_rate,
        "backbone_trainable": counts.backbone.trainable,
        "head_trainable": counts.head.trainable,
        "test_accuracy": accuracies,
        "seconds": mean(run.seconds for run in chosen),
        "bytes_on_disk": weights_size(chosen[0].repository),
    }


def format_table(rows: list[dict[str, object]]) -> str:
    """The rows as text; accuracy as mean and standard deviation over the seeds."""
    lines = [
        f"{'method':<8}{'rate':>8}{'backbone':>10}{'head':>7}{'test accuracy':>20}{'seconds':>9}{'on disk':>11}",
        f"{'':<8}{'':>8}{'trains':>10}{'trains':>7}{'mean ± std':>20}{'a run':>9}{'':>11}",
    ]
    for row in rows:
        accuracies = [100 * value for value in row["test_accuracy"]]  # type: ignore[attr-defined]
        spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
        lines.append(
            f"{row['method']:<8}{row['learning_rate']:>8.0e}{row['backbone_trainable']:>10,}{row['head_trainable']:>7,}"
            f"{f'{mean(accuracies):.1f}% ± {spread:.1f}':>20}{row['seconds']:>9.1f}"
            f"{row['bytes_on_disk'] / 1000:>8,.0f} kB"  # type: ignore[operator]
        )
    return "\n".join(lines)


def run_demo(size_name: str, folder: Path) -> dict[str, object]:
    """Pretrain, adapt by every method, print the table, save the Mona adapter and evaluate it in a new process.

    Args:
        size_name (`str`): a key of `SIZES`.
        folder (`Path`): where everything is written.

    Returns:
        `dict[str, object]`: the rows of the table, and the reloaded adapter's folder and accuracies.

    Raises:
        `ValueError`: if there is no such size.
        `RuntimeError`: if the reloaded adapter does not reach the accuracy it had.
    """
    if size_name not in SIZES:
        raise ValueError(f"Unknown demo size {size_name!r}; choose one of {', '.join(SIZES)}.")
    size = SIZES[size_name]
    transformers_logging.disable_progress_bar()
    pretrained = pretrain(folder / "pretrained", size)
    plan = [(method, rate, seed) for method in METHODS for rate in size.learning_rates for seed in range(size.seeds)]
    runs = []
    for method, rate, seed in (bar := tqdm(plan, desc="adapting to digits 5-9", unit="run")):
        bar.set_postfix(method=method, lr=rate, seed=seed)
        runs.append(adapt(pretrained, folder / f"{method}-{rate:g}-{seed}", method, rate, seed, size))
    chosen = {method: choose_rate([run for run in runs if run.method == method]) for method in METHODS}
    rows = [table_row(group) for group in chosen.values()]
    print(f"\n{size.shots} labelled scans a class, {size.seeds} seeds, {_test_size()} held-out scans")
    print(format_table(rows))
    return {"rows": rows, **_reload(chosen["mona"][0])}


def _test_size() -> int:
    return len(load_adaptation_digits()["test"])


def _reload(run: Run) -> dict[str, object]:
    """Evaluate the saved adapter of a run in a new process and compare."""
    before = run.test_accuracy()
    command = [sys.executable, "-m", "mona_peft.finetuning.study.digits_demo", str(run.repository)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = json.loads(output.splitlines()[-1])["accuracy"]
    print(f"\nThe Mona adapter is in {run.repository}")
    print(f"Test accuracy when it was trained: {before:.2%}; loaded again in a new process: {after:.2%}")
    if before != after:
        raise RuntimeError(f"The adapter in {run.repository} reached {before} and, loaded again, {after}.")
    return {"adapter": str(run.repository), "accuracy_before": before, "accuracy_after": after}


def evaluate_saved(repository: Path) -> float:
    """Accuracy of a saved repository on the held-out scans of 5 to 9."""
    loaded = load(repository)
    task = demo_task(digits_data(seed=0, shots=1), "fixed", str(repository))
    return evaluate_model(task, loaded.model, "test", batch_size=100)["accuracy"]


if __name__ == "__main__":
    transformers_logging.disable_progress_bar()
    print(json.dumps({"accuracy": evaluate_saved(Path(sys.argv[1]))}))
