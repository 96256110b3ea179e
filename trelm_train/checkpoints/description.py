"""Read what the folder of a run says about its beginning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from schemas.checksums import RUN_NAME
from schemas.errors import ConfigError

# The run's settings.
CONFIG_NAME = "config.toml"


def read_run(out: Path) -> dict[str, Any]:
    """Return what a run's folder says about its beginning.

    Raises:
        ConfigError: the file is damaged.
    """
    path = out / RUN_NAME
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return {**run, **{name: run[name] for name in ("shards", "model", "fingerprint")}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}); restore it from a copy, or start a new run in another folder"
        ) from error
