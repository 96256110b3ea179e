"""Wikidata dump lines to rows of entities, aliases, properties, triples and (asked for) statements.

Goes in: lines of a JSON dump, in any order, with or without brackets and commas. Comes out: Arrow batches, and per
entity what became of it. Costs about 6 ms per MB of JSON. Memory: the batch, and one number per entity for the repeats.
A repeated id is kept once per builder, that is once per work unit; the dump itself repeats hardly any.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from pipeline.core.columns import ColumnBuffer
from pipeline.core.wikidata_claims import best_rank, best_targets, claims_in, count_oddities, other_statements, parse_id
from pipeline.core.wikidata_model import Entity, EntityData, ItemValue, Statement, entity_decoder
from pipeline.core.wikidata_terms import clean, first_name, label_languages, surfaces, terms_in
from schemas import ALIASES, ENTITIES, PROPERTIES, STATEMENTS, TRIPLES
from schemas.table import Table

INSTANCE_OF, INVERSE_PROPERTY = 31, 1696
# Classes of pages about pages: disambiguation, category, template, list, module, project page, duplicate.
META_CLASSES = frozenset(
    (4167410, 22808320, 15407973, 4167836, 15647814, 20010800, 24046192, 30432511)
    + (11266439, 11753321, 19887878, 15184295, 14204246, 13406463, 17362920, 21286738, 21528878)
)
# Scholarly article, review article, academic journal article, preprint, conference paper, retracted paper.
SCHOLARLY_CLASSES = frozenset((13442814, 7318358, 18918145, 580922, 23927052, 45182324))
# Sites whose names end in "wiki" and that are no Wikipedia.
NOT_WIKIPEDIA = frozenset(
    ("commonswiki", "specieswiki", "metawiki", "wikidatawiki", "mediawikiwiki", "sourceswiki", "incubatorwiki")
    + ("outreachwiki", "wikimaniawiki", "foundationwiki", "wikifunctionswiki", "testwiki", "betawikiversitywiki")
)
SKIPPED_KINDS = {"L": "skipped_lexeme", "M": "skipped_mediainfo", "E": "skipped_entity_schema"}
AROUND_ENTITY = b" \t\r\n,[]\xef\xbb\xbf"  # what may stand before and after an entity on its line
ENTITY_DATA_START = b'{"entities"'


@dataclass(frozen=True, kw_only=True, slots=True)
class KbRules:
    """What of a dump is kept."""

    languages: tuple[str, ...] = ("en", "mul")
    statements: bool = False
    exclude_scholarly: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one record: the counter to add to, and for `rejects` the reason and the record."""

    counter: str
    reason: str = ""
    record: bytes = b""


class KbBuilder:
    """Collects rows of many entities."""

    def __init__(self, rules: KbRules) -> None:
        self._rules = rules
        value: Any = msgspec.Raw if rules.statements else ItemValue
        self._decoder = entity_decoder(label_languages(rules.languages), value)
        tables = (ENTITIES, ALIASES, PROPERTIES, TRIPLES, *((STATEMENTS,) if rules.statements else ()))
        self._buffers = {table.name: ColumnBuffer(table) for table in tables}
        self._seen: set[tuple[str, int]] = set()
        self.counts: Counter[str] = Counter()  # oddities, beside the outcomes

    @property
    def num_rows(self) -> int:
        """Rows of all tables since the last `take`."""
        return sum(map(len, self._buffers.values()))

    def take(self) -> Iterator[tuple[Table, pa.Table]]:
        """The rows so far, per table that has any."""
        for buffer in self._buffers.values():
            if len(buffer):
                yield buffer.table, buffer.take()

    def add_line(self, line: bytes) -> list[Outcome]:
        """Rows of a line; comes back with one outcome per record in it, none for a bracket."""
        record = line.strip(AROUND_ENTITY)
        if not record:
            return []
        if record.startswith(ENTITY_DATA_START):
            return self._add_entity_data(record)
        outcome = self._add(record)
        if outcome.counter == "rejects" and len(parts := split_objects(record)) > 1:
            return [self._add(part) for part in parts]
        return [outcome]

    def _add_entity_data(self, record: bytes) -> list[Outcome]:
        try:
            entities = msgspec.json.decode(record, type=EntityData).entities
        except msgspec.MsgspecError as error:
            return [_reject(error, record)]
        return [self._add(bytes(raw)) for raw in entities.values()]

    def _add(self, record: bytes) -> Outcome:
        try:
            entity = self._decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _reject(error, record)
        parsed = parse_id(entity.id)
        if parsed is None:
            return Outcome(counter="rejects", reason="no entity id that fits 32 bits", record=record)
        letter, number = parsed
        if letter in SKIPPED_KINDS:
            return Outcome(counter=SKIPPED_KINDS[letter])
        if letter not in "QP":
            return Outcome(counter="skipped_other_entity")
        if parsed in self._seen:
            return Outcome(counter="skipped_repeated")
        self._seen.add(parsed)
        claims = claims_in(entity.claims)
        if letter == "P":
            self._add_property(number, entity, claims)
            return Outcome(counter="rows_out")
        return self._add_item(number, entity, claims)

    def _add_property(self, pid: int, entity: Entity[Any, Any, Any], claims: dict[int, list[Statement[Any]]]) -> None:
        inverse = best_targets(claims.get(INVERSE_PROPERTY, []), "P")
        label, description = first_name(terms_in(entity.labels)), first_name(terms_in(entity.descriptions))
        self._buffers[PROPERTIES.name].add(pid, label, description, entity.datatype, inverse)

    def _add_item(self, qid: int, entity: Entity[Any, Any, Any], claims: dict[int, list[Statement[Any]]]) -> Outcome:
        instance_of = best_targets(claims.get(INSTANCE_OF, []))
        if self._rules.exclude_scholarly and not SCHOLARLY_CLASSES.isdisjoint(instance_of):
            return Outcome(counter="skipped_scholarly")
        labels, sitelinks = terms_in(entity.labels), entity.sitelinks if isinstance(entity.sitelinks, dict) else {}
        title = clean(sitelinks["enwiki"].title) if "enwiki" in sitelinks else ""
        self._buffers[ENTITIES.name].add(
            qid,
            first_name(labels),
            first_name(terms_in(entity.descriptions)),
            title or None,
            sum(1 for site in sitelinks if site.endswith("wiki") and site not in NOT_WIKIPEDIA),
            count_oddities(claims, self.counts),
            instance_of,
            not META_CLASSES.isdisjoint(instance_of),
        )
        for surface, source in surfaces(labels, terms_in(entity.aliases), title, self.counts):
            self._buffers[ALIASES.name].add(surface, qid, source, 1)
        for pid, statements in claims.items():
            rank = best_rank(statements)
            for target in best_targets(statements):
                self._buffers[TRIPLES.name].add(qid, pid, target, rank)
        if self._rules.statements:
            self._add_statements(qid, claims)
        return Outcome(counter="rows_out")

    def _add_statements(self, qid: int, claims: dict[int, list[Statement[Any]]]) -> None:
        buffer = self._buffers[STATEMENTS.name]
        for pid, ordinal, statement, value in other_statements(claims):
            snak = statement.mainsnak
            key = (qid, pid, ordinal, statement.rank, snak.snaktype, snak.datatype)
            buffer.add(*key, *dataclasses.astuple(value))


def _reject(error: Exception, record: bytes) -> Outcome:
    """The decoder's reason without its place in the record, so that equal faults have equal reasons."""
    is_shape = isinstance(error, msgspec.ValidationError)
    reason = f"not the shape of an entity: {error}" if is_shape else "not JSON in UTF-8"
    return Outcome(counter="rejects", reason=reason, record=record)


def split_objects(record: bytes) -> list[bytes]:
    """JSON objects that share a line, as where two dump parts were joined without a newline; none if it is not that."""
    decoder, at, objects = json.JSONDecoder(), 0, []
    try:
        text = record.decode()
        while at < len(text):
            _, end = decoder.raw_decode(text, at)
            objects.append(text[at:end].encode())
            at = end + len(text[end:]) - len(text[end:].lstrip(" ,\t"))
    except ValueError:
        return []
    return objects
