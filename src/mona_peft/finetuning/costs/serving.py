"""What serving many adapters costs on one base model, and as models of their own.

Each row is measured in a process of its own, so that its memory is its own. Times are of the processor, summed over
threads, the least of several rounds in which the ways take turns.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import ViTImageProcessor

from mona_peft.finetuning import markdown
from mona_peft.finetuning.files import Json
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.classifier import load_classifier
from mona_peft.finetuning.models.positions import check_image_size
from mona_peft.finetuning.repository import save_repository
from mona_peft.finetuning.serving.router import AdapterRouter
from mona_peft.finetuning.serving.sharing import own_bytes
from mona_peft.finetuning.settings import Settings, option

from .models import build_model, model_config

WAYS = ("router", "models")
TIME = "_cpu_seconds"  # at the end of the names of times


@dataclass
class ServingConfig(Settings):
    """What to serve, and how often."""

    model: str = option("swin-t", "Backbone: a size of the benchmark, or a path to a configuration.")
    method: str = option("mona", "Method of the adapters.")
    counts: list[int] = option([1, 10, 100], "Numbers of adapters in memory.")
    most_models: int = option(100, "No more whole models than this are put in memory.", least=1)
    batch_size: int = option(8, "Rows of a batch, each of another adapter as far as there are so many.", least=1)
    image_size: int = option(224, "Side of the images, in pixels.", least=1)
    rounds: int = option(3, "How often the ways take turns; the best round of each counts.", least=1)


def measure_serving(config: ServingConfig, folder: Path) -> list[dict[str, object]]:
    """A row for each number of adapters and each way to serve them.

    Args:
        config (`ServingConfig`): What to measure.
        folder (`Path`): An empty folder for the base model and the adapter.
    """
    repository = write_adapter(config, folder)
    rows = []
    for count in config.counts:
        for way in WAYS:
            if way == "models" and count > config.most_models:
                continue
            # a new process for each row: memory that was given back may stay with the old one
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                rows.append(pool.submit(_measure, config, str(repository), count, way).result())
    return rows


def write_adapter(config: ServingConfig, folder: Path) -> Path:
    """Save a base model of random weights, and an adapter with a head of ten classes; gives back the adapter's."""
    torch.manual_seed(0)
    size = {"height": config.image_size, "width": config.image_size}
    processor = ViTImageProcessor(size=size)
    base = build_model(model_config(config.model, config.image_size))
    check_image_size(base, config.image_size)
    base.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    model = apply_method(load_classifier(str(folder / "base"), [f"class {n}" for n in range(10)]), config.method)
    return save_repository(model, processor, folder / "adapter")


def _measure(config: ServingConfig, repository: str, count: int, way: str) -> dict[str, object]:
    pixels = torch.randn(config.batch_size, 3, config.image_size, config.image_size)
    names = [str(row % count) for row in range(config.batch_size)]
    before, start = resident_bytes(), time.process_time()
    calls: dict[str, Callable[[], object]]
    row: dict[str, object] = {
        "way": way,
        "adapters": count,
        "batch": config.batch_size,
        "batch_adapters": len(set(names)),
    }
    if way == "router":
        router = AdapterRouter({str(number): repository for number in range(count)})
        for name in router.adapters:
            router.get(name)
        row["tensor_bytes"] = router.nbytes
        apart = _without_mixing(router)
        calls = {
            "one_pass": lambda: router(pixels, names),
            "a_pass_an_adapter": lambda: apart(pixels, names),
            "one_adapter": lambda: router(pixels, names[:1] * len(names)),
        }
    else:
        models = {str(number): load(repository).model for number in range(count)}
        row["tensor_bytes"] = sum(own_bytes(model) for model in models.values())
        calls = {"a_pass_a_model": lambda: _call_models(models, pixels, names)}
    row["load_cpu_seconds"] = round((time.process_time() - start) / count, 3)
    row["resident_bytes"] = resident_bytes() - before
    return row | {f"{name}{TIME}": round(best, 4) for name, best in _time(calls, config.rounds).items()}


def _without_mixing(router: AdapterRouter) -> AdapterRouter:
    """The same adapters in memory, each adapter's rows alone."""
    apart = AdapterRouter(router.adapters, mix=False)
    apart._base, apart._kept = router._base, router._kept
    return apart


@torch.inference_mode()
def _call_models(models: Mapping[str, torch.nn.Module], pixels: torch.Tensor, names: list[str]) -> None:
    for name in dict.fromkeys(names):
        models[name](pixel_values=pixels[[row for row, other in enumerate(names) if other == name]])


def _time(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    best = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 1):  # the first warms up
        for name, call in calls.items():
            start = time.process_time()
            call()
            if number:
                best[name] = min(best[name], time.process_time() - start)
    return best


def serving_summary(results: Json) -> str:
    """Markdown: what made the results, and a row for each number of adapters and each way to serve them."""
    rows, settings = results["rows"], results["settings"]
    made = f"`{results['command']}`" if "command" in results else results["note"]
    times = {name: name.removesuffix(TIME).replace("_", " ") for row in rows for name in row if name.endswith(TIME)}
    times = {name: title for name, title in times.items() if name != "load_cpu_seconds"}
    header = ["adapters", "way", "tensors, MB", "resident, MB", "to load one, s", *(f"{t}, s" for t in times.values())]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        sizes = [f"{row[name] / 1e6:.0f}" for name in ("tensor_bytes", "resident_bytes")]
        batches = [f"{row[name]:.2f}" if name in row else "" for name in times]
        lines.append([str(row["adapters"]), row["way"], *sizes, f"{row['load_cpu_seconds']:.2f}", *batches])
    about = f"{settings['model']} with {settings['method']}, batches of {settings['batch_size']}; times in CPU seconds"
    return f"{about}; {made}.\n\n{markdown.table(lines)}"


def resident_bytes() -> int:
    """Bytes of this process in memory.

    Raises:
        ValueError: If the system does not say, as Linux does.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise ValueError("The memory of a process is read from /proc/self/status, which this system lacks; use Linux.")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
