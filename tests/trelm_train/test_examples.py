"""The examples in docstrings give what they say."""

import doctest
from types import ModuleType

import pytest

from trelm_train.data import batches
from trelm_train.memory import memory_bank


@pytest.mark.parametrize("module", [batches, memory_bank])
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
