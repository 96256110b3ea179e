from pathlib import Path

import pytest

from schemas.errors import ConfigError
from schemas.settings import to_toml
from trelm_train.config import PRESETS, Config, load_config, settled, with_automatic_of
from trelm_train.training.advice import frozen_warnings


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
        # As in the settings of every run that is older than asked facts.
        ("[cka]\nfact_share = 0.5\n", "fact_share is now facts.share"),
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


def test_automatic_settings_follow_the_size() -> None:
    config = load_config(None)
    deep = settled(config, num_layers=12, hidden_size=768)
    assert (deep.routing.policy, deep.routing.layer_budget) == ("ffn_all", 6)
    assert (deep.train.learning_rate, deep.routing.learning_rate_scale) == (3.5e-4, 2.0)
    shallow = settled(config, num_layers=2, hidden_size=128)
    assert (shallow.routing.policy, shallow.train.learning_rate) == ("full", 2e-3)
    assert settled(deep, num_layers=2, hidden_size=128) == deep, "what is chosen stays"

    # What the user gives is never changed.
    given = load_config(None, ["routing.policy=ffn_all", "train.learning_rate=1e-5"])
    kept = settled(given, num_layers=12, hidden_size=768)
    assert (kept.routing.layer_budget, kept.train.learning_rate) == (0, 1e-5)
    few = load_config(None, ["routing.policy=ig", "routing.layer_budget=-1"])
    assert settled(few, num_layers=5, hidden_size=64).routing.layer_budget == 2
    assert settled(few, num_layers=5, hidden_size=64).routing.learning_rate_scale == 10.0
    assert with_automatic_of(config, deep) == deep


@pytest.mark.parametrize("num_layers", [2, 12])
@pytest.mark.parametrize("sets", [(), ("routing.layer_budget=1",), ("routing.layer_budget=-1",)])
def test_the_same_command_gives_the_same_settings_again(
    sets: tuple[str, ...], num_layers: int
) -> None:
    config = load_config(None, sets)
    old = settled(config, num_layers=num_layers, hidden_size=128)
    assert with_automatic_of(config, old) == old


def test_a_preset_comes_before_file_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[cka]\nmlm_share = 0.9\n[train]\nsteps = 7\n")
    config = load_config(path, ["injection.strength=0.2"], preset="talk")
    assert (config.cka.enabled, config.cka.form, config.cka.mlm_share) == (True, "projection", 0.9)
    assert (config.injection.enabled, config.injection.strength) == (True, 0.2)
    assert (config.facts.enabled, config.train.steps, config.routing.policy) == (False, 7, "ig")
    for preset in PRESETS:
        load_config(None, preset=preset)


@pytest.mark.parametrize(
    ("sets", "num_layers", "wanted"),
    [
        ((), 6, True),
        ((), 5, False),  # in two layers it added nothing
        (("facts.enabled=false",), 12, False),  # nothing is asked
        (("facts.ask=mentions",), 12, False),  # what no fact is about
        (("cka.form=projection",), 12, False),  # measured for the head alone
        (("cka.enabled=false",), 12, False),
        (("cka.enabled=true",), 2, True),
    ],
)
def test_contrast_by_depth(sets: tuple[str, ...], num_layers: int, wanted) -> None:
    config = settled(load_config(None, sets), num_layers=num_layers, hidden_size=128)
    assert config.cka.enabled is wanted


def test_contrast_needs_facts() -> None:
    load_config(None, ["facts.ask=mentions"])
    with pytest.raises(ConfigError, match="contrast compares tails"):
        load_config(None, ["facts.ask=mentions", "cka.enabled=true"])


def test_a_run_that_cannot_learn_facts_is_warned_of() -> None:
    def warnings(*sets: str, layers: int = 12, preset: str = "") -> list[str]:
        config = load_config(None, sets, preset=preset)
        return frozen_warnings(settled(config, num_layers=layers, hidden_size=128), layers)

    assert warnings() == warnings(layers=2) == warnings("routing.policy=full") == []
    assert warnings("facts.enabled=false", "routing.policy=ig") == []
    for nothing in ("facts.policy=none", "facts.share=0"):
        assert "chooses no fact" in warnings(nothing)[0]
        assert "chooses no fact" in warnings(nothing, "facts.enabled=false", "cka.enabled=true")[0]
        assert warnings(nothing, "facts.enabled=false") == []
    (talk,) = warnings(preset="talk")
    assert "never asks the LM head" in talk
    (shallow,) = warnings("routing.policy=ffn_all", layers=2)
    assert "2 layers" in shallow
    assert warnings("routing.policy=ffn_all", "routing.train_embeddings=true", layers=2) == []
    (few,) = warnings("routing.policy=random", "routing.share=0.1")
    assert "routing.share=0.1" in few
    assert warnings("routing.policy=random", "routing.share=0.25") == []


def test_a_rate_of_weights_that_are_not_trained_is_warned_of() -> None:
    def warnings(*sets: str) -> list[str]:
        config = load_config(None, sets)
        return frozen_warnings(settled(config, num_layers=12, hidden_size=128), 12)

    for scale, switch in (
        ("train.embedding_rate_scale=0.5", "routing.train_embeddings=true"),
        ("train.head_rate_scale=2", "routing.train_head=true"),
    ):
        (warning,) = warnings(scale)
        assert f"{scale} does nothing" in warning
        assert switch in warning
        assert warnings(scale, switch) == warnings(scale, "routing.policy=full") == []


@pytest.mark.parametrize(
    "setting",
    [
        "train.max_tokens=1",
        f"train.seed={2**70}",
        "train.seed=-1",
        "train.threads=1000000",
        "train.micro_batches=1000000000",
        "train.batch_tokens=7",
    ],
)
def test_numbers_that_would_hang_or_crash_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        load_config(None, [setting])
