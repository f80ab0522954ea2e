"""The sections of a recipe: what belongs to one method alone, under the method's name in `by_method`.

```yaml
learning_rate: 6.0e-5
by_method:
  mona: {learning_rate: 3.0e-4, drop_path: 0.2, options: {bottleneck_dim: 64}}
  lora: {options: {lora_alpha: 1}}
```

A method gets its own section and no other's; settings outside are for every method, but `method_options`, which
belong to the `method` next to them. A flag wins over both.
"""

from __future__ import annotations

from collections.abc import Mapping

KEY = "by_method"
#: What a section may hold next to the `options` of the method.
SHARED = ("learning_rate", "drop_path")


def sections(recipe: Mapping[str, object], given: Mapping[str, object], default: str) -> dict[str, dict[str, object]]:
    """The sections by method, with `method_options` in that of their method, and without what a flag sets for all.

    Args:
        recipe (`Mapping[str, object]`): Settings of the recipe.
        given (`Mapping[str, object]`): Settings given as flags.
        default (`str`): The method where neither names one.

    Raises:
        ValueError: If `by_method` or a section of it is no mapping, or the method is no text.
    """
    parts = _mapping(KEY, given.get(KEY, recipe.get(KEY)))
    found = {name: dict(_mapping(f"{KEY} of {name}", part)) for name, part in parts.items()}
    for source, method in ((recipe, chosen(recipe, {}, default)), (given, chosen(recipe, given, default))):
        if options := _mapping("method_options", source.get("method_options")):
            section = found.setdefault(method, {})
            section["options"] = {**_mapping("options", section.get("options")), **options}
    by_flag = [name for name in SHARED if name in given]
    return {name: {k: v for k, v in section.items() if k not in by_flag} for name, section in found.items()}


def chosen(recipe: Mapping[str, object], given: Mapping[str, object], default: str) -> str:
    """The method that runs.

    Raises:
        ValueError: If it is no text.
    """
    method = given.get("method", recipe.get("method", default))
    if not isinstance(method, str):
        raise ValueError(f"method is {method!r}; it must be the name of one method.")
    return method


def settings_for(section: Mapping[str, object]) -> dict[str, object]:
    """A section as settings of a run."""
    own = {name: section[name] for name in SHARED if section.get(name) is not None}
    return {**own, "method_options": section.get("options") or {}}


def _mapping(name: str, value: object) -> Mapping[str, object]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}; it must be a mapping.")
    return value or {}
