"""Everything this package uses of the private interface of PEFT, in one place; PEFT 0.21 and later have it."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTuner, _ExcludedModule, check_target_module_exists, delete_adapter
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
    """`BaseTuner` whose adapters lie in modules `<place>.<adapter name>`; the places are the `adapter_layer_names`."""

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        for place in cls.tuner_layer_cls.adapter_layer_names:
            head, found, tail = key.rpartition(f".{place}.{adapter_name}.")
            if found:
                return f"{head}.{place}.{tail}"
        return super()._remove_adapter_name_from_key(key, adapter_name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; see `BaseTuner.delete_adapter`."""
        if adapter_name not in self.peft_config:
            raise ValueError(f"Adapter {adapter_name} does not exist")
        del self.peft_config[adapter_name]
        # PEFT leaves out layers with the prefix in their path, which modules of the user's may have; none has two dots
        self.active_adapter = delete_adapter(self.model, adapter_name, "..", self.tuner_layer_cls) or []

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        try:
            return super()._get_module_names_tied_with_embedding()
        except NotImplementedError:  # some vision models of transformers do not say what their input embeddings are
            return []
