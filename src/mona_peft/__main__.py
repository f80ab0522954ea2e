"""`python -m mona_peft` is the command `mona-peft`."""

import sys

from mona_peft.finetuning.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
