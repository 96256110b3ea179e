"""Turn the data kit into what `trelm-pipeline` reads.

    TRELM_KIT=/path/to/kit python examples/kit/prepare.py --out kit-prepared

In: the kit, a folder named by the environment variable TRELM_KIT (its README lists the files and
their licences). Out: four things in `--out`, 18 MB in seconds, the same bytes every time. Nothing
of the kit is changed.

    subset-A-typed.json.gz   subset A with CoDEx's types as P31 statements, and the type items it lacked
    extracts/QID.txt         plain-text introductions, one document a file
    ernie.gold.jsonl         {"doc_id", "text", "mentions": [{"start", "end", "qid"}]}, one article a line
    fewrel.gold.jsonl        the same, one sentence a line, with its head and its tail
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

Json = dict[str, Any]

SUBSET = "wikidata/assembled-subset-A.json.gz"
ENTITY_TYPES = "kb/codex/types/entity2types.json"
TYPES = "kb/codex/types/en/types.json"
EXTRACTS = "text/codex_type_extracts_en.zip"
ERNIE = "text/ernie_wiki_gold_docs00-79.jsonl.gz"
FEWREL = "re/fewrel_val_wiki.json"

INSTANCE_OF: Json = {
    "type": "property",
    "datatype": "wikibase-item",
    "id": "P31",
    "labels": {"en": {"language": "en", "value": "instance of"}},
    "descriptions": {"en": {"language": "en", "value": "class that this item belongs to"}},
    "aliases": {},
    "claims": {},
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the body succeeds and vanishes when
    it does not.
    """
    part = path.with_name(f".{path.name}.part")
    discard(part)
    try:
        yield part
        discard(path)
        part.rename(path)
    finally:
        discard(part)


def discard(path: Path) -> None:
    """Remove a file or folder that may not be there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_gzip(path: Path, lines: Iterable[str]) -> int:
    """Write lines as gzip with no name and no time in its header, so that equal content gives equal
    bytes.
    """
    num_lines = 0
    with (
        replacing(path) as part,
        part.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as out,
    ):
        for line in lines:
            out.write(f"{line}\n".encode())
            num_lines += 1
    return num_lines


def write_jsonl(path: Path, rows: Iterable[Json]) -> int:
    """Write one JSON object a line."""
    num_rows = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            num_rows += 1
    return num_rows


def read_subset(path: Path) -> Iterator[Json]:
    """Entities of a dump in array form."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            entity = line.strip().rstrip(",")
            if entity not in ("[", "]", ""):
                yield json.loads(entity)


def instance_of(qid: str, type_qid: str) -> Json:
    """The statement `qid` P31 `type_qid`, in the dump's structure; its id is a hash of the two."""
    digest = str(uuid.uuid5(uuid.NAMESPACE_URL, f"trelm/{qid}/P31/{type_qid}")).upper()
    value = {"entity-type": "item", "numeric-id": int(type_qid[1:]), "id": type_qid}
    return {
        "mainsnak": {
            "snaktype": "value",
            "property": "P31",
            "datavalue": {"value": value, "type": "wikibase-entityid"},
            "datatype": "wikibase-item",
        },
        "type": "statement",
        "id": f"{qid}${digest}",
        "rank": "normal",
    }


def with_types(entity: Json, type_qids: Iterable[str]) -> Json:
    """The entity with one more P31 statement per type it does not have yet."""
    claims = dict(entity.get("claims") or {})
    present = {
        statement["mainsnak"]["datavalue"]["value"]["id"] for statement in claims.get("P31", [])
    }
    new = [instance_of(entity["id"], qid) for qid in dict.fromkeys(type_qids) if qid not in present]
    if not new:
        return entity
    return {**entity, "claims": {**claims, "P31": [*claims.get("P31", []), *new]}}


def type_item(qid: str, described: Json) -> Json:
    """A dump item from CoDEx's label, description and Wikipedia address of a type."""
    title = unquote(described["wiki"].rpartition("/wiki/")[2]).replace("_", " ")
    terms = {
        key: {"en": {"language": "en", "value": described[name]}} if described[name] else {}
        for key, name in (("labels", "label"), ("descriptions", "description"))
    }
    sitelinks = {"enwiki": {"site": "enwiki", "title": title, "badges": []}} if title else {}
    return {"type": "item", "id": qid, **terms, "aliases": {}, "claims": {}, "sitelinks": sitelinks}


def typed_entities(kit: Path) -> Iterator[Json]:
    """Subset A with its types, then the types that it lacks (by id), then the property P31."""
    entity_types: dict[str, list[str]] = json.loads(
        (kit / ENTITY_TYPES).read_text(encoding="utf-8")
    )
    types: dict[str, Json] = json.loads((kit / TYPES).read_text(encoding="utf-8"))
    present: set[str] = set()
    for entity in read_subset(kit / SUBSET):
        present.add(entity["id"])
        yield with_types(entity, entity_types.get(entity["id"], ()))
    for qid in sorted(types.keys() - present, key=lambda qid: int(qid[1:])):
        yield with_types(type_item(qid, types[qid]), entity_types.get(qid, ()))
    if "P31" not in present:
        yield INSTANCE_OF


def dump_lines(entities: Iterable[Json]) -> Iterator[str]:
    """The lines of a dump in array form; a comma follows every entity but the last."""
    yield "["
    previous = ""
    for entity in entities:
        if previous:
            yield f"{previous},"
        previous = json.dumps(entity, ensure_ascii=False)
    yield previous
    yield "]"


def unzip_extracts(archive: Path, folder: Path) -> int:
    """Write every `QID.txt` of the archive into `folder`, whatever folder it has in the archive."""
    num_files = 0
    with replacing(folder) as part, zipfile.ZipFile(archive) as files:
        part.mkdir()
        for member in files.infolist():
            name = PurePosixPath(member.filename).name
            if not member.is_dir() and name.startswith("Q") and name.endswith(".txt"):
                (part / name).write_bytes(files.read(member))
                num_files += 1
    return num_files


def ernie_gold(path: Path) -> Iterator[Json]:
    """ERNIE's articles; a document's text is its sentences joined by one newline."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            article = json.loads(line)
            mentions, offset = [], 0
            for sentence in article["sents"]:
                mentions += [
                    {"start": offset + start, "end": offset + end, "qid": qid}
                    for start, end, qid in sentence["mentions"]
                ]
                offset += len(sentence["text"]) + 1
            text = "\n".join(sentence["text"] for sentence in article["sents"])
            yield {"doc_id": f"ernie:{article['doc']}", "text": text, "mentions": mentions}


def fewrel_mention(tokens: list[str], argument: list[Any]) -> Json:
    """The first place of a head or tail, `[name, QID, [[token indexes], …]]`, as offsets into the
    joined tokens.
    """
    _, qid, places = argument
    first, last = places[0][0], places[0][-1]
    start = sum(len(token) + 1 for token in tokens[:first])
    return {"start": start, "end": start + len(" ".join(tokens[first : last + 1])), "qid": qid}


def fewrel_gold(path: Path) -> Iterator[Json]:
    """FewRel's sentences, tokens joined by one space, each with its head and its tail."""
    relations: dict[str, list[Json]] = json.loads(path.read_text(encoding="utf-8"))
    for pid, examples in relations.items():
        for number, example in enumerate(examples):
            tokens = example["tokens"]
            mentions = [fewrel_mention(tokens, example[role]) for role in ("h", "t")]
            yield {
                "doc_id": f"fewrel:{pid}:{number}",
                "text": " ".join(tokens),
                "mentions": sorted(mentions, key=lambda mention: mention["start"]),
            }


def prepare(kit: Path, out: Path) -> dict[str, int]:
    """Write everything; returns the number of lines or files of each output."""
    out.mkdir(parents=True, exist_ok=True)
    return {
        "subset-A-typed.json.gz": write_gzip(
            out / "subset-A-typed.json.gz", dump_lines(typed_entities(kit))
        )
        - 2,
        "extracts": unzip_extracts(kit / EXTRACTS, out / "extracts"),
        "ernie.gold.jsonl": write_jsonl(out / "ernie.gold.jsonl", ernie_gold(kit / ERNIE)),
        "fewrel.gold.jsonl": write_jsonl(out / "fewrel.gold.jsonl", fewrel_gold(kit / FEWREL)),
    }


def kit_folder() -> Path:
    """The kit named by TRELM_KIT, checked for every file that is read."""
    name = os.environ.get("TRELM_KIT")
    if not name:
        raise ValueError(
            "the environment variable TRELM_KIT is not set; set it to the folder of the data kit"
        )
    kit = Path(name)
    if missing := [
        path
        for path in (SUBSET, ENTITY_TYPES, TYPES, EXTRACTS, ERNIE, FEWREL)
        if not (kit / path).is_file()
    ]:
        raise ValueError(f"TRELM_KIT={name} is not a data kit: it has no {', '.join(missing)}")
    return kit


def main() -> int:
    """Command line: 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write to, made when missing"
    )
    arguments = parser.parse_args()
    try:
        kit = kit_folder()
    except ValueError as error:
        parser.error(str(error))
    for name, count in prepare(kit, arguments.out).items():
        sys.stdout.write(f"{count:>7,}  {arguments.out / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
