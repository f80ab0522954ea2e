r"""Fine-tune a semantic segmenter: `mona-peft train segmentation` without an installed command.

python scripts/train_semantic_segmentation.py --demo_size tiny
accelerate launch scripts/train_semantic_segmentation.py swin-large-upernet-ade20k \
    --data_dir data/ADEChallengeData2016 --output_dir runs/ade20k
"""

from mona_peft.finetuning.commands.main import exit_with

if __name__ == "__main__":
    exit_with("train", "segmentation")
