"""Start the scripts as users do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
FSDP_ON_CPU = "tests/finetuning/training/fsdp_cpu.yaml"
SCRIPT = ROOT / "scripts" / "train_classification.py"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(config: str, script: Path, flags: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` with a shipped configuration."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / config)]
    sharded = [str(Path(__file__).with_name("sharded_on_cpu.py"))] if "FSDP" in (ROOT / config).read_text() else []
    command = [*launcher, "--main_process_port", str(free_port()), *sharded, str(script), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done: Any = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done
