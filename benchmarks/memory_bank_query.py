"""Look up neighbours in a stored bank of which a part was written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file

from trelm_train.checkpoints.export import export_bank
from trelm_train.training.inspect import nearest


def nearest_of(out: Path, num_rows: int, hidden_size: int, written: int) -> dict[str, Any]:
    """Export the written rows, then ask twice for ten neighbours; the second time the file is in
    memory.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(num_rows, written, replace=False))
    state = {
        "row": torch.from_numpy(rows),
        "note": torch.randn(
            written, 2, hidden_size, generator=torch.Generator().manual_seed(0)
        ).half(),
        "count": torch.ones(written, dtype=torch.int64),
        "source": torch.ones(written, dtype=torch.int64),
    }
    every = np.arange(num_rows)
    labels = pa.array(np.char.add("entity ", every.astype("U7")))
    start = time.perf_counter()
    saved = out / "saved.safetensors"
    save_file(state, saved)
    export_bank(saved, pa.table({"row": every, "id": every + 1, "label": labels}), out)
    export_s = time.perf_counter() - start
    # The second query counts: the first one reads the file into memory.
    for row in (rows[0], rows[-1]):
        start, cpu_start = time.perf_counter(), time.process_time()
        asked, found = nearest(out, f"Q{row + 1}", top=10)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    files = sum(path.stat().st_size for path in (out / "bank").iterdir())
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "export_s": export_s,
        "export_mb": files / 1e6,
        "found": len(found) == 10 and asked.label == f"entity {rows[-1]}",
    }
