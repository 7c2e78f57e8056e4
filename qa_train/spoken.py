"""Makes really spoken data of a SQuAD file: its contexts go through speech, noise and recognition."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from filelock import Timeout as LockedElsewhere
from tqdm import tqdm

from qa_train.confusions import spoken_words
from qa_train.data import read_squad
from qa_train.errors import ConfigError, DataError
from qa_train.noise_level import NoiseLevel, choose_sample, find_noise_level
from qa_train.speech import Engines
from qa_train.speech_journal import HeardParagraph, SpeechJournal
from qa_train.speech_pool import SpeechPool, Task, spoken_sentences
from qa_train.spoken_squad import Form, SpokenQuestions, respeak
from qa_train.storage import Pathlike, read_json, write_json, write_text
from qa_train.word_errors import WordErrors, align_words, count_word_errors, written_words

VERSION = 2
"""Of how texts are cut, spelled out and made noisy; a new one where any of it gives other data."""


@dataclass(frozen=True)
class SpeechFiles:
    """What a run writes, by the name of its data file.

    Attributes:
        out: The data.
        fates: What became of each question, a JSON line each.
        manifest: Settings, versions, word error rate, times.
        journal: What was heard so far; there until the run has ended.
    """

    out: Path

    @property
    def fates(self) -> Path:  # noqa: D102
        return self._beside(".fates.jsonl")

    @property
    def manifest(self) -> Path:  # noqa: D102
        return self._beside(".manifest.json")

    @property
    def journal(self) -> Path:  # noqa: D102
        return self._beside(".partial.jsonl")

    def _beside(self, ending: str) -> Path:
        return self.out.with_name(f"{self.out.name.removesuffix('.json')}{ending}")


def speak_file(
    path: Pathlike,
    out: Pathlike,
    engines: Engines,
    *,
    snr_db: float | None = None,
    target_wer: float | None = None,
    form: Form = "training",
    seed: int = 0,
    num_workers: int | None = None,
    keep_audio: Pathlike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes what a recogniser hears of a file's contexts when they are read aloud, in SQuAD form.

    The data depend on the input, the engines, the noise, the seed and the form alone: not on the number of processes,
    and not on how often the run was interrupted.

    Args:
        path: A file that `read_squad` takes.
        out: The JSON file to write; see `SpeechFiles` for those beside it. Each appears complete or not at all.
        engines: Voice and recogniser.
        snr_db: Noise to add; see `add_white_noise`. None: none.
        target_wer: Instead: the word error rate, in percent, that noise is sought for, on a sample.
        form: See `respeak`.
        seed: 0 or more; another one, other noise.
        num_workers: Processes, 1 or more; by default all cores that this process may use.
        keep_audio: A directory for one WAV file for each paragraph.
        resume: Whether to go on with an interrupted run, if there is one.
        overwrite: Whether to replace `out` and the files beside it; never `path` itself.
        progress: Whether to show a bar.

    Returns:
        The manifest.

    Raises:
        ConfigError: If both `snr_db` and `target_wer` are given, or one is out of its range.
        DataError: As `read_squad` does; if `out` or a file beside it exists or cannot be written; if the input holds
            half of a surrogate pair; if there is an interrupted run and not `resume`, or one with other settings; if
            another process works on `out`; or if no question is left.
        QAError: If an engine or a library is missing, a process dies, or no noise gives `target_wer`.
    """
    _check_noise(snr_db, target_wer)
    data = read_squad(Path(path))
    files = SpeechFiles(Path(out))
    _check_files(files, Path(path), overwrite)
    align_words([["a"]], [["a"]]), written_words("1")  # a missing library shows now, not after hours
    identity = {"version": VERSION, "engines": dict(engines.describe()), "input_sha256": data.sha256}
    identity |= {"libraries": {name: version(name) for name in ("inflect", "jiwer", "numpy")}}
    identity |= {"seed": seed, "snr_db": snr_db, "target_wer": target_wer}
    content = read_json(path)
    _check_unicode(content, path)
    contexts = [
        (article["title"], paragraph["context"]) for article in content["data"] for paragraph in article["paragraphs"]
    ]
    with _locked(files.out), closing(SpeechJournal(files.journal, identity, resume=resume)) as journal:
        run = _Run(contexts, seed, Path(keep_audio) if keep_audio else None, progress)
        workers = num_workers or len(os.sched_getaffinity(0))
        start = time.perf_counter()
        level = _hear_all(run, engines, journal, snr_db, target_wer, workers)
        spoken = respeak(content, [journal.paragraphs[n].sentences for n in range(len(contexts))], form, str(path))
        manifest = _describe(identity, run, journal, level, spoken)
        manifest |= {"form": form, "input": Path(path).name, "wall_s": time.perf_counter() - start}
        _write(files, spoken, manifest)
        journal.remove()
    return manifest


def describe_speech(manifest: Mapping[str, Any]) -> str:
    """Says in a few lines what `speak_file` did, of its manifest."""
    level, rate, fates = manifest["noise"], manifest["word_error_rate"], manifest["fates"]
    noise = "no noise" if level["snr_db"] is None else f"white noise at {level['snr_db']:.1f} dB"
    if "tried" in level:
        noise += f" (found for {manifest['target_wer']} %; {100 * level['word_error_rate']:.1f} % on the sample)"
    lines = [
        f"{manifest['num_paragraphs']:,} contexts of {manifest['num_words']:,} words, {noise}: word error rate "
        f"{'-' if rate is None else f'{100 * rate:.1f} %'} ({manifest['substitutions']:,} heard as others, "
        f"{manifest['deletions']:,} not at all, {manifest['insertions']:,} came in); nothing was heard of "
        f"{manifest['num_inaudible']:,} contexts",
        f"{manifest['num_questions']:,} questions: answers heard exactly {fates.get('exact', 0):,}, nearly "
        f"{fates.get('aligned', 0):,}, lost {fates.get('lost', 0):,}"
        + (f", without answer {fates['no_answer']:,}" if "no_answer" in fates else "")
        + (" (dropped)" if fates.get("lost") and manifest["form"] == "training" else ""),
        f"{manifest['audio_s'] / 60:.1f} minutes of speech took {manifest['cpu_s'] / 60:.1f} minutes of one core",
    ]
    return "\n".join(lines)


def _check_noise(snr_db: float | None, target_wer: float | None) -> None:
    if snr_db is not None and target_wer is not None:
        raise ConfigError(["expected --snr-db or --target-wer, found both"], "noise")
    if snr_db is not None and not -50 <= snr_db <= 100:
        raise ConfigError([f"expected -50 to 100 dB, found {snr_db}"], "--snr-db")
    if target_wer is not None and not 0 < target_wer <= 100:
        raise ConfigError([f"expected more than 0 and at most 100 percent, found {target_wer}"], "--target-wer")


def _check_files(files: SpeechFiles, source: Path, overwrite: bool) -> None:
    """Refuses what would be known only after all work, or would replace something unasked."""
    try:
        written = [file for file in (files.out, files.fates, files.manifest) if file.exists()]
        if files.journal.exists():  # an interrupted run may have written those before the data
            written = [file for file in written if file == files.out]
        for file in written:
            if file.is_dir():
                raise DataError(f"{file}: expected a file to write, found a directory")
            if not overwrite or file.samefile(source):
                raise DataError(f"{file}: expected a new file, found one there; name another one, or pass --overwrite")
    except (OSError, ValueError) as error:  # too long a name, an empty one, a directory that may not be read
        raise DataError(f"{str(files.out)!r}: cannot be written: {error}") from error


def _check_unicode(content: object, path: Pathlike) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: expected Unicode text, found half of a surrogate pair in it") from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keeps a second run away; the lock ends with the process, however that ends."""
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except LockedElsewhere:
        raise DataError(f"{out}: another run is making it; wait for it or stop it") from None
    except (OSError, NotImplementedError) as error:
        raise DataError(f"{out}: cannot be written: {error}") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held, as `download` does
        lock.release()


@dataclass(frozen=True)
class _Run:
    contexts: Sequence[tuple[str, str]]  # (article, context) of each paragraph
    seed: int
    audio: Path | None
    progress: bool

    def task(self, number: int, snr_db: float | None) -> Task:
        return Task(number, self.contexts[number][1], snr_db, self.seed, self._audio_of(number))

    def lacks(self, number: int) -> bool:
        """Returns whether audio is asked for that is not there; an earlier run may not have been asked for it."""
        audio = self._audio_of(number)
        return audio is not None and not audio.exists()

    def _audio_of(self, number: int) -> Path | None:
        return self.audio / f"{number:06d}.wav" if self.audio else None


def _hear_all(
    run: _Run,
    engines: Engines,
    journal: SpeechJournal,
    snr_db: float | None,
    target_wer: float | None,
    num_workers: int,
) -> Mapping[str, Any]:
    """Hears what the journal lacks, after finding the level of noise if there is a target; returns the level."""
    left = [number for number in range(len(run.contexts)) if number not in journal.paragraphs or run.lacks(number)]
    with SpeechPool(engines, min(num_workers, max(1, len(left)))) as pool:
        if target_wer is not None and journal.level is None:
            journal.add_level(asdict(_find_level(run, pool, target_wer / 100)))
        level = journal.level or {"snr_db": snr_db}
        bar = tqdm(desc="speaking", total=len(run.contexts), unit="paragraph", disable=not run.progress, leave=False)
        with bar:
            bar.update(len(run.contexts) - len(left))
            for heard in pool.hear([run.task(number, level["snr_db"]) for number in left]):
                journal.add(heard)
                bar.update()
    return level


def _find_level(run: _Run, pool: SpeechPool, target: float) -> NoiseLevel:
    written = [written_words(context) for _, context in run.contexts]
    sizes = [(article, len(words)) for (article, _), words in zip(run.contexts, written, strict=True)]
    sample = choose_sample(sizes, run.seed)
    if not sample:
        raise DataError("--target-wer: expected contexts with words that can be spoken, found none")
    speech = dict(zip(sample, pool.speak([run.contexts[number][1] for number in sample]), strict=True))
    bar = tqdm(desc="seeking the noise", unit="paragraph", disable=not run.progress, leave=False)

    def measure(snr_db: float | None) -> float:
        tasks = [Task(n, run.contexts[n][1], snr_db, run.seed, speech=speech[n]) for n in sample]
        pairs = []
        for heard in pool.hear(tasks):
            pairs.append((written[heard.number], _words(heard)))
            bar.update()
        rate = count_word_errors(pairs).rate
        bar.set_postfix(snr_db=snr_db, word_error_rate=f"{rate:.3f}")
        assert rate is not None  # the sample has words
        return rate

    with bar:
        return find_noise_level(measure, target)


def _words(heard: HeardParagraph) -> list[str]:
    return spoken_words(" ".join(heard.sentences))


def _describe(
    identity: Mapping[str, Any],
    run: _Run,
    journal: SpeechJournal,
    level: Mapping[str, Any],
    spoken: SpokenQuestions,
) -> dict[str, Any]:
    """Returns the manifest, but for what the caller knows."""
    heard = [journal.paragraphs[number] for number in range(len(run.contexts))]
    pairs = [(written_words(text), _words(one)) for (_, text), one in zip(run.contexts, heard, strict=True)]
    errors: WordErrors = count_word_errors(pairs)
    unspoken: Counter[str] = Counter()
    for _, text in run.contexts:
        for form in spoken_sentences(text):
            unspoken.update(form.unspoken)
    return {
        **identity,
        "noise": dict(level),
        "word_error_rate": errors.rate,
        **asdict(errors),
        "num_paragraphs": len(heard),
        "num_inaudible": sum(bool(words) and not other for words, other in pairs),
        "num_questions": len(spoken.fates),
        "fates": dict(Counter(fate["fate"] for fate in spoken.fates)),
        "unspoken": dict(unspoken.most_common()),
        "audio_s": sum(one.audio_s for one in heard),
        "cpu_s": sum(one.cpu_s for one in heard),
    }


def _write(files: SpeechFiles, spoken: SpokenQuestions, manifest: Mapping[str, Any]) -> None:
    """Writes the three files, the data last: where they are, the others are."""
    write_text(files.fates, "".join(json.dumps(fate, ensure_ascii=False) + "\n" for fate in spoken.fates))
    write_json(files.manifest, manifest)
    write_json(files.out, spoken.content)
