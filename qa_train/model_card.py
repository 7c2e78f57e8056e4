"""The README of a saved model: what it is, what it was trained on, how good it is, what it cost, where it fails."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

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
    optim = ", ".join(f"{key} {value}" for key, value in config["optim"].items())
    return f"""---
library_name: transformers
pipeline_tag: question-answering
base_model: {config["model"]["name"]}
---

# Extractive question answering, fine-tuned from {config["model"]["name"]}

Trained by spansweep for {config["num_epochs"]} epochs ({optim}; seed {config["seed"]}; {record["precision"]}).

## Scores

F1 and exact match by the official rule of SQuAD 1.1, in brackets 95 % intervals over articles.

{_scores(record["scores"])}

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


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, _score(values, "f1"), _score(values, "exact_match"), values["num_questions"], values["num_articles"]]
        for name, values in scores.items()
    ]
    return tabulate(rows, ["set", "F1", "exact match", "questions", "articles"], tablefmt="github")


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
    seconds = sum(value for name, value in cost.items() if name.endswith("_s"))
    return (
        f"{seconds / 60:.1f} minutes on {device}, {cost['cost.tokens']:,} tokens, {cost['cost.tflop']:.1f} TFLOP, "
        f"at most {cost['cost.peak_memory_bytes'] / 2**30:.1f} GiB in a process."
    )
