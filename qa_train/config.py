"""The configuration of one training run: every key, its default and its range."""

from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from qa_train.config_io import (
    DATA_DIR_VARIABLE,
    DEFAULT_DATA_DIR,
    build_config,
    describe_config,
    find_data_file,
    flatten,
    get_dotted,
    load_config,
    to_yaml,
    with_overrides,
    with_values,
)
from qa_train.config_schema import Config, CrossCheckError, shown
from qa_train.trunk import branch_epochs

__all__ = [
    "DATA_DIR_VARIABLE",
    "DEFAULT_DATA_DIR",
    "USED_BY_SCHEDULES",
    "WINDOW_ARGUMENTS",
    "AugmentConfig",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "ScaleConfig",
    "TrainConfig",
    "build_config",
    "describe_config",
    "find_data_file",
    "flatten",
    "get_dotted",
    "load_config",
    "to_yaml",
    "with_overrides",
    "with_values",
]

_DATA: dict[str, Any] = {"lookup": "data", "expected": "the path of a file in SQuAD form"}
_OPTIONAL_DATA: dict[str, Any] = {"lookup": "data", "expected": "the path of a file in SQuAD form | null"}
_TEST_DATA: dict[str, Any] = {
    "lookup": "data",
    "expected": "a mapping from names (letters, digits, _ and -) to paths of files in SQuAD form",
}
_EXTRA: dict[str, Any] = _TEST_DATA
_WEIGHTS: dict[str, Any] = {"expected": "a mapping from names of extra_train to numbers above 0, at most 100"}
_CONFUSIONS: dict[str, Any] = {
    "lookup": "data",
    "expected": "the path of a file that `python -m qa_train confusions` wrote | null",
}
_BUDGETS: dict[str, Any] = {"expected": "a list of different integers from 1 to 1000, ascending | null"}
_MODEL: dict[str, Any] = {"lookup": "model", "expected": "a name on the Hugging Face Hub | a local directory"}

Path = Annotated[str, Field(min_length=1)]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Budgets = Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Field(strict=False, min_length=1)]
AutoCount = Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]


class DataConfig(Config):
    """Which questions train, select and test the model."""

    train: Path = Field(description="trained on; its answers need offsets", json_schema_extra=_DATA)
    dev: Path | None = Field(
        default=None, description="selects models; null splits off train", json_schema_extra=_OPTIONAL_DATA
    )
    dev_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share of train's questions split off, whole articles at a time"
    )
    test: dict[SetName, Path] = Field(default={}, description="reported, never selects", json_schema_extra=_TEST_DATA)
    extra_train: dict[SetName, Path] = Field(
        default={}, description="mixed in; never about articles of dev or test", json_schema_extra=_EXTRA
    )
    extra_weights: dict[SetName, Annotated[float, Field(gt=0, le=100)]] = Field(
        default={}, description="how often an epoch holds each question of such a set; 1", json_schema_extra=_WEIGHTS
    )

    @model_validator(mode="after")
    def _test_names_are_free(self) -> Self:
        taken = {"dev", "train"} & self.test.keys()
        if taken:
            text = "this name is taken by the set itself, give the test set another one"
            raise CrossCheckError({f"test.{name}": text for name in sorted(taken)})
        return self

    @model_validator(mode="after")
    def _weights_have_sets(self) -> Self:
        unknown = sorted(self.extra_weights.keys() - self.extra_train.keys())
        if unknown:
            text = f"expected one of the sets of extra_train ({', '.join(self.extra_train) or 'there are none'})"
            raise CrossCheckError({f"extra_weights.{name}": text for name in unknown})
        return self


WINDOW_ARGUMENTS = ("max_seq_length", "doc_stride", "single_window")
"""Keys of `model` that decide how a context is cut into windows."""


class ModelConfig(Config):
    """The pretrained model and how a long context is cut into windows."""

    name: Path = Field(default="distilbert-base-uncased", description="the pretrained model", json_schema_extra=_MODEL)
    max_seq_length: int = Field(default=384, ge=16, le=8192, description="tokens in a window, question included")
    doc_stride: int = Field(default=128, ge=0, le=4096, description="tokens two windows share, at most half a window")
    single_window: bool = Field(default=False, description="first window of a context only, as in the study")
    attention_dropout: float | None = Field(
        default=None, ge=0, lt=1, description="null keeps the model's own; 0 trains faster on a CPU"
    )

    @property
    def window_arguments(self) -> dict[str, Any]:
        """How `tokenization.encode` shall cut contexts: its arguments of the same names."""
        return self.model_dump(include=set(WINDOW_ARGUMENTS))

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        if 2 * self.doc_stride > self.max_seq_length:
            half = f"expected at most half of max_seq_length {self.max_seq_length}"
            raise CrossCheckError({"doc_stride": f"{half}, found {self.doc_stride}"})
        return self


USED_BY_SCHEDULES = {
    "warmup_ratio": ("linear", "constant"),
    "warmup_epochs": ("trunk",),
    "cooldown": ("trunk",),
    "cooldown_shape": ("trunk",),
}
"""Keys of `optim` that only some schedules use."""


class OptimConfig(Config):
    """AdamW and its learning-rate schedule."""

    learning_rate: float = Field(default=3e-5, gt=0, le=1, description="peak, reached when the warm-up ends")
    schedule: Literal["linear", "constant", "trunk"] = Field(
        default="linear", description="after the warm-up; linear ends at 0, trunk at 0 for each of budgets"
    )
    warmup_ratio: float = Field(default=0.06, ge=0, lt=1, description="share of all steps that warm up; not with trunk")
    warmup_epochs: float = Field(default=0.1, ge=0, le=1000, description="trunk: epochs that warm up")
    cooldown: float = Field(
        default=0.2, gt=0, le=1, description="trunk: share of a budget in which the learning rate falls to 0"
    )
    cooldown_shape: Literal["1-sqrt", "linear"] = Field(default="1-sqrt", description="trunk: how it falls")
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="decoupled; none on biases and LayerNorm")
    batch_size: int = Field(default=16, ge=1, le=65536, description="windows per step, over all workers")
    max_grad_norm: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=1.0, description="gradients are clipped to this L2 norm; null: not at all"
    )

    @model_validator(mode="after")
    def _keys_fit_schedule(self) -> Self:
        problems = {}
        for key in (key for key, schedules in USED_BY_SCHEDULES.items() if self.schedule not in schedules):
            # A printed configuration holds every key, so that a default is no sign of a user's wish.
            default, found = OptimConfig.model_fields[key].default, getattr(self, key)
            if found != default:
                unused = f"the default, with schedule {self.schedule}, which does not use it"
                problems[key] = f"expected {default}, {unused}; found {found}"
        if problems:
            raise CrossCheckError(problems)
        return self


class AugmentConfig(Config):
    """How training contexts are changed, anew in every epoch; answers stay as they are."""

    recognition_noise: float = Field(
        default=0.0, ge=0, lt=1, description="share of the words that are misheard, as by a speech recogniser"
    )
    confusions: Path | None = Field(
        default=None,
        description="which words are taken for which; null: those that sound alike",
        json_schema_extra=_CONFUSIONS,
    )


class ScaleConfig(Config):
    """How the work is spread; none of it changes the recipe."""

    num_workers: int = Field(default=1, ge=1, le=1024, description="processes of one training run")
    use_gpu: Literal["auto"] | bool = Field(default="auto", description="auto: if there is one")
    launcher: Literal["auto", "local", "ray_train"] = Field(
        default="auto", description="what starts the worker processes"
    )
    cpus_per_worker: AutoCount = Field(default="auto", description="cores held by each worker")
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, le=65536, description="pieces the batch is cut into, to save memory"
    )
    compile: bool = Field(default=False, description="torch.compile, for few padded lengths; meant for GPUs")


class TrainConfig(Config):
    """What `python -m qa_train train` trains: the data, the model and the recipe."""

    data: DataConfig = Field(description="files, looked up in . , beside this file, in $SPOKEN_SQUAD_DIR")
    model: ModelConfig = Field(default=ModelConfig(), description="pretrained model and windows")
    optim: OptimConfig = Field(default=OptimConfig(), description="AdamW and its schedule")
    augment: AugmentConfig = Field(default=AugmentConfig(), description="changes of the training contexts")
    num_epochs: int = Field(
        default=3, ge=1, le=1000, description="passes over the training data; by default the last of budgets"
    )
    budgets: Budgets | None = Field(
        default=None,
        description="with optim.schedule trunk, epochs to give a finished model each; null: 1 to num_epochs",
        json_schema_extra=_BUDGETS,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="of matrix products; auto: the fastest here"
    )
    scale: ScaleConfig = Field(default=ScaleConfig(), description="how the work is spread; the recipe stays")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="of the split, the new head, dropout and batch order")

    @classmethod
    def misplaced(cls, keys: Collection[str]) -> str | None:
        """Recognises the configuration of a sweep."""
        has_own_keys = bool(cls.model_fields.keys() & {*keys})
        if "train" not in keys or (has_own_keys and not {"space", "search", "stop"} & {*keys}):
            return None
        return (
            "this is the configuration of a sweep (it has the key train); give it to `python -m sweeps run`, "
            "or make what stands under train a file of its own"
        )

    @model_validator(mode="before")
    @classmethod
    def _budgets_may_stand_alone(cls, values: Any) -> Any:
        """Takes `num_epochs` from `budgets` where it is not given itself."""
        budgets = values.get("budgets") if isinstance(values, dict) and "num_epochs" not in values else None
        last = budgets[-1] if isinstance(budgets, list | tuple) and budgets else None
        return {**values, "num_epochs": last} if type(last) is int and 1 <= last <= 1000 else values

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if problems := dict((*self._batch_problems(), *self._trunk_problems())):
            raise CrossCheckError(problems)
        return self

    def _batch_problems(self) -> Iterator[tuple[str, str]]:
        pieces = self.scale.num_workers * self.scale.gradient_accumulation_steps
        if self.optim.batch_size < pieces:
            least = f"at least num_workers x gradient_accumulation_steps = {pieces}"
            yield "optim.batch_size", f"expected {least}, found {self.optim.batch_size}"

    def _trunk_problems(self) -> Iterator[tuple[str, str]]:
        if self.budgets is not None:
            found = f"found {shown(list(self.budgets))}"
            if self.optim.schedule != "trunk":
                unused = f"with optim.schedule {self.optim.schedule}, which trains for num_epochs alone"
                yield "budgets", f"expected null {unused}; {found}"
            elif list(self.budgets) != sorted({*self.budgets}):
                yield "budgets", f"expected each budget above the one before, {found}"
            elif self.budgets[-1] != self.num_epochs:
                yield "budgets", f"expected num_epochs {self.num_epochs} as the last one, {found}; set both alike"
        if self.optim.schedule == "trunk":
            first, cooldown = min(self.budgets or (1,)), self.optim.cooldown
            most = float(branch_epochs(first, cooldown))
            if self.optim.warmup_epochs > most:
                left = f"where the trunk is left for the budget of {first}: {first} x (1 - cooldown {cooldown:g})"
                yield "optim.warmup_epochs", f"expected at most {most:g}, {left}; found {self.optim.warmup_epochs:g}"

    @property
    def finished_epochs(self) -> tuple[int, ...]:
        """The numbers of epochs for which this gives a finished model, ascending."""
        if self.optim.schedule != "trunk":
            return (self.num_epochs,)
        return self.budgets or tuple(range(1, self.num_epochs + 1))
