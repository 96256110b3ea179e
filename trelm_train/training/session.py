"""Build all that a run consists of once, and turn its state into tensors and plain values."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.bucket_copies import joined as join_location
from schemas.buckets import Location, location_of
from schemas.checksums import HAS_CHECKSUMS, RUN_NAME, seal, sealed_damage
from schemas.durable import write_durably
from schemas.errors import ConfigError
from schemas.listing import a_few
from schemas.settings import to_dict, to_toml
from trelm_train.checkpoints.bucket_run import BucketRun, RunFolder
from trelm_train.checkpoints.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    best_checkpoint,
    latest_checkpoint,
    load_checkpoint,
)
from trelm_train.checkpoints.description import CONFIG_NAME, read_run
from trelm_train.checkpoints.export import (
    BANK_FILE,
    ENTITIES_FILE,
    INITIAL,
    entities_of,
    export_model,
    load_weights,
    write_entities,
)
from trelm_train.checkpoints.new_run import refuse_foreign
from trelm_train.cka.loss import Cka
from trelm_train.cka.plan import CkaPlanner
from trelm_train.cka.tail_decoder import TailDecoder
from trelm_train.config import OPERATIONAL, Config, TrainConfig, load_config, settled
from trelm_train.data.knowledge import Knowledge, load_knowledge
from trelm_train.data.loader import BatchStream, LoaderState, Packing, Position
from trelm_train.data.masking import Vocabulary
from trelm_train.data.shards import Shards, open_shards
from trelm_train.facts.chooser import make_chooser
from trelm_train.memory.bank_file import read_bank, write_bank
from trelm_train.memory.injection import InitialEmbeddings, Injector, freeze_embeddings
from trelm_train.memory.memory_bank import MemoryBank
from trelm_train.model.dropout import attention_dropout, set_dropout
from trelm_train.model.encoder import encode_reads
from trelm_train.model.masked_lm import MaskedLm, check_tokenizer, load_pretrained, pick_device
from trelm_train.model.precision import number_format
from trelm_train.optim import Optimiser
from trelm_train.ranks import ALONE, Ranks
from trelm_train.reporting.metrics import METRICS_NAME, Interval, Timers
from trelm_train.routing.router import Router, whole_parameters
from trelm_train.routing.sparse_ffn import SparseFfn
from trelm_train.training.spike_guard import SpikeGuard
from trelm_train.training.step import Components
from trelm_train.training.step_inputs import BatchPreparer

log = logging.getLogger(__name__)
# What a run writes before its description; and what a new disk has.
FIRST_FILES = (CONFIG_NAME, METRICS_NAME, INITIAL, ENTITIES_FILE, "lost+found")
# Those whose versions are written into `run.json`.
PACKAGES = (
    "trelm", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "safetensors",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """Hold what `trelm-train run` was asked for."""

    # In a bucket or on this machine, as the model and the folder of the run.
    shards: Location
    model: str
    out: Location
    config: Config
    # Names of files that the caller keeps in the folder of the run.
    beside: tuple[str, ...] = ()
    # What sends the run to its bucket while `out` is its folder on this machine.
    bucket: BucketRun | None = None

    @property
    def folder(self) -> Path:
        """Return the folder of this machine in which the run is written."""
        assert isinstance(self.out, Path), "a run in a bucket is opened first"
        return self.out

    def place_of(self, name: str) -> str:
        """Return what the user calls a file of the run."""
        return str(join_location(self.bucket.address if self.bucket else self.out, name))


@dataclass(kw_only=True, slots=True)
class Session:
    """Hold a run in progress: its components, and where it stands."""

    request: RunRequest
    shards: Shards
    knowledge: Knowledge
    stream: BatchStream
    packing: Packing
    preparer: BatchPreparer
    components: Components
    router: Router | None
    position: Position = field(default_factory=Position)
    step: int = 0
    tokens: int = 0
    skipped: int = 0
    interval: Interval = field(default_factory=Interval)
    # First and last losses, the validation before training, and the like.
    history: dict[str, Any] = field(default_factory=dict)


def start_run(request: RunRequest, ranks: Ranks = ALONE) -> Session:
    """Check everything, then lay out a new run's folder (the first rank does).

    Raises:
        ConfigError: the folder holds a run already, or an input is wrong.
    """
    # Other ranks may look when the first one has begun to write.
    if ranks.is_first:
        check_out(request)
    session = prepare_run(request, ranks)
    if ranks.is_first:
        _lay_out(session)
    ranks.wait()
    return session


def check_out(request: RunRequest) -> None:
    """Refuse a folder in which a new run would overwrite something.

    A run that ended before its first checkpoint may be started again in its folder.

    Raises:
        ConfigError: it holds a run with a checkpoint or a model, or what is no run's.
    """
    if request.bucket is not None:
        request.bucket.check_new([*FIRST_FILES, *request.beside], CONFIG_NAME)
        return
    out = request.folder
    if (out / RUN_NAME).exists():
        if latest_checkpoint(out / CHECKPOINTS) is not None or (out / "model").exists():
            raise ConfigError(
                f"{out}: holds a run already; continue it with `trelm-train resume --out {out}`, or "
                "give another --out"
            )
        return

    # A run that was stopped while its folder was laid out has these, and no description.
    own = {*FIRST_FILES, *request.beside}
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    config = out / CONFIG_NAME
    text = config.read_text("utf-8", errors="replace") if config.is_file() else ""
    refuse_foreign(out, names, own, (CONFIG_NAME, text))


def prepare_run(request: RunRequest, ranks: Ranks = ALONE) -> Session:
    """Build a session at its beginning; nothing is written.

    Raises:
        ConfigError: an input is wrong.
    """
    shards = open_shards(request.shards)
    model = load_pretrained(request.model, pick_device(request.config.train.device))
    return _build(request, shards, model, request.model, ranks)


def _lay_out(session: Session) -> None:
    """Write settings, initial model and the run's description into its folder.

    Raises:
        ConfigError: the folder cannot be written.
    """
    request, shards, model = session.request, session.shards, session.components.model
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
        write_durably(request.folder / CONFIG_NAME, to_toml(request.config))
    except OSError as error:
        raise ConfigError(
            f"{request.out}: cannot write there ({error.strerror}); give another --out"
        ) from error

    # Metrics may be there of a run that ended before its first checkpoint.
    (request.folder / METRICS_NAME).unlink(missing_ok=True)
    # A copy of the initial model: `resume` and the share of changed weights need it, even if the
    # model of that name has changed.
    initial = request.folder / INITIAL
    # What a killed run has left there by half would be among the files that are listed.
    shutil.rmtree(initial, ignore_errors=True)
    export_model(model, shards.tokenizer_path, initial)
    # A changed byte would be another weight, and the run would go on with it.
    seal(initial)
    if session.components.bank is not None:
        write_entities(entities_of(session.knowledge), request.folder)

    run = {
        # Absolute: `resume` may be called from another folder.
        "shards": _lasting(request.shards),
        "model": request.model,
        "fingerprint": shards.fingerprint,
        "data": {
            "tokenizer_sha256": shards.tokenizer_sha256,
            "sentences": shards.num_sentences,
            "knowledge_rows": len(session.knowledge),
            # Whether the model's name is a folder here: elsewhere nobody could tell.
            "is_model_folder": Path(request.model).exists(),
        },
        "versions": versions(),
        # Then a missing file of them is damage; older versions wrote none.
        HAS_CHECKSUMS: True,
    }
    write_durably(request.folder / RUN_NAME, json.dumps(run, indent=1) + "\n")
    if request.bucket is not None:
        request.bucket.publish_start()


def _lasting(location: Location) -> str:
    return str(location.resolve() if isinstance(location, Path) else location)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run is made with."""
    versions_by_name = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions_by_name[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # trelm itself is not installed where it runs from a checkout.
            versions_by_name[package] = "unknown"
    return versions_by_name


def resume_run(
    place: RunFolder,
    checkpoint: Path | None,
    moved_shards: Location | None = None,
    ranks: Ranks = ALONE,
    settings: Config | None = None,
) -> Session:
    """Build the session of a run where a checkpoint left it, or at its start without one.

    Args:
        place: the run's folder.
        checkpoint: the checkpoint's folder, if there is one.
        moved_shards: where the shards lie, if not where the run found them.
        ranks: all processes of the training.
        settings: those that count, if not the ones in the run's folder.

    Raises:
        ConfigError: no run there, or its shards have changed.
    """
    out = place.folder
    if not (out / RUN_NAME).is_file():
        raise ConfigError(f"{out}: no run there; start one with `trelm-train run --out {out} …`")

    run = read_run(out)
    # A damaged mark would be found at the next checkpoint, after the steps up to it.
    best_checkpoint(out / CHECKPOINTS)
    # The settings of the run's folder, which a user may have edited.
    config = settings or load_config(out / CONFIG_NAME)
    request = RunRequest(
        shards=moved_shards or location_of(run["shards"]),
        model=run["model"],
        out=out,
        config=config,
        bucket=place.bucket,
    )
    shards = open_shards(request.shards)
    if shards.fingerprint != run["fingerprint"]:
        raise ConfigError(
            f"{request.shards}: not the shards this run started with; "
            "restore them, or start a new run"
        )

    model = _load_initial(out, run, config)
    session = _build(request, shards, model, str(out / INITIAL), ranks)
    if checkpoint is not None:
        restore(session, load_checkpoint(checkpoint))
    return session


def _load_initial(out: Path, run: dict[str, Any], config: Config) -> MaskedLm:
    """Load the model that a run began with, from the run's folder.

    Raises:
        ConfigError: it is damaged.
    """
    initial = out / INITIAL
    damage = sealed_damage(initial, out)
    if damage:
        raise ConfigError(
            f"{initial}: damaged ({damage}); restore this copy of {run['model']} from a backup, or "
            "start a new run in another folder"
        )
    return load_pretrained(str(initial), pick_device(config.train.device))


def _build(
    request: RunRequest, shards: Shards, model: MaskedLm, model_name: str, ranks: Ranks
) -> Session:
    """Build a session from a model and shards that are open already.

    Raises:
        ConfigError: settings that do not fit the model, the shards or the number of ranks.
    """
    config = settled(request.config, num_layers=model.num_layers, hidden_size=model.hidden_size)
    request, seed = replace(request, config=config), config.train.seed
    _configure(config, model, ranks)

    # Ids of the shards mean other tokens in another vocabulary, without any error.
    vocabulary = check_tokenizer(model_name, model, shards)
    knowledge = load_knowledge(shards)
    packing = Packing(
        max_tokens=min(config.train.max_tokens, model.max_tokens),
        batch_tokens=config.train.batch_tokens,
        layout=config.train.layout,
        limit=model.max_tokens,
    )
    stream = BatchStream(shards, packing, seed=seed, pad_id=vocabulary.pad_id)

    components = _build_components(request, shards, model, vocabulary, knowledge, ranks)
    router = None
    if components.sparse is not None:
        router = Router(config.routing, model, vocabulary, seed=seed)
    planner = CkaPlanner(config.cka, knowledge, seed=seed) if config.cka.enabled else None
    chooser = None
    if config.facts.enabled or planner is not None:
        chooser = make_chooser(config.facts, shards, seed=seed, spelling=vocabulary.spelling)
    preparer = BatchPreparer(config=config, vocabulary=vocabulary, chooser=chooser, planner=planner)

    return Session(
        request=request,
        shards=shards,
        knowledge=knowledge,
        stream=stream,
        packing=packing,
        preparer=preparer,
        components=components,
        router=router,
    )


def _configure(config: Config, model: MaskedLm, ranks: Ranks) -> None:
    """Apply settings of the process and the model, and refuse those that cannot be met.

    Raises:
        ConfigError: too few batches for the ranks, or attention that the model cannot have.
    """
    if ranks.size > config.train.micro_batches:
        raise ConfigError(
            f"{ranks.size} ranks share {config.train.micro_batches} batch(es) of a step; "
            f"use --set train.micro_batches={ranks.size}, or a multiple of it"
        )

    # Sums in another number of threads differ in the last bits, so a run may fix it.
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    set_dropout(model.hf, config.train.dropout)
    if config.train.attention == "varlen":
        _check_varlen(model, number_format(config.train.precision, model.device))


def _build_components(
    request: RunRequest,
    shards: Shards,
    model: MaskedLm,
    vocabulary: Vocabulary,
    knowledge: Knowledge,
    ranks: Ranks,
) -> Components:
    """Build what a step works with; freeze what is not trained as a whole.

    Raises:
        ConfigError: the shards have no bits for the injection policy.
    """
    config, seed = request.config, request.config.train.seed
    initial = freeze_embeddings(model.word_embeddings.weight, knowledge)
    cka = _build_assessor(config, knowledge, initial, model.device)
    # Building it has drawn from torch's generator; from here on a run with and one without it are
    # alike.
    torch.manual_seed(seed)

    injector = None
    if config.injection.enabled and config.injection.policy != "none":
        shards.check_policy(config.injection.policy, setting="injection.policy")
        injector = Injector(
            config.injection, knowledge, initial, seed=seed, spelling=vocabulary.spelling
        )
    # Without injection no note is ever read.
    bank = _build_bank(request, model, knowledge) if injector is not None else None

    whole = whole_parameters(model, config.routing)
    if cka is not None:
        # The prefix tells the projection from the model's own weights.
        whole |= dict(cka.named_parameters(prefix="cka"))
    sparse = None
    if config.routing.policy != "full":
        sparse = SparseFfn(model, config.train, rate_scale=config.routing.learning_rate_scale)

    return Components(
        config=config,
        ranks=ranks,
        dtype=number_format(config.train.precision, model.device),
        attention_dropout=attention_dropout(model.hf),
        encode=torch.compile(encode_reads, dynamic=True) if config.train.compile else encode_reads,
        model=model,
        vocabulary=vocabulary,
        knowledge=knowledge,
        optimiser=Optimiser(whole, config.train, rate_scales(model, config.train)),
        guard=SpikeGuard(config.train.skip_sigma),
        injector=injector,
        bank=bank,
        cka=cka,
        sparse=sparse,
        timers=Timers(),
    )


def _build_assessor(
    config: Config, knowledge: Knowledge, initial: InitialEmbeddings, device: torch.device
) -> Cka | TailDecoder | None:
    """Build the form of contrast that has weights of its own; None for others, and without any."""
    seed = config.train.seed
    if config.cka.enabled and config.cka.form == "projection":
        return Cka(config.cka, knowledge, initial, seed=seed).to(device)
    if config.cka.enabled and config.cka.form == "decoder":
        return TailDecoder(knowledge, initial, seed=seed).to(device)
    return None


def _assessor_tensors(cka: Cka | TailDecoder) -> dict[str, Tensor]:
    """Return the weights that contrast has of its own, by their names in a checkpoint."""
    return {name.removesuffix(".weight"): weight for name, weight in cka.named_parameters()}


def rate_scales(model: MaskedLm, train: TrainConfig) -> Callable[[str], float]:
    """Return the factor on the learning rate of each parameter, by its name."""
    scales = {"embeddings": train.embedding_rate_scale, "head": train.head_rate_scale}

    def scale_of(name: str) -> float:
        # The projection of CKA is no part of the model, and by its name alone would pass for a head.
        return 1.0 if name.startswith("cka.") else scales.get(model.family.kind(name), 1.0)

    return scale_of


def _build_bank(request: RunRequest, model: MaskedLm, knowledge: Knowledge) -> MemoryBank | None:
    """Build an empty memory bank, or none if it is switched off or no entity has a row."""
    config = request.config.memory
    if not config.enabled or not knowledge.num_bank_rows:
        return None
    return MemoryBank(
        knowledge.num_bank_rows,
        model.hidden_size,
        config,
        folder=request.folder if isinstance(request.out, Path) else None,
        device=model.device,
    )


def _check_varlen(model: MaskedLm, dtype: torch.dtype) -> None:
    """Refuse attention by sentence where its kernel lacks something.

    Raises:
        ConfigError: names it, and what to set instead.
    """
    if model.device.type == "cuda" and dtype == torch.float32:
        raise ConfigError(
            "train.attention = 'varlen' multiplies in half formats alone; "
            "add --set train.precision=bfloat16"
        )
    if model.config.model_type == "modernbert":
        raise ConfigError(
            "train.attention = 'varlen' supports no windows, which ModernBERT's layers have; "
            "use sdpa"
        )
    if attention_dropout(model.hf) > 0:
        raise ConfigError(
            "train.attention = 'varlen' has no dropout of attention; "
            "add --set train.dropout=0, or use sdpa"
        )


def tensors_of(session: Session) -> dict[str, dict[str, Tensor]]:
    """Return every tensor that a resumed run needs, in named groups; empty groups are left out."""
    components = session.components
    groups: dict[str, dict[str, Tensor]] = {"model": dict(components.model.hf.named_parameters())}

    # Empty where nothing is trained as a whole.
    groups["optimiser"] = components.optimiser.state()
    if components.cka is not None:
        groups["cka"] = _assessor_tensors(components.cka)
    if components.sparse is not None and session.router is not None:
        groups["sparse"] = components.sparse.state()
        groups["router"] = session.router.state()

    return {name: group for name, group in groups.items() if group}


def write_files(session: Session, folder: Path) -> None:
    """Write what a checkpoint holds besides tensors: the memory bank, piece by piece."""
    if session.components.bank is not None:
        write_bank(session.components.bank, folder / BANK_FILE)


def state_of(session: Session) -> dict[str, Any]:
    """Return every plain value that a resumed run needs."""
    return {
        "step": session.step,
        "tokens": session.tokens,
        "skipped": session.skipped,
        "guard": session.components.guard.state(),
        # `auto` may mean another format on another machine: a resumed run must notice it.
        "number_format": str(session.components.dtype),
        "loader": session.stream.state(session.position).to_dict(),
        "config": to_dict(session.request.config),
        "interval": session.interval.state(),
        "seconds": session.components.timers.seconds,
        "history": session.history,
    }


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the settings that differ and decide what is learned."""
    changed = []
    for section, keys in new.items():
        if section in OPERATIONAL:
            continue
        for name, value in keys.items():
            is_changed = old.get(section, {}).get(name) != value
            if is_changed and f"{section}.{name}" not in OPERATIONAL:
                changed.append(f"{section}.{name}")
    return changed


def _check_config(checkpoint: Checkpoint, config: dict[str, dict[str, Any]]) -> None:
    """Refuse settings that are not those of a checkpoint.

    Raises:
        ConfigError: names them.
    """
    changed = changed_settings(checkpoint.state["config"], config)
    if changed:
        raise ConfigError(
            f"{checkpoint.path}: made with other settings ({a_few(changed, shown=8)} changed since); "
            f"restore them in {CONFIG_NAME}, or start a new run"
        )


def restore(session: Session, checkpoint: Checkpoint) -> None:
    """Put a session where a checkpoint left it.

    Raises:
        ConfigError: the checkpoint was made from other shards, or with other settings.
    """
    state, tensors, components = checkpoint.state, checkpoint.tensors, session.components
    _check_config(checkpoint, to_dict(session.request.config))
    if state["number_format"] != str(components.dtype):
        raise ConfigError(
            f"{checkpoint.path}: its steps were in {state['number_format']}, this machine would go "
            f"on in {components.dtype}; resume on a machine like the first, or start a new run "
            "with --set train.precision=…"
        )

    loader = LoaderState.from_dict(state["loader"])
    session.stream.check(loader)

    # Weights come before the selected neurons, which are gathered out of them.
    load_weights(components.model, tensors["model"])
    components.optimiser.load(tensors.get("optimiser", {}))
    if components.cka is not None:
        with torch.no_grad():
            for name, weight in _assessor_tensors(components.cka).items():
                weight.copy_(tensors["cka"][name])
    if components.bank is not None:
        read_bank(components.bank, checkpoint.path / BANK_FILE)
    if components.sparse is not None and session.router is not None:
        components.sparse.load(tensors.get("sparse", {}))
        session.router.load(tensors.get("router", {}))

    components.guard.load(state["guard"])
    session.step, session.tokens, session.skipped = state["step"], state["tokens"], state["skipped"]
    session.position = loader.position
    # A logging interval may have begun before the checkpoint.
    session.interval = Interval(**state["interval"])
    session.history = state["history"]
    # Seconds add up over all pieces of a run.
    components.timers.seconds.update(state["seconds"])
