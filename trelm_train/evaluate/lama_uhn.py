"""Drop items whose answer can be read off the subject's name: LAMA-UHN (Poerner et al. 2020).

Two filters: the object is part of the subject (`lama_rows.skip_reason`), and, for some relations of
persons, a masked LM names the object when it is asked of one word of the subject alone: "Jean is a
common name in the following country : [MASK] .". Template, nouns, relations and the first three
answers over the whole vocabulary are those of the published script (`create_lama_uhn.py`), whose
model is bert-base-cased.

Ours: of equal answers around the third place none counts, an object of several tokens is never
named, and answers are kept in a file by the model's fingerprint, since they never change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from schemas.bucket_cache import cache_folder
from schemas.durable import publish
from schemas.regular_files import open_regular
from trelm_train.evaluate.answers import Cloze, ask
from trelm_train.evaluate.lama_rows import ProbeRow
from trelm_train.evaluate.prober import Prober
from trelm_train.model.masked_lm import (
    MaskedLm,
    configuration_of,
    load_pretrained,
    load_tokenizer,
    weights_sha256,
)
from trelm_train.model.protocols import Tokenizer

# The value of --uhn that needs no model.
STRING = "string"
NOUN_OF = {
    "P19": "city", "P20": "city", "P27": "country", "P103": "language", "P1412": "language",
    "place_of_birth": "city", "place_of_death": "city",
}  # fmt: skip
TEMPLATE = "{name} is a common name in the following {noun} : {mask} ."
NUM_BEST = 3
# What differs between tokenizers of one vocabulary, in the fingerprint.
SAMPLE = "Ann, née Ödön [MASK] ann"
# Answers of a model: noun → word of a name → token ids, best first.
Named = dict[str, dict[str, list[int]]]

log = logging.getLogger(__name__)


def uhn_label(uhn: str) -> str:
    """Say which part of UHN was applied; `uhn` is empty, "string" or the name of a model."""
    if not uhn:
        return "off"
    return "string match only" if uhn == STRING else f"string match, and name cloze with {uhn}"


class NameCloze:
    """Ask a masked LM what a name alone gives away, and keep its answers in a file.

    `path` None keeps them nowhere.
    """

    def __init__(self, model: MaskedLm, tokenizer: Tokenizer, path: Path | None) -> None:
        self.prober, self.path = Prober(model, tokenizer, None), path
        self.named: Named = {} if path is None else read_named(path)
        # The whole vocabulary, special tokens too: the published script leaves out none.
        self.all_ids = np.arange(min(len(tokenizer), model.config.vocab_size))

    def names_of(self, relation: str, row: ProbeRow) -> list[str]:
        """Return the words of a subject that are asked about; none for most relations."""
        if relation not in NOUN_OF:
            return []
        label = row.sub_label.lower() if self.prober.is_uncased else row.sub_label
        return label.split()

    def prepare(self, relation: str, rows: Iterable[ProbeRow]) -> None:
        """Ask about the names of some rows that were not asked about before, and keep the answers.

        Raises:
            NotFiniteError: the model gives NaN or infinite logits.
        """
        if relation not in NOUN_OF:
            return
        noun = NOUN_OF[relation]
        known = self.named.setdefault(noun, {})
        new = {name for row in rows for name in self.names_of(relation, row)} - known.keys()
        if new:
            known.update(self._ask(noun, sorted(new)))
            self._keep()

    def gives_away(self, relation: str, row: ProbeRow) -> bool:
        """Say whether a word of a prepared row's subject leads the model to its object."""
        gold = self.prober.single_token(row.obj_label)
        names = self.names_of(relation, row)
        return any(gold in self.named[NOUN_OF[relation]][name] for name in names)

    def _ask(self, noun: str, names: list[str]) -> dict[str, list[int]]:
        """Return the best answers to each name."""
        tokenizer, answers = self.prober.tokenizer, dict[str, list[int]]()
        asked, clozes = [], []
        for name in names:
            text = TEMPLATE.format(name=name, noun=noun, mask=tokenizer.mask_token)
            ids = tokenizer(text)["input_ids"]
            # A name with a mask in it, or one of hundreds of tokens, gives nothing away.
            if ids.count(tokenizer.mask_token_id) != 1 or len(ids) > self.prober.model.max_tokens:
                answers[name] = []
                continue
            asked.append(name)
            mask_position = ids.index(tokenizer.mask_token_id)
            clozes.append(Cloze(ids=ids, mask_position=mask_position, gold=0))

        pad_id = tokenizer.pad_token_id or 0
        best = ask(self.prober.model, pad_id, self.all_ids, clozes, NUM_BEST + 1)
        for name, ids, p in zip(
            asked, best.top_id_MK.tolist(), best.top_p_MK.tolist(), strict=True
        ):
            # One as likely as the fourth answer is not among the first three.
            answers[name] = [
                token
                for token, p_token in zip(ids[:NUM_BEST], p, strict=False)
                if len(p) <= NUM_BEST or p_token > p[NUM_BEST]
            ]
        return answers

    def _keep(self) -> None:
        """Write all answers in place of the file, with those that other processes wrote meanwhile."""
        if self.path is None:
            return
        for noun, names in read_named(self.path).items():
            self.named[noun] = names | self.named.get(noun, {})
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({"named": self.named}), encoding="utf-8")
            publish(partial, self.path)
        except OSError as error:
            # The result is the same without it; the next evaluation asks again.
            log.warning("%s: cannot keep the answers of the name cloze (%s)", self.path, error)
            with contextlib.suppress(OSError):
                partial.unlink()


def read_named(path: Path) -> Named:
    """Return the answers that a file holds; a file that is damaged or not there holds none."""
    try:
        with open_regular(path) as file:
            content = json.loads(file.read())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: cannot be read (%s); the names are asked again", path, error)
        return {}
    if not _is_sound(content):
        log.warning("%s: is no file of this program; the names are asked again", path)
        return {}
    named: Named = content["named"]
    return named


def _is_sound(content: object) -> bool:
    """Say whether a file's content has the form of answers."""
    if not isinstance(content, dict) or not isinstance(content.get("named"), dict):
        return False
    of_nouns = content["named"].values()
    return all(isinstance(names, dict) for names in of_nouns) and all(
        isinstance(ids, list) and all(type(token) is int for token in ids)
        for names in of_nouns
        for ids in names.values()
    )


def name_cloze_of(uhn: str, device: torch.device) -> NameCloze | None:
    """Load the masked LM that UHN asks; None where `uhn` names none.

    Raises:
        ConfigError: no such model, or no masked LM.
    """
    if uhn in ("", STRING):
        return None
    model = load_pretrained(uhn, device)
    tokenizer = load_tokenizer(uhn, model)
    name = f"name-cloze-{fingerprint_of(model, tokenizer)}.json"
    return NameCloze(model, tokenizer, cache_folder() / name)


def fingerprint_of(model: MaskedLm, tokenizer: Tokenizer) -> str:
    """Return a hash of whatever decides the answers: weights, vocabulary, the questions' form."""
    digest = hashlib.sha256()
    digest.update(weights_sha256(model.hf).encode())
    vocabulary = sorted(tokenizer.get_vocab().items())
    sample = list(tokenizer(SAMPLE)["input_ids"])
    form = (TEMPLATE, NUM_BEST, configuration_of(model.config))
    digest.update(json.dumps([vocabulary, sample, form]).encode())
    return digest.hexdigest()[:32]
