"""The methods under test, PEFT's own among them as the control, and what is refused by which, with the error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import nn

import mona_peft
from tests.support.models import images
from tests.support.subjects import Subject


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        name: Its name, in lower case.
        config: Its configuration class.
        options: Of a first adapter.
        other: Of a second one, made differently.
        own: Whether it is of this package.
        starts_as_base: Whether a new adapter leaves the model as it was.
    """

    name: str
    config: type
    options: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)
    own: bool = True
    starts_as_base: bool = True

    @property
    def prefix(self) -> str:
        return PEFT_TYPE_TO_PREFIX_MAPPING[self.config().peft_type]

    def make(self, subject: Subject, other: bool = False, **options: Any) -> Any:
        """A configuration for `subject`, with its head."""
        targets = {} if self.own else {"target_modules": list(subject.targets)}
        chosen = self.other if other else self.options
        return self.config(**{"modules_to_save": subject.modules_to_save, **targets, **chosen, **options})

    def adapt(self, subject: Subject, base: nn.Module | None = None, **options: Any) -> PeftModel:
        """An adapted model whose adapter has not been trained."""
        model = get_peft_model(base or subject.build(), self.make(subject, **options)).eval()
        self.prepare(model)
        return model

    def adapted(self, subject: Subject, base: nn.Module | None = None, seed: int = 0, **options: Any) -> PeftModel:
        """An adapted model whose adapter and head are as after training."""
        base = base or subject.build()
        torch.manual_seed(seed)
        model = self.adapt(subject, base, **options)
        self.fill(model)
        return model

    def prepare(self, model: nn.Module, adapter: str = "default") -> None:
        """What an adapter needs before it trains."""
        if self.name == "sct":
            x = images(4, seed=6).to(next(model.parameters()).dtype)
            batches = [(x, torch.tensor([0, 2, 2, 1]))]
            mona_peft.select_salient_channels(model, batches, adapter)

    def fill(self, model: nn.Module, adapter: str = "default", seed: int = 3, std: float = 0.1) -> None:
        """Give an adapter, and its head, values as if it had been trained."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if f".{adapter}." in f"{name}." and (f".{self.prefix}" in name or "modules_to_save" in name):
                with torch.no_grad():
                    parameter.add_((torch.randn(parameter.shape, generator=generator) * std).to(parameter))

    def add(self, model: PeftModel, subject: Subject, adapter: str, seed: int = 7, **options: Any) -> None:
        """Add a trained second adapter."""
        model.add_adapter(adapter, self.make(subject, other=True, **options))
        self.prepare(model, adapter)
        self.fill(model, adapter, seed)

    def owns(self, name: str) -> bool:
        """Whether the parameter `name` is an adapter's."""
        return f".{self.prefix}" in name


OWN = (
    Method("mona", mona_peft.MonaConfig, {"bottleneck_dim": 8}, {"bottleneck_dim": 4, "kernel_sizes": (3,)}),
    Method("adaptformer", mona_peft.AdaptFormerConfig, {"bottleneck_dim": 8}, {"adaptformer_scale": 1.0}),
    Method("convpass", mona_peft.ConvpassConfig, {"bottleneck_dim": 6}, {"bottleneck_dim": 4}),
    Method("sct", mona_peft.SCTConfig, {"num_channels": 6}, {"num_channels": 5, "positions": ("attention", "mlp")}),
    Method("bottleneck", mona_peft.BottleneckConfig, {"bottleneck_dim": 8}, {"bottleneck_dim": 4}),
    Method("lorand", mona_peft.LoRandConfig, {"lorand_beta": 4}, {"lorand_alpha": 1}),
    Method("ssf", mona_peft.SSFConfig, {}, {}),
    Method("vpt", mona_peft.VPTConfig, {"vpt_tokens": 3}, {"vpt_tokens": 2}, starts_as_base=False),
)
CONTROL = (
    Method("lora", LoraConfig, {"r": 4}, {"r": 2}, own=False),
    Method("loha", LoHaConfig, {"r": 4}, {"r": 2}, own=False),
)
ALL = {method.name: method for method in (*OWN, *CONTROL)}
__all__ = ["ALL", "CONTROL", "OWN", "Method"]
