"""Name the array types of both programs in one place: an alias says which numbers an array holds,
never its shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # where any kind of number will do

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]  # item and property ids
U64 = npt.NDArray[np.uint64]  # hashes, keys, bit masks
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]  # offsets, rows, counts
Ints = npt.NDArray[np.integer[Any]]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
