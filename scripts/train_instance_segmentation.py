r"""Fine-tune an instance segmenter: `mona-peft train instances` without an installed command.

python scripts/train_instance_segmentation.py --demo_size tiny
accelerate launch scripts/train_instance_segmentation.py swin-base-cascade-coco \
    --data_dir data/coco --output_dir runs/coco
"""

from mona_peft.finetuning.commands.main import exit_with

if __name__ == "__main__":
    exit_with("train", "instances")
