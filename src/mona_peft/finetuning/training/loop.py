"""The training loop, on accelerate. It knows steps, checkpoints and figures; the task knows everything else."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mona_peft.finetuning.model_card import write_card

from .checkpointing import (
    Checkpointer,
    bare_name,
    load_sharded_weights,
    load_weights,
    newest_checkpoint,
    save_weights,
    trainable_names,
    unwrap_model,
    write_json,
)
from .config import FREE_ON_RESUME, TrainingConfig
from .evaluation import evaluate
from .launching import allow_sharding_on_cpu, check_launch, check_sharding
from .loaders import eval_loader, train_loader
from .optim import make_optimizer, make_schedule, parameter_groups, set_learning_rate
from .progress import Stopwatch, peak_memory_gib, progress_bar
from .run_folder import LOG_FILE, FigureLog, open_run
from .streams import StreamLoader
from .task import Meter, Task
from .tracking import resolve_trackers

BEST_WEIGHTS = "best.safetensors"
# Folder, inside that of the run, that holds what is published.
REPOSITORY = "model"


@dataclass
class Progress:
    """Where a run stands. All of it is in a checkpoint.

    Args:
        step (`int`): optimiser steps done.
        epoch (`int`): epochs finished.
        batch (`int`): batches of the current epoch done, on each process.
        best (`float`, *optional*): best validation figure so far.
        best_step (`int`): the step that reached it.
        evaluations_since_best (`int`): for early stopping.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0


class Trainer:
    """Trains the model of a task and keeps its best weights.

    Args:
        task (`Task`): data, model, loss and metrics.
        config (`TrainingConfig`): everything else.
    """

    def __init__(self, task: Task, config: TrainingConfig) -> None:
        self.task = task
        self.config = config
        self.log: FigureLog | None = None
        self.folder = Path(config.output_dir) if config.output_dir else None
        if config.deterministic:
            torch.use_deterministic_algorithms(True)
        trackers = resolve_trackers(config.report_to) if self.folder else []
        check_launch()
        allow_sharding_on_cpu(config.cpu)
        self.accelerator = Accelerator(
            cpu=config.cpu,
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            log_with=trackers or None,
            project_dir=str(self.folder) if self.folder else None,
        )
        if self.folder and self.accelerator.is_main_process:
            settings = {**asdict(config), "task": task.name, **task.describe()}
            open_run(self.folder, settings, FREE_ON_RESUME, config.resume, config.overwrite_output_dir)
        self.accelerator.wait_for_everyone()
        self.progress = Progress()
        self.stopwatch = Stopwatch()
        self.metric = config.metric_for_best or task.best_metric
        self._prepare()
        if trackers:
            self.accelerator.init_trackers("mona-peft")

    def _prepare(self) -> None:
        """Build model, optimiser, schedule and loaders, and hand them to accelerate."""
        config, task = self.config, self.task
        set_seed(config.seed)
        bare = task.build_model()
        if config.channels_last:
            bare = bare.to(memory_format=torch.channels_last)
        if self.sharded:
            check_sharding(self.accelerator.state.fsdp_plugin, bare)
        self.bare_model = bare
        self.weight_names = trainable_names(bare)
        self.checkpointer = None
        if self.folder and not config.no_checkpoints:
            self.checkpointer = Checkpointer(self.accelerator, self.folder, self.weight_names, config.save_total_limit)
        if not self._resumes():
            task.calibrate(bare, self.accelerator.device, config.eval_batch_size or config.batch_size)
        optimizer = make_optimizer(bare, config)
        dataset = task.dataset("train")
        if dataset is None:
            raise ValueError(f"The task {task.name} has no training data.")
        model: Any = torch.compile(bare, backend=config.torch_compile_backend) if config.torch_compile else bare
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.sharded:
            # accelerate finds the shards of the optimiser's parameters by their addresses, which may coincide.
            sharded_groups = parameter_groups(self.unwrapped_model(), config.weight_decay)
            for group, sharded in zip(self.optimizer.param_groups, sharded_groups, strict=True):
                group["params"] = sharded["params"]
        self.loader = self._train_loader(dataset)
        self.eval_loaders: dict[str, DataLoader | None] = {}
        self.steps_per_epoch = math.ceil(len(self.loader) / config.gradient_accumulation_steps)
        self.total_steps = config.num_epochs * self.steps_per_epoch
        if config.max_steps is not None:
            self.total_steps = min(self.total_steps, config.max_steps)
        self.schedule = make_schedule(config, self.steps_per_epoch, self.total_steps)
        # After the model is built alike everywhere: dropout must differ between processes.
        set_seed(config.seed, device_specific=True)

    def _train_loader(self, dataset: Any) -> Any:
        """Batches of one epoch, or of the whole run where the data is a stream."""
        config, collate = self.config, self.task.collate("train")
        self.batch_sampler: Any = None
        if isinstance(dataset, IterableDataset):
            if config.max_steps is None:
                raise ValueError("A stream has no length: give max_steps, and eval_steps to evaluate on the way.")
            length = config.max_steps * config.gradient_accumulation_steps
            sizes = (config.batch_size, config.seed, config.num_workers)
            return StreamLoader(dataset, collate, *sizes, self.accelerator, length)
        loader = train_loader(dataset, collate, config.batch_size, config.seed, config.num_workers)
        self.batch_sampler = loader.batch_sampler
        return self.accelerator.prepare_data_loader(loader)

    def train(self) -> dict[str, Any]:
        """Train to the end and load the best weights.

        Returns:
            `dict[str, Any]`: steps, seconds, best validation figure and its step.

        Raises:
            `FloatingPointError`: if the loss is not a number.
        """
        started = time.perf_counter()
        self._restore()
        if self.folder and self.accelerator.is_main_process:
            self.log = FigureLog(self.folder / LOG_FILE, self.progress.step)
        shown = self.config.progress_bar and self.accelerator.is_main_process
        self.model.train()
        with progress_bar(self.total_steps, self.progress.step, "training", shown) as self.bar:
            while not self._finished():
                self._train_epoch()
        self._load_best()
        self.accelerator.wait_for_everyone()
        return {
            "steps": self.progress.step,
            "seconds": round(time.perf_counter() - started, 2),
            f"best_{self.metric}": self.progress.best,
            "best_step": self.progress.best_step,
            "peak_memory_gib": round(peak_memory_gib(), 3),
        }

    def try_steps(self) -> None:
        """Train without evaluating or saving anything, to see whether it fits in memory."""
        self.model.train()
        for _, batch in zip(range(self.total_steps), self.loader, strict=False):
            self.train_batch(batch)
        self.close()

    def _restore(self) -> None:
        """Take up the newest checkpoint, if the run is to be resumed and has one."""
        if self.config.resume and self.checkpointer is not None:
            state = self.checkpointer.load_newest()
            if state is not None:
                self.progress = Progress(**state)

    def _resumes(self) -> bool:
        """Whether the run has a checkpoint to take up."""
        if not self.config.resume or self.checkpointer is None:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loading it will warn of broken ones
            return newest_checkpoint(self.checkpointer.folder) is not None

    def _finished(self) -> bool:
        patience = self.config.early_stopping_patience
        impatient = patience is not None and self.progress.evaluations_since_best >= patience
        return self.progress.step >= self.total_steps or impatient

    def _train_epoch(self) -> None:
        """Train from where the run stands to the end of the epoch, or of the run."""
        loader = self.loader
        if self.batch_sampler is not None:
            self.batch_sampler.epoch = self.progress.epoch
        if self.progress.batch:
            skip = loader.skip if self.batch_sampler is None else partial(self.accelerator.skip_first_batches, loader)
            loader = skip(self.progress.batch)
        batches_per_epoch = len(self.loader)
        self.stopwatch.reset()
        for batch in self.stopwatch.waiting(loader):
            loss, grad_norm = self.train_batch(batch)
            self.progress.batch += 1
            ends_epoch = self.progress.batch == batches_per_epoch
            if ends_epoch:
                self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            if self.accelerator.sync_gradients:
                self.progress.step += 1
                self._after_step(loss, grad_norm, ends_epoch)
                if self._finished():
                    break

    def train_batch(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One forward and backward pass and, when gradients are complete, one optimiser step."""
        self.stopwatch.samples += self.config.batch_size * self.accelerator.num_processes
        grad_norm = None
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                loss = self.task.loss(self.model, batch)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.config.max_grad_norm is not None:
                grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
            set_learning_rate(self.optimizer, self.schedule(self.progress.step))
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach(), grad_norm

    def _after_step(self, loss: torch.Tensor, grad_norm: torch.Tensor | None, ends_epoch: bool) -> None:
        """Log, evaluate and save when it is time."""
        progress, config = self.progress, self.config
        self.bar.update()
        last = progress.step >= self.total_steps
        if progress.step % config.logging_steps == 0 or last:
            self._log_step(loss, grad_norm)
        if config.eval_steps is not None:
            due = progress.step % config.eval_steps == 0
        else:
            due = ends_epoch and progress.epoch % config.eval_epochs == 0
        if due or last:
            self._evaluate_and_keep_best()
        if config.checkpoint_steps is not None:
            due = progress.step % config.checkpoint_steps == 0
        else:
            due = ends_epoch
        if self.checkpointer is not None and (due or self._finished()):
            self.checkpointer.save(progress.step, asdict(progress))

    def _log_step(self, loss: torch.Tensor, grad_norm: torch.Tensor | None) -> None:
        """Write the figures of the step to bar, log and trackers."""
        loss_value = self.accelerator.reduce(loss, "mean").item()
        if not math.isfinite(loss_value):
            raise FloatingPointError(
                f"The loss is {loss_value} at step {self.progress.step}; lower learning_rate "
                f"({self.config.learning_rate}), lengthen the warm-up, or train in bf16 or float32."
            )
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

    def _write(self, kind: str, figures: dict[str, Any]) -> None:
        """Send figures to the log and the trackers."""
        step = self.progress.step
        if self.log is not None:
            self.log.write(kind, step, step / self.steps_per_epoch, **figures)
        numbers = {f"{kind}/{name}": value for name, value in figures.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=step)

    def evaluate(self, split: str) -> tuple[dict[str, Any], Meter] | None:
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
        meter = evaluate(self.accelerator, self.task, self.model, prepared)
        return {**meter.compute(), "num_samples": meter.num_samples}, meter

    def _evaluate_and_keep_best(self) -> None:
        """Evaluate on the validation split; keep the weights if they are the best so far."""
        result = self.evaluate("validation")
        progress = self.progress
        if result is None:
            progress.best_step = progress.step
            self._save_best()
            return
        figures = result[0]
        if self.metric not in figures:
            raise ValueError(f"There is no figure {self.metric!r}; metric_for_best is one of {', '.join(figures)}.")
        self._write("validation", figures)
        value = figures[self.metric]
        sign = 1 if self.task.greater_is_better else -1
        progress.evaluations_since_best += 1
        if progress.best is None or sign * value > sign * progress.best:
            progress.best, progress.best_step, progress.evaluations_since_best = value, progress.step, 0
            self._save_best()
        self.stopwatch.reset()

    def _save_best(self) -> None:
        """Keep what trains as it is now: on disk, or in memory for a run without a folder."""
        state = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process or self.folder is None:
            names = {bare_name(name): name for name in state}
            kept = {name: state[names[name]].detach().clone() for name in self.weight_names}
            if self.folder is None:
                self.best_state = kept
            else:
                save_weights(kept, self.folder / BEST_WEIGHTS)

    def _load_best(self) -> None:
        """Put the best weights into the model."""
        self.accelerator.wait_for_everyone()
        model = self.unwrapped_model()
        if self.sharded:
            assert self.folder is not None, "a sharded model keeps its best weights on disk"
            load_sharded_weights(model, self.folder / BEST_WEIGHTS)
        elif self.folder is not None:
            load_weights(model, self.folder / BEST_WEIGHTS)
        else:
            model.load_state_dict(self.best_state, strict=False)

    def unwrapped_model(self) -> nn.Module:
        """The model without what accelerate and torch.compile put around it."""
        return unwrap_model(self.accelerator, self.model)

    @property
    def sharded(self) -> bool:
        """Whether each process has a part of the parameters only."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    def _whole_model(self) -> nn.Module:
        """The trained model with all of its parameters; a sharded one is built again and given its best weights."""
        if not self.sharded or self.folder is None:
            return self.unwrapped_model()
        set_seed(self.config.seed)
        model = self.task.build_model()
        load_weights(model, self.folder / BEST_WEIGHTS)
        return model

    def save(self, figures: dict[str, Any]) -> None:
        """Write the repository of the trained model, and `metrics.json` there and into the folder of the run."""
        if self.folder is not None and self.accelerator.is_main_process:
            self.task.save(self._whole_model(), self.folder)
            repository = self.folder / REPOSITORY
            repository.mkdir(exist_ok=True)
            facts = {"task": self.task.name, **self.task.facts()}
            usage = self.task.usage(self.config.hub_model_id or str(repository))
            write_card(repository, facts, figures, usage)
            for folder in (repository, self.folder):
                write_json(folder / "metrics.json", figures)
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """End the trackers and let go of model and data."""
        self.accelerator.end_training()
        self.accelerator.free_memory()
