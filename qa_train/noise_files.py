"""Recognition noise for files: a noisy copy of one, and the confusions between two."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qa_train.augment import RecognitionNoise, apply_edits, count_words, has_true_offset
from qa_train.confusions import Confusions, learn_confusions, pair_contexts, write_confusions
from qa_train.data import Answer, Example, read_squad
from qa_train.errors import DataError
from qa_train.storage import Pathlike, read_json, write_json


@dataclass(frozen=True)
class NoiseCounts:
    """What was changed in a file.

    Attributes:
        num_paragraphs: Contexts, those without questions included.
        num_words: Words of these contexts as they were.
        num_replaced: Words replaced.
        num_dropped: Words left out.
        num_inserted: Words inserted.
        num_answers: Reference answers; of a question without `answers`, its `plausible_answers`.
        num_untrue: Those of them that did not stand at their offset, and were left as they were.
    """

    num_paragraphs: int
    num_words: int
    num_replaced: int
    num_dropped: int
    num_inserted: int
    num_answers: int
    num_untrue: int


def write_noisy_copy(
    path: Pathlike,
    out: Pathlike,
    *,
    rate: float,
    confusions: Confusions | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> NoiseCounts:
    """Writes a copy of a file in SQuAD form with noisy contexts.

    Each context is made noisy once, for all of its questions: none of their answers is changed, and their offsets
    are true again. Everything else is copied. The words that come in are those of the file itself, or of the
    `confusions`.

    Args:
        path: A file that `read_squad` takes.
        out: The JSON file to write; it appears complete or not at all.
        rate: Share of the words outside answers that are changed, 0 to below 1.
        confusions: What a recogniser makes of words.
        seed: 0 or more. The same file, arguments and seed give the same copy.
        overwrite: Whether to replace `out`; never if it is `path` itself.

    Raises:
        ConfigError: If `rate` is not in its range.
        DataError: As `read_squad` does, or if `out` exists or cannot be written.
        QAError: If jellyfish is not installed.
    """
    noise = RecognitionNoise(rate, count_words(read_squad(Path(path)).examples), confusions)
    _refuse_existing(out, [path], overwrite)
    generator = np.random.default_rng(seed)
    content = read_json(path)
    counts: Counter[str] = Counter()
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            counts.update(_add_noise(paragraph, noise, generator))
    try:
        write_json(out, content)
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: expected Unicode text, found half of a surrogate pair in it") from error
    return NoiseCounts(**{field: counts[field] for field in NoiseCounts.__dataclass_fields__})


def _add_noise(paragraph: dict[str, Any], noise: RecognitionNoise, generator: np.random.Generator) -> dict[str, int]:
    """Changes a paragraph that `read_squad` takes in place; returns the fields of its `NoiseCounts`."""
    # As `read_squad` does: plausible answers serve where a question has no other.
    answers = [item for qa in paragraph["qas"] for item in qa.get("answers") or qa.get("plausible_answers") or []]
    together = tuple(Answer(item["text"], item["answer_start"]) for item in answers)
    example = Example("", "", paragraph["context"], "", together)
    edits = noise.edits(example, generator)
    noisy = apply_edits(example, edits)
    paragraph["context"] = noisy.context
    for item, answer in zip(answers, noisy.answers, strict=True):
        item["answer_start"] = answer.start
    num_dropped = sum(not edit.text for edit in edits)
    num_inserted = sum(edit.start == edit.end for edit in edits)
    return {
        "num_paragraphs": 1,
        "num_words": count_words([example]).total(),
        "num_replaced": len(edits) - num_dropped - num_inserted,
        "num_dropped": num_dropped,
        "num_inserted": num_inserted,
        "num_answers": len(answers),
        "num_untrue": sum(not has_true_offset(example, answer) for answer in together),
    }


def confuse_files(written: Pathlike, transcript: Pathlike, out: Pathlike, *, overwrite: bool = False) -> Confusions:
    """Learns confusions of two files in SQuAD form whose questions share ids, and writes them.

    Args:
        written: The contexts as they were written, of training data.
        transcript: What a recogniser heard of them.
        out: The JSON file to write; it appears complete or not at all.
        overwrite: Whether to replace `out`; never if it is one of the two files.

    Raises:
        DataError: As `read_squad` does, if the files share no question, or if `out` exists or cannot be written.
        QAError: If jiwer is not installed.
    """
    pairs = pair_contexts(read_squad(Path(written)), read_squad(Path(transcript)))
    _refuse_existing(out, [written, transcript], overwrite)
    confusions = learn_confusions(pairs)
    write_confusions(out, confusions)
    return confusions


def _refuse_existing(out: Pathlike, sources: list[Pathlike], overwrite: bool) -> None:
    if Path(out).exists():
        is_source = any(Path(out).samefile(source) for source in sources)
        if is_source or not overwrite:
            remedy = "" if is_source else ", or pass --overwrite"
            raise DataError(f"{out}: expected a new file, found one there; name another one{remedy}")
