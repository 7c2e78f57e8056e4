"""The best configurations of a search, to be trained again with several seeds and scored on the test sets."""

import statistics
from collections.abc import Iterable, Sequence

from qa_train.config import flatten
from sweeps.config import SweepConfig
from sweeps.history import values_of
from sweeps.records import ENDED, Row, TrialName, score
from sweeps.search import Suggestion
from sweeps.space import Scalar


def choose_finalists(config: SweepConfig, rows: Iterable[Row]) -> list[int]:
    """Returns the numbers of the best configurations, best first, by the mean score over their seeds.

    Configurations with a trial that failed or was stopped early are none, and of those that train the same, the
    first is.

    Args:
        config: `finalists.top`, how models are ranked, and what all trials have in common.
        rows: Of the records.
    """
    scores: dict[int, list[float]] = {}
    recipes: dict[int, frozenset[tuple[str, Scalar]]] = {}
    best: dict[str, float] = {}  # of a trial's models, for those of several budgets
    common, spoilt = flatten(config.train), set()
    for row in rows:
        trial_id = str(row["trial_id"])
        name = TrialName.parse(trial_id)
        if row.get("budget_epochs") is not None:
            own = score(row, config.search.metric, config.search.mode)
            best[trial_id] = max(own, best.get(trial_id, own))
        if name.is_final or row.get("status") not in ENDED:
            continue
        if row["status"] != "completed":
            spoilt.add(name.number)
        scores.setdefault(name.number, []).append(best.get(trial_id, float("-inf")))
        recipes[name.number] = frozenset((common | values_of(row)).items())  # the space may have been another one
    means = {number: statistics.fmean(found) for number, found in sorted(scores.items()) if number not in spoilt}
    ranked = sorted((number for number in means if means[number] > float("-inf")), key=lambda number: -means[number])
    distinct = {recipes[number]: number for number in reversed(ranked)}
    return sorted(distinct.values(), key=ranked.index)[: config.finalists.top]


def finalists_left(config: SweepConfig, rows: Sequence[Row]) -> list[Suggestion]:
    """Returns the trials of the finalists that have not ended: first those that were interrupted.

    Args:
        config: Of the sweep.
        rows: Of the records, with all trials of the search ended.
    """
    searched = {_number(row): row for row in rows}
    last = {str(row["trial_id"]): row for row in rows}
    chosen = choose_finalists(config, rows)
    wanted = [TrialName(number, seed, is_final=True) for number in chosen for seed in config.finalists.seeds]
    begun = [name for name in map(TrialName.parse, last) if name.is_final and last[str(name)]["status"] not in ENDED]
    left = [name for name in wanted if str(name) not in last]
    return [
        Suggestion(name, values_of(searched[name.number]), name.seed, has_begun=name in begun)
        for name in [*begun, *left]
        if name.seed is not None
    ]


def _number(row: Row) -> int:
    return TrialName.parse(str(row["trial_id"])).number
