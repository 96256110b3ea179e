"""`python -m trelm_train` is `trelm-train`."""

from trelm_train.cli import main

main()
