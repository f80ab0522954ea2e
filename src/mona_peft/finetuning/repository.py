"""A trained model as a repository that holds all a user needs besides the base model: its files, written and read.

Three kinds: a PEFT adapter (with the head in it), a delta (`delta_model.safetensors`, the parameters that a method
without an adapter trained), and the whole model where everything was trained.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from peft import PeftModel
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.finetuning.models.places import find_model
from mona_peft.finetuning.models.weights import save_weights, trainable_names

from .environment import TORCHVISION
from .files import Json
from .validation import (
    RepositoryError,
    Shapes,
    check_adapter_config,
    check_text,
    first_line,
    read_json,
    read_shapes,
)

MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin"
PROCESSOR_CONFIG = "preprocessor_config.json"
#: Names of the classes, by label, of a model that has no `config.json`.
LABELS = "labels.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
DELTA_CONFIG = "delta_config.json"
DELTA_WEIGHTS = "delta_model.safetensors"
BASE_FILES = [MODEL_CONFIG, PROCESSOR_CONFIG, MODEL_INDEX, "model*.safetensors"]
REPOSITORY_FILES = [*BASE_FILES, LABELS, ADAPTER_CONFIG, ADAPTER_WEIGHTS, DELTA_CONFIG, DELTA_WEIGHTS]
#: The adapter that PEFT writes into a folder itself.
DEFAULT = "default"
#: Files of the three kinds, in the order in which a repository that holds several is read.
KINDS = {
    "an adapter": (ADAPTER_CONFIG, ADAPTER_WEIGHTS),
    "a delta": (DELTA_CONFIG, DELTA_WEIGHTS),
    "a whole model": (MODEL_WEIGHTS, MODEL_INDEX),
}


@dataclass(frozen=True)
class Repository:
    """A repository on this machine whose files have been checked.

    Args:
        name (`str`): As it was asked for.
        folder (`Path`): Where its files are.
        config (`Json`, *optional*): Of the model; an adapter may have none.
        adapter (`Json`, *optional*): Configuration of the adapter, if it is one.
        delta (`Json`, *optional*): Configuration of the delta, if it is one.
        shapes (`Shapes`): Of its tensors.
    """

    name: str
    folder: Path
    config: Json | None
    adapter: Json | None
    delta: Json | None
    shapes: Shapes

    @property
    def is_whole(self) -> bool:
        """Whether it needs no base model."""
        return self.adapter is None and self.delta is None

    @property
    def weights(self) -> Path:
        """Its file of weights (the index of them, where a whole model is in several)."""
        names = [ADAPTER_WEIGHTS] if self.adapter is not None else [DELTA_WEIGHTS] if self.delta is not None else []
        whole = MODEL_INDEX if (self.folder / MODEL_INDEX).exists() else MODEL_WEIGHTS
        return self.folder / (names or [whole])[0]

    @property
    def base(self) -> str | None:
        """The base model it was trained on: Hub id or folder."""
        content = self.adapter if self.adapter is not None else self.delta or {}
        return content.get("base_model_name_or_path") or None

    @property
    def base_revision(self) -> str | None:
        """The commit of the base model it was trained on, where that is known."""
        return self.adapter.get("revision") if self.adapter is not None else (self.delta or {}).get("base_revision")

    @property
    def has_processor(self) -> bool:
        """Whether it brings an image processor."""
        return (self.folder / PROCESSOR_CONFIG).exists()


@dataclass(frozen=True)
class Base:
    """A base model on this machine.

    Args:
        name (`str`): Hub id or folder, as it was asked for.
        folder (`Path`): Where its files are.
        parameters (`int`): Numbers in its weights, at most.
    """

    name: str
    folder: Path
    parameters: int


def open_repository(
    name: str | Path, revision: str | None = None, token: str | bool | None = None, code: bool = False
) -> Repository:
    """Find or download a repository, the files it needs alone, and check each.

    Args:
        name (`str` or `Path`): A folder, or a repository on the Hub.
        revision (`str`, *optional*): Branch or commit on the Hub.
        token (`str` or `bool`, *optional*): For private repositories.
        code (`bool`): Whether Python files are needed, too.

    Raises:
        RepositoryError: If it is not there, or a file is not what it must be.
    """
    folder = find_folder(name, [*REPOSITORY_FILES, *(["*.py"] if code else [])], revision, token)
    present = {each: (folder / each).exists() for each in REPOSITORY_FILES}
    if not (present[MODEL_CONFIG] or present[ADAPTER_CONFIG]):
        raise RepositoryError(
            f"{name} has no {MODEL_CONFIG} and no {ADAPTER_CONFIG}: it is no model that transformers, PEFT or this "
            "package saved. Name the folder with those files."
        )
    read = {
        each: read_json(folder / each)
        for each in (MODEL_CONFIG, ADAPTER_CONFIG, DELTA_CONFIG, PROCESSOR_CONFIG)
        if present[each]
    }
    for each in (ADAPTER_CONFIG, DELTA_CONFIG):
        for key in ("base_model_name_or_path", "revision", "base_revision"):
            check_text(each, read.get(each, {}), key)
    if present[ADAPTER_CONFIG]:
        check_adapter_config(read[ADAPTER_CONFIG], ADAPTER_CONFIG)
        shapes = _shapes_without_pickles(folder, ADAPTER_WEIGHTS, "adapter_model.bin")
    elif present[DELTA_CONFIG]:
        shapes = read_shapes(folder / DELTA_WEIGHTS)
    else:
        shapes = _whole_shapes(folder)
    return Repository(
        str(name), folder, read.get(MODEL_CONFIG), read.get(ADAPTER_CONFIG), read.get(DELTA_CONFIG), shapes
    )


def open_base(name: str, revision: str | None = None, token: str | bool | None = None) -> Base:
    """Find or download a base model, the files it needs alone.

    Args:
        name (`str`): Hub id or folder.
        revision (`str`, *optional*): Branch or commit on the Hub.
        token (`str` or `bool`, *optional*): For private repositories.

    Raises:
        RepositoryError: If it is not there or has no weights.
    """
    folder = find_folder(name, BASE_FILES, revision, token)
    read_json(folder / MODEL_CONFIG)
    if (folder / ADAPTER_CONFIG).exists():
        raise RepositoryError(f"{name} is an adapter itself; give the base model that it was trained on.")
    if not any(folder.glob("model*.safetensors")):
        folder = find_folder(name, [*BASE_FILES, PICKLED_WEIGHTS], revision, token)
        if not (folder / PICKLED_WEIGHTS).is_file():
            raise RepositoryError(f"{name} has no {MODEL_WEIGHTS}; give a base model that has weights.")
        return Base(name, folder, (folder / PICKLED_WEIGHTS).stat().st_size)  # a number has at least a byte
    return Base(name, folder, count(_whole_shapes(folder)))


def find_folder(
    name: str | Path, patterns: list[str], revision: str | None = None, token: str | bool | None = None
) -> Path:
    """A folder as it is; of a repository on the Hub, a folder with the files that match `patterns`.

    Raises:
        RepositoryError: If it is neither, or cannot be downloaded.
    """
    if Path(name).is_dir():
        return Path(name)
    if str(name).startswith(TORCHVISION):
        return Path(find_model(str(name)))
    try:
        return Path(snapshot_download(str(name), revision=revision, token=token, allow_patterns=patterns))
    except (OSError, ValueError, HFValidationError) as error:
        at = f" at revision {revision}" if revision else ""
        raise RepositoryError(
            f"{name} is no folder here, and could not be downloaded from the Hub{at}: {first_line(error)} "
            "Check the name, the token and the connection."
        ) from error


def count(shapes: Shapes) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(math.prod(shape) for shape in shapes.values())


def _shapes_without_pickles(folder: Path, name: str, pickled: str) -> Shapes:
    if not (folder / name).exists() and (folder / pickled).exists():
        raise RepositoryError(
            f"{folder / pickled} is a pickle, which is not loaded. Save the model again as safetensors "
            "(save_pretrained does so by default)."
        )
    return read_shapes(folder / name)


def _whole_shapes(folder: Path) -> Shapes:
    """Shapes of a whole model's tensors, in one file or several."""
    if not (folder / MODEL_INDEX).exists():
        return _shapes_without_pickles(folder, MODEL_WEIGHTS, PICKLED_WEIGHTS)
    files = read_json(folder / MODEL_INDEX).get("weight_map")
    names = list(files.values()) if isinstance(files, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise RepositoryError(f"{folder / MODEL_INDEX} must have a weight_map from tensors to files in its folder.")
    return {key: shape for name in sorted(set(names)) for key, shape in read_shapes(folder / name).items()}


def bare_model(model: nn.Module) -> Any:
    """The model inside a `PeftModel`, adapters in place; another model as it is. It may be of any library."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def save_repository(model: nn.Module, processor: BaseImageProcessor | None, folder: Path) -> Path:
    """Write weights, config with label names, and image processor.

    Args:
        model (`nn.Module`): A transformers model that a method was applied to, or the `PeftModel` around it.
        processor (`BaseImageProcessor`, *optional*): Prepares images as they were when the model was evaluated.
        folder (`Path`): Created where missing.

    Raises:
        ValueError: If the folder holds a model that would be loaded in its place, or several adapters act together.
    """
    kind = kind_of(model)
    refuse_hidden(folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    bare = bare_model(model)
    if isinstance(model, PeftModel):
        model.active_peft_config.revision = known_commit(bare.config.name_or_path) or model.active_peft_config.revision
        save_adapters(model, folder)
    elif kind == "a delta":
        save_delta(model, folder)
    else:
        bare.save_pretrained(folder)  # trained whole, or after transformers' own add_adapter
    bare.config.architectures = [type(bare).__name__]
    bare.config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def kind_of(model: nn.Module) -> str:
    """What a model is saved as, a key of `KINDS`."""
    if isinstance(model, PeftModel) or getattr(model, "_hf_peft_config_loaded", False):
        return "an adapter"
    return "a whole model" if all(parameter.requires_grad for parameter in model.parameters()) else "a delta"


def refuse_hidden(folder: Path, kind: str) -> None:
    """Refuse a folder that holds a model which would be loaded in place of the one to save.

    Args:
        folder (`Path`): To save into.
        kind (`str`): Of the model to save, a key of `KINDS`.

    Raises:
        ValueError: If it does.
    """
    for other, names in KINDS.items():
        if other == kind:
            return
        for name in names:
            if (folder / name).exists():
                raise ValueError(
                    f"{folder} holds {other} ({name}), which would be loaded in place of {kind}. Save into another "
                    "folder, or move that one away."
                )


def save_adapters(model: PeftModel, folder: Path) -> None:
    """Write the active adapter into the folder, and each other one into a folder of its name in it.

    PEFT alone writes the adapter called `default` there, whichever acts.

    Args:
        model (`PeftModel`): The model.
        folder (`Path`): Created where missing.

    Raises:
        ValueError: If several adapters act together.
    """
    active = list(model.active_adapters)
    if len(active) != 1:
        raise ValueError(
            f"The active adapters are {active}, and what is loaded has one. Choose it with model.set_adapter(...)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if active == [DEFAULT]:
        model.save_pretrained(str(folder))
        return
    with tempfile.TemporaryDirectory(prefix=".adapters-", dir=folder) as place:
        model.save_pretrained(place)
        for name in model.peft_config:
            written = Path(place) if name == DEFAULT else Path(place, name)
            target = folder if name in active else folder / name
            target.mkdir(exist_ok=True)
            for file in [path for path in written.iterdir() if path.is_file()]:
                file.replace(target / file.name)


def save_delta(model: nn.Module, folder: Path) -> None:
    """Write what was trained (and the buffers), its names, and the name of the model it was trained from."""
    state, names = model.state_dict(), sorted(trainable_names(model))
    save_weights({name: state[name] for name in names}, folder / DELTA_WEIGHTS)
    base: Any = model.config.name_or_path  # type: ignore[union-attr]
    content = {"base_model_name_or_path": base, "base_revision": known_commit(base), "tensors": names}
    (folder / DELTA_CONFIG).write_text(json.dumps(content, indent=2), encoding="utf-8")


def known_commit(name: str | None) -> str | None:
    """The commit of a model that was loaded from the Hub, as the local cache has it; `None` of a folder."""
    if not name or Path(name).is_dir():
        return None
    try:
        path = try_to_load_from_cache(name, MODEL_CONFIG)
    except HFValidationError:
        return None
    return Path(path).parent.name if isinstance(path, str) else None


def weights_size(folder: Path) -> int:
    """Bytes of the weight files of a repository."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
