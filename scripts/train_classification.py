"""Fine-tune an image classifier: `mona-peft train classification` without an installed command.

python scripts/train_classification.py --demo_size tiny
accelerate launch scripts/train_classification.py swin-large-flowers102 --output_dir runs/flowers
"""

from mona_peft.finetuning.commands.main import exit_with

if __name__ == "__main__":
    exit_with("train", "classification")
