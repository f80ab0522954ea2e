"""New members of PEFT's `PeftType` enumeration and their registration as tuners.

PEFT keeps its methods in an enumeration that is closed once it is written and in tables keyed by its members.
`register_peft_method` fills the tables but expects the member to exist; `add_peft_type` creates it.
"""

import warnings

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method


def add_peft_type(name: str) -> PeftType:
    """Return the member `name` of `PeftType`, created if PEFT does not have it.

    The member behaves as one from the class body: by attribute, by value, by name, in iteration and when pickled.

    Args:
        name (`str`): Name and value of the member, in capitals as PEFT has them.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType)  # type: ignore[attr-defined]
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


def register_tuner(name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> bool:
    """Register a tuner with PEFT under `name`, once.

    Args:
        name (`str`): Name of the method in lower case; its parameters' prefix is `name` and an underscore.
        config_cls (`type[PeftConfig]`): The configuration class.
        model_cls (`type[BaseTuner]`): The tuner class.

    Returns:
        `bool`: True if this call registered it; False if it already was, or if PEFT has a method of that name of
        its own, which is left as it is (with a warning).
    """
    peft_type = add_peft_type(name.upper())
    registered = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type)
    if registered is None:
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls, is_mixed_compatible=True)
        return True
    if registered is not config_cls:
        warnings.warn(
            f"PEFT already has a method '{name}' ({registered.__module__}.{registered.__qualname__}), which is kept. "
            f"`PeftConfig.from_pretrained` will use it instead of {config_cls.__module__}.{config_cls.__qualname__}.",
            stacklevel=2,
        )
    return False
