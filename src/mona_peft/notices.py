"""PyTorch's notice to the developers of torchao, which PEFT imports where it is installed; no user can act on it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = "torch.utils._pytree"
NOTICE = "Calling register_constant() on Enum subclasses is deprecated"


def is_other(record: logging.LogRecord) -> bool:
    """Whether a record is anything but the notice."""
    return NOTICE not in record.getMessage()


@contextmanager
def without_notice() -> Iterator[None]:
    """Leave out the notice, and nothing else, while PEFT is imported."""
    logger = logging.getLogger(LOGGER)
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
