"""Where the scripts are."""

from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
