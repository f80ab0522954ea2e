"""Settings of the app."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.finetuning.settings import Settings, option


@dataclass
class AppConfig(Settings):
    """How to show the models, or where to write them as a Space."""

    base_model: str | None = option(None, "Take the base model from here instead of where it was.")
    top_k: int = option(5, "Labels shown of a picture.", least=1)
    threshold: float = option(0.5, "Objects with a lower score are left out.", least=0, most=1)
    port: int | None = option(None, "Port on this machine; a free one from 7860 on if unset.", least=1, most=65535)
    export_space: str | None = option(None, "New folder to write a Hugging Face Space to, instead of serving.")
