"""Fine-tune an image classifier. Without arguments: the demo on scanned digits, offline.

python scripts/train_classification.py --demo_size tiny
"""

from dataclasses import dataclass
from pathlib import Path

from mona_peft.tasks.digits_demo import run_demo
from mona_peft.training.arguments import parse_arguments
from mona_peft.training.config import option


@dataclass
class DemoArguments:
    """The demo."""

    demo_size: str = option("full", "How much the demo does: full (minutes) or tiny (seconds).")
    demo_dir: str = option("outputs/demo", "Where the demo writes.")


def main() -> None:
    """Parse the command line and run."""
    (demo,) = parse_arguments([DemoArguments])
    run_demo(demo.demo_size, Path(demo.demo_dir))


if __name__ == "__main__":
    main()
