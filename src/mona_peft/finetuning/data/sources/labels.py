"""Stored labels to class numbers: whole columns at once, checked before anything trains on them.

A label is a class number from 0, a class name, or a list of either for data with several labels an image. Only the
label column is read, never the images.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mona_peft.finetuning.data.classification.dataset import Rows, arrow_column

#: Without class names, so many classes are believed of few images: labels beyond are ids rather than class numbers.
MOST_UNNAMED = 1000


def find_class_names(split: Rows, label_column: str, given: Sequence[str] = (), name: str = "the data") -> list[str]:
    """Names of the classes: given, stored with the column, or found in it (numbers from 0, or the sorted names).

    Args:
        split (`Rows`): With the labels.
        label_column (`str`): Where they are.
        given (`Sequence[str]`): Names by class number, if they are known.
        name (`str`): Of the split, for messages.

    Raises:
        ValueError: If a name comes twice, a label cannot be, or the names cannot be known without reading a stream.
    """
    feature = split.features[label_column] if split.features else None
    inner = getattr(feature, "feature", feature)
    if given or isinstance(inner, datasets.ClassLabel):
        names = [str(one) for one in given or inner.names]  # type: ignore[union-attr]
        twice = next((one for one in names if names.count(one) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise ValueError(f"The class name {twice!r} comes twice; give each class its own with --class_names.")
        return names
    if isinstance(split, datasets.IterableDataset):
        raise ValueError(f"The column {label_column!r} of a stream has no class names; give them with --class_names.")
    values, rows = _flat(arrow_column(split, label_column), name)
    if pa.types.is_boolean(values.type):
        return ["False", "True"]
    if not pa.types.is_integer(values.type):
        return sorted(pc.unique(values).to_pylist())
    numbers = values.to_numpy(zero_copy_only=False)
    highest = int(numbers.max(initial=-1))
    if highest >= max(MOST_UNNAMED, len(split)):
        row = int(rows[numbers.argmax()])
        raise ValueError(
            f"Row {row} of {name} has the label {highest}. Without class names, labels are class numbers from 0, so "
            f"there would be {highest + 1} classes for {len(split)} images. Number the classes from 0, or store their "
            "names as labels."
        )
    return [str(number) for number in range(highest + 1)]


def encode_labels(column: pa.Array, names: Sequence[str], name: str, first_row: int = 0) -> np.ndarray:
    """Class numbers `(rows,)`, int64; or of lists of labels, 1 or 0 for each class, `(rows, classes)`, int8.

    Args:
        column (`pyarrow.Array`): The stored labels.
        names (`Sequence[str]`): By class number.
        name (`str`): Of the split, for messages.
        first_row (`int`): Number of the first label's row, for messages.

    Raises:
        ValueError: If a label is null, of a wrong type, no class, or twice in a list; the message names the row.
    """
    values, rows = _flat(column, name, first_row)
    if pa.types.is_boolean(values.type):
        numbers = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    elif pa.types.is_integer(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
    else:
        found = pc.index_in(values, value_set=pa.array(list(names), values.type))
        numbers = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(names)))
    if len(wrong):
        row, value = int(rows[wrong[0]]), values[int(wrong[0])].as_py()
        raise ValueError(
            f"Row {row} of {name} has the label {value!r}, which is none of the {len(names)} classes "
            f"({_listed(names)}). Correct the label, or give the names of all classes with --class_names."
        )
    numbers = numbers.astype(np.int64)
    if not _is_list(column.type):
        return numbers
    encoded = np.zeros((len(column), len(names)), np.int8)
    encoded[rows - first_row, numbers] = 1
    twice = np.flatnonzero(encoded.sum(1) < np.bincount(rows - first_row, minlength=len(column)))
    if len(twice):
        raise ValueError(
            f"Row {first_row + twice[0]} of {name} lists a label twice: {column[int(twice[0])].as_py()}. A list of "
            "labels holds the classes of an image, as numbers or names, not a 1 or 0 for each class."
        )
    return encoded


def unlabelled(split: datasets.Dataset, label_column: str) -> bool:
    """Whether no row has a label: all are null, or -1 as `datasets` writes a missing class."""
    column = arrow_column(split, label_column)
    if column.null_count == len(column):
        return True
    return pa.types.is_integer(column.type) and column.null_count == 0 and bool(pc.all(pc.equal(column, -1)).as_py())


def _flat(column: pa.Array, name: str, first_row: int = 0) -> tuple[pa.Array, np.ndarray]:
    """All labels of a column, without the lists they are in, and the row of each.

    Raises:
        ValueError: If one is null, or they are neither whole numbers, booleans nor strings.
    """
    rows = first_row + np.arange(len(column))
    _refuse_nulls(column, rows, name)
    if _is_list(column.type):
        rows = np.repeat(rows, pc.list_value_length(column).to_numpy(zero_copy_only=False))
        column = pc.list_flatten(column)
        _refuse_nulls(column, rows, name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kinds = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
    if len(column) and not any(is_kind(column.type) for is_kind in kinds):
        raise ValueError(
            f"Row {int(rows[0])} of {name} has the label {column[0].as_py()!r} of type {column.type}. Labels are "
            "class numbers (whole), class names, or lists of either; convert the column, or name another one with "
            "--label_column."
        )
    return column, rows


def _refuse_nulls(values: pa.Array, rows: np.ndarray, name: str) -> None:
    if values.null_count:
        row = int(rows[pc.index(pc.is_null(values), True).as_py()])
        raise ValueError(f"Row {row} of {name} has no label (null). Label it, or take the row out.")


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
