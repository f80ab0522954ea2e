"""One frozen base model in memory, many adapters with heads of their own.

`router = mona_peft.AdapterRouter({"pets": "user/pets-mona", "birds": "birds/model"})`

Each adapter has a model of its own that shares the tensors of the base model, so what it gives is what
`mona_peft.load` gives, bit for bit, and threads need no lock but to load. Where the rows of a batch use several
adapters of one method and configuration, they may go through the base model together; see `mix`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mona_peft.finetuning.inference.classification import LabelScore, LoadedClassifier, label_scores
from mona_peft.finetuning.inference.loading import load_with
from mona_peft.finetuning.repository import open_repository
from mona_peft.finetuning.validation import RepositoryError
from mona_peft.tuners.base.mixed_batch import UnknownRows

from .mixing import mix, mixing_key, row_name
from .sharing import SharedBase, own_bytes


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter in memory.

    Args:
        name (`str`): As the router's user calls it.
        loaded (`LoadedClassifier`): Its model, on the shared base model, and its image processor.
        nbytes (`int`): Of its own tensors, head included.
        mixing_key (`str`, *optional*): Adapters of one key may act in one pass.
    """

    name: str
    loaded: LoadedClassifier
    nbytes: int
    mixing_key: str | None


class AdapterRouter:
    """Serves many adapters, with heads of different classes, on one base model in memory.

    Adapters are loaded when they are first asked for and unloaded, the least recently used first, where a limit is
    passed. Those that a running batch uses stay until it is done.

    Args:
        adapters (`Mapping[str, str | Path]`): A folder, or a repository on the Hub, by name. Requests can name no
            others.
        base_model (`str` or `Path`, *optional*): Take the base model from here instead of where the adapters say.
        max_adapters (`int`, *optional*): How many adapters are kept at most.
        max_bytes (`int`, *optional*): How many bytes their tensors, without the base model's, may have.
        device (`str` or `torch.device`, *optional*): Where to put the models; the CPU if left out.
        dtype (`torch.dtype`, *optional*): Of the weights; as stored if left out.
        token (`str` or `bool`, *optional*): For private repositories.
        mix (`bool`): Whether rows of several adapters go through the base model together where the method can.
            Otherwise, and for other methods (PEFT's own among them), each adapter's rows go alone.

    Raises:
        ValueError: If there is no adapter, or a limit is below 1.
    """

    def __init__(
        self,
        adapters: Mapping[str, str | Path],
        base_model: str | Path | None = None,
        max_adapters: int | None = None,
        max_bytes: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        token: str | bool | None = None,
        mix: bool = True,
    ) -> None:
        if not adapters:
            raise ValueError("No adapters were given: AdapterRouter({'name': 'folder or user/repository'}).")
        for name, limit in (("max_adapters", max_adapters), ("max_bytes", max_bytes)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name}={limit!r} must be at least 1; leave it out for no limit.")
        self.adapters = dict(adapters)
        self.base_model, self.token = base_model, token
        self.max_adapters, self.max_bytes, self.mix = max_adapters, max_bytes, mix
        self._base = SharedBase(device, dtype)
        self._kept: OrderedDict[str, ServedAdapter] = OrderedDict()
        self._keeping, self._loading = threading.RLock(), threading.Lock()
        self._unmixable: set[str] = set()

    @property
    def loaded(self) -> list[str]:
        """Names of the adapters in memory, the least recently used first."""
        with self._keeping:
            return list(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in memory: the base model's and the kept adapters'."""
        with self._keeping:
            own = sum(adapter.nbytes for adapter in self._kept.values())
        return own + (own_bytes(self._base.model) if self._base.model is not None else 0)

    def get(self, name: str) -> ServedAdapter:
        """An adapter by name, loaded if it is not in memory.

        Raises:
            ValueError: If the router has no adapter of that name.
            RepositoryError: If it cannot be loaded, is for another base model, or brings no head.
        """
        if name not in self.adapters:
            raise ValueError(f"There is no adapter {name!r}; the router has {', '.join(map(repr, self.adapters))}.")
        adapter = self._find(name)
        if adapter is None:
            with self._loading, torch.inference_mode(False):  # tensors of that mode cannot be watched for changes
                adapter = self._find(name) or self._keep(self._load(name))
        return adapter

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor, adapter_names: Sequence[str]) -> list[Tensor]:
        """Logits of each row by its own adapter and head: a tensor of as many numbers as that has classes.

        Args:
            pixel_values (`Tensor`): `(B, 3, H, W)`, prepared as each row's adapter wants it.
            adapter_names (`Sequence[str]`): A name a row.

        Raises:
            ValueError: If the names are not as many as the rows, or one is unknown.
        """
        if len(adapter_names) != len(pixel_values):
            raise ValueError(f"adapter_names has {len(adapter_names)} names for a batch of {len(pixel_values)} rows.")
        used = {name: self.get(name) for name in dict.fromkeys(adapter_names)}
        result: list[Tensor] = [pixel_values] * len(adapter_names)
        for names in self._passes(used.values()):
            rows = [row for row, name in enumerate(adapter_names) if name in names]
            logits = self._run(
                [used[name] for name in names], pixel_values[rows], [adapter_names[row] for row in rows]
            )
            for row, values in zip(rows, logits, strict=True):
                result[row] = values
        return result

    def predict(
        self, images: Iterable[Image.Image], adapter_names: Sequence[str], top_k: int = 5
    ) -> list[list[LabelScore]]:
        """The likeliest labels of each image by its own adapter, best first, as `{"label", "score"}`.

        Args:
            images (`Iterable[PIL.Image.Image]`): In any mode; each is prepared as its adapter was trained.
            adapter_names (`Sequence[str]`): A name an image.
            top_k (`int`): Labels an image.

        Raises:
            ValueError: If the names are not as many as the images, one is unknown, or `top_k` is below 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k={top_k!r} must be at least 1: the number of labels an image.")
        images = list(images)
        if len(adapter_names) != len(images):
            raise ValueError(f"adapter_names has {len(adapter_names)} names for {len(images)} images.")
        loaded = {name: self.get(name).loaded for name in dict.fromkeys(adapter_names)}
        prepared = [loaded[name].prepare(image) for name, image in zip(adapter_names, images, strict=True)]
        logits: dict[int, Tensor] = {}
        for shape in dict.fromkeys(pixels.shape for pixels in prepared):
            rows = [row for row, pixels in enumerate(prepared) if pixels.shape == shape]
            found = self(torch.cat([prepared[row] for row in rows]), [adapter_names[row] for row in rows])
            logits.update(zip(rows, found, strict=True))
        return [
            label_scores(logits[row][None].float(), loaded[name].bare_model().config, top_k)[0]
            for row, name in enumerate(adapter_names)
        ]

    def _find(self, name: str) -> ServedAdapter | None:
        with self._keeping:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def _load(self, name: str) -> ServedAdapter:
        repository = open_repository(self.adapters[name], token=self.token)
        before = self._base.versions()
        loaded = load_with(repository, self.base_model, self.token, False, self._base.build)
        if before and self._base.versions() != before:
            raise RepositoryError(
                f"{repository.name} changes the weights of its base model, which the other adapters share; what is in "
                "memory is no longer the base model. Make a new router without it."
            )
        model = loaded.model.to(device=self._base.device, dtype=self._base.dtype).eval()
        size = own_bytes(model, self._base.model)
        if self.max_bytes is not None and size > self.max_bytes:
            raise ValueError(f"The adapter {name!r} has {size} bytes, more than max_bytes={self.max_bytes}; raise it.")
        return ServedAdapter(name, LoadedClassifier(model, loaded.processor), size, mixing_key(model))

    def _keep(self, adapter: ServedAdapter) -> ServedAdapter:
        """Keep an adapter, and no more than the limits allow."""
        with self._keeping:
            self._kept[adapter.name] = adapter
            while self._is_over():
                self._kept.popitem(last=False)
        return adapter

    def _is_over(self) -> bool:
        size = sum(adapter.nbytes for adapter in self._kept.values())
        too_many = self.max_adapters is not None and len(self._kept) > self.max_adapters
        return too_many or (self.max_bytes is not None and size > self.max_bytes)

    def _passes(self, used: Iterable[ServedAdapter]) -> list[list[str]]:
        """Names of the adapters of each pass through the base model."""
        passes: dict[str, list[str]] = {}
        for adapter in used:
            mixable = self.mix and adapter.mixing_key is not None and adapter.mixing_key not in self._unmixable
            key = f"key {adapter.mixing_key}" if mixable else f"name {adapter.name}"
            passes.setdefault(key, []).append(adapter.name)
        return list(passes.values())

    def _run(self, adapters: Sequence[ServedAdapter], pixels: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Logits of rows, of which each names one of `adapters`."""
        pixels = adapters[0].loaded.to_model(pixels)
        if len(adapters) == 1:
            return list(adapters[0].loaded.model(pixel_values=pixels).logits)
        numbers = {adapter.name: number for number, adapter in enumerate(adapters)}
        try:
            mixed = mix([adapter.loaded.model for adapter in adapters])
            logits = mixed(pixel_values=pixels, adapter_names=[row_name(numbers[name]) for name in names]).logits
        except UnknownRows:  # in this architecture the method adapts modules that see no row for each image
            self._unmixable.add(str(adapters[0].mixing_key))
            return self._one_by_one(adapters, pixels, names)
        classes = [adapters[numbers[name]].loaded.bare_model().config.num_labels for name in names]
        return [row[:count] for row, count in zip(logits, classes, strict=True)]

    def _one_by_one(self, adapters: Sequence[ServedAdapter], pixels: Tensor, names: Sequence[str]) -> list[Tensor]:
        result: list[Tensor] = [pixels] * len(names)
        for adapter in adapters:
            rows = [row for row, name in enumerate(names) if name == adapter.name]
            for row, logits in zip(rows, self._run([adapter], pixels[rows], [adapter.name] * len(rows)), strict=True):
                result[row] = logits
        return result
