import pytest

from qa_train.spoken_form import spoken_form


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("1990", "nineteen ninety"),
        ("1905", "nineteen oh five"),
        ("2007", "two thousand seven"),
        ("1800", "eighteen hundred"),
        ("the 1920s", "the nineteen twenties"),
        ("1,990", "one thousand nine hundred ninety"),
        ("3.5", "three point five"),
        ("007", "zero zero seven"),
        ("21st", "twenty first"),
        ("$3.5 billion", "three point five billion dollars"),
        ("45%", "forty five percent"),
        ("salt & pepper", "salt and pepper"),
        ("1914\u201318", "nineteen fourteen eighteen"),
        ("Don\u2019t", "dont"),
        ("caf\u00e9 Stra\u00dfe \u0141\u00f3d\u017a", "cafe strasse lodz"),
        ("well-known", "well known"),
        ("Henry VIII in World War II", "henry eight in world war two"),
        ("XIV, XLIX, LXXXIX, IX", "fourteen forty nine eighty nine nine"),
        ("I saw V and X, XL, MIX, IVY, ii, IIII", "i saw v and x xl mix ivy ii iiii"),
        ("1\u00bd cups, \u2154 of 10\u00b2", "one one half cups two over three of ten two"),
        ("inter\u00adnational and\u200b then", "international and then"),
        ("4" + 40 * "0" + "th", "four" + 40 * " zero"),
        ("", ""),
        ("...", ""),
    ],
)
def test_numbers_and_signs_are_words(written: str, spoken: str) -> None:
    form = spoken_form(written)
    assert " ".join(word.text for word in form.words) == spoken
    assert form.script.isascii()
    assert not any(char.isdigit() for char in form.script)
    assert not form.unspoken


def test_each_word_knows_where_it_is_written() -> None:
    text = "Caf\u00e9 \u201cU\u0308ber\u201d earned $3.5 billion in 1990."
    places = {word.text: text[word.start : word.end] for word in spoken_form(text).words}
    assert places["cafe"] == "Caf\u00e9"
    assert places["uber"] == "U\u0308ber"
    assert places["point"] == places["dollars"] == "$3.5 billion"
    assert places["nineteen"] == places["ninety"] == "1990"


def test_what_cannot_be_spoken_is_left_out_and_counted() -> None:
    form = spoken_form("tea, \u8336 or \u8336\u6c34 (cha)")
    assert form.unspoken == {"\u8336": 2, "\u6c34": 1}
    assert [word.text for word in form.words] == ["tea", "or", "cha"]
    assert form.script == "tea, or (cha)"
