"""Tiny models that have learned something, for tests that need a good model beside a random one."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_train.batching import collate, sorted_batches
from qa_train.data import read_squad
from qa_train.evaluate import qa_logits, span_loss
from qa_train.tokenization import encode


def train_a_little(directory: Path, data: Path, num_epochs: int = 8, **windows: Any) -> Path:
    """Fits the model in a directory to a data file of a few articles, in a second or two; returns the directory."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForQuestionAnswering.from_pretrained(directory)
    features = encode(read_squad(data).examples, tokenizer, **windows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(num_epochs):
        for indices in sorted_batches(features.lengths, 16):
            batch = collate(features, indices, tokenizer.pad_token_id, torch.device("cpu"))
            (span_loss(*qa_logits(model, batch), batch) / len(batch)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(directory)
    return directory
