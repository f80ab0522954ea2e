"""A task that is no classification: a straight line fitted to noisy points, with dropout and random inputs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from mona_peft.finetuning.training import Meter, Task


class Points(Dataset):
    """Points of `2 x - 1`; training points are jittered at random."""

    def __init__(self, size: int, jitter: float) -> None:
        self.x = torch.linspace(-1, 1, size)
        self.jitter = jitter

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x = self.x[index] + self.jitter * torch.randn(())
        return {"x": x, "y": 2 * self.x[index] - 1}


class LineMeter(Meter):
    def __init__(self) -> None:
        self.errors: list[torch.Tensor] = []

    def update(self, predictions: torch.Tensor) -> None:
        self.errors.append(predictions.cpu())

    @property
    def num_samples(self) -> int:
        return sum(len(part) for part in self.errors)

    def compute(self) -> dict[str, float]:
        return {"error": torch.cat(self.errors).double().mean().item()}


class LineTask(Task):
    name = "line"
    best_metric = "error"
    greater_is_better = False

    def __init__(self, train_size: int = 22, validation_size: int | None = 7, slow: float = 0.0) -> None:
        self.train_size = train_size
        self.validation_size = validation_size
        self.seen: list[torch.Tensor] = []

    def describe(self) -> dict[str, int]:
        return {"train_size": self.train_size}

    def build_model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        model[0].bias.requires_grad_(False)
        return model

    def dataset(self, split: str) -> Dataset | None:
        if split == "train":
            return Points(self.train_size, 0.1)
        if split == "validation" and self.validation_size:
            return Points(self.validation_size, 0.0)
        return None

    def collate(self, split: str):
        def stack(items):
            batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
            if split == "train":
                batch["x"] += 0.01 * torch.randn(())
            return batch

        return stack

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.seen.append(batch["x"].clone())
        return (model(batch["x"][:, None])[:, 0] - batch["y"]).square().mean()

    def predict(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (model(batch["x"][:, None])[:, 0] - batch["y"]).square()

    def meter(self, split: str) -> Meter:
        return LineMeter()

    def save(self, model: nn.Module, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "model.pt")
