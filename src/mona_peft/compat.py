"""Everything this package uses of the private interface of PEFT, in one place; PEFT 0.21 and later have it."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTuner, _ExcludedModule, check_target_module_exists
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

__all__ = [
    "AuxiliaryTrainingWrapper",
    "CompatibleTuner",
    "ExcludedModule",
    "ModulesToSaveWrapper",
    "check_target_module_exists",
]

ExcludedModule = _ExcludedModule


class CompatibleTuner(BaseTuner):
    """`BaseTuner` whose adapters lie in modules `<prefix><place>.<adapter name>`, as the keys of their files say."""

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        head, separator, tail = key.partition(f".{cls.prefix}")
        if not separator:
            return super()._remove_adapter_name_from_key(key, adapter_name)
        place, _, rest = tail.partition(".")
        return f"{head}{separator}{place}.{rest.removeprefix(adapter_name + '.')}"

    @classmethod
    def _insert_adapter_name(cls, key: str, adapter_name: str) -> str:
        head, separator, tail = key.partition(f".{cls.prefix}")
        place, _, rest = tail.partition(".")
        return f"{head}{separator}{place}.{adapter_name}.{rest}" if separator else key

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        try:
            return super()._get_module_names_tied_with_embedding()
        except NotImplementedError:  # some vision models of transformers do not say what their input embeddings are
            return []
