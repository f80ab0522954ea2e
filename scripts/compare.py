"""Compare fine-tuning methods: `mona-peft compare` without an installed command.

python scripts/compare.py --study_size tiny
"""

from mona_peft.finetuning.commands.main import exit_with

if __name__ == "__main__":
    exit_with("compare")
