"""One file per stage: how its units are planned and what happens to one."""
