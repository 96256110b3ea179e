from pathlib import Path

import pytest

from schemas.errors import ConfigError
from schemas.settings import to_toml
from trelm_train.config import Config, load_config


def test_the_defaults_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(Config()))
    assert load_config(path) == Config()


def test_set_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[train]\nsteps = 5\nlearning_rate = 1\n")
    config = load_config(path, ["train.steps=7", "injection.policy=all", "memory.enabled=false"])
    assert (config.train.steps, config.train.learning_rate) == (7, 1.0)
    assert (config.injection.policy, config.memory.enabled) == ("all", False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.step=3", "did you mean 'steps'"),
        ("trian.steps=3", "did you mean 'train'"),
        ("train.xyzzy=3", "known: steps"),
        ("steps=3", "unknown key 'steps'"),
        ("train.steps", "give KEY=VALUE"),
        ("train.steps=many", "must be of type int"),
        ("train.steps=0", "greater than 0"),
        ("train.learning_rate=nan", "finite number"),
        ("train.seed=-1", "must not be negative"),
        ("routing.share=1.5", "between 0 and 1"),
        ("routing.policy=magic", "one of auto, ig, random"),
        ("memory.enabled=1", "must be of type bool"),
        ("masking.mask_share=0.95", "must not exceed 1"),
    ],
)
def test_a_wrong_setting_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train\n", "not TOML"),
        ("train = 3\n", "must be a section"),
        ("[routing]\nshar = 0.1\n", "did you mean 'share'"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_file_and_a_clash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "none.toml")
    path = tmp_path / "config.toml"
    path.write_text("train = 3\n")
    with pytest.raises(ConfigError, match="not a section"):
        load_config(path, ["train.steps=3"])


def test_every_key_says_what_it_means() -> None:
    for line in to_toml(Config()).splitlines():
        assert not line or line.startswith("[") or len(line.partition("  # ")[2]) > 3, line
