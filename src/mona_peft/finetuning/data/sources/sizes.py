"""Images of each official split of the data sets that are known by name."""

OFFICIAL_SIZES = {
    "flowers102": {"train": 1020, "validation": 1020, "test": 6149},
    "oxford_pets": {"train": 3680, "test": 3669},
    "voc2007": {"train": 5011, "test": 4952},
    "ade20k": {"train": 20210, "validation": 2000},
}
