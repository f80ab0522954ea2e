"""Predict labels of images with a trained repository.

python scripts/predict.py --model runs/flowers/model --images photo.jpg holiday/ --output labels.json
accelerate launch scripts/predict.py --model user/name --dataset oxford_pets --split test --output labels.parquet
"""

from __future__ import annotations

from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.inference.predict import PredictionConfig, predict
from mona_peft.finetuning.settings import parse_arguments


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    predict(*parse_arguments((PredictionConfig, DataConfig), arguments))


if __name__ == "__main__":
    main()
