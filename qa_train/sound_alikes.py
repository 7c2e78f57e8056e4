"""Finds the words of a vocabulary that sound like a given one."""

from collections.abc import Iterator, Mapping

from qa_train.errors import QAError


class SoundAlikes:
    """The words of a vocabulary by their Metaphone code.

    Metaphone keeps the consonants of an English word as they are spoken, and a first vowel: `night` and `knight` are
    both NT. Words in other scripts, and numbers in digits, have no code and sound like nothing.

    Source: Lawrence Philips, "Hanging on the Metaphone", Computer Language 7 (1990); the implementation is jellyfish's.
    """

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        """Takes any words; the counts, 1 or more, are handed back with them.

        Raises:
            QAError: If jellyfish is not installed.
        """
        try:
            from jellyfish import metaphone
        except ImportError as error:
            raise QAError(
                'recognition noise needs jellyfish, not found; pip install -c constraints.txt -e ".[noise]"'
            ) from error
        self._code = metaphone
        self._words: dict[str, dict[str, int]] = {}
        for word, count in vocabulary.items():
            self._words.setdefault(metaphone(word), {})[word] = count
        self._words.pop("", None)
        self._letters = sorted({letter for code in self._words for letter in code})
        self._near: dict[str, dict[str, int]] = {}

    def of(self, word: str) -> dict[str, int]:
        """Returns the words whose code is that of `word` or at edit distance 1, with their counts.

        The word itself is among them if it is in the vocabulary.
        """
        code = self._code(word)
        if code not in self._near:
            codes = dict.fromkeys([code, *self._one_edit_away(code)]) if code else ()
            self._near[code] = {
                alike: count for near in codes if near in self._words for alike, count in self._words[near].items()
            }
        return self._near[code]

    def _one_edit_away(self, code: str) -> Iterator[str]:
        """Yields the codes with one letter less, more or other than `code`; some of them several times."""
        for index in range(len(code) + 1):
            before, after = code[:index], code[index:]
            yield before + after[1:]
            for letter in self._letters:
                yield before + letter + after
                yield before + letter + after[1:]
