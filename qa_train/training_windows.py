"""The windows that each epoch trains on: the same every time, or drawn and made noisy anew."""

from collections.abc import Callable, Sequence

import numpy as np

from qa_train.augment import RecognitionNoise
from qa_train.data import Example
from qa_train.tokenization import Features, Ints

Encode = Callable[[Sequence[Example], bool], Features]


class TrainingWindows:
    """Windows of training questions, as many in every epoch, each epoch's a function of (seed, epoch).

    Attributes:
        num_windows: In an epoch.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Example]],
        weights: Sequence[float],
        encode: Encode,
        seed: int,
        noise: RecognitionNoise | None = None,
    ) -> None:
        """Tokenises the questions as they are.

        Args:
            sets: Aligned questions of each data set.
            weights: [num_sets] how often an epoch holds each question of a set, above 0; of 0.5 it holds a random
                half, of 2.5 all twice and a random half once more.
            encode: Tokenises questions into windows whose label is known; its second argument says whether the same
                questions will come again, so that it pays to keep the result.
            seed: Of the run.
            noise: Applied anew to every question in every epoch.

        Raises:
            DataError: If no window holds its answer.
        """
        self._examples = [example for examples in sets for example in examples]
        self._sizes, self._weights = [len(examples) for examples in sets], list(weights)
        self._encode, self._seed, self._noise = encode, seed, noise
        self._windows = encode(self._examples, True)
        in_set = np.searchsorted(np.cumsum(self._sizes), self._windows.example_index, side="right")
        counts = np.bincount(in_set, minlength=len(sets))
        self.num_windows = max(1, round(float(counts @ np.asarray(self._weights))))
        self._latest: tuple[int, Features] | None = None

    def of_epoch(self, epoch: int) -> Features:
        """Returns the windows of an epoch, counted from 0: `num_windows` of them.

        Where the questions drawn, or their noisy contexts, come to more windows than that, random ones are left out;
        where they come to fewer, random ones stand twice. So the number of steps is known before training.
        """
        if self._noise is None and all(weight == 1 for weight in self._weights):
            return self._windows
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self._make(epoch)
        return self._latest[1]

    def _make(self, epoch: int) -> Features:
        generator = np.random.default_rng([self._seed, epoch, 1])  # the order of the batches has [seed, epoch]
        drawn = self._draw(generator)
        if self._noise is None:
            return self._windows.take(self._resize(_windows_of(self._windows, drawn), generator))
        noisy = self._encode([self._noise.noise(self._examples[index], generator) for index in drawn], False)
        return noisy.take(self._resize(np.arange(len(noisy)), generator))

    def _draw(self, generator: np.random.Generator) -> Ints:
        """Returns the index of each example of an epoch, of every set as many as its weight says."""
        drawn, first = [], 0
        for size, weight in zip(self._sizes, self._weights, strict=True):
            times, part = divmod(weight, 1.0)
            some = generator.choice(size, round(part * size), replace=False)
            drawn.append(first + np.concatenate([np.tile(np.arange(size), int(times)), np.sort(some)]))
            first += size
        return np.concatenate(drawn)

    def _resize(self, windows: Ints, generator: np.random.Generator) -> Ints:
        """Returns `num_windows` of these windows, in their order."""
        missing = self.num_windows - len(windows)
        if missing > 0:
            return np.sort(np.concatenate([windows, generator.choice(windows, missing)]))
        return np.sort(generator.choice(windows, self.num_windows, replace=False)) if missing else windows


def _windows_of(features: Features, drawn: Ints) -> Ints:
    """Returns the windows of the examples drawn; an example that is drawn twice gives its windows twice."""
    times = np.bincount(drawn, minlength=int(features.example_index.max()) + 1)
    return np.repeat(np.arange(len(features)), times[features.example_index])
