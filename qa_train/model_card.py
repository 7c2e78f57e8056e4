"""The README of a saved model: what it is, what it was trained on, how good it is, what it cost, where it fails."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from qa_train.config import USED_BY_SCHEDULES

_USE = """from transformers import AutoModelForQuestionAnswering, AutoTokenizer

model = AutoModelForQuestionAnswering.from_pretrained("{directory}")
tokenizer = AutoTokenizer.from_pretrained("{directory}")
"""


def model_card(record: Mapping[str, Any], directory: str) -> str:
    """Returns the card in Markdown.

    Args:
        record: The content of `training.json`.
        directory: Name of the model's directory, for the example.
    """
    config = record["config"]
    return f"""---
library_name: transformers
pipeline_tag: question-answering
base_model: {config["model"]["name"]}
---

# Extractive question answering, fine-tuned from {config["model"]["name"]}

Trained by spansweep for {_epochs(record)} epochs ({_optim(config["optim"])}; seed {config["seed"]}; \
{record["precision"]}).

## Scores

F1 and exact match by the official rule of SQuAD 1.1, in brackets 95 % intervals over articles.

{_scores(record["scores"])}
{_budgets(record.get("budgets", []))}
The dev set selected this model, if it comes from a sweep: its score there is then better than on new data.

## Data

{_data(record["data"])}

## Cost

{_cost(record["cost"], record["device"])}

## Use

```python
{_USE.format(directory=directory)}```

## Limits

It answers with a span of the text that it is given and always gives one, also where the text holds no answer. Trained
on transcripts, it expects text as a speech recogniser writes it: lower case, no punctuation. Words that the recogniser
lost cannot be found. Licences of the base model and of the data apply to what is made of it.
"""


def _epochs(record: Mapping[str, Any]) -> int:
    """Returns the epochs of this model; of the schedule `trunk`, a run gives several."""
    return int(record.get("budget_epochs", record["config"]["num_epochs"]))


def _optim(optim: Mapping[str, Any]) -> str:
    """Describes what the learning-rate schedule uses."""
    schedule = optim["schedule"]
    used = {key: value for key, value in optim.items() if schedule in USED_BY_SCHEDULES.get(key, (schedule,))}
    return ", ".join(f"{key} {value}" for key, value in used.items())


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, _score(values, "f1"), _score(values, "exact_match"), values["num_questions"], values["num_articles"]]
        for name, values in scores.items()
    ]
    return tabulate(rows, ["set", "F1", "exact match", "questions", "articles"], tablefmt="github")


def _budgets(budgets: Sequence[Mapping[str, Any]]) -> str:
    """Lists how the models of this run did on dev, this one last."""
    if len(budgets) < 2:
        return ""
    rows = [
        [
            entry["budget_epochs"],
            f"{entry['f1']:.2f}",
            f"{entry['exact_match']:.2f}",
            f"{entry['model_cost.tflop']:.1f}",
        ]
        for entry in budgets
    ]
    table = tabulate(rows, ["epochs", "F1", "exact match", "TFLOP"], tablefmt="github", disable_numparse=True)
    return f"\nThe models that this run gave so far, on dev, this one the last:\n\n{table}\n"


def _score(values: Mapping[str, Any], name: str) -> str:
    interval = values[f"{name}_interval"]
    shown = f"{values[name]:.2f}"
    return f"{shown} [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else shown


def _data(data: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, entry["path"].rpartition("/")[2], entry["questions"], entry["sha256"][:16]]
        for name, entry in data.items()
    ]
    return tabulate(rows, ["set", "file", "questions used", "SHA-256 begins"], tablefmt="github")


def _cost(cost: Mapping[str, float], device: str) -> str:
    run = f"{_spent(cost, 'cost', device)}, at most {cost['cost.peak_memory_bytes'] / 2**30:.1f} GiB in a process."
    if "model_cost.tokens" not in cost:
        return run
    share = f"{_spent(cost, 'model_cost', device)}: its share of a run that gives a model for each of several budgets."
    return f"{share} The whole run up to here: {run}"


def _spent(cost: Mapping[str, float], prefix: str, device: str) -> str:
    seconds = sum(value for name, value in cost.items() if name.startswith(f"{prefix}.") and name.endswith("_s"))
    tokens, tflop = cost[f"{prefix}.tokens"], cost[f"{prefix}.tflop"]
    return f"{seconds / 60:.1f} minutes on {device}, {tokens:,} tokens, {tflop:.1f} TFLOP"
