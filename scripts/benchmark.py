"""Measure what each method costs in time and memory: `mona-peft benchmark` without an installed command.

python scripts/benchmark.py --model swin-t --image_size 224 --batch_size 8 --threads 2
"""

from mona_peft.finetuning.commands.main import exit_with

if __name__ == "__main__":
    exit_with("benchmark")
