from pathlib import Path

import pytest

from schemas.errors import ConfigError
from trelm_train.finetune.examples import Example, SourceFile, Span, split


def rows(number: int, prefix: str = "sentence") -> list[Example]:
    """Two rows for each sentence, as several mentions of one sentence have them."""
    spans = [(Span(start=start, end=start + 1, kind="entity"),) for start in (0, 1)]
    return [
        Example(text=f"{prefix} {count}", spans=some, labels=(f"l{count % 3}",))
        for count in range(number)
        for some in spans
    ]


def source(path: Path, examples: list[Example]) -> SourceFile:
    path.write_text("x")
    return SourceFile(path=path, format="made up", examples=examples)


def test_one_file_is_split_by_sentence(tmp_path: Path) -> None:
    examples = rows(1000)
    found = split({"data": source(tmp_path / "d", examples)})
    sentences = {name: {row.text for row in part} for name, part in found.parts.items()}
    assert sum(map(len, found.parts.values())) == 2000
    assert not sentences["train"] & sentences["test"]
    assert not sentences["train"] & sentences["dev"]
    assert not sentences["dev"] & sentences["test"]
    # 80/10/10, give or take four standard deviations of a draw.
    assert abs(len(sentences["train"]) - 800) < 4 * (1000 * 0.8 * 0.2) ** 0.5
    assert abs(len(sentences["dev"]) - 100) < 4 * (1000 * 0.1 * 0.9) ** 0.5
    again = split({"data": source(tmp_path / "d", examples[::-1])})
    assert {row.text for row in again.parts["test"]} == sentences["test"]


def test_without_dev_a_tenth_of_train_chooses(tmp_path: Path) -> None:
    files = {"train": source(tmp_path / "a", rows(500)), "test": source(tmp_path / "b", rows(20, "t"))}  # fmt: skip
    found = split(files)
    train, dev = ({row.text for row in found.parts[name]} for name in ("train", "dev"))
    assert not train & dev
    assert 25 < len(dev) < 80
    assert found.parts["test"] == files["test"].examples
    assert "a tenth of the train file" in found.how


def test_given_files_stay_as_they_are_and_leaks_are_counted(tmp_path: Path) -> None:
    train = rows(10)
    files = {
        "train": source(tmp_path / "a", train),
        "dev": source(tmp_path / "b", rows(3, "dev")),
        "test": source(tmp_path / "c", [*rows(2, "test"), train[0]]),
    }
    found = split(files)
    assert found.parts == {name: file.examples for name, file in files.items()}
    parts = found.describe()["parts"]
    assert isinstance(parts, dict)
    assert parts["test"]["rows_whose_sentence_is_in_train"] == 1
    assert parts["train"]["rows_whose_sentence_is_in_train"] == 0
    assert parts["test"]["labels"] == {"l0": 3, "l1": 2}


def test_a_limit_takes_no_first_rows(tmp_path: Path) -> None:
    found = split({"data": source(tmp_path / "d", rows(1000))}, limit=30)
    numbers = [int(row.text.split()[1]) for row in found.parts["train"]]
    assert {name: len(part) for name, part in found.parts.items()} == {"train": 30, "dev": 30, "test": 30}  # fmt: skip
    assert max(numbers) > 500
    assert "at most 30 rows of each part" in found.how


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no row is left for (train|dev|test) \(one file"):
        split({"data": source(tmp_path / "d", rows(1))})
