"""Compares two models question by question: which is better, beyond chance, and where they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from analysis.choice import weigh
from analysis.configurations import configuration_table, members_of
from analysis.frontier import best_model
from analysis.load import Sweeps
from analysis.question_texts import find_examples, read_answers
from analysis.questions import Questions, read_files, read_questions, scores_path
from analysis.sentences import tell_difference, tell_interval, tell_optimism
from analysis.statistics import Difference, McNemar, Optimism, mcnemar, paired_difference
from analysis.tables import model_name
from qa_train.data import Example, read_squad
from qa_train.errors import DataError


@dataclass(frozen=True)
class Comparison:
    """Two models on the same questions.

    Attributes:
        names: Of the first and the second model.
        f1: Mean F1 of each, 0 to 100.
        exact_match: The same of exact match.
        f1_difference: First minus second.
        exact_match_difference: First minus second.
        mcnemar: Of the exact matches; None where they are means over seeds.
        optimism: By name, of a model that is the best of its sweep.
        num_questions: That both were scored on.
        questions: [num_different, 6 to 10] the questions whose F1 differs, those first where the first model is ahead
            the most: `question_id`, `article`, `first_f1`, `second_f1`, `first_exact_match`, `second_exact_match` and,
            where data and predictions are found, `question`, `answers`, `first_answer`, `second_answer`.
    """

    names: tuple[str, str]
    f1: tuple[float, float]
    exact_match: tuple[float, float]
    f1_difference: Difference
    exact_match_difference: Difference
    mcnemar: McNemar | None
    optimism: dict[str, Optimism]
    num_questions: int
    questions: pd.DataFrame

    def to_plain(self) -> dict[str, Any]:
        """Returns all of it as JSON's types."""
        plain = {name: value for name, value in vars(self).items() if name not in ("questions", "optimism")}
        for name in ("f1_difference", "exact_match_difference", "mcnemar"):
            plain[name] = asdict(plain[name]) if plain[name] else None
        plain["optimism"] = {name: asdict(luck) | {"amount": luck.amount} for name, luck in self.optimism.items()}
        return plain | {"questions": self.questions.to_dict("records")}


def compare_trials(
    sweeps: Sweeps, first: str, second: str, data_set: str = "dev", *, all_seeds: bool = False
) -> Comparison:
    """Compares two finished models of sweeps, or the two configurations that they are of.

    Args:
        sweeps: What was loaded.
        first: A trial's id; `TRIAL@EPOCHS` where it finished several models, `SWEEP/TRIAL` where two sweeps have it.
        second: The same of the other model.
        data_set: `dev`, or `test.<name>` for models that were scored on that set.
        all_seeds: Whether each question's score is the mean over all models that differ from the named one by their
            seed alone (`configuration_ids`).

    Raises:
        DataError: If there is no such model, more than one, one has no scores of single questions, the two have those
            of different questions, or, with `all_seeds`, the two are of one configuration.
    """
    labels = [find_model(sweeps, name) for name in (first, second)]
    if not all_seeds:
        return _compare(sweeps, dict(enumerate([label] for label in labels)), (first, second), data_set, {})
    groups = [_seeds_of(sweeps, label) for label in labels]
    if labels[1] in groups[0]:
        raise DataError(f"{first} and {second}: expected two configurations, found two seeds of one")
    seeds = [" ".join(map(str, sweeps.models.loc[group, "seed"].dropna())) for group in groups]
    names = [
        f"{name}, mean of seeds {told}" if told else name for name, told in zip((first, second), seeds, strict=True)
    ]
    return _compare(sweeps, dict(enumerate(groups)), (names[0], names[1]), data_set, {})


def _seeds_of(sweeps: Sweeps, label: Any) -> list[Any]:
    """Returns the index labels of the models of the configuration that a model is of."""
    groups = members_of(sweeps.models, sweeps.manifests).values()
    return next((group for group in groups if label in group), [label])


def compare_sweeps(sweeps: Sweeps, data_set: str = "dev") -> Comparison:
    """Compares the best configurations of two sweeps; models that differ by their seed alone count as one.

    Args:
        sweeps: Two of them.
        data_set: `dev`, or `test.<name>` for models that were scored on that set.

    Raises:
        DataError: If there are not two sweeps, one has no finished model with a score, or as `compare_trials` does.
    """
    if len(sweeps.manifests) != 2:
        raise DataError(
            f"expected two sweeps to compare, found {len(sweeps.manifests)}; or name two models by --trials"
        )
    members, names, luck = {}, [], {}
    for number, sweep_id in enumerate(sweeps.manifests):
        models = sweeps.models_of(sweep_id)
        table, groups = configuration_table(models, sweeps.manifests), members_of(models, sweeps.manifests)
        best = best_model(table, sweeps.metric, sweeps.mode)
        if best is None:
            raise DataError(f"{sweeps.directories[sweep_id]}: no finished model has a score ({sweeps.metric})")
        names.append(f"{sweep_id}/{model_name(table, best)}")
        members[number] = groups[best]
        if data_set == "dev" and (found := weigh(sweeps, table, groups).optimism):
            luck[names[-1]] = found
    return _compare(sweeps, members, (names[0], names[1]), data_set, luck)


def compare_files(first: Path, second: Path, data: Path | None = None) -> Comparison:
    """Compares two files with the scores of single questions, as trainings, sweeps and `evaluate` write them.

    Args:
        first: Of the first model.
        second: Of the second one.
        data: The data file, for the texts of the questions.

    Raises:
        DataError: If one cannot be read, or the two hold different questions.
    """
    questions = read_files([first, second])
    texts = {example.id: example for example in read_squad(data).examples} if data else {}
    return _assess(questions, (str(first), str(second)), {}, _texts(questions, texts, []))


def find_model(sweeps: Sweeps, name: str) -> Any:
    """Returns the index label, in `sweeps.models`, of the finished model that a name is of; see `compare_trials`.

    Raises:
        DataError: If there is no such model, or more than one.
    """
    models = sweeps.finished
    rest, _, epochs = name.partition("@")
    sweep, _, trial_id = rest.rpartition("/")
    found = models[(models["trial_id"] == trial_id) & ((models["sweep"] == sweep) if sweep else True)]
    if epochs:
        found = found[found["budget_epochs"] == pd.to_numeric(epochs, errors="coerce")]
    found = found.drop_duplicates("model")
    if len(found) == 1:
        return found["model"].iloc[0]
    if found.empty:
        known = ", ".join(dict.fromkeys(models["trial_id"].head(12))) or "none"
        more = ", …" if models["trial_id"].nunique() > 12 else ""
        raise DataError(f"{name}: expected a trial with a finished model ({known}{more}), found none of this name")
    names = [f"{row.sweep}/{row.trial_id}@{row.budget_epochs:g}" for row in found.itertuples()]
    raise DataError(f"{name}: expected one model, found {len(names)}; say which: {', '.join(names[:12])}")


def _compare(
    sweeps: Sweeps,
    members: Mapping[Any, Sequence[Any]],
    names: tuple[str, str],
    data_set: str,
    luck: dict[str, Optimism],
) -> Comparison:
    for model in (sweeps.models.loc[label] for labels in members.values() for label in labels):
        if not (path := scores_path(sweeps, model, data_set)).is_file():
            hint = (
                "sweeps made by an earlier version have none"
                if data_set == "dev"
                else "finalists alone are scored on it"
            )
            raise DataError(f"{path}: expected the scores of single questions, found no file ({hint})")
    questions, missing = read_questions(sweeps, members, data_set)
    if questions is None or missing:
        raise DataError(f"{names[0]} and {names[1]}: expected scores of the same {data_set} questions, found others")
    first = next(iter(sweeps.manifests))
    examples, _ = find_examples(sweeps.manifests[first].data.get(data_set) or {})
    models = [sweeps.models.loc[labels[0]] for labels in members.values() if len(labels) == 1]
    answers = [read_answers(sweeps, model, data_set) for model in models] if len(models) == 2 else []
    return _assess(questions, names, luck, _texts(questions, examples, answers))


def _assess(
    questions: Questions, names: tuple[str, str], luck: dict[str, Optimism], texts: dict[str, list[str]]
) -> Comparison:
    f1, exact_match, articles = questions.f1, questions.exact_match, questions.articles
    is_single = bool(((exact_match == 0) | (exact_match == 100)).all())
    table = pd.DataFrame(
        {
            "question_id": questions.ids,
            "article": articles,
            "first_f1": f1[0],
            "second_f1": f1[1],
            "first_exact_match": exact_match[0],
            "second_exact_match": exact_match[1],
            **texts,
        }
    )
    ahead = table["first_f1"] - table["second_f1"]
    order = ahead.sort_values(ascending=False, kind="stable").index
    return Comparison(
        names=names,
        f1=(float(f1[0].mean()), float(f1[1].mean())),
        exact_match=(float(exact_match[0].mean()), float(exact_match[1].mean())),
        f1_difference=paired_difference(f1[0], f1[1], articles),
        exact_match_difference=paired_difference(exact_match[0], exact_match[1], articles),
        mcnemar=mcnemar(exact_match[0], exact_match[1]) if is_single else None,
        optimism=luck,
        num_questions=len(table),
        questions=table.loc[order][ahead[order] != 0].reset_index(drop=True),
    )


def _texts(
    questions: Questions, examples: Mapping[str, Example], answers: Sequence[Mapping[str, str]]
) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    if {*questions.ids} <= examples.keys():
        texts["question"] = [examples[key].question for key in questions.ids]
        texts["answers"] = [" | ".join(dict.fromkeys(a.text for a in examples[key].answers)) for key in questions.ids]
    if len(answers) == 2 and all(answers):
        for name, found in zip(("first_answer", "second_answer"), answers, strict=True):
            texts[name] = [str(found.get(key, "")) for key in questions.ids]
    return texts


def format_comparison(found: Comparison) -> str:
    """Returns a comparison as lines for people."""
    first, second = found.names
    rows = [
        ["F1", *(f"{score:.2f}" for score in found.f1), *_cells(found.f1_difference)],
        ["exact match", *(f"{score:.2f}" for score in found.exact_match), *_cells(found.exact_match_difference)],
    ]
    headers = ["", "first", "second", "difference", "95 % interval"]
    num_articles = found.f1_difference.num_articles
    lines = [
        f"first:  {first}",
        f"second: {second}",
        f"{found.num_questions:,} questions of {num_articles} articles, paired",
        "",
        tabulate(rows, headers, disable_numparse=True, colalign=["left", *["right"] * 4]),
        "",
        _verdict(found),
    ]
    if found.mcnemar:
        only = f"{found.mcnemar.only_first} questions are answered exactly by the first alone"
        other = f"{found.mcnemar.only_second} by the second alone"
        lines.append(
            f"{only}, {other} (McNemar, exact, questions taken as independent: p {found.mcnemar.p_value:.2g})."
        )
    lines += [f"{name}: {tell_optimism(luck)}" for name, luck in found.optimism.items()]
    if len(found.optimism) == 2:
        above = found.optimism[first].corrected - found.optimism[second].corrected
        lines.append(f"With that subtracted the difference in F1 is {above:+.2f}.")
    return "\n".join(lines)


def _cells(difference: Difference) -> tuple[str, str]:
    interval = difference.interval
    return f"{difference.mean:+.2f}", f"{interval.low:+.2f} to {interval.high:+.2f}" if interval else "-"


def _verdict(found: Comparison) -> str:
    difference = found.f1_difference
    if difference.interval is None:
        return f"Whether that is chance cannot be said{tell_interval(None, difference.num_articles)}."
    if difference.is_told:
        return (
            f"The first is {'better' if difference.mean > 0 else 'worse'} beyond chance: {tell_difference(difference)}."
        )
    return f"The two cannot be told apart: the first is {tell_difference(difference)}."
