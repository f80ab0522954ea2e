"""Which norm of UperNet's heads replaces synchronised batch norm on one GPU, measured on the scenes.

python scripts/compare_head_norms.py --study_size tiny
"""

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.study.head_norms import NormsConfig, compare_norms

if __name__ == "__main__":
    (config,) = parse_arguments([NormsConfig])
    compare_norms(config)
