"""Metrics as `evaluate.Metric` modules that are part of the package, so they work without the Hub."""

from .accuracy import TopKAccuracy
from .mean_average_precision import MultilabelMeanAveragePrecision
from .mean_class_accuracy import MeanClassAccuracy

__all__ = ["MeanClassAccuracy", "MultilabelMeanAveragePrecision", "TopKAccuracy"]
