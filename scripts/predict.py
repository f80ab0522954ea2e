"""Predict images with a trained model: `mona-peft predict` without an installed command.

python scripts/predict.py --model runs/flowers/model --images photo.jpg holiday/ --output labels.json
"""

from mona_peft.finetuning.commands.main import exit_with

if __name__ == "__main__":
    exit_with("predict")
