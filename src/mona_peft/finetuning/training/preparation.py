"""A run made ready: folder, processes, model, optimiser and data; and what is written when it is over."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mona_peft.finetuning.files import write_json
from mona_peft.finetuning.model_card import keeping_card, write_card
from mona_peft.finetuning.models.weights import frozen_digest, load_weights, trainable_names

from .best import BEST_WEIGHTS, BestWeights
from .checkpointing import Checkpoint, Checkpointer
from .config import FREE_ON_RESUME, TrainingConfig
from .launching import check_launch, group_settings, naming_lost_processes
from .loaders import EpochBatchSampler, train_loader
from .optim import make_optimizer, make_schedule
from .run_folder import METRICS_FILE, RunFolder, open_run
from .sharding import check_sharding, is_sharded, regroup_parameters
from .streams import StreamLoader
from .task import Task
from .tracking import resolve_trackers

# Folder, inside that of the run, that holds what is published.
REPOSITORY = "model"


class PreparedRun:
    """Everything of a run but the loop, handed to accelerate.

    Args:
        task (`Task`): Data, model, loss and metrics.
        config (`TrainingConfig`): Everything else.

    Raises:
        ValueError: If the settings do not fit the task, or the run in the folder.
    """

    def __init__(self, task: Task, config: TrainingConfig) -> None:
        self.task = task
        self.config = config
        self.folder = Path(config.output_dir) if config.output_dir else None
        self.metric = config.metric_for_best or task.best_metric
        if self.metric not in task.metrics():
            known = ", ".join(task.metrics())
            raise ValueError(f"There is no metric {self.metric!r} of {task.name}; metric_for_best is one of {known}.")
        self.greater_is_better = task.metrics()[self.metric]
        if config.deterministic:
            torch.use_deterministic_algorithms(True)
        trackers = resolve_trackers(config.report_to) if self.folder else []
        check_launch(config.mixed_precision, config.gradient_accumulation_steps)
        self.accelerator = Accelerator(
            cpu=config.cpu,
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            log_with=trackers or None,
            project_dir=str(self.folder) if self.folder else None,
            kwargs_handlers=[group_settings(config.process_timeout)],
        )
        self.run_folder: RunFolder | None = None
        if self.folder and self.accelerator.is_main_process:
            settings = {**asdict(config), "task": task.name, **task.describe()}
            self.run_folder = open_run(
                self.folder, settings, FREE_ON_RESUME, config.resume, config.overwrite_output_dir
            )
        with self.waiting_for_processes():
            self.accelerator.wait_for_everyone()
            self._prepare()
            self._init_trackers(trackers)

    def waiting_for_processes(self) -> AbstractContextManager[None]:
        """A context in which a process that is lost is named as such."""
        return naming_lost_processes(self.accelerator, self.config.process_timeout)

    def _init_trackers(self, trackers: list[str]) -> None:
        """Start the experiment trackers; the files that they write are the run's own."""
        if self.run_folder is not None:
            for name in ("mona-peft", *trackers):
                if trackers and not (self.run_folder.path / name).exists():
                    self.run_folder.own.add(f"{name}/")
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
        if self.run_folder is not None:
            self.run_folder.own.add(BEST_WEIGHTS)
            processes = self.accelerator.num_processes  # of which the batches of an epoch and the schedule are made
            self.run_folder.confirm(num_processes=processes, base_weights=frozen_digest(bare))
        self.bare_model = bare
        self.best = BestWeights(self.accelerator, trainable_names(bare), self.folder)
        self._find_checkpoint()
        if self.checkpoint is None:
            task.calibrate(bare, self.accelerator.device, config.eval_batch_size or config.batch_size)
        optimizer = make_optimizer(bare, config)
        dataset = task.dataset("train")
        if dataset is None:
            raise ValueError(f"The task {task.name} has no training data.")
        model = torch.compile(bare, backend=config.torch_compile_backend) if config.torch_compile else bare
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.sharded:
            regroup_parameters(self.optimizer, bare, config)
        self.loader = self._train_loader(dataset)
        self.eval_loaders: dict[str, DataLoader | None] = {}
        self.steps_per_epoch = math.ceil(len(self.loader) / config.gradient_accumulation_steps)
        self.total_steps = config.max_steps or config.num_epochs * self.steps_per_epoch
        self.schedule = make_schedule(config, self.steps_per_epoch, self.total_steps)
        # After the model is built, the same everywhere: dropout must differ between processes.
        set_seed(config.seed, device_specific=True)

    def _find_checkpoint(self) -> None:
        """Find the checkpoint to go on from, where the run is to be resumed and has one."""
        self.checkpointer: Checkpointer | None = None
        self.checkpoint: Checkpoint | None = None
        if self.folder is None or self.config.no_checkpoints:
            return
        own = self.run_folder.own if self.run_folder is not None else None
        limit = self.config.save_total_limit
        self.checkpointer = Checkpointer(self.accelerator, self.folder, self.bare_model, self.best, limit, own)
        if self.config.resume:
            self.checkpoint = self.checkpointer.find()

    def _train_loader(self, dataset: Dataset) -> DataLoader | StreamLoader:
        """Batches of one epoch, or of the whole run where the data is a stream."""
        config, collate = self.config, self.task.collate("train")
        self.batch_sampler: EpochBatchSampler | None = None
        if isinstance(dataset, IterableDataset):
            if config.max_steps is None:
                raise ValueError("A stream has no length: give max_steps, and eval_steps to evaluate on the way.")
            length = config.max_steps * config.gradient_accumulation_steps
            sizes = (config.batch_size, config.seed, config.num_workers)
            return StreamLoader(dataset, collate, *sizes, self.accelerator, length)
        loader = train_loader(dataset, collate, config.batch_size, config.seed, config.num_workers)
        assert isinstance(loader.batch_sampler, EpochBatchSampler)
        self.batch_sampler = loader.batch_sampler
        return self.accelerator.prepare_data_loader(loader)

    @property
    def sharded(self) -> bool:
        """Whether each process has a part of the parameters only."""
        return is_sharded(self.accelerator)

    def _whole_model(self) -> nn.Module:
        """The trained model with all of its parameters; a sharded one is built again and given its best weights."""
        if not self.sharded or self.best.path is None:
            return self.bare_model
        set_seed(self.config.seed)
        model = self.task.build_model()
        load_weights(model, self.best.path)
        return model

    def save(self, figures: dict[str, object]) -> None:
        """Write the repository of the trained model, and `metrics.json` there and into the folder of the run."""
        if self.run_folder is not None:
            with self.run_folder.own.noting(), keeping_card(self.run_folder.path / REPOSITORY):
                self.task.save(self._whole_model(), self.run_folder.path)
        self.write_figures(figures)

    def write_figures(self, figures: dict[str, object]) -> None:
        """Write the model card and `metrics.json`, into the repository and into the folder of the run."""
        if self.run_folder is not None:
            repository = self.run_folder.path / REPOSITORY
            with self.run_folder.own.noting(), keeping_card(repository):
                repository.mkdir(exist_ok=True)
                facts = {"task": self.task.name, **self.task.facts()}
                usage = self.task.usage(self.config.hub_model_id or str(repository))
                write_card(repository, facts, figures, usage)
                for folder in (repository, self.run_folder.path):
                    write_json(folder / METRICS_FILE, figures)
        with self.waiting_for_processes():
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """End the trackers, and let go of model, data and folder."""
        self.accelerator.end_training()
        self.accelerator.free_memory()
        if self.run_folder is not None:
            self.run_folder.close()
