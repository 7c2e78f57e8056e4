"""A written text as it is read aloud: numbers and signs as words, letters of ASCII alone.

Flite reads numbers by itself, and well, but nobody else would know how it did: the written reference of a word error
rate, and the place of an answer's words in it, would be guesses. So a text is spelled out here, once for all voices,
and each spoken word knows where it is written.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from qa_train.confusions import spoken_words
from qa_train.errors import QAError


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word as a recogniser should hear it, lower-cased, without apostrophes.

    Attributes:
        text: The word.
        start: Where what it is spoken for starts in the written text.
        end: Where that ends; the words of one number share both.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class SpokenForm:
    """A text, ready to be read aloud.

    Attributes:
        script: What a voice is given; ASCII without digits, punctuation kept where it makes a pause.
        words: Its words, in order; none in a text without letters, digits and known signs.
        unspoken: Written characters that have no spoken form, such as those of other scripts, and how often.
    """

    script: str
    words: tuple[SpokenWord, ...]
    unspoken: Mapping[str, int]


_LETTERS = {"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d"}
_LETTERS |= {"Đ": "D", "þ": "th", "Þ": "Th", "ð": "d", "Ð": "D", "\u0131": "i"}
_LETTERS |= {"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'}
_LETTERS |= {"\u2013": "-", "\u2014": ", ", "\u2212": "-", "\u2026": "...", "\u2022": ",", "\u00d7": "*"}
_LETTERS |= {"\u00bd": " one half ", "\u00bc": " one quarter ", "\u00be": " three quarters ", "\u2044": " over "}
_SIGNS = {"%": "percent", "&": "and", "+": "plus", "=": "equals", "@": "at", "°": "degrees", "*": "times"}
_CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros", "¥": "yen"}
_KEPT = {"°", *_CURRENCIES}
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
# Two letters or more: alone each is a letter as well, and XL a size.
_ROMAN = r"(?!XL\b)(?=[IVXL]{2})(?:XL|L?X{0,3})(?:IX|IV|V?I{0,3})(?<=[IVXL])"
_SPOKEN = re.compile(
    rf"(?P<currency>[$£€¥])\s?(?P<amount>{_NUMBER})(?:[ -](?P<scale>hundred|thousand|million|billion|trillion)\b)?"
    r"|(?<![\d.,])(?P<year>1[1-9]\d\d|20\d\d)(?P<decade>'?s)?(?![\w]|[.,]\d)"
    r"|(?P<ordinal>\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b"
    rf"|(?P<number>{_NUMBER})"
    r"|(?P<sign>[%&+=@°*$£€¥])"
    rf"|\b(?P<roman>{_ROMAN})\b"
    r"|(?P<word>[A-Za-z]+(?:'[A-Za-z]+)*'?)",
)
_NO_PAUSE = re.compile(r"[^A-Za-z\s.,;:?!'\"()-]")
_SPACE = re.compile(r" (?=[.,;:?!)])|(?<=\() ")
_MAX_DIGITS = 15
"""Longer numbers are read digit by digit, as telephone numbers are."""


def spoken_form(text: str) -> SpokenForm:
    """Spells a text out.

    Accents are dropped (`café` is `cafe`). Four digits from 1100 to 2099 are a year (`1990` is nineteen ninety). Roman
    numbers up to 89, of two letters or more, are read as numbers (`Henry VIII` is henry eight, `World War II` world war
    two). What cannot be spoken is left out and counted.

    Raises:
        QAError: If inflect is not installed and the text has a number.
    """
    plain, places, unspoken = _to_ascii(text)
    words: list[SpokenWord] = []
    script: list[str] = []
    end = 0
    for match in _SPOKEN.finditer(plain):
        read = _read(match)
        script += [_NO_PAUSE.sub(" ", plain[end : match.start()]), read if match["word"] else f" {read} "]
        start, end = match.span()
        written = places[start], places[end - 1] + 1
        words += [SpokenWord(word, *written) for word in spoken_words(read)]
    script.append(_NO_PAUSE.sub(" ", plain[end:]))
    return SpokenForm(_SPACE.sub("", " ".join("".join(script).split())), tuple(words), unspoken)


def _to_ascii(text: str) -> tuple[str, list[int], Counter[str]]:
    """Returns the text in ASCII and known signs, the place in `text` of each character, and what has no such form."""
    plain: list[str] = []
    places: list[int] = []
    unspoken: Counter[str] = Counter()
    for place, char in enumerate(text):
        kept, category = _ascii_of(char), unicodedata.category(char)
        if not kept and category[0] in "LNS":
            unspoken[char] += 1
        # A mark of its own belongs to the letter before it, a soft hyphen to both sides; what else has no form
        # separates words.
        if not kept and category[0] != "M" and category != "Cf":
            kept = " "
        plain.append(kept)
        places += [place] * len(kept)
    return "".join(plain), places, unspoken


def _ascii_of(char: str) -> str:
    """Returns what is read for a character, in ASCII and known signs; empty if nothing is."""
    if char in _KEPT:
        return char
    decomposed = _LETTERS.get(char) or unicodedata.normalize("NFKD", char)
    decomposed = "".join(_LETTERS.get(part, part) for part in decomposed)
    kept = "".join(part for part in decomposed if part.isascii() or part in _KEPT)
    # An exponent or a fraction is no further digit of the number before it.
    return f" {kept} " if kept and unicodedata.category(char) == "No" else kept


def _read(match: re.Match[str]) -> str:
    """Returns how one match of `_SPOKEN` is read aloud."""
    if match["word"]:
        return match["word"]
    if match["sign"]:
        return (_SIGNS | _CURRENCIES)[match["sign"]]
    if match["currency"]:
        return " ".join(filter(None, (_cardinal(match["amount"]), match["scale"], _CURRENCIES[match["currency"]])))
    if match["year"]:
        return _year(match["year"], plural=bool(match["decade"]))
    if match["ordinal"]:
        digits = match["ordinal"].replace(",", "")
        if len(digits) > _MAX_DIGITS:
            return _cardinal(digits)
        return _words(_speller().number_to_words(_speller().ordinal(digits), andword=""))
    if match["roman"]:
        return _cardinal(str(_roman(match["roman"])))
    return _cardinal(match["number"])


def _cardinal(number: str) -> str:
    digits = number.replace(",", "")
    whole = digits.partition(".")[0]
    by_digit = len(whole) > _MAX_DIGITS or (len(whole) > 1 and whole.startswith("0"))
    return _words(_speller().number_to_words(digits, andword="", group=1 if by_digit else 0))


def _roman(numeral: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10, "L": 50}[letter] for letter in numeral]
    return sum(
        -value if value < following else value for value, following in zip(values, [*values[1:], 0], strict=True)
    )


def _year(digits: str, *, plural: bool) -> str:
    century, rest = digits[:2], digits[2:]
    if digits[:3] == "200":
        read = _cardinal(digits)
    elif rest == "00":
        read = f"{_cardinal(century)} hundred"
    else:
        read = f"{_cardinal(century)} {'oh ' * (rest[0] == '0')}{_cardinal(str(int(rest)))}"
    if not plural:
        return read
    *first, last = read.split()
    return " ".join([*first, f"{last[:-1]}ies" if last.endswith("y") else f"{last}s"])


def _words(spelled: str) -> str:
    """Drops the commas and hyphens of a spelled number."""
    return " ".join(re.findall("[a-z]+", spelled))


@lru_cache(maxsize=1)
def _speller() -> Any:
    try:
        import inflect
    except ImportError as error:
        raise QAError(
            'numbers as words need inflect, not found; pip install -c constraints.txt -e ".[speech]"'
        ) from error
    return inflect.engine()
