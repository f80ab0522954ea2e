"""Compare settings of Mona: `mona-peft ablate` without an installed command.

python scripts/ablate.py --study_size tiny --groups design positions
"""

from mona_peft.finetuning.commands.main import exit_with

if __name__ == "__main__":
    exit_with("ablate")
