from __future__ import annotations

from pathlib import Path

import pytest

from gpt2edge.errors import ConfigError
from gpt2edge.project_file import read_project


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gpt2edge.toml"


def test_shares_and_numbers(here: Path) -> None:
    here.write_text(
        "[eval.thresholds]\n"
        'max_ppl_increase = "1%"\nmin_top1_agreement = 0.97\nmax_mean_kl = 1e-2\nmax_p99_kl = 1\n'
    )
    project = read_project(None)
    assert project.thresholds == {
        "max_ppl_increase": 0.01, "min_top1_agreement": 0.97, "max_mean_kl": 0.01, "max_p99_kl": 1,
    }  # fmt: skip
    assert project.path == Path("gpt2edge.toml")
    assert len(project.sha256) == 64


def test_there_may_be_none(here: Path) -> None:
    assert read_project(None).thresholds == {}
    assert read_project(None).path is None
    with pytest.raises(ConfigError, match=r"other\.toml: no such file"):
        read_project(here.with_name("other.toml"))
    here.write_text("# nothing yet\n[eval]\n")
    assert read_project(None).thresholds == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[eval.thresholds", "not TOML"),
        ("a = 1", "unknown key 'a'; known are eval"),
        ("[eval]\nspeed = 1", "unknown key 'eval.speed'; known are eval.thresholds"),
        ("[eval.thresholds]\nmax_moon = 1", "unknown key 'eval.thresholds.max_moon'"),
        ("eval = 3", "eval is 3, expected a table"),
        ("[eval]\nthresholds = []", "eval.thresholds is [], expected a table"),
        ('[eval.thresholds]\nmax_mean_kl = "1%"', "eval.thresholds.max_mean_kl is '1%'"),
        ("[eval.thresholds]\nmax_mean_kl = true", "max_mean_kl is True, expected a number"),
        ("[eval.thresholds]\nmax_mean_kl = nan", "max_mean_kl must be a number"),
        ("[eval.thresholds]\nmax_mean_kl = -1", "max_mean_kl must be a number"),
        ("[eval.thresholds]\nmax_ppl_increase = []", 'expected a share as "1%" or 0.01'),
        ('[eval.thresholds]\nmax_ppl_increase = "lots"', "'lots' is no share"),
        ("[eval.thresholds]\nmin_top1_agreement = 97", "at most 1"),
        ("x = " + "[" * 5000, "not TOML"),
    ],
)
def test_what_is_wrong_is_named(here: Path, text: str, words: str) -> None:
    here.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_project(None)
    assert str(caught.value).startswith("gpt2edge.toml: ")
    assert words in str(caught.value)


def test_what_is_no_file_of_text(here: Path) -> None:
    here.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        read_project(None)
    here.unlink()
    here.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_project(None)
