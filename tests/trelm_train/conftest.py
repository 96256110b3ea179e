from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trelm_train import world
from trelm_train.config import Config, load_config
from trelm_train.data.knowledge import Knowledge, load_knowledge
from trelm_train.data.loader import Batch, BatchStream, Packing, Position
from trelm_train.data.masking import Vocabulary
from trelm_train.data.sentences import Sentences, read_sentences
from trelm_train.data.shards import Shards, open_shards
from trelm_train.model.masked_lm import MaskedLm, load_pretrained, vocabulary_of
from trelm_train.training.session import RunRequest, Session
from trelm_train.training.step import StepResult, train_step
from trelm_train.training.step_inputs import StepInputs

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)

SMALL = (
    "train.batch_tokens=256", "train.max_tokens=48", "train.learning_rate=0.003", "train.log_every=2", "train.steps=6",
    "train.threads=1", "routing.refresh_every=3", "routing.probe_facts=24", "routing.share=0.25",
    "routing.policy=ig", "routing.learning_rate_scale=5", "injection.enabled=true", "memory.enabled=true",
    "cka.enabled=true", "cka.form=projection", "facts.share=0.5",
)  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return world.make_tokenizer()


@pytest.fixture(scope="session")
def shards_path(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "shards"
    return world.write_shards(
        folder, tokenizer, world.example_columns(tokenizer), world.knowledge_columns(tokenizer)
    )


@pytest.fixture(scope="session")
def plain_shards_path(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards in which some sentences have no mention, and some mentions but no fact."""
    columns = world.partly_plain(world.example_columns(tokenizer))
    folder = tmp_path_factory.mktemp("plain") / "shards"
    return world.write_shards(folder, tokenizer, columns, world.knowledge_columns(tokenizer))


@pytest.fixture(scope="session")
def model_path(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "model"
    world.make_bert(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shards(shards_path: Path) -> Shards:
    return open_shards(shards_path)


@pytest.fixture(scope="session")
def knowledge(shards: Shards) -> Knowledge:
    return load_knowledge(shards)


@pytest.fixture(scope="session")
def vocab_size(tokenizer: Any) -> int:
    return len(tokenizer)


@pytest.fixture
def model(model_path: Path) -> MaskedLm:
    loaded = load_pretrained(str(model_path), torch.device("cpu"))
    loaded.hf.eval()
    return loaded


@pytest.fixture
def roberta(tokenizer: Any) -> MaskedLm:
    loaded = MaskedLm(world.make_roberta(len(tokenizer)), torch.device("cpu"))
    loaded.hf.eval()
    return loaded


@pytest.fixture(scope="session")
def vocabulary(tokenizer: Any) -> Vocabulary:
    return vocabulary_of(tokenizer, len(tokenizer))


@pytest.fixture(scope="session")
def stream(shards: Shards) -> BatchStream:
    return BatchStream(shards, Packing(max_tokens=48, batch_tokens=256, limit=64), seed=3, pad_id=0)


@pytest.fixture(scope="session")
def plain_stream(plain_shards_path: Path) -> BatchStream:
    packing = Packing(max_tokens=48, batch_tokens=256, limit=64)
    return BatchStream(open_shards(plain_shards_path), packing, seed=3, pad_id=0)


@pytest.fixture(scope="session")
def batch(stream: BatchStream) -> Batch:
    return next(stream.iterate(Position()))[0]


def step_on(session: Session, batch: Batch, number: int) -> StepResult:
    """One step of a session on one batch."""
    inputs = StepInputs(micro_batches=(session.preparer(batch, 0),), following=session.position)
    return train_step(session.components, inputs, number)


def some_sentences(stream: BatchStream) -> Sentences:
    """The training sentences of a stream's first window."""
    return read_sentences(stream._windows(0)[0], "train")


def small_config(*sets: str) -> Config:
    """A configuration for runs of a second."""
    return load_config(None, [*SMALL, *sets])


def request_for(shards: Path, model: Path, out: Path, *sets: str) -> RunRequest:
    return RunRequest(shards=shards, model=str(model), out=out, config=small_config(*sets))


@pytest.fixture(scope="session")
def kit() -> Path:
    path = os.environ.get("TRELM_KIT")
    if not path:
        pytest.skip("set TRELM_KIT to the data kit to run this test")
    return Path(path)
