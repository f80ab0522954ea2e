"""Whether images have several labels is the data's to say, not its name's."""

from dataclasses import replace

import datasets
import pytest
from PIL import Image

from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.study.testbeds.recipes import ClassificationTestbed
from mona_peft.finetuning.tasks.classification import ClassificationConfig
from mona_peft.finetuning.training import TrainingConfig


@pytest.mark.parametrize(
    "labels, metric", [([["cat"], ["dog", "cat"]], "map"), (["cat", "dog"], "accuracy")], ids=["several", "one"]
)
def test_a_study_reads_the_metric_that_its_runs_measure(tmp_path, labels, metric):
    several = isinstance(labels[0], list)
    kind = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Sequence(kind) if several else kind})
    rows = {"image": [Image.new("RGB", (8, 8))] * 2, "labels": labels}
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"{split}.parquet"))
    testbed = ClassificationTestbed(
        DataConfig(dataset=str(tmp_path)), ClassificationConfig(), TrainingConfig(report_to=["none"])
    )
    assert testbed.metric == metric
    assert testbed.load(0).multilabel is several
    with pytest.raises(ValueError, match="metric_for_best is 'loss', which is better when smaller"):
        ClassificationTestbed(testbed.data, testbed.config, replace(testbed.base, metric_for_best="loss"))
