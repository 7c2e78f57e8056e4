"""The scores of single questions in a Parquet file, for comparisons of models on the same questions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
from pyarrow import parquet

from qa_train.data import Example
from qa_train.errors import DataError
from qa_train.metrics import QAScores
from qa_train.storage import Pathlike, read_bytes, write_bytes

_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("article", pa.string(), nullable=False),
        pa.field("f1", pa.float64(), nullable=False),
        pa.field("exact_match", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class QuestionScores:
    """The columns of a file, each [num_questions], in the order of the data.

    Attributes:
        question_id: Ids of the questions.
        article: Titles of the articles they are about.
        f1: By the official rule, 0 to 100.
        exact_match: The same, 0 or 100.
    """

    question_id: tuple[str, ...]
    article: tuple[str, ...]
    f1: tuple[float, ...]
    exact_match: tuple[float, ...]


def write_question_scores(path: Pathlike, scores: QAScores, examples: Sequence[Example]) -> None:
    """Writes the score of each question as Parquet, atomically; an earlier file is replaced.

    Args:
        path: The file; missing parent directories are created.
        scores: Of these examples.
        examples: The questions in the order they shall have in the file.

    Raises:
        DataError: If the file cannot be written.
    """
    of_questions = [scores.per_question[example.id] for example in examples]
    columns = QuestionScores(
        question_id=tuple(example.id for example in examples),
        article=tuple(example.title for example in examples),
        f1=tuple(score.f1 for score in of_questions),
        exact_match=tuple(score.exact_match for score in of_questions),
    )
    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(asdict(columns), schema=_SCHEMA), buffer)
    write_bytes(path, buffer.getvalue().to_pybytes())


def read_question_scores(path: Pathlike) -> QuestionScores:
    """Reads what `write_question_scores` wrote; further columns are ignored.

    Raises:
        DataError: If the file cannot be read, is not Parquet, lacks a column, or has one of another type or with
            missing values.
    """
    content = read_bytes(path)
    try:
        table = parquet.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected scores of questions as Parquet, found a file that is none") from error
    if not {*_SCHEMA.names} <= {*table.column_names}:
        expected, found = ", ".join(_SCHEMA.names), ", ".join(table.column_names) or "none"
        raise DataError(f"{path}: expected scores of questions with the columns {expected}; found {found}")
    try:
        table = table.select(_SCHEMA.names).cast(_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: expected texts and numbers, none missing; found otherwise: {reason}") from error
    return QuestionScores(**{name: tuple(table[name].to_pylist()) for name in _SCHEMA.names})
