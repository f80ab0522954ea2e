"""The training loop, on accelerate. It knows steps, checkpoints and figures; the task knows everything else."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch

from mona_peft.finetuning.files import Json
from mona_peft.finetuning.models.weights import count_not_finite

from .averaging import AveragedWeights
from .closing import evaluation_line
from .config import TrainingConfig
from .evaluation import evaluate, number_of
from .launching import StopRequest
from .loaders import eval_loader
from .optim import set_learning_rate
from .preparation import REPOSITORY, PreparedRun
from .progress import Stopwatch, peak_memory_gib, progress_bar
from .run_folder import LOG_FILE, FigureLog
from .streams import StreamLoader
from .task import Meter, Task

__all__ = ["REPOSITORY", "Progress", "Trainer"]


@dataclass
class Progress:
    """Where a run stands. All of it is in a checkpoint.

    Args:
        step (`int`): Optimiser steps done.
        epoch (`int`): Epochs finished.
        batch (`int`): Batches of the current epoch done, on each process.
        best (`float`, *optional*): Best validation metric so far.
        best_step (`int`): The step that reached it.
        evaluations_since_best (`int`): For early stopping.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0


class Trainer(PreparedRun):
    """Trains the model of a task and keeps its best weights.

    Args:
        task (`Task`): Data, model, loss and metrics.
        config (`TrainingConfig`): Everything else.
    """

    def __init__(self, task: Task, config: TrainingConfig) -> None:
        super().__init__(task, config)
        self.log: FigureLog | None = None
        self.last_loss = math.nan
        self.progress = Progress()
        self.stopwatch = Stopwatch()
        self.averaged = self._make_average()

    def train(self) -> Json:
        """Train to the end and load the best weights.

        Returns:
            `Json`: Steps, seconds, best validation metric and its step.

        Raises:
            FloatingPointError: If the loss or a weight is not finite.
            ConnectionError: If another process has ended or stands still.
            SystemExit: If SIGTERM asked for it, after a checkpoint was saved.
        """
        started = time.perf_counter()
        with self.waiting_for_processes():
            self._restore()
            if self.folder and self.accelerator.is_main_process:
                self.log = FigureLog(self.folder / LOG_FILE, self.progress.step)
            shown = self.config.progress_bar and self.accelerator.is_main_process
            self.model.train()
            bar = progress_bar(self.total_steps, self.progress.step, "training", shown)
            with bar as self.bar, StopRequest(self.accelerator) as self.stop:
                while not self._finished():
                    self._train_epoch()
            self.best.restore(self.bare_model)
            self.accelerator.wait_for_everyone()
        return {
            "steps": self.progress.step,
            "seconds": round(time.perf_counter() - started, 2),
            f"best_{self.metric}": self.progress.best,
            "best_step": self.progress.best_step,
            "peak_memory_gib": round(peak_memory_gib(), 3),
        }

    def _make_average(self) -> AveragedWeights | None:
        """The moving average of the weights, if there is to be one.

        Raises:
            ValueError: If each process has a part of the weights only.
        """
        if self.config.ema_decay is None:
            return None
        if self.sharded:
            raise ValueError("ema_decay averages whole weights, and this run shards them: leave it out, or use DDP.")
        averaged = AveragedWeights(self.bare_model, self.config.ema_decay)
        if self.checkpointer is not None:
            self.checkpointer.averaged = averaged
        return averaged

    def try_steps(self) -> None:
        """Train without evaluating or saving anything, to see whether it fits in memory."""
        self.model.train()
        for _, batch in zip(range(self.total_steps), self.loader, strict=False):
            self.train_batch(batch)
        self.close()

    def _restore(self) -> None:
        """Take up the checkpoint that was found, if any."""
        if self.checkpoint is not None and self.checkpointer is not None:
            self.checkpointer.load(self.checkpoint)
            self.progress = Progress(**self.checkpoint.state)

    def _finished(self) -> bool:
        patience = self.config.early_stopping_patience
        impatient = patience is not None and self.progress.evaluations_since_best >= patience
        return self.progress.step >= self.total_steps or impatient

    def _train_epoch(self) -> None:
        """Train from where the run stands to the end of the epoch, or of the run."""
        loader, done = self.loader, self.progress.batch
        if self.batch_sampler is not None:
            self.batch_sampler.epoch = self.progress.epoch
        if done and isinstance(loader, StreamLoader):
            loader = loader.skip(done)
        elif done:
            loader = self.accelerator.skip_first_batches(loader, done)
        batches_per_epoch = len(self.loader)
        self.stopwatch.reset()
        loss = torch.zeros((), device=self.accelerator.device)
        for batch in self.stopwatch.waiting(loader):
            part, grad_norm = self.train_batch(batch)
            loss = loss + part
            self.progress.batch += 1
            ends_epoch = self.progress.batch == batches_per_epoch
            if ends_epoch:
                self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            if self.accelerator.sync_gradients:
                self.progress.step += 1
                self._after_step(loss, grad_norm, ends_epoch)
                if self._finished():
                    break
                loss = torch.zeros_like(loss)

    def train_batch(self, batch: object) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One forward and backward pass and, when gradients are complete, one optimiser step.

        Returns:
            The batch's part of the step's mean loss, and the norm of the step's gradient before it was clipped.
        """
        self.stopwatch.samples += self._samples()
        grad_norm = None
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                loss = self.task.loss(self.model, batch) * self._share()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.config.max_grad_norm is not None:
                grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
            set_learning_rate(self.optimizer, self.schedule(self.progress.step))
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach() / self.config.gradient_accumulation_steps, grad_norm

    def _samples(self) -> int:
        """Samples of the next batch, of all processes; the last of an epoch may have fewer."""
        whole = self.config.batch_size * self.accelerator.num_processes
        sampler = self.batch_sampler
        return whole if sampler is None else min(whole, sampler.size - self.progress.batch * whole)

    def _share(self) -> float:
        """Factor of a batch's loss: accelerate divides it by the accumulation, in a group that ends the epoch too."""
        steps = self.config.gradient_accumulation_steps
        first = self.progress.batch // steps * steps
        return steps / min(steps, len(self.loader) - first)

    def _after_step(self, loss: torch.Tensor, grad_norm: torch.Tensor | None, ends_epoch: bool) -> None:
        """Log, evaluate and save when it is time."""
        progress, config = self.progress, self.config
        self.bar.update()
        if self.averaged is not None:
            self.averaged.update(progress.step)
        self.stopwatch.steps += 1
        last = progress.step >= self.total_steps
        if progress.step % config.logging_steps == 0 or last:
            self._log_step(loss, grad_norm)
        by_epoch = ends_epoch and progress.epoch % config.eval_epochs == 0
        evaluates = last or (by_epoch if config.eval_steps is None else progress.step % config.eval_steps == 0)
        saves = ends_epoch if config.checkpoint_steps is None else progress.step % config.checkpoint_steps == 0
        stops = self.stop.agreed()
        if not (evaluates or saves or stops):
            return
        with self.stopwatch.paused():
            self._check_finite(loss)
            if evaluates:
                with nullcontext() if self.averaged is None else self.averaged.applied():
                    self._evaluate_and_keep_best()
            if self.checkpointer is not None and (saves or stops or self._finished()):
                self.checkpointer.save(progress.step, asdict(progress))
        if stops and not self._finished():
            self.stop.end(self._farewell())

    def _farewell(self) -> str:
        """What to tell a user whose run was stopped."""
        if self.checkpointer is None:
            return f"Stopped by SIGTERM after step {self.progress.step}; without checkpoints nothing of it is kept."
        return f"Stopped by SIGTERM; --resume goes on from step {self.progress.step}, saved in {self.folder}."

    def _check_finite(self, loss: torch.Tensor) -> None:
        """Keep a run that has gone wrong from being saved over what was right.

        Raises:
            FloatingPointError: If the loss, a weight, a buffer or a state of the optimiser is inf or nan.
        """
        state = self.bare_model.state_dict()
        tensors = [state[name] for name in self.best.names]
        tensors += [
            value for kept in self.optimizer.state.values() for value in kept.values() if torch.is_tensor(value)
        ]
        bad = count_not_finite([loss, *tensors], self.accelerator.device)
        if self.accelerator.reduce(bad, "sum").item():
            raise FloatingPointError(
                f"The loss (now {loss.item()}) or a weight is not finite at step {self.progress.step}. Nothing of it "
                "was saved: --resume goes on from the checkpoint before. Otherwise lower learning_rate "
                f"({self.config.learning_rate}), lengthen the warm-up, or train in bf16 or float32."
            )

    def _log_step(self, loss: torch.Tensor, grad_norm: torch.Tensor | None) -> None:
        """Write the figures of the step to bar, log and trackers."""
        loss_value = self.accelerator.reduce(loss, "mean").item()
        if not math.isfinite(loss_value):
            raise FloatingPointError(
                f"The loss is {loss_value} at step {self.progress.step}; lower learning_rate "
                f"({self.config.learning_rate}), lengthen the warm-up, or train in bf16 or float32."
            )
        self.last_loss = loss_value
        figures: dict[str, float] = {"loss": loss_value, "learning_rate": self.schedule(self.progress.step - 1)}
        if grad_norm is not None:
            figures["grad_norm"] = float(grad_norm)
        figures |= self.stopwatch.read() | {"memory_gib": round(peak_memory_gib(), 3)}
        self._write("train", figures)
        self.bar.set_postfix(
            loss=f"{loss_value:.4f}",
            lr=f"{figures['learning_rate']:.2e}",
            img_s=f"{figures['samples_per_second']:.0f}",
            GiB=f"{figures['memory_gib']:.1f}",
        )

    def _write(self, kind: str, figures: Mapping[str, object]) -> None:
        """Send figures to the log and the trackers."""
        step = self.progress.step
        if self.log is not None:
            self.log.write(kind, step, step / self.steps_per_epoch, **figures)
        numbers = {f"{kind}/{name}": value for name, value in figures.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=step)

    def evaluate(self, split: str) -> tuple[dict[str, object], Meter] | None:
        """Figures of the model as it stands on a split, and the filled meter; `None` if there is no such split."""
        if split not in self.eval_loaders:
            dataset = self.task.dataset(split)
            batch_size = self.config.eval_batch_size or self.config.batch_size
            self.eval_loaders[split] = None
            if dataset is not None:
                loader = eval_loader(dataset, self.task.collate(split), batch_size, self.config.num_workers)
                self.eval_loaders[split] = self.accelerator.prepare_data_loader(loader)
        prepared = self.eval_loaders[split]
        if prepared is None:
            return None
        meter = evaluate(self.accelerator, self.task, self.model, split, prepared)
        return {**meter.compute(), "num_samples": meter.num_samples}, meter

    def _tell(self, figures: Mapping[str, object]) -> None:
        """Print a line above the progress bar."""
        if self.bar.disable:
            return
        progress = self.progress
        epoch, best_epoch = (round(step / self.steps_per_epoch, 2) for step in (progress.step, progress.best_step))
        loss, value = number_of(figures, "loss", self.last_loss), number_of(figures, self.metric)
        self.bar.write(evaluation_line(epoch, loss, self.metric, value, progress.best, best_epoch))

    def _evaluate_and_keep_best(self) -> None:
        """Evaluate on the validation split; keep the weights if they are the best so far."""
        result = self.evaluate("validation")
        progress = self.progress
        if result is None:
            progress.best_step = progress.step
            self.best.keep(self.model)
            return
        figures = result[0]
        self._write("validation", figures)
        self._keep_if_best(figures)
        self._tell(figures)

    def _keep_if_best(self, figures: Mapping[str, object]) -> None:
        """Keep the weights if these validation metrics are the best so far."""
        progress = self.progress
        value = number_of(figures, self.metric)
        sign = 1 if self.greater_is_better else -1
        progress.evaluations_since_best += 1
        if math.isfinite(value) and (progress.best is None or sign * value > sign * progress.best):
            progress.best, progress.best_step, progress.evaluations_since_best = value, progress.step, 0
            self.best.keep(self.model)
        elif progress.best is None:
            progress.best_step = progress.step
            self.best.keep(self.model)
