"""Configuration: unknown keys, wrong types, overrides, variables, and the way back to TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from schemas.errors import ConfigError
from schemas.settings import build, load_toml, to_toml, with_overrides


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    steps: int = 10
    limit: float | None = None
    on: bool = True
    inner: Inner = field(default_factory=Inner)


def test_round_trip(tmp_path: Path) -> None:
    config = Outer(steps=3, limit=1.5, inner=Inner(rate=2.0, names=('x "y"', "ü"), kind="b"))
    path = tmp_path / "c.toml"
    path.write_text(to_toml(config))
    assert build(Outer, load_toml(str(path)), "c") == config


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"stepz": 1}, "unknown key 'stepz'; did you mean 'steps'"),
        ({"inner": {"rat": 1}}, "inner: unknown key 'rat'"),
        ({"steps": "many"}, "steps: must be of type int"),
        ({"on": 1}, "on: must be of type bool"),
        ({"inner": 3}, "inner: must be a section"),
        ({"inner": {"kind": "c"}}, "'c' is not one of a, b"),
    ],
)
def test_mistakes_are_named(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Outer, raw, "c")


def test_overrides() -> None:
    raw = with_overrides(
        {"inner": {"rate": 1.0}}, ["inner.rate=3", "inner.names=['p']", "steps=7", "inner.kind=b"]
    )
    assert build(Outer, raw, "c") == Outer(steps=7, inner=Inner(rate=3.0, names=("p",), kind="b"))
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        with_overrides({}, ["steps"])


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/data")
    assert build(Inner, {"names": ["${HERE}/x"]}, "c").names == ("/data/x",)
    with pytest.raises(ConfigError, match="NOWHERE is not set"):
        build(Inner, {"names": "${NOWHERE}/x"}, "c")


def test_files_that_are_not_toml(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match="not TOML"):
        load_toml(str(tmp_path / "bad.toml"))
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_toml(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    "text", ["day = 2020-01-01", "[link]\ntop_k = 10:00:00", "days = [[2020-01-01T00:00:00Z]]"]
)
def test_dates_are_refused(tmp_path: Path, text: str) -> None:
    """TOML has them, JSON and the settings have not."""
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c.toml: .*no setting is a date or a time"):
        load_toml(str(path))
    with pytest.raises(ConfigError, match="--set 'a=2020-01-01'.*no setting is a date"):
        with_overrides({}, ["a=2020-01-01"])


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file that can be read"):
        load_toml(str(tmp_path))
