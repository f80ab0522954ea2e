"""Checkpoints that appear whole or not at all, and are read only if they still are.

A checkpoint is written under a temporary name, flushed to disk and renamed; its manifest lists size and hash of every
file. Only what trains is stored (and the buffers): the rest comes again from where the model was loaded.
"""

from __future__ import annotations

import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from mona_peft.finetuning.files import TEMPORARY, Json, file_digest, flush, read_json, write_json
from mona_peft.finetuning.models.weights import load_weights, read_weights, save_weights

from .averaging import AVERAGED, AveragedWeights
from .best import BestWeights
from .ownership import OwnFiles
from .sharding import bare_name

MANIFEST = "manifest.json"
STATE = "state.json"
WEIGHTS = "trainable.safetensors"
NAME = re.compile(r"checkpoint-\d{8,}")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Args:
        path (`Path`): Its folder.
        state (`Json`): Progress of the loop when it was saved.
        heals_best (`bool`): Whether its weights have to take the place of the damaged file of the best ones.
    """

    path: Path
    state: Json
    heals_best: bool = False


class Checkpointer:
    """Saves and restores the checkpoints of one run.

    Args:
        accelerator (`Accelerator`): Holds the prepared model and optimiser.
        folder (`Path`): Of the run.
        bare (`nn.Module`): The model without what accelerate puts around it.
        best (`BestWeights`): Knows what trains, and where the best weights are.
        limit (`int`): How many checkpoints to keep.
        own (`OwnFiles`, *optional*): What the run wrote; on the main process only.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        bare: nn.Module,
        best: BestWeights,
        limit: int,
        own: OwnFiles | None,
    ) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.bare = bare
        self.best = best
        self.limit = limit
        self.own = own
        self.averaged: AveragedWeights | None = None
        accelerator.register_save_state_pre_hook(self._save_model)
        accelerator.register_load_state_pre_hook(self._load_model)

    def save(self, step: int, state: Json) -> Path:
        """Save a checkpoint after `step` optimiser steps.

        Args:
            step (`int`): Number in the name.
            state (`Json`): Progress of the loop, JSON values.
        """
        final = self.folder / f"checkpoint-{step:08d}"
        temporary = final.with_name(final.name + TEMPORARY)
        if self.own is not None:
            self.own.add(f"{final.name}/", f"{temporary.name}/")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()
        if self.own is not None:
            write_json(temporary / STATE, state)
            _seal(temporary)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            flush(self.folder)
            self._rotate(final, self.own)
        self.accelerator.wait_for_everyone()
        return final

    def find(self) -> Checkpoint | None:
        """The checkpoint to go on from, the same on every process; `None` if there is none.

        Raises:
            ValueError: If there are checkpoints, but none that is whole.
        """
        found = [find_whole(self.folder, self.best) if self.accelerator.is_main_process else None]
        return broadcast_object_list(found)[0]

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint into the prepared objects."""
        if checkpoint.heals_best and self.accelerator.is_main_process:
            assert self.best.path is not None
            averaged = checkpoint.path / AVERAGED
            best = read_weights(checkpoint.path / WEIGHTS) | (read_weights(averaged) if averaged.exists() else {})
            save_weights(best, self.best.path)
        if not (checkpoint.path / f"random_states_{self.accelerator.process_index}.pkl").exists():
            warnings.warn(
                f"{checkpoint.path} was saved by fewer processes than the {self.accelerator.num_processes} here: "
                "training goes on, but not bit for bit as it would have.",
                stacklevel=2,
            )
        self.accelerator.load_state(str(checkpoint.path))

    def _rotate(self, newest: Path, own: OwnFiles) -> None:
        """Delete all but the newest `limit` checkpoints, later ones (a run passes them again), and unfinished ones."""
        listed = sorted(name for name in own.names if NAME.match(name))
        whole = [name for name in listed if NAME.fullmatch(name.rstrip("/"))]
        earlier = [name for name in whole if name <= f"{newest.name}/"]
        kept = earlier[-self.limit :]
        for name in listed:
            if name not in kept:
                own.remove(name)
        own.add()

    def _save_model(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        """Hook of `save_state`: store what trains only. Sharded models keep accelerate's own way (no `weights`)."""
        if weights:
            state = weights.pop()
            if self.accelerator.is_main_process:
                bare = {bare_name(name): tensor for name, tensor in state.items()}
                save_weights({name: bare[name] for name in self.best.names}, Path(folder) / WEIGHTS)
                if self.averaged is not None:
                    self.averaged.save(Path(folder))

    def _load_model(self, models: list[nn.Module], folder: str) -> None:
        """Hook of `load_state`, the other way."""
        if models:
            models.pop()
            load_weights(self.bare, Path(folder) / WEIGHTS)
            if self.averaged is not None:
                self.averaged.load(Path(folder))


def find_whole(folder: Path, best: BestWeights) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`, with the best weights that belong to it; tells of those it passes over.

    Raises:
        ValueError: If there are checkpoints, but none that is whole.
    """
    broken: list[str] = []
    for path in sorted((path for path in folder.glob("checkpoint-*")), reverse=True):
        if path.name.endswith(TEMPORARY) and NAME.fullmatch(path.name.removesuffix(TEMPORARY)):
            warnings.warn(f"Skipping {path}: it was not finished.", stacklevel=2)
        elif NAME.fullmatch(path.name):
            problem = checkpoint_problem(path)
            if problem is None:
                state = read_json(path / STATE, "")
                problem = best.problem() if state["best_step"] else None
                if problem is None or (state["best_step"] == state["step"] and (path / WEIGHTS).exists()):
                    _tell(broken, path, problem)
                    return Checkpoint(path, state, heals_best=problem is not None)
                problem += " They are of an earlier step"
            broken.append(f"{path}: {problem}")
    if broken:
        raise ValueError(
            f"No checkpoint in {folder} can be resumed ({'; '.join(broken)}). Put the named files back from a "
            "copy, or start over with --overwrite_output_dir."
        )
    return None


def _tell(broken: list[str], path: Path, best_problem: str | None) -> None:
    """Say what was passed over, and what the run goes on from."""
    for passed in broken:
        warnings.warn(f"Skipping {passed}. The run goes on from {path}.", stacklevel=3)
    if best_problem is not None:
        warnings.warn(f"{best_problem} The best weights are those of {path}; they are taken from there.", stacklevel=3)


def _seal(folder: Path) -> None:
    """Flush all files of a checkpoint and list sizes and hashes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {}
    for path in files:
        flush(path)
        name = path.relative_to(folder).as_posix()
        listed[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    write_json(folder / MANIFEST, listed)


def checkpoint_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or `None`."""
    try:
        listed = read_json(folder / MANIFEST, "")
        for name, facts in listed.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != facts["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
            if file_digest(path) != facts["sha256"]:
                return f"{name} is damaged: its hash is not the one that was recorded"
        if STATE not in listed:
            return f"{MANIFEST} does not list {STATE}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} is missing or damaged"
    except OSError as error:
        return f"it cannot be read ({error})"
    return None
