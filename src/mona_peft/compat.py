"""Everything this package uses of the private interface of PEFT, in one place."""

from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

__all__ = ["AuxiliaryTrainingWrapper", "ExcludedModule", "ModulesToSaveWrapper", "check_target_module_exists"]

ExcludedModule = _ExcludedModule
