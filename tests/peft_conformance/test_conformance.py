"""Every guarantee over every method and subject; what is refused, and with which error, is data."""

from __future__ import annotations

import pickle
from functools import cache

import pytest

from mona_peft.blocks.known import find_blocks
from mona_peft.tuners.vpt.model import why_not
from tests.support.subjects import SUBJECTS

from .guarantees import GUARANTEES
from .methods import ALL, CONTROL, OWN

pytestmark = pytest.mark.filterwarnings("ignore")

EVERY = tuple(method.name for method in OWN)

#: What a method refuses: by guarantee and method, or subject, the error and what it says.
REFUSED: dict[tuple[str, str], tuple[type[Exception], str]] = {
    **{(name, method): (ValueError, r"cannot be merged.*unload\(\)") for method in EVERY
       for name in ("merging_keeps_the_output", "merging_in_place_keeps_the_output")},
    **{("adapters_are_combined_by_weight", m): (AttributeError, "add_weighted_adapter") for m in (*EVERY, "loha")},
    **{("weights_are_swapped_in_place", m): (ValueError, "Hotswapping only supports LORA") for m in (*EVERY, "loha")},
    **{("it_is_mixed_with_lora", m): (ValueError, "not compatible with the `PeftMixedModel`") for m in EVERY},
    ("starts_as_the_base_model", "vpt"): (AssertionError, ""),
    ("an_auto_model_finds_the_base", "timm-vit"): (AttributeError, "save_pretrained"),
}  # fmt: skip

#: What the control does not keep. PEFT's own methods ignore the names of rows where they cannot serve them, and find
#: the index of a block only where something stands before its container.
CONTROL_LACKS = {
    ("rows_of_a_batch_use_their_own_adapters", "loha", ""),
    ("unknown_adapters_of_rows_are_refused", "loha", ""),
    ("rows_of_a_batch_use_their_own_adapters", "lora", "swin"),  # its attention sees windows, not images
    ("rows_of_a_batch_use_their_own_adapters", "lora", "backbone"),
    ("checkpointed_gradients_are_the_same", "lora", "swin"),  # its patch embedding gives a tuple
    ("checkpointed_gradients_are_the_same", "lora", "backbone"),
    ("checkpointed_gradients_are_the_same", "loha", "swin"),
    ("checkpointed_gradients_are_the_same", "loha", "backbone"),
    ("blocks_are_chosen_by_index", "lora", "timm-vit"),
    ("blocks_are_chosen_by_index", "loha", "timm-vit"),
}


def cases():
    """Each guarantee for each method on one subject, turn by turn; on the others too in the campaign."""
    for i, guarantee in enumerate(GUARANTEES):
        for j, method in enumerate(ALL):
            for k, subject in enumerate(SUBJECTS):
                if {(guarantee, method, ""), (guarantee, method, subject)} & CONTROL_LACKS:
                    continue
                marks = [] if (i + j) % len(SUBJECTS) == k else [pytest.mark.campaign]
                yield pytest.param(guarantee, method, subject, marks=marks, id=f"{guarantee}-{method}-{subject}")


@cache
def takes_prompts(subject):
    """Whether its attention does: that of Swin in transformers 5.0 does not."""
    model = SUBJECTS[subject].build()
    return not any(why_not(model.get_submodule(name)) for name in find_blocks(model))


@cache
def is_pickled(subject):
    """Whether the model itself is; some releases of transformers put local functions into it."""
    try:
        pickle.dumps(SUBJECTS[subject].build())
    except AttributeError:
        return False
    return True


def find_refusal(guarantee, method, subject):
    """The error that is expected and what it says; None where the guarantee is kept."""
    if method == "vpt" and not takes_prompts(subject):
        return ValueError, "Prompts cannot join the tokens of block|not compatible with the `PeftMixedModel`"
    if guarantee == "a_model_is_pickled" and not is_pickled(subject):
        return AttributeError, "pickle local object"
    return REFUSED.get((guarantee, method)) or REFUSED.get((guarantee, subject))


@pytest.mark.parametrize(("guarantee", "method", "subject"), cases())
def test_it_holds_or_is_refused(guarantee, method, subject, tmp_path):
    refusal = find_refusal(guarantee, method, subject)
    arguments = (ALL[method], SUBJECTS[subject], tmp_path)
    if refusal is None:
        GUARANTEES[guarantee](*arguments)
        return
    error, message = refusal
    with pytest.raises(error, match=message):
        GUARANTEES[guarantee](*arguments)


def test_the_control_keeps_every_guarantee():
    for guarantee in GUARANTEES:
        lacking = [
            m.name for m in CONTROL if (guarantee, m.name) in REFUSED or (guarantee, m.name, "") in CONTROL_LACKS
        ]
        assert len(lacking) < len(CONTROL), guarantee


def test_the_tables_name_what_exists():
    assert {guarantee for guarantee, *_ in (*REFUSED, *CONTROL_LACKS)} <= set(GUARANTEES)
    assert {name for _, name, *_ in (*REFUSED, *CONTROL_LACKS)} <= {*ALL, *SUBJECTS}
