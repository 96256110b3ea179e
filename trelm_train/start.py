"""Start `trelm-train`: a Ctrl-C while the program is still being loaded ends it without a trace."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from schemas.parent import end_with_parent


def main() -> NoReturn:
    """Load the program and run it."""
    # A killed `torchrun` leaves its ranks, also one that is still being loaded.
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    try:
        from trelm_train.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was done\n")
        sys.stderr.flush()
        # Nothing has begun that would have to end in order; 130 is the exit code of an interruption.
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
