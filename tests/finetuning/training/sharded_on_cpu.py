"""Run a script with accelerate's sharding (FSDP) over CPU processes: `sharded_on_cpu.py SCRIPT FLAGS`.

accelerate offers FSDP to processes with accelerators only, though PyTorch shards on CPUs as well; telling it that
these processes have one is all it takes, as device and backend are settled by then.
"""

import runpy
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

if __name__ == "__main__":
    if PartialState(cpu=True).distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
