"""WikiText as people write it, so that GPT-2 can read it, and back.

WikiText comes cut into words: `it 's a two @-@ part story , said " he " .` GPT-2 never saw such
text, and its authors measured on what invertible de-tokenizers made of it, a loss in the end still
divided by the number of words that the tokenised text has (Radford et al. 2019, section 3.1).

Here words are put together only where `retokenize` takes them apart again. A word that it would
cut, as some abbreviations, has two blanks before it, which says: whole. So nothing is lost, ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_INFIX = {"@-@": "-", "@,@": ",", "@.@": "."}
_OPEN = frozenset("([{\"'$£€")
_CLOSE = frozenset(")]}\"'%,.;:!?")
_HYPHEN = re.compile(r"(?<=[^-])-(?=[^-])")
_IN_NUMBER = re.compile(r"(?<=\d)([,.])(?=\d)")
_APOSTROPHE = re.compile(r"(?<=[\w>.])(?='\w)")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")
_SHORT = frozenset(
    "Mr. Mrs. Ms. Dr. Jr. Sr. St. Lt. Col. Gen. Capt. Cmdr. Sgt. Maj. Adm. Rev. Prof. Gov. Sen. "
    "Rep. Hon. Bros. Inc. Co. Corp. Ltd. vs. etc. Ph.D. No. Vol. Mt. Ft. Op.".split()
)


def detokenize_wikitext(text: str) -> str:
    """WikiText's words as running text; `retokenize_wikitext` gives the words back."""
    return "\n".join(" ".join(_joined(_words(line))) for line in text.split("\n"))


def retokenize_wikitext(text: str) -> str:
    """The words that `detokenize_wikitext` was given, a blank around each as WikiText has it."""
    lines = []
    for line in text.split("\n"):
        words = list(_apart(line))
        lines.append(f" {' '.join(words)} " if words else " ")
    lines[-1] = lines[-1].rstrip(" ")  # what follows the last line's end
    return "\n".join(lines)


def count_wikitext_words(text: str) -> int:
    """Words of a tokenised text, the end of a line among them: WikiText counts it as <eos>.

    So the test set of WikiText-2 has 245,569, as in Merity et al. 2016, table 1.
    """
    return sum(len(_words(line)) for line in text.split("\n")) + text.count("\n")


def _words(line: str) -> list[str]:
    # Not split(): a blank of another kind may be part of a word.
    return [word for word in line.split(" ") if word]


def _joined(words: list[str]) -> Iterable[str]:
    """Groups of words without blanks between them; an empty one before a word to be left whole."""
    group: list[str] = []
    open_quotes: set[str] = set()
    i = 0
    while i < len(words):
        more = words[i : i + 2] if words[i] in _INFIX else words[i : i + 1]
        if group and _belongs(group[-1], words[i], open_quotes) and _holds([*group, *more]):
            group += more
            i += len(more)
        else:
            more = more[:1]
            yield from _written(group)
            group = more
            i += 1
        if more[0] in ('"', "'"):
            open_quotes ^= {more[0]}
    yield from _written(group)


def _belongs(before: str, word: str, open_quotes: set[str]) -> bool:
    """Whether people write no blank between these two."""
    if before in open_quotes:
        return True
    if word == "'":
        return word in open_quotes or before.endswith("s")
    if word == '"':
        return word in open_quotes
    if word in _INFIX or (before in _OPEN and before not in ('"', "'")):
        return True
    return word in _CLOSE or word == "..." or word.startswith("'")


def _holds(group: list[str]) -> bool:
    return _cut(_spelled(group)) == group


def _spelled(group: list[str]) -> str:
    return "".join(_INFIX.get(word, word) if len(group) > 1 else word for word in group)


def _written(group: list[str]) -> Iterable[str]:
    if group:
        if not _holds(group):
            yield ""
        yield _spelled(group)


def _apart(line: str) -> Iterable[str]:
    whole = False
    for word in line.split(" "):
        if not word:
            whole = bool(line)
        elif whole:
            yield word
            whole = False
        else:
            yield from _cut(word)


def _cut(word: str) -> list[str]:
    """The words that were put together into this one."""
    if word in _INFIX:
        return [word]
    head: list[str] = []
    tail: list[str] = []
    while len(word) > 1 and word[0] in _OPEN:
        head.append(word[0])
        word = word[1:]
    while len(word) > 1 and word != "...":
        if word.endswith("..."):
            cut = 3
        elif word[-1] in _CLOSE and word not in _SHORT and not _INITIALS.fullmatch(word):
            cut = 1
        else:
            break
        tail.insert(0, word[-cut:])
        word = word[:-cut]
    word = _HYPHEN.sub(" @-@ ", word)
    word = _IN_NUMBER.sub(r" @\1@ ", word)
    return [*head, *_APOSTROPHE.sub(" ", word).split(" "), *tail]
