"""Bias data in their published formats, and numbers worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals.tasks.bias_metrics import (
    idealised_score,
    language_score,
    likelihood_difference,
    stereotype_preference,
    stereotype_score,
)
from gpt2edge.evals.tasks.bias_tasks import crows_pairs, stereoset, winobias
from gpt2edge.evals.tasks.compare import compare
from gpt2edge.evals.tasks.requests import Contrast, Score
from gpt2edge.evals.tasks.task import Task, collect


def items(task: Task, *files: Path) -> tuple[Contrast, ...]:
    return collect(task, task.read(files), "here", lambda _: ()).items


def test_crows_pairs(put) -> None:
    path = put(
        "crows.csv",
        ",sent_more,sent_less,stereo_antistereo,bias_type\n"
        '0,"Cats, all of them, lie.",Dogs lie.,stereo,animals\n'
        "1,Old cats lie.,Cats lie.,antistereo,age\n",
    )
    first, second = items(crows_pairs(), path)
    assert first.pairs == (("", "Cats, all of them, lie."), ("", "Dogs lie."))
    assert (first.group, second.group) == ("animals", "age")


TEXTS = {"stereotype": "Cats lie.", "anti-stereotype": "Cats help.", "unrelated": "Cats three."}


@pytest.mark.parametrize("form", ["published", "list", "hub", "data"])
def test_stereoset_in_all_its_forms(put, form: str) -> None:
    row = {"id": "a", "target": "cat", "bias_type": "animals", "context": "Cats BLANK."}
    listed = [{"sentence": text, "gold_label": label} for label, text in TEXTS.items()]
    hub = {"sentence": list(TEXTS.values()), "gold_label": [1, 0, 2]}
    full = {
        "published": {"data": {"intrasentence": [{**row, "sentences": listed}]}},
        "list": [{**row, "sentences": listed}],
        "data": [{**row, "data": {label: {"sentence": text} for label, text in TEXTS.items()}}],
        "hub": {**row, "sentences": hub},
    }[form]
    path = put("s.jsonl" if form == "hub" else "s.json", json.dumps(full))
    (item,) = items(stereoset(), path)
    assert item.pairs == (("", "Cats lie."), ("", "Cats help."), ("", "Cats three."))
    assert item.group == "animals"


def test_intersentence_items_follow_their_context(put) -> None:
    listed = [{"sentence": text, "gold_label": label} for label, text in TEXTS.items()]
    row = {"bias_type": "animals", "context": "I saw cats.", "sentences": listed}
    (item,) = items(stereoset(), put("s.json", json.dumps({"data": {"intersentence": [row]}})))
    assert item.pairs[0] == ("I saw cats.", " Cats lie.")
    assert item.where == "s.json[intersentence 1]"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"context": "BLANK", "bias_type": "b", "data": {}}, "has no anti-stereotype"),
        ({"context": "BLANK", "bias_type": "b", "sentences": [{"sentence": "a"}]}, "gold_label"),
        ({"context": "BLANK", "bias_type": "b", "sentences": {"sentence": ["a"],
          "gold_label": [7]}}, "0, 1 and 2"),
        ({"context": "BLANK"}, "no field 'data'"),
        (3, "must be a JSON object"),
    ],
)  # fmt: skip
def test_bad_stereoset_rows(put, row: object, words: str) -> None:
    with pytest.raises(EvalError, match=words):
        items(stereoset(), put("s.json", json.dumps([row])))


@pytest.mark.parametrize("content", ["3", '{"data": 3}', '{"data": {"a": 3}}'])
def test_no_stereoset(put, content: str) -> None:
    with pytest.raises(EvalError, match="is not StereoSet"):
        items(stereoset(), put("s.json", content))


PRO = (
    "1 [The guard] sat as [he] slept.\n2 The cook asked [the nurse] for [her] cup and [her] hat.\n"
)
ANTI = (
    "1 [The guard] sat as [she] slept.\n2 The cook asked [the nurse] for [his] cup and [his] hat.\n"
)


@pytest.mark.parametrize("named", [True, False])
def test_winobias(put, named: bool) -> None:
    first = put("pro_stereotyped_type1.txt.dev", PRO)
    second = put("other" if named else "anti_stereotyped_type1.txt.dev", ANTI)
    one, two = items(winobias(), first, *([second] if named else []))
    assert one.pairs == (("", "The guard sat as he slept."), ("", "The guard sat as she slept."))
    assert two.pairs[1] == ("", "The cook asked the nurse for his cup and his hat.")
    assert (one.group, two.group) == ("male", "female")


@pytest.mark.parametrize(
    ("anti", "words"),
    [
        (ANTI.split("\n")[0] + "\n", "not as many lines"),
        (PRO, "must be two sentences that differ"),
        (ANTI.replace("2 ", "3 "), "must be two sentences that differ"),
        (ANTI.replace("[she]", "she"), "must be two sentences that differ"),
    ],
)
def test_bad_winobias(put, anti: str, words: str) -> None:
    files = put("pro_a", PRO), put("anti_a", anti)
    with pytest.raises(EvalError, match=words):
        items(winobias(), *files)
    with pytest.raises(EvalError, match="expected pro_stereotyped"):
        items(winobias(), files[1])


def scores(*nats: float, tokens: tuple[int, ...] = (2, 2, 2)) -> tuple[Score, ...]:
    return tuple(
        Score(nats=n, tokens=t, characters=9, greedy=False, filtered=False)
        for n, t in zip(nats, tokens, strict=False)
    )


def contrast(number: int, group: str) -> Contrast:
    return Contrast(where=f"f:{number}", pairs=(("", "a"), ("", "b"), ("", "c")), group=group)


ITEMS = [contrast(1, "x"), contrast(2, "y"), contrast(3, "x"), contrast(4, "x")]
BEFORE = [scores(-4, -6, -9), scores(-6, -4, -5), scores(-2, -3, -4), scores(-2, -1, -9)]


def test_stereotypes_preferred_in_all_and_by_kind() -> None:
    after = [*BEFORE[:2], scores(-3, -2, -4), BEFORE[3]]
    found = compare(stereotype_preference(), ITEMS, BEFORE, after)
    assert [(c.group, c.original, c.variant) for c in found] == [
        ("", 0.5, 0.25), ("x", pytest.approx(2 / 3), pytest.approx(1 / 3)), ("y", 0.0, 0.0),
    ]  # fmt: skip
    assert found[0].lost == ("f:3",)
    assert found[0].original_interval is not None
    assert found[0].original_interval.low < 0.5 < found[0].original_interval.high
    (difference,) = compare(likelihood_difference(), ITEMS, BEFORE, after)
    assert difference.original == pytest.approx((2 + 2 + 1 + 1) / 4)


def test_stereosets_three_numbers() -> None:
    (language,) = compare(language_score(), ITEMS, BEFORE, BEFORE)
    stereotype, *_ = compare(stereotype_score(), ITEMS, BEFORE, BEFORE)
    (icat,) = compare(idealised_score(), ITEMS, BEFORE, BEFORE)
    assert language.original == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert stereotype.original == 0.5
    assert icat.original == pytest.approx(3.5 / 4 * 0.5 / 0.5)
    assert icat.p_value == 1.0


def test_stereoset_compares_likelihoods_a_token() -> None:
    longer = scores(-6, -4, -99, tokens=(6, 2, 2))
    assert stereotype_score().of(ITEMS[0], longer) == (1.0,)
    assert stereotype_preference().of(ITEMS[0], longer) == (0.0,)


def test_no_number_is_no_preference() -> None:
    broken = scores(math.nan, -1, -2)
    assert stereotype_preference().of(ITEMS[0], broken) == (0.0,)
    assert idealised_score().of(ITEMS[0], broken) == (0.5, 0.0)
    assert np.isfinite(language_score().of(ITEMS[0], broken)).all()


@pytest.mark.parametrize(
    ("task", "name", "count", "groups"),
    [
        (crows_pairs, "crows-pairs/crows_pairs_anonymized.csv", 1508, 9),
        (stereoset, "stereoset/race_test.json", 962, 1),
        (stereoset, "stereoset/gender_test.json", 253, 1),
        (stereoset, "stereoset/religion_test.json", 79, 1),
        (winobias, "winobias/pro_stereotyped_type1.txt.dev", 396, 2),
        (winobias, "winobias/pro_stereotyped_type2.txt.dev", 396, 2),
    ],
)
def test_the_published_files(data: Path, task, name: str, count: int, groups: int) -> None:
    found = items(task(), data / name)
    assert len(found) == count
    assert len({item.group for item in found}) == groups
