"""Metrics as `evaluate.Metric` modules that are part of the package, so they work without the Hub."""

from mona_peft.metrics.accuracy import TopKAccuracy
from mona_peft.metrics.mean_average_precision import MultilabelMeanAveragePrecision
from mona_peft.metrics.mean_class_accuracy import MeanClassAccuracy

__all__ = ["MeanClassAccuracy", "MultilabelMeanAveragePrecision", "TopKAccuracy"]
