"""`--tune`: the settings of a method searched on the validation split for some minutes, by Optuna.

The trials are in Optuna's own storage in the folder of the run, so that a search that was killed goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from mona_peft.finetuning.environment import say
from mona_peft.finetuning.tasks.config import ModelConfig
from mona_peft.finetuning.tasks.running import MakeTask
from mona_peft.finetuning.training.config import FREE_ON_RESUME, TrainingConfig
from mona_peft.finetuning.training.loop import Trainer
from mona_peft.finetuning.training.ownership import LIST_FILE, OwnFiles, lock_folder
from mona_peft.finetuning.training.run import fit_batch_size
from mona_peft.finetuning.training.run_folder import RUN_FILE, check_same, refuse_foreign, refuse_run
from mona_peft.finetuning.training.task import Task

from .search_space import RATE, SearchSpace, search_space
from .trials import any_finished, describe_best, write_trials
from .tuning_config import TuneConfig

if TYPE_CHECKING:
    import optuna

FOLDER = "tuning"
STORAGE = "trials.db"
NAME = "tuning"
#: Trials that are never pruned: with fewer there is no median to be worse than.
UNPRUNED = 3
#: What a setting may do to a training without the search being over.
FAILURES = (FloatingPointError, torch.OutOfMemoryError)


class Pruned(Exception):
    """A trial ends before its training does."""


class Trial(Trainer):
    """The training of one setting, which tells Optuna of each evaluation.

    Args:
        task (`Task`): With the settings of the trial.
        config (`TrainingConfig`): With its learning rate.
        trial (`optuna.Trial`): Reports to the search.
        began (`float`): When the trial before it ended, or the search began, by `time.perf_counter`.
        deadline (`float`): When the time of the search is over.
    """

    def __init__(self, task: Task, config: TrainingConfig, trial: optuna.Trial, began: float, deadline: float) -> None:
        super().__init__(task, config)
        self.trial = trial
        self.began = began
        self.deadline = deadline

    def measure(self) -> float:
        """Train, and give the best value on the validation split.

        Raises:
            Pruned: If it is worse than the others, or time is over.
        """
        try:
            self.train()
        finally:
            self._note_time()
            self.close()
        if not super()._finished():
            raise Pruned("out of time")
        if self.progress.best is None:
            raise FloatingPointError(f"{self.metric} is not defined")
        return self.progress.best

    def _note_time(self) -> None:
        self.trial.set_user_attr("seconds", time.perf_counter() - self.began)

    def _finished(self) -> bool:
        return super()._finished() or time.perf_counter() > self.deadline

    def _keep_if_best(self, figures: Mapping[str, object]) -> None:
        super()._keep_if_best(figures)
        self._note_time()
        if self.progress.best is None:
            return
        self.trial.report(self.progress.best, self.progress.step)
        if self.trial.should_prune() and not super()._finished():
            raise Pruned("pruned")

    def _farewell(self) -> str:
        return f"Stopped by SIGTERM in trial {self.trial.number}; the same command with --resume goes on."


def require_optuna() -> ModuleType:
    """Optuna, with warnings alone.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise ValueError(
            "--tune needs Optuna, which is not installed: pip install optuna, or install mona-peft with its extra "
            "[tune]."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def tune(
    make: MakeTask, config: ModelConfig, training: TrainingConfig, search: TuneConfig
) -> tuple[ModelConfig, TrainingConfig]:
    """Search the settings of the method, and give those with the best value on the validation split.

    Args:
        make (`Callable`): Makes a task of the settings of a task.
        config (`ModelConfig`): The settings of the task to start from.
        training (`TrainingConfig`): The settings of the loop to start from; with a folder.
        search (`TuneConfig`): How long.

    Returns:
        The two with what was found; the folder then holds the trials, and the run goes into it.

    Raises:
        FileExistsError: If the folder holds a run or a search, and nothing is to be resumed or overwritten.
        ValueError: If Optuna is missing, there is no validation split, several processes train, or the search in the
            folder had other settings.
    """
    require_optuna()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--tune searches in one process; start the command without a launcher.")
    if not training.output_dir:
        raise ValueError("--tune keeps its trials in the folder of the run: name it with --output_dir.")
    task = make(config)
    if task.dataset("validation") is None:
        raise ValueError(
            "--tune judges settings on the validation split, and the data has none: give --validation_fraction 0.1, "
            "or name the split with --validation_split."
        )
    folder = Path(training.output_dir)
    refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        _claim(folder, training)
        if training.auto_batch_size:
            training = replace(fit_batch_size(task, training), auto_batch_size=False)
        found = _search(make, task, config, training, search, folder)
    finally:
        lock.release()
    options = {name: value for name, value in found.items() if name != RATE}
    tuned = replace(config, method_options={**config.method_options, **options})
    return tuned, replace(training, learning_rate=found[RATE], overwrite_output_dir=False)


def _claim(folder: Path, training: TrainingConfig) -> None:
    """List the folder of the trials as the run's own, once nothing of another run is there."""
    own = OwnFiles.read(folder)
    if own is not None and training.overwrite_output_dir:
        own.clear()
        own = None
    searched = (folder / FOLDER).exists()
    if own is not None and not training.resume and (searched or (folder / RUN_FILE).exists()):
        refuse_run(folder)
    if (folder / RUN_FILE).exists() and not searched:
        raise ValueError(f"The run in {folder} began without --tune; resume it without, or choose another output_dir.")
    (own or OwnFiles(folder)).add(LIST_FILE, f"{FOLDER}/")
    (folder / FOLDER).mkdir(exist_ok=True)


def _search(
    make: MakeTask,
    task: Task,
    config: ModelConfig,
    training: TrainingConfig,
    search: TuneConfig,
    folder: Path,
) -> dict[str, Any]:
    """Try settings until the time is over, and give the best."""
    metric = training.metric_for_best or task.best_metric
    space = search_space(config.method, config.method_options, training.learning_rate)
    study = _open_study(folder, training.seed, task.metrics().get(metric, task.greater_is_better))
    settings = {**asdict(training), "task": task.name, **task.describe()}
    _check_settings(study, folder, json.loads(json.dumps(settings)))
    if not (folder / RUN_FILE).exists():  # else the best setting trains already
        _try_settings(study, make, config, training, space, search)
    rows = write_trials(study, metric, folder / FOLDER)
    best = describe_best(study, metric)
    say(f"{rows}\n{best}")
    return dict(study.best_params) if any_finished(study) else space.first


def _open_study(folder: Path, seed: int, greater_is_better: bool) -> optuna.Study:
    """The trials of a folder, those that a kill left open put back to be tried again.

    Raises:
        ValueError: If they cannot be read.
    """
    optuna = require_optuna()
    path = folder / FOLDER / STORAGE
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name=NAME,
            direction="maximize" if greater_is_better else "minimize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
        )
        trials = study.get_trials(deepcopy=False)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}); start over with --overwrite_output_dir."
        ) from error
    # Another seed for each sitting: the same one would draw the same settings again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(trials))
    for trial in trials:
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
    return study


def _check_settings(study: optuna.Study, folder: Path, settings: dict[str, object]) -> None:
    """Record the settings of the search, or check that they have not changed."""
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", settings)
    else:
        check_same(folder, before, settings, FREE_ON_RESUME)


def _try_settings(
    study: optuna.Study,
    make: MakeTask,
    config: ModelConfig,
    training: TrainingConfig,
    space: SearchSpace,
    search: TuneConfig,
) -> None:
    """Try one setting after the other."""
    states = require_optuna().trial.TrialState
    trials = study.get_trials(deepcopy=False)
    spent = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    began = time.perf_counter()
    deadline = began + 60 * (search.tune or 0.0) - spent
    if not trials:
        study.enqueue_trial(space.first)
    loop = replace(
        training, output_dir=None, resume=False, no_checkpoints=True, report_to=["none"], progress_bar=False
    )
    closed = (states.COMPLETE, states.PRUNED)
    while time.perf_counter() < deadline:
        if search.tune_trials and len(study.get_trials(deepcopy=False, states=closed)) >= search.tune_trials:
            return
        trial = study.ask()
        drawn = space.draw(trial)
        options = {**config.method_options, **{name: value for name, value in drawn.items() if name != RATE}}
        try:
            task = make(replace(config, method_options=options))
            value = Trial(task, replace(loop, learning_rate=drawn[RATE]), trial, began, deadline).measure()
        except Pruned as end:
            trial.set_user_attr("end", str(end))
            study.tell(trial, state=states.PRUNED)
        except FAILURES as error:
            trial.set_user_attr("end", type(error).__name__)
            study.tell(trial, state=states.FAIL)
        else:
            study.tell(trial, value)
        began = time.perf_counter()
