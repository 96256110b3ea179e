"""Profile some steps: `train.profile = "11:15"` writes a trace and a table for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trelm_train.config import profiled_steps

FOLDER = "profile"
# Rows of the table.
ROWS = 40


class Profile:
    """Start and stop torch's profiler by step numbers, counted from 1."""

    def __init__(self, steps: str, out: Path) -> None:
        # Without steps both are 0, which no step equals.
        self.first_step, self.last_step = profiled_steps(steps) if steps else (0, 0)
        self.out = out / FOLDER
        self._profiler: Any = None

    def before(self, step: int) -> None:
        """Start the profiler before the first profiled step; call it before each step."""
        if step == self.first_step:
            # Started late: a profile of a whole run would fill the memory.
            self._profiler = torch.profiler.profile(profile_memory=True)
            self._profiler.start()

    def after(self, step: int) -> None:
        """Stop the profiler after the last profiled step; call it after each step."""
        if step == self.last_step:
            self.close()

    def close(self) -> None:
        """Write what was recorded: at the last step, or where the run ends before it."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return

        profiler.stop()
        self.out.mkdir(parents=True, exist_ok=True)
        # A resumed run may profile other steps into the same folder.
        name = f"steps-{self.first_step}-{self.last_step}"
        profiler.export_chrome_trace(str(self.out / f"{name}.json"))
        table = profiler.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=60
        )
        (self.out / f"{name}.txt").write_text(table + "\n", encoding="utf-8")
