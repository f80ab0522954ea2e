"""Evaluate an untrained tiny dense model on its validation scenes, in as many processes as started this.

python tests/finetuning/tasks/evaluate_tiny.py ARCHITECTURE BACKBONE OUTPUT
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from mona_peft.finetuning.training import Trainer
from tests.finetuning.tasks.tiny_dense import tiny_task, tiny_training


def main(architecture: str, backbone: str, output: str) -> None:
    trainer = Trainer(tiny_task(architecture, backbone), tiny_training(eval_batch_size=2, cpu=True))
    result = trainer.evaluate("validation")
    assert result is not None
    if trainer.accelerator.is_main_process:
        Path(output).write_text(json.dumps({**result[0], "processes": trainer.accelerator.num_processes}))
    trainer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
