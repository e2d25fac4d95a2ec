"""What a user asks for: one experiment, with nothing left open.

Paths are relative to the current directory, wherever the spec file is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from stabfw.registry.contract import did_you_mean
from stabfw.spec.compose import (
    AcceleratorChoice,
    BenchmarkChoice,
    MetricChoice,
    ModelChoice,
    PerturbationChoice,
    label,
)
from stabfw.spec.problems import detail, failure, hinted

T = TypeVar("T")

#: The perturbation and the stack that need not be asked for.
CLEAN = "clean"
BASELINE = "baseline"

# Strict, because `true` is an int to Python.
Count = Annotated[int, Field(ge=1, strict=True)]
Seed = Annotated[int, Field(ge=0, strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]


class Section(BaseModel):
    """Base of all parts of a spec."""

    # Commands that need no spec should not pay for building its validators.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_fields(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise hinted(error, cls) from None


class Calibration(Section):
    """Data for accelerators that have to be fitted; never data that is evaluated."""

    benchmark: BenchmarkChoice = Field(description="Where the data comes from.")
    split: str = Field(default="train", description="Split of the benchmark.")
    limit: Count = Field(default=64, description="Number of instances.")
    seed: Seed = Field(default=0, description="Chooses the instances.")
    replicates: Count = Field(
        default=1,
        description="How often they are chosen, each time with the next seed. What is fitted to "
        "each choice is compared by itself, as the choice alone changes answers.",
    )


class NoiseFloor(Section):
    """How often a model is compared with itself, and which."""

    repeats: Count = Field(default=3, description="Number of other batch compositions.")
    stacks: bool = Field(
        default=False,
        description="Each stack against itself too: does the acceleration make an answer depend "
        "on what else is in the batch? Every repeat costs as much as the stack's own answers.",
    )


def _switch(value: object) -> object:
    # `no` and `off` are text since YAML 1.2, but people still mean what they meant before.
    if value in (False, "no", "off"):
        return None
    return {} if value is True else value


def _or_switch(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"type": "boolean"})


def _or_text(schema: dict[str, Any]) -> None:
    several = dict(schema)
    schema.clear()
    schema["anyOf"] = [several["items"], several]


class Controls(Section):
    """Comparisons that show how to read the others. They decide nothing by themselves."""

    noise_floor: Annotated[NoiseFloor | None, BeforeValidator(_switch)] = Field(
        default=NoiseFloor(),
        description="The baseline against itself in other batches; null for none.",
        json_schema_extra=_or_switch,
    )
    equal_budget: bool = Field(
        default=False,
        description="Beside each accelerator, one that spends the same budget blindly.",
    )
    lossless: bool = Field(
        default=False, description="A change that should alter nothing: another attention back end."
    )
    baseline_likelihood: bool = Field(
        default=False,
        description="Under each accelerator, the log-likelihood of the baseline's answers: drift "
        "that shows before any answer changes. It costs about as much as the accelerated answers.",
    )


class Judge(Section):
    """A model that says whether free answers mean the same, and scores those that no rule can."""

    model: ModelChoice = Field(
        description="Any model; one that is served elsewhere needs a `revision`. It sees text only."
    )
    repeats: Annotated[int, Field(ge=0, strict=True)] = Field(
        default=1,
        description="How often everything is asked again, which shows how far the judge agrees "
        "with itself.",
    )
    max_new_tokens: Count = Field(default=64, description="Longest reply, in tokens.")
    batch_size: Count = Field(
        default=8, description="Questions put at a time; their replies are kept together."
    )


class Published(Section):
    """An accuracy that others report; a baseline far from it is asked or loaded differently."""

    model: str = Field(description="A model of this spec, by its name in results.")
    benchmark: str = Field(description="A benchmark of this spec, by its `type`.")
    accuracy: float = Field(ge=0, le=1, description="The reported accuracy.")
    tolerance: float = Field(default=0.03, ge=0, le=1, description="How far off it may be.")
    source: str = Field(min_length=1, description="Where it is reported.")


Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1, json_schema_extra=_or_text),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]


class Scope(Section):
    """Which cells a gate judges: all stacks, unless narrowed down. Controls never are."""

    model: Names | None = Field(default=None, description="These models, by name or `type`.")
    stack: Names | None = Field(default=None, description="These stacks.")
    benchmark: Names | None = Field(
        default=None, description="These benchmarks, by name or `type`."
    )
    perturbation: Names | None = Field(
        default=None, description="These perturbations, by name in results or `type`; `clean`."
    )
    gold: str | None = Field(
        default=None,
        min_length=1,
        description="Only questions with this right answer, such as `yes`: loss of one class.",
    )


class Gate(Section):
    """A limit that the stacks have to keep to, for a whole experiment to pass."""

    metric: Literal[
        "correct_loss_rate",
        "negative_flip_rate",
        "divergence_ratio",
        "excess_correct_loss",
        "excess_divergence",
        "accuracy_delta",
    ] = Field(description="What is limited; `excess_` is beyond the noise floor.")
    at_most: float | None = Field(
        default=None, gt=0, lt=1, description="Upper limit, as a share: 0.02 is 2 %."
    )
    at_least: float | None = Field(
        default=None, gt=-1, lt=0, description="Lower limit of accuracy_delta, such as -0.01."
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="One-sided, of each verdict.")
    where: Scope = Field(default=Scope(), description="Which cells and questions are judged.")

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        wanted, other = "at_most", "at_least"
        if self.metric == "accuracy_delta":
            wanted, other = other, wanted
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            example = "-0.01" if wanted == "at_least" else "0.02"
            raise PydanticCustomError(
                "limit", f"{self.metric} needs a limit `{wanted}: {example}` and no `{other}`"
            )
        return self

    @property
    def limit(self) -> float:
        """The limit, whichever it is."""
        limit = self.at_most if self.at_least is None else self.at_least
        assert limit is not None
        return limit


class Foresight(Section):
    """Which answers may be trusted unasked: a margin of the first token, with a guarantee."""

    metric: Literal["divergence_ratio", "negative_flip_rate", "correct_loss_rate"] = Field(
        default="divergence_ratio", description="What counts as harm, as in a gate."
    )
    at_most: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="Share of the answers with a margin at or above the threshold that may be "
        "harmed.",
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="One-sided, that the threshold keeps to this."
    )
    margin: Literal["variant", "baseline"] = Field(
        default="variant",
        description="Whose lead of the first token over the next: that of the accelerated model, "
        "which is at hand in production, or the baseline's.",
    )
    fit_share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Share of the pictures that it is fitted on; the others check it.",
    )
    seed: Seed = Field(default=0, description="Chooses these pictures.")


class Generation(Section):
    """How answers are obtained: always greedily."""

    mode: Literal["generate", "likelihood"] = Field(
        default="generate",
        description="`generate`: the model writes its answer. `likelihood`: the option with the "
        "highest log-likelihood is its answer, without decoding where options are single tokens; "
        "every question must have options (yes or no, or a choice).",
    )
    max_new_tokens: Count = Field(default=16, description="Longest answer, in tokens.")
    top_tokens: Count = Field(default=5, description="How many likely first tokens are recorded.")


class Execution(Section):
    """Where the models run."""

    executor: Literal["inline", "process"] = Field(
        default="inline", description="In this process, or in one process a loaded model."
    )
    workers: Count = Field(default=1, description="Number of processes at a time.")


class Tracking(Section):
    """What is logged to MLflow."""

    uri: str | None = Field(
        default="sqlite:///mlflow.db", description="MLflow tracking URI; null for no MLflow."
    )
    images: Literal["none", "thumbnails", "full"] = Field(
        default="none", description="Whether pictures leave the store."
    )


def _listed(value: object) -> object:
    members = value if isinstance(value, list | tuple) else (value,)
    for member in members:
        if (member.get("type") if isinstance(member, Mapping) else member) == CLEAN:
            raise PydanticCustomError("clean", f"'{CLEAN}' is always included: leave it out")
    return members


def _not_baseline(name: str) -> str:
    if name == BASELINE:
        raise PydanticCustomError(
            "baseline", f"'{BASELINE}' is the model without accelerators: choose another name"
        )
    return name


def _or_single(schema: dict[str, Any]) -> None:
    composition = dict(schema)
    schema.clear()
    schema["anyOf"] = [composition["items"], composition]


Composition = Annotated[
    tuple[PerturbationChoice, ...],
    Field(min_length=1, json_schema_extra=_or_single),
    BeforeValidator(_listed),
]
Stack = Annotated[tuple[AcceleratorChoice, ...], Field(min_length=1)]
StackName = Annotated[Name, AfterValidator(_not_baseline)]


class ExperimentSpec(Section):
    """An experiment: models × stacks × benchmarks × perturbations × seeds, and how to run it.

    Make one with `load_spec` or `parse_spec`, which look plugins up.
    """

    stabfw: Literal[1] = Field(description="Version of this format.")
    name: Name = Field(description="Name of the experiment and of its directory of results.")
    models: tuple[ModelChoice, ...] = Field(
        min_length=1, description="Models; `name:` tells two of one type apart."
    )
    stacks: Mapping[StackName, Stack] = Field(
        default_factory=dict,
        description="Accelerators to compare with the model alone: by name, a list each.",
        json_schema_extra={"additionalProperties": False},
    )
    benchmarks: tuple[BenchmarkChoice, ...] = Field(
        min_length=1, description="Questions to answer."
    )
    perturbations: tuple[Composition, ...] = Field(
        default=(),
        description="Changes of the inputs; a list inside the list is applied in its order.",
    )
    seeds: tuple[Seed, ...] = Field(
        default=(0,), min_length=1, description="Seeds of the perturbations."
    )
    calibration: Calibration | None = Field(
        default=None, description="Data for accelerators that have to be fitted."
    )
    controls: Controls = Field(
        default=Controls(), description="Comparisons that put others in context."
    )
    compare: Literal["matched", "deployed"] = Field(
        default="matched",
        description="Whether the baseline runs under the stack's circumstances (only the "
        "accelerator differs) or as it is served today (what changes if the stack is shipped).",
    )
    generation: Generation = Field(default=Generation(), description="How answers are generated.")
    batch_size: Count = Field(
        default=8, description="Instances in a batch; never changed silently."
    )
    published: tuple[Published, ...] = Field(
        default=(), description="Reported accuracies, against which the baselines are held."
    )
    gates: tuple[Gate, ...] = Field(
        default=(), description="Limits that the stacks have to keep to; `stabfw gate` judges them."
    )
    foresight: Annotated[Foresight | None, BeforeValidator(_switch)] = Field(
        default=Foresight(),
        description="From which margin on answers hardly change; null for not asking.",
        json_schema_extra=_or_switch,
    )
    judge: Judge | None = Field(
        default=None, description="Who judges free answers; null for nobody."
    )
    metrics: tuple[MetricChoice, ...] = Field(
        default=(), description="Metrics beyond the built-in ones."
    )
    execution: Execution = Field(default=Execution(), description="Where the models run.")
    store: Path = Field(
        default=Path(".stabfw/store"),
        description="Where answers are kept, relative to the current directory.",
    )
    runs: Path = Field(
        default=Path("runs"),
        description="Where results are written, relative to the current directory.",
    )
    tracking: Tracking = Field(default=Tracking(), description="What is logged to MLflow.")

    @field_validator("models")
    @classmethod
    def _models_differ(cls, models: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
        return _distinct(models, label, "model", "give it another `name`")

    @field_validator("benchmarks", "perturbations", "metrics")
    @classmethod
    def _choices_differ(cls, items: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        rename = " or give it another `name`" if info.field_name == "benchmarks" else ""
        return _distinct(items, label, "entry", f"leave one out{rename}")

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[Seed, ...]) -> tuple[Seed, ...]:
        return _distinct(seeds, str, "seed", "leave one out")

    @field_validator("published")
    @classmethod
    def _published_are_asked(
        cls, items: tuple[Published, ...], info: ValidationInfo
    ) -> tuple[Published, ...]:
        known = {
            "model": {label(item) for item in info.data.get("models", ())},
            "benchmark": {item.type for item in info.data.get("benchmarks", ())},
        }
        for item in items:
            for field, names in known.items():
                # Without names, these were wrong themselves and are complained of already.
                if names and (name := getattr(item, field)) not in names:
                    raise PydanticCustomError(
                        "published",
                        f"there is no {field} '{name}' in this spec: {', '.join(sorted(names))}",
                    )
        return items

    @field_validator("gates")
    @classmethod
    def _gates_can_be_judged(
        cls, gates: tuple[Gate, ...], info: ValidationInfo
    ) -> tuple[Gate, ...]:
        wrong = []
        known = _scopes(info.data)
        for index, gate in enumerate(gates):
            for field, names in known.items():
                # Without names, these were wrong themselves and are complained of already.
                for name in getattr(gate.where, field) or () if names else ():
                    if not any(name in called for called in names.values()):
                        there = ", ".join(names)
                        hint = did_you_mean(name, names) or f" (there: {there})"
                        note = "; controls are never gated" if field == "stack" else ""
                        message = f"there is no {field} '{name}' in this spec{hint}{note}"
                        wrong.append(detail((index, "where", field), "gate", message, name))
            if "stacks" in info.data and not info.data["stacks"]:
                wrong.append(detail((index,), "gate", "there are no stacks to judge", gate.metric))
            controls = info.data.get("controls")
            if gate.metric.startswith("excess") and controls and not controls.noise_floor:
                message = f"{gate.metric} needs `controls: {{noise_floor: {{repeats: 3}}}}`"
                wrong.append(detail((index, "metric"), "gate", message, gate.metric))
        if wrong:
            raise failure(*wrong)
        return gates

    def scopes(self) -> dict[str, dict[str, frozenset[str]]]:
        """By field of a gate's `where`: each name in results, and all it may be called there."""
        return _scopes(dict(self))

    def dump(self) -> dict[str, Any]:
        """The spec as plain JSON-compatible values, defaults included; `parse_spec` takes it."""
        plain = _type_first(self.model_dump(mode="json", by_alias=True))
        assert isinstance(plain, dict)
        return plain

    def hash(self) -> str:
        """sha256 of the spec as canonical JSON."""
        text = json.dumps(self.dump(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _scopes(data: Mapping[str, Any]) -> dict[str, dict[str, frozenset[str]]]:
    found = {
        field: {label(item): frozenset({label(item), item.type}) for item in data.get(section, ())}
        for field, section in (("model", "models"), ("benchmark", "benchmarks"))
    }
    found["stack"] = {name: frozenset({name}) for name in data.get("stacks", ())}
    found["perturbation"] = {CLEAN: frozenset({CLEAN})} | {
        label(item): frozenset({label(item), " + ".join(member.type for member in item)})
        for item in data.get("perturbations", ())
    }
    return found


def _distinct(
    items: tuple[T, ...], name: Callable[[T], str], what: str, remedy: str
) -> tuple[T, ...]:
    names = [name(item) for item in items]
    again = [
        detail((index,), "distinct", f"a second {what} '{own}': {remedy}", own)
        for index, own in enumerate(names)
        if own in names[:index]
    ]
    if again:
        raise failure(*again)
    return items


def _type_first(value: object) -> object:
    if isinstance(value, dict):
        first = {"type": value["type"]} if "type" in value else {}
        return {key: _type_first(item) for key, item in {**first, **value}.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_type_first(item) for item in value]
    return value
