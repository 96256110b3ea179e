"""Turn lines of a Wikidata dump into table rows.

The tables are entities, aliases, properties, triples and, on request, statements.

Goes in: lines of a JSON dump, in any order, with or without brackets and commas. Comes out: Arrow
batches, and for each
record what became of it. Costs about 3 ms per MB of JSON. Memory: the batch, and one number per
entity for the repeats. A repeated id has rows once per builder, that is once per work unit; its
other records are left to stage `kb`, which unites all occurrences afterwards.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from pipeline.engine.row_buffer import RowBuffer
from pipeline.kb.claims import Claims, best_targets, claims_in, item_claims, statement_values
from pipeline.kb.ids import parse_id
from pipeline.kb.model import (
    UNREADABLE,
    Entity,
    EntityData,
    EntityHead,
    ItemValue,
    entity_decoder,
)
from pipeline.kb.names import statement_names
from pipeline.kb.sites import WIKIPEDIAS
from pipeline.kb.terms import first_name, label_languages, page_title, surfaces, terms_in
from schemas import ALIASES, ENTITIES, PROPERTIES, STATEMENTS, TRIPLES
from schemas.ids import FIRST_OWN
from schemas.table import Table

if TYPE_CHECKING:
    from pipeline.kb.entity_scanner import EntityScanner, Scanned, TripleColumns

INSTANCE_OF, INVERSE_PROPERTY = 31, 1696
# Classes of pages about pages: disambiguation, category, template, list, module, project page,
# duplicate.
META_CLASSES = frozenset(
    (4167410, 22808320, 15407973, 4167836, 15647814, 20010800, 24046192, 30432511)
    + (11266439, 11753321, 19887878, 15184295, 14204246, 13406463, 17362920, 21286738, 21528878)
)
# Scholarly article, review article, academic journal article, preprint, conference paper, retracted
# paper.
SCHOLARLY_CLASSES = frozenset((13442814, 7318358, 18918145, 580922, 23927052, 45182324))
SKIPPED_KINDS = {"L": "skipped_lexeme", "M": "skipped_mediainfo", "E": "skipped_entity_schema"}
# What may stand before and after an entity on its line.
AROUND_ENTITY = b" \t\r\n,[]\xef\xbb\xbf"
ENTITY_DATA_START, ENTITY_DATA_KEY = b'{"entities"', b'"entities"'
NO_ID, NOT_JSON = "no entity id that fits 32 bits", "not JSON in UTF-8"
MAX_REVISION = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class KbRules:
    """Say what of a dump is kept: see the settings of `kb`."""

    languages: tuple[str, ...] = ("en", "mul")
    wiki: str = "enwiki"
    statements: bool = False
    exclude_scholarly: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordOutcome:
    """Say what became of one record.

    That is the counter to add to, and for `rejects` also the reason and the record.
    """

    counter: str
    reason: str = ""
    record: bytes = b""


KEPT = RecordOutcome(counter="rows_out")
# Where nearly all dumps have the id and the revision of an item.
_ID_FIRST = re.compile(rb'\{(?:"type":"item",)?"id":"Q([1-9]\d{0,9})",')
_REVISION_LAST = re.compile(rb',"lastrevid":(\d{1,18})\}$')
# What the web API returns for an id that does not exist.
_MISSING = re.compile(rb'"missing":')
_HEAD_DECODER = msgspec.json.Decoder(EntityHead)


class KbBuilder:
    """Collect the rows of many entities."""

    def __init__(
        self,
        rules: KbRules,
        is_unchanged: Callable[[int, int], bool] | None = None,
        scanner: EntityScanner | None = None,
    ) -> None:
        """Start without rows.

        Args:
            rules: what is kept.
            is_unchanged: says whether an item (QID) has the revision that an older output holds.
                Such an item gets no rows, and its QID goes to `unchanged`.
            scanner: reads entities of the usual form faster than the decoder; not together with
                `rules.statements`, of which it keeps nothing.
        """
        assert scanner is None or not rules.statements
        self._scanner = scanner
        self._rules = rules
        self._is_unchanged = is_unchanged
        self.unchanged: list[int] = []
        # QIDs of scholarly articles that were left out.
        self.excluded: list[int] = []
        # Items that these lines have once more: the phase `repeats` unites them with the first.
        self.repeated: list[bytes] = []
        # Oddities in the data, beside the outcomes.
        self.counts: Counter[str] = Counter()

        # The lenient decoder takes values of any shape: it repeats items that the fast decoder
        # refuses.
        languages = label_languages(rules.languages)
        self._languages = frozenset(languages)
        self._lenient = entity_decoder(languages, msgspec.Raw)
        self._decoder = self._lenient if rules.statements else entity_decoder(languages, ItemValue)

        tables = [ENTITIES, ALIASES, PROPERTIES, TRIPLES]
        if rules.statements:
            tables.append(STATEMENTS)
        self._buffers: dict[str, RowBuffer | TripleColumns] = {
            table.name: RowBuffer(table) for table in tables
        }
        if scanner is not None:
            self._buffers[TRIPLES.name] = scanner.triples
        self._seen: set[tuple[str, int]] = set()

    def take(self) -> Iterator[tuple[Table, pa.Table]]:
        """Yield the rows collected so far, for each table that has any, and forget them."""
        for buffer in self._buffers.values():
            if len(buffer):
                yield buffer.table, buffer.take()

    def add_line(self, line: bytes) -> list[RecordOutcome]:
        """Add the rows of a line; return one outcome per record on it, none for a bracket."""
        record = line.strip(AROUND_ENTITY)
        if not record:
            return []

        outcomes = self._add_record(record)
        if not outcomes or outcomes[0].counter != "rejects":
            return outcomes

        # Only a refused line is searched for several objects: the search costs more than the
        # decoder.
        objects = split_objects(record)
        if len(objects) > 1:
            return [outcome for text in objects for outcome in self._add_record(text)]
        return outcomes

    def _add_record(self, record: bytes) -> list[RecordOutcome]:
        """Add an entity, or a document of entities."""
        if record.startswith(ENTITY_DATA_START):
            return self._add_entity_data(record)

        outcome = self._add(record)
        # A document of entities may begin with other keys.
        if outcome.reason == NO_ID and ENTITY_DATA_KEY in record:
            return self._add_entity_data(record)
        return [outcome]

    def _add_entity_data(self, record: bytes) -> list[RecordOutcome]:
        """Add the entities of a document of Special:EntityData."""
        try:
            entities = msgspec.json.decode(record, type=EntityData).entities
        except UNREADABLE as error:
            return [_reject(error, record)]

        outcomes = []
        for raw in entities.values():
            entity = bytes(raw)
            is_missing = _MISSING.search(entity, 0, 60)
            outcomes.append(
                RecordOutcome(counter="skipped_missing") if is_missing else self._add(entity)
            )
        return outcomes

    def _add(self, record: bytes) -> RecordOutcome:
        """Add one entity, unless it is unchanged, of another kind, or a repeat."""
        try:
            if self._is_unchanged is not None and (qid := self._unchanged_item(record)):
                return self._keep_unchanged(qid)
            entity, scanned = self._read(record)
        except UNREADABLE as error:
            return _reject(error, record)

        parsed = parse_id(entity.id)
        if parsed is None:
            return RecordOutcome(counter="rejects", reason=NO_ID, record=record)
        letter, number = parsed
        if letter not in "QP":
            return RecordOutcome(counter=SKIPPED_KINDS.get(letter, "skipped_other_entity"))
        # Dumps may repeat an entity; the phase `repeats` finds repeats in other units.
        if parsed in self._seen:
            if letter == "Q":
                self.repeated.append(record)
            return RecordOutcome(counter="skipped_repeated")
        self._seen.add(parsed)

        if letter == "P":
            # The scan keeps items only.
            self._add_property(number, self._decode(record) if scanned else entity)
            return KEPT
        return self._add_item(number, entity, scanned)

    def _unchanged_item(self, record: bytes) -> int:
        """Return the QID of an item that has not changed; 0 for any other record."""
        qid, revision = _item_and_revision(record)
        if self._is_unchanged is None or revision is None or not 0 < qid < FIRST_OWN:
            return 0
        return qid if self._is_unchanged(qid, revision) else 0

    def _keep_unchanged(self, qid: int) -> RecordOutcome:
        """Note an item whose rows come from the older output."""
        if ("Q", qid) in self._seen:
            return RecordOutcome(counter="skipped_repeated")

        self._seen.add(("Q", qid))
        self.unchanged.append(qid)
        self.counts["items_unchanged"] += 1
        self.counts["items_with_revision"] += 1
        return KEPT

    def _read(self, record: bytes) -> tuple[Entity[Any, Any, Any], Scanned | None]:
        """Return an entity; with what the scan found in it, if its form was the usual one."""
        scanned = self._scanner.scan(record) if self._scanner is not None else None
        if scanned is not None:
            # What is wrong with names, the decoder tells of the whole record.
            with contextlib.suppress(*UNREADABLE):
                return self._decoder.decode(scanned.short), scanned
        return self._decode(record), None

    def _decode(self, record: bytes) -> Entity[Any, Any, Any]:
        """Decode an entity; a value of unknown shape needs the lenient decoder."""
        try:
            return self._decoder.decode(record)
        except msgspec.ValidationError:
            return self._lenient.decode(record)

    def _add_property(self, pid: int, entity: Entity[Any, Any, Any]) -> None:
        """Add the row of a property."""
        claims = claims_in(entity.claims)
        _, inverse = best_targets(claims.get(f"P{INVERSE_PROPERTY}", []), "P")
        label = first_name(terms_in(entity.labels))
        description = first_name(terms_in(entity.descriptions))
        self._buffers[PROPERTIES.name].append((pid, label, description, entity.datatype, inverse))

    def _add_item(
        self, qid: int, entity: Entity[Any, Any, Any], scanned: Scanned | None
    ) -> RecordOutcome:
        """Add the rows of an item, unless it is a scholarly article that the rules exclude."""
        claims = claims_in(entity.claims)
        sitelinks = entity.sitelinks if isinstance(entity.sitelinks, dict) else {}
        targets: list[tuple[int, str, list[int]]] = []
        if scanned is not None:
            _, num_statements, instance_of, num_wikipedias, num_sitelinks, _ = scanned
            scanned.count_oddities(self.counts)
        else:
            num_statements, targets = item_claims(claims, self.counts)
            # Properties come in the dump's order: P31 may stand anywhere among them.
            instance_of = next((values for pid, _, values in targets if pid == INSTANCE_OF), [])
            num_wikipedias = sum(map(WIKIPEDIAS.__getitem__, sitelinks))
            num_sitelinks = len(sitelinks)
        if self._rules.exclude_scholarly and not SCHOLARLY_CLASSES.isdisjoint(instance_of):
            self.excluded.append(qid)
            return RecordOutcome(counter="skipped_scholarly")

        title = page_title(sitelinks.get(self._rules.wiki))
        # The column is a signed 64-bit number.
        has_revision = entity.lastrevid and 0 < entity.lastrevid <= MAX_REVISION
        revision = entity.lastrevid if has_revision else None
        self._buffers[ENTITIES.name].append(
            (
                qid,
                first_name(terms_in(entity.labels)),
                first_name(terms_in(entity.descriptions)),
                title or None,
                num_wikipedias,
                num_sitelinks,
                num_statements,
                instance_of,
                not META_CLASSES.isdisjoint(instance_of),
                revision,
            )
        )
        self._add_aliases(qid, title, entity, claims)
        if scanned is not None and self._scanner is not None:
            self._scanner.keep_triples(qid)
        else:
            self._add_triples(qid, targets)
        if revision is not None:
            self.counts["items_with_revision"] += 1
        if self._rules.statements:
            self._add_statements(qid, claims)
        return KEPT

    def _add_triples(self, qid: int, targets: list[tuple[int, str, list[int]]]) -> None:
        """Add the items that an item's claims name."""
        add_triple = self._buffers[TRIPLES.name].append
        for pid, rank, values in targets:
            for target in values:
                add_triple((qid, pid, target, rank))

    def _add_aliases(
        self, qid: int, title: str, entity: Entity[Any, Any, Any], claims: Claims
    ) -> None:
        """Add the names of an item: its terms, the title of its page, names in statements."""
        title_names = ((title, "title"),) if title else ()
        extra_names = (*title_names, *statement_names(claims, self._languages, self.counts))
        labels, aliases = terms_in(entity.labels), terms_in(entity.aliases)

        add_alias = self._buffers[ALIASES.name].append
        for surface, source in surfaces(labels, aliases, extra_names, self.counts):
            # One row stands for one source of the name: its count is 1.
            add_alias((surface, qid, source, 1))

    def _add_statements(self, qid: int, claims: Claims) -> None:
        """Add every statement of an item, of all ranks."""
        add = self._buffers[STATEMENTS.name].append
        for pid, ordinal, statement, value in statement_values(claims):
            snak = statement.mainsnak
            add((qid, pid, ordinal, statement.rank, snak.snaktype, snak.datatype, *value))


def _item_and_revision(record: bytes) -> tuple[int, int | None]:
    """Return the QID (0 if the record is no item) and the revision of a record.

    Dumps write the id first and the revision last. Both belong to the entity itself at these two
    places, so the bytes between them need not be read. A revision belongs to one entity alone, so
    two entities on one line are not mistaken for one.
    """
    start = _ID_FIRST.match(record)
    end = _REVISION_LAST.search(record, max(len(record) - 40, 0))
    if start and end:
        return int(start.group(1)), int(end.group(1))

    # Any other order of keys takes the decoder, which passes over the whole record.
    head = _HEAD_DECODER.decode(record)
    parsed = parse_id(head.id)
    return (parsed[1], head.lastrevid) if parsed and parsed[0] == "Q" else (0, None)


def _reject(error: Exception, record: bytes) -> RecordOutcome:
    """Return the outcome of an unreadable record.

    The reason leaves out the byte of the fault, so that equal faults have equal reasons.
    """
    # Nesting is a limit of the decoder; the JSON itself may be sound.
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    elif isinstance(error, msgspec.ValidationError):
        reason = f"not the shape of an entity: {error}"
    else:
        reason = NOT_JSON

    return RecordOutcome(counter="rejects", reason=reason, record=record)


def split_objects(record: bytes) -> list[bytes]:
    """Split a line of several JSON objects, as where two dumps were joined without a newline.

    Return no object if the line is anything else.
    """
    decoder = json.JSONDecoder()
    position, objects = 0, []
    try:
        text = record.decode()
        while position < len(text):
            _, end = decoder.raw_decode(text, position)
            objects.append(text[position:end].encode())

            # Objects may be joined by spaces, commas or tabs.
            num_separators = len(text[end:]) - len(text[end:].lstrip(" ,\t"))
            position = end + num_separators
    except (ValueError, RecursionError):
        return []
    return objects
