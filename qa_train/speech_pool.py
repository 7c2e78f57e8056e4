"""Processes that speak and hear paragraphs, each with engines of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from qa_train.errors import QAError
from qa_train.sentences import split_sentences
from qa_train.speech import SAMPLE_RATE, Engines, Recogniser, Samples, Voice, add_white_noise, write_wav
from qa_train.speech_journal import HeardParagraph
from qa_train.spoken_form import SpokenForm, SpokenWord, spoken_form

_S = TypeVar("_S")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Task:
    """A paragraph to speak and hear.

    Attributes:
        number: Of the paragraph in its file; decides the noise, with `seed`.
        context: The text.
        snr_db: Signal-to-noise ratio; None: no noise.
        seed: Of the run.
        audio: Where the audio goes, noise and all; None: nowhere.
        speech: The sentences' audio without noise, where it is known; else the voice speaks them.
    """

    number: int
    context: str
    snr_db: float | None
    seed: int
    audio: Path | None = None
    speech: tuple[Samples, ...] | None = None


def spoken_sentences(context: str) -> list[SpokenForm]:
    """Returns the sentences of a context as they are spoken; places are those in the context."""
    forms = []
    for start, end in split_sentences(context):
        form = spoken_form(context[start:end])
        words = tuple(SpokenWord(word.text, word.start + start, word.end + start) for word in form.words)
        forms.append(SpokenForm(form.script, words, form.unspoken))
    return forms


def speak(context: str, voice: Voice) -> tuple[Samples, ...]:
    """Reads a context aloud, sentence by sentence; one without words is silent."""
    silence: Samples = np.zeros(0, np.int16)
    return tuple(voice.speak(form.script) if form.words else silence for form in spoken_sentences(context))


def hear(task: Task, voice: Voice, recogniser: Recogniser) -> HeardParagraph:
    """Speaks a paragraph, adds noise and listens to it; depends on the task alone."""
    start = _cpu_s()
    speech = task.speech if task.speech is not None else speak(task.context, voice)
    if task.snr_db is not None:
        speech = tuple(
            add_white_noise(samples, task.snr_db, np.random.default_rng([task.seed, task.number, index]))
            for index, samples in enumerate(speech)
        )
    if task.audio:
        write_wav(task.audio, np.concatenate([np.zeros(0, np.int16), *speech]))
    sentences = tuple(" ".join(words) for words in recogniser.hear(speech))
    audio_s = sum(map(len, speech)) / SAMPLE_RATE
    return HeardParagraph(task.number, sentences, audio_s, _cpu_s() - start)


def _cpu_s() -> float:
    """Returns the seconds that this process and its ended children have worked."""
    return sum(os.times()[:4])


_engines: Engines  # of this process


def _start_worker(engines: Engines) -> None:
    global _engines
    _engines = engines
    # Ctrl-C ends a worker without a traceback; the parent says what there is to say.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `SpeechPool._submit`
    threading.Thread(target=_end_with_parent, daemon=True).start()


@cache
def _worker() -> tuple[Voice, Recogniser]:
    """Returns the engines of this process; opened with its first task, so that an error is that task's."""
    return _engines.open_voice(), _engines.open_recogniser()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _speak_in_worker(context: str) -> tuple[Samples, ...]:
    return speak(context, _worker()[0])


def _hear_in_worker(task: Task) -> HeardParagraph:
    return hear(task, *_worker())


class SpeechPool:
    """Shares paragraphs out; a pool of one works in this process."""

    def __init__(self, engines: Engines, num_workers: int) -> None:
        """Starts nothing yet.

        Args:
            engines: Opened once in each process.
            num_workers: Processes, 1 or more.
        """
        self._engines = engines
        self._num_workers = num_workers
        self._here: tuple[Voice, Recogniser] | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Opens the engines."""
        if self._num_workers == 1:
            self._here = self._engines.open_voice(), self._engines.open_recogniser()
        else:
            # spawn: a fork would copy this process's threads' locks, in whatever state they are.
            self._pool = ProcessPoolExecutor(
                self._num_workers, multiprocessing.get_context("spawn"), _start_worker, (self._engines,)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the processes, once they have finished what they have in hand."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def speak(self, contexts: Sequence[str]) -> list[tuple[Samples, ...]]:
        """Reads contexts aloud, in order."""
        if self._here:
            return [speak(context, self._here[0]) for context in contexts]
        return [_result(future) for future in [self._submit(_speak_in_worker, text) for text in contexts]]

    def hear(self, tasks: Iterable[Task]) -> Iterator[HeardParagraph]:
        """Yields what was heard of the paragraphs, each as soon as it is there.

        Raises:
            QAError: If a process dies, such as for want of memory.
        """
        if self._here:
            yield from (hear(task, *self._here) for task in tasks)
            return
        futures = [self._submit(_hear_in_worker, task) for task in tasks]
        for future in as_completed(futures):
            yield _result(future)

    def _submit(self, function: Callable[[_S], _T], argument: _S) -> Future[_T]:
        """Hands work to a process, a new one if all are busy and more may be started."""
        assert self._pool
        # A process that starts does not know yet what to do on Ctrl-C: it inherits that it has to wait.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(function, argument)
        except BrokenProcessPool as error:
            raise _died() from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _result(future: Future[_T]) -> _T:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _died() from error


def _died() -> QAError:
    return QAError(
        "a process that speaks and hears died, as the system lets it when memory runs out; go on with --resume and "
        "a lower --num-workers"
    )
