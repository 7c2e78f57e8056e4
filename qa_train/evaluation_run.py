"""Runs an evaluation, in this process or over several, writes what it was asked for, and shows the scores."""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from qa_train.data import Example, read_squad
from qa_train.ensemble import Ensemble, fit_weights, group_members, join_members
from qa_train.errors import ConfigError
from qa_train.evaluation import Answers, answer_questions, score_answers
from qa_train.evaluation_job import ENSEMBLE, EvaluationJob
from qa_train.members import open_members
from qa_train.metrics import score_predictions
from qa_train.model import load_tokenizer
from qa_train.question_scores import write_question_scores
from qa_train.resources import limit_threads, num_cpus
from qa_train.storage import write_json
from qa_train.workers import rank

_MAX_CPUS = 8
"""Cores that a worker uses at most."""

Results = dict[str, dict[str, Any]]
Show = Callable[[dict[str, Any]], None]


def run_evaluation(job: EvaluationJob, num_workers: int = 1, *, progress: bool = False) -> Results:
    """Scores models on data files and writes the files of the job.

    Args:
        job: What to do.
        num_workers: Processes that share the questions, under Ray Train; the answers are the same.
        progress: Whether to show a progress bar on stderr.

    Returns:
        By the name of the data file the scores of `job.main`: those of `score_answers`, with `model` (its path or name)
        and `precision` of a model, `weights` of an ensemble. Where there are several models also `models`, the scores
        by their names, and `ensemble` if asked.

    Raises:
        ConfigError: If the models have no common tokenizer or windows, but shall answer together; or the machine has
            not enough cores for the workers; or as `open_members` does.
        DataError: If a data file cannot be used, or a result not be written.
        CheckpointError: If a model cannot be opened, or its scores are not finite.
        WorkerError: If workers kept dying.
    """
    results: Results = {}
    with tqdm(desc="evaluating", unit="question", disable=not progress, leave=False) as bar:

        def show(event: dict[str, Any]) -> None:
            if "total" in event:
                bar.total = event["total"]
                bar.update(event["done"] - bar.n)
            elif "warning" in event:
                bar.write(f"warning: {event['warning']}")
            else:
                results.update(event["results"])

        if num_workers == 1:
            evaluate_files(job, show)
        else:
            _run_workers(job, num_workers, show)
    return results


def _run_workers(job: EvaluationJob, num_workers: int, show: Show) -> None:
    shared = "RAY_ADDRESS" in os.environ
    if not shared:
        _cpus_per_worker(num_workers, num_cpus())  # known before Ray takes its seconds to start
    from qa_train.ray_trainer import RayTrainRun, ray_session, resources  # imports Ray

    with (
        # The nodes of a cluster see the working directory, if they see anything.
        tempfile.TemporaryDirectory(prefix=".evaluate-", dir=Path.cwd() if shared else None) as directory,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        ray_session(),
    ):
        cpus, gpus = resources()
        num_threads, use_gpu = _cpus_per_worker(num_workers, cpus), gpus >= num_workers and job.device != "cpu"
        placed = replace(job, device="cuda" if use_gpu else "cpu")
        run = RayTrainRun(
            evaluate_worker,
            {"directory": directory, "job": placed, "num_threads": num_threads},
            Path(directory),
            num_workers=num_workers,
            cpus_per_worker=num_threads,
            use_gpu=use_gpu,
        )
        for event in run.events():
            show(event)


def _cpus_per_worker(num_workers: int, cpus: int) -> int:
    if num_workers > cpus:
        problem = f"--num-workers: {num_workers} workers need {num_workers} CPU, found {cpus}; ask for at most {cpus}"
        raise ConfigError([problem], "evaluate")
    return min(cpus // num_workers, _MAX_CPUS)


def evaluate_worker(arguments: dict[str, Any]) -> None:
    """Evaluates as one of several workers; what Ray Train calls in each."""
    from qa_train.ray_trainer import tell

    limit_threads(arguments["num_threads"])
    evaluate_files(arguments["job"], partial(tell, Path(arguments["directory"])))


def evaluate_files(job: EvaluationJob, show: Show) -> None:
    """Evaluates in this process, alone or as a worker; the first worker scores and writes.

    Args:
        job: What to do.
        show: Called in the first worker with `done` and `total` questions, and at last with `results`.
    """
    is_first = rank() == 0
    # All mistakes show before the work begins.
    num_questions = sum(len(read_squad(path).examples) for path in job.data.values())
    groups = _open_groups(job)
    tokenizer = load_tokenizer(job.tokenizer) if job.tokenizer else None
    done = 0
    results: Results = {}

    def show_progress(num_so_far: int) -> None:
        if is_first:
            show({"done": done + num_so_far, "total": num_questions * len(groups)})

    for file, path in job.data.items():
        examples = read_squad(path).examples
        scores: dict[str, dict[str, Any]] = {}
        for names, group in groups:
            found = answer_questions(
                group, examples, job.n_best or 1, with_mean=ENSEMBLE in names, on_chunk=show_progress
            )
            done += len(examples)
            for name, answers in zip(names, found, strict=True) if is_first else ():
                own = group.tokenizer if name == ENSEMBLE else group.members[names.index(name)].tokenizer
                scores[name] = score_answers(answers, examples, tokenizer or own) | _about(name, names, group)
                _write(job, (name, file), answers, examples)
        if is_first:
            results[file] = _arrange(job, scores)
    if is_first:
        show({"results": results})


def _open_groups(job: EvaluationJob) -> list[tuple[list[str], Ensemble]]:
    """Opens the models; returns those that read the same windows together, each group with the names of its answers."""
    members = open_members(
        [*job.models.values()],
        job.device,
        job.precision,
        max_seq_length=job.max_seq_length,
        doc_stride=job.doc_stride,
        single_window=None,
        time_precision=True,
        source="evaluate",
    )
    names = [*job.models]
    if job.ensemble:
        ensemble = join_members(members)
        return [(job.names, fit_weights(ensemble, job.fit_weights) if job.fit_weights else ensemble)]
    return [
        ([names[index] for index in group], join_members([members[index] for index in group]))
        for group in group_members(members)
    ]


def _about(name: str, names: list[str], group: Ensemble) -> dict[str, Any]:
    if name == ENSEMBLE:
        return {"weights": dict(zip(names, group.weights, strict=False))}
    member = group.members[names.index(name)]
    return {"model": member.name, "precision": member.precision}


def _write(job: EvaluationJob, target: tuple[str, str], answers: Answers, examples: tuple[Example, ...]) -> None:
    texts = answers.texts(examples)
    if path := job.predictions.get(target):
        write_json(path, texts if job.n_best is None else answers.predictions(examples))
    if path := job.question_scores.get(target):
        references = {example.id: [answer.text for answer in example.answers] for example in examples}
        write_question_scores(path, score_predictions(texts, references), examples)


def _arrange(job: EvaluationJob, scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if len(job.models) == 1:
        return scores[job.main]
    models = {name: scores[name] for name in job.models}
    return scores[job.main] | {"models": models} | ({ENSEMBLE: scores[ENSEMBLE]} if job.ensemble else {})


def format_results(job: EvaluationJob, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a table with a row for each model, and the ensemble, on each file, and the ensemble's weights."""
    rows = []
    for file, scores in results.items():
        named = dict(scores["models"]) if "models" in scores else {job.main: scores}
        rows += [[name, file, *_cells(values)] for name, values in named.items()]
        if ENSEMBLE in scores:
            rows.append([ENSEMBLE, file, *_cells(scores[ENSEMBLE])])
    headers = ["model", "file", "F1", "exact match", "empty", "missing", "answerable", "best possible", "seconds"]
    text = tabulate(rows, headers, disable_numparse=True, colalign=["left"] * 2 + ["right"] * (len(headers) - 2))
    text += "\n\nIn brackets 95 % intervals over articles, where there are enough of them."
    if job.ensemble:
        weights = next(iter(results.values()))[ENSEMBLE]["weights"]
        how = f"fitted to {Path(job.fit_weights).name}" if job.fit_weights else "equal"
        text += f"\nWeights of the ensemble ({how}): " + ", ".join(f"{n} {w:.3f}" for n, w in weights.items())
    return text


def _cells(scores: Mapping[str, Any]) -> list[str]:
    return [
        _with_interval(scores, "f1"),
        _with_interval(scores, "exact_match"),
        f"{scores['num_empty']:,}",
        f"{scores['num_missing']:,}",
        f"{scores['answerable_share']:.1f} %",
        f"{scores['best_possible_f1']:.2f}",
        f"{scores['seconds']:.1f}",
    ]


def _with_interval(scores: Mapping[str, Any], name: str) -> str:
    interval = scores[f"{name}_interval"]
    return f"{scores[name]:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
