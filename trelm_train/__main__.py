"""`python -m trelm_train` is `trelm-train`."""

from trelm_train.start import main

main()
