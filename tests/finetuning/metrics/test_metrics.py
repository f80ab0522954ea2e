"""The metrics against scikit-learn, and their corner cases."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, top_k_accuracy_score

from mona_peft.finetuning.metrics import MeanClassAccuracy, MultilabelMeanAveragePrecision, TopKAccuracy


@pytest.fixture
def scores_and_labels():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 12)).astype(np.float32), rng.integers(0, 12, 200)


def test_top_k_accuracy(scores_and_labels):
    scores, labels = scores_and_labels
    result = TopKAccuracy(keep_in_memory=True).compute(predictions=scores, references=labels)
    assert result.keys() == {"accuracy", "top5_accuracy"}
    for k, name in ((1, "accuracy"), (5, "top5_accuracy")):
        assert result[name] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(12)), abs=1e-12)


def test_top5_is_left_out_with_five_classes():
    result = TopKAccuracy(keep_in_memory=True).compute(predictions=np.eye(5), references=np.arange(5))
    assert result == {"accuracy": 1.0}


def test_equal_and_broken_scores_get_no_credit():
    metric = TopKAccuracy(keep_in_memory=True)
    assert metric.compute(predictions=np.zeros((4, 3)), references=[0, 1, 2, 0])["accuracy"] == 0.0
    assert metric.compute(predictions=np.full((4, 3), np.nan), references=[0, 1, 2, 0])["accuracy"] == 0.0


def test_batches_add_up(scores_and_labels):
    scores, labels = scores_and_labels
    metric = TopKAccuracy(keep_in_memory=True)
    for start in range(0, 200, 70):
        metric.add_batch(predictions=scores[start : start + 70], references=labels[start : start + 70])
    assert metric.compute() == metric.compute(predictions=scores, references=labels)


def test_mean_class_accuracy(scores_and_labels):
    scores, labels = scores_and_labels
    labels[labels == 3] = 0  # class 3 is predicted but absent
    predictions = np.where(np.arange(200) % 3 == 0, labels, scores.argmax(1))
    result = MeanClassAccuracy(keep_in_memory=True).compute(predictions=predictions, references=labels)
    present = np.isin(predictions, np.unique(labels))
    assert not present.all()
    expected = np.mean([(predictions[labels == label] == label).mean() for label in np.unique(labels)])
    assert result["mean_class_accuracy"] == pytest.approx(expected)
    with pytest.warns(UserWarning):
        assert expected == pytest.approx(balanced_accuracy_score(labels, predictions))


def test_multilabel_map_with_ties_and_left_out_images():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 10, (300, 6)).astype(np.float32)  # many equal scores
    labels = rng.integers(-1, 2, (300, 6))
    labels[:, 4] = np.minimum(labels[:, 4], 0)  # a class without a positive
    result = MultilabelMeanAveragePrecision(keep_in_memory=True).compute(predictions=scores, references=labels)
    expected = []
    for column in (0, 1, 2, 3, 5):
        counted = labels[:, column] >= 0
        expected.append(average_precision_score(labels[counted, column], scores[counted, column]))
    assert result["ap_by_class"][4] is None
    assert [value for value in result["ap_by_class"] if value is not None] == pytest.approx(expected, abs=1e-12)
    assert result["map"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_map_without_any_positive_is_refused():
    with pytest.raises(ValueError, match="No class has a positive"):
        MultilabelMeanAveragePrecision(keep_in_memory=True).compute(
            predictions=np.zeros((2, 2)), references=np.zeros((2, 2), dtype=int)
        )
