r"""Fine-tune a detector: `mona-peft train detection` without an installed command.

python scripts/train_detection.py --demo_size tiny
accelerate launch scripts/train_detection.py swin-large-retinanet-voc0712 \
    --data_dir data/VOCdevkit --output_dir runs/voc
"""

from mona_peft.finetuning.commands.main import exit_with

if __name__ == "__main__":
    exit_with("train", "detection")
