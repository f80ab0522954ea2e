"""A random walk through the life of a model, compared with one that is trivially right.

The right model is made for each comparison, from a fresh base and a plain copy of each adapter's weights.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from tests.support.models import images
from tests.support.subjects import Subject, run

from .methods import Method

MOST = 4  # adapters at a time


class Walk:
    """One walk.

    Args:
        method: The method of all adapters.
        subject: The base model.
        heads: Whether each adapter has a head of its own; then only one can be active.
        seed: Of the choices and the weights.
        path: Where adapters are saved.
    """

    def __init__(self, method: Method, subject: Subject, heads: bool, seed: int, path: Path) -> None:
        self.method, self.subject, self.heads, self.path = method, subject, heads, path
        self.random = random.Random(seed)
        self.dtype = torch.float32
        self.made = 0
        self.kept: dict[str, tuple[Any, dict[str, torch.Tensor]]] = {}  # configuration and weights of each adapter
        self.active: list[str] = ["default"]
        self.log: list[str] = []
        config = self.config()
        self.model: PeftModel = get_peft_model(subject.build(), config).eval()
        self.train("default", config)

    def config(self) -> Any:
        saved = self.subject.modules_to_save if self.heads else None
        return self.method.make(self.subject, other=self.random.random() < 0.5, modules_to_save=saved)

    def train(self, name: str, config: Any) -> None:
        """Give an adapter other weights, and keep a copy."""
        self.method.prepare(self.model, name)
        self.method.fill(self.model, name, seed=self.random.randrange(10**6))
        weights = get_peft_model_state_dict(self.model, adapter_name=name)
        self.kept[name] = copy.deepcopy(config), {key: value.clone() for key, value in weights.items()}

    def right(self, names: list[str]) -> PeftModel:
        """The trivially right model with these adapters active."""
        first, *others = names
        model = get_peft_model(self.subject.build(), copy.deepcopy(self.kept[first][0]), adapter_name=first)
        for name in others:
            model.add_adapter(name, copy.deepcopy(self.kept[name][0]))
        model.to(self.dtype)
        for name in names:
            set_peft_model_state_dict(model, self.kept[name][1], adapter_name=name)
        model.base_model.set_adapter(names)
        return model.eval()

    def compare(self) -> None:
        x = images().to(self.dtype)
        expected = run(self.right(self.active), x)
        torch.testing.assert_close(run(self.model.eval(), x), expected, rtol=1e-4, atol=1e-5, msg="; ".join(self.log))
        assert set(self.model.peft_config) == set(self.kept), self.log
        owners = {n.split(".")[-1] for n, _ in self.model.named_modules()} & {f"a{i}" for i in range(self.made)}
        assert owners <= set(self.kept), self.log

    def go(self, steps: int) -> None:
        self.compare()
        moves = [name for name in dir(self) if name.startswith("do_")]
        for _ in range(steps):
            move = self.random.choice(moves)
            self.log.append(move)
            getattr(self, move)()
            self.compare()

    def new_name(self) -> str:
        self.made += 1
        return f"a{self.made - 1}"

    def any_name(self) -> str:
        return self.random.choice(sorted(self.kept))

    def activate(self, names: list[str]) -> None:
        self.model.set_adapter(names[0])  # what the outer model takes for active is among those that are
        self.model.base_model.set_adapter(names)
        self.active = names

    def do_add(self) -> None:
        if len(self.kept) < MOST:
            name, config = self.new_name(), self.config()
            self.model.add_adapter(name, copy.deepcopy(config))
            self.model.to(self.dtype)
            self.train(name, config)

    def do_train(self) -> None:
        name = self.any_name()
        self.train(name, self.kept[name][0])

    def do_switch(self) -> None:
        self.activate([self.any_name()])

    def do_several(self) -> None:
        if not self.heads:
            self.activate(self.random.sample(sorted(self.kept), self.random.randint(1, len(self.kept))))

    def do_delete(self) -> None:
        inactive = sorted(set(self.kept) - set(self.active))
        if inactive:
            name = self.random.choice(inactive)
            self.model.delete_adapter(name)
            del self.kept[name]

    def do_disable(self) -> None:
        x = images().to(self.dtype)
        with self.model.disable_adapter():
            assert torch.equal(run(self.model, x), run(self.subject.build().to(self.dtype), x)), self.log

    def do_save_and_load(self) -> None:
        """Load one adapter's file under a new name."""
        source = self.any_name()
        if len(self.kept) < MOST:
            self.model.save_pretrained(self.path, selected_adapters=[source])
            name = self.new_name()
            folder = self.path if source == "default" else self.path / source
            self.model.load_adapter(folder, name, low_cpu_mem_usage=self.random.random() < 0.5)
            self.model.to(self.dtype)
            self.kept[name] = copy.deepcopy(self.kept[source])

    def do_load_again(self) -> None:
        """Bring an adapter back to what its file has, after other weights."""
        name = self.any_name()
        self.model.save_pretrained(self.path, selected_adapters=[name])
        self.method.fill(self.model, name, seed=1)
        self.model.load_adapter(self.path if name == "default" else self.path / name, name)

    def do_unload_and_inject(self) -> None:
        if self.heads:  # unloading puts the head in the base model's place
            return
        base = self.model.unload()
        names = [*self.active, *sorted(set(self.kept) - set(self.active))]
        self.model = get_peft_model(base, copy.deepcopy(self.kept[names[0]][0]), adapter_name=names[0])
        for name in names[1:]:
            self.model.add_adapter(name, copy.deepcopy(self.kept[name][0]))
        self.model.to(self.dtype)
        for name in names:
            set_peft_model_state_dict(self.model, self.kept[name][1], adapter_name=name)
        self.activate(self.active)

    def do_copy(self) -> None:
        old = self.model
        self.model = copy.deepcopy(old)
        self.method.fill(old, self.active[0], seed=2, std=1.0)  # which the copy must not notice

    def do_change_type(self) -> None:
        self.dtype = torch.float64 if self.dtype == torch.float32 else torch.float32
        self.model.to(self.dtype)
        for config, weights in self.kept.values():
            weights.update({k: v.to(self.dtype) for k, v in weights.items() if v.is_floating_point()})
            assert config is not None
