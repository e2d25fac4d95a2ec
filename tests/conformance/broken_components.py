"""For every check, components that are healthy but for what that check is there to find."""

from __future__ import annotations

import copy
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, field_serializer
from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    Answer,
    AnswerKind,
    Artefact,
    Benchmark,
    Component,
    Encoded,
    FinishReason,
    GenerationOptions,
    Graded,
    Image,
    Instance,
    Kind,
    LoadedModel,
    LoadRequest,
    Metric,
    Modality,
    Model,
    ModelInfo,
    Option,
    Perturbation,
    PerturbationConfig,
    Prediction,
    Recording,
    Score,
    Slot,
    Verdict,
    extract_choice,
)
from stabfw.components.anatomy import BlockCall, Vision
from stabfw.components.reduction import Context, Reduction
from stabfw.errors import DataError
from toys import (
    OFFERS,
    Cards,
    Dim,
    Fair,
    First,
    Halve,
    LoadedToy,
    Lossless,
    Scale,
    ScaleConfig,
    Shout,
    ShoutConfig,
    Sighted,
    ToyModel,
    plugin,
    registry,
)

_COUNTER = itertools.count(1)


@dataclass(frozen=True)
class Case:
    """A broken plugin and the one check that fails."""

    kind: Kind
    name: str
    check: str

    def __str__(self) -> str:
        return f"{self.check}-{self.name}"


CASES = [Case(Kind.ACCELERATOR, "heavy", "check_light_import")]
_BROKEN = {(Kind.ACCELERATOR, "heavy"): "heavy_plugin:offer_heavy"}
_KINDS = {
    Model: Kind.MODEL,
    Accelerator: Kind.ACCELERATOR,
    Perturbation: Kind.PERTURBATION,
    Benchmark: Kind.BENCHMARK,
    Metric: Kind.METRIC,
}


def fails(check: str, hook: str = "") -> Callable[[type[Component[Any]]], type[Component[Any]]]:
    """Offer a component as a plugin that fails one check."""

    def offered(cls: type[Component[Any]]) -> type[Component[Any]]:
        kind = next(kind for base, kind in _KINDS.items() if issubclass(cls, base))
        name = cls.__name__.lower()
        setattr(sys.modules[__name__], f"offer_{name}", plugin(kind, name, cls, hook))
        CASES.append(Case(kind, name, check))
        _BROKEN[kind, name] = f"{__name__}:offer_{name}"
        return cls

    return offered


# Every kind


@fails("check_registration", hook="another-name")
class Misnamed(Scale):
    """Registers under another name than its entry point's."""


@fails("check_registration")
class FromTheFuture(Scale):
    """Was written for a contract that is not there yet."""

    api_version = 99


@fails("check_registration")
class Undocumented(Scale):
    __doc__ = None


class LooseConfig(AcceleratorConfig):
    """Takes any field."""

    model_config = ConfigDict(extra="ignore")


@fails("check_config_round_trip")
class Loose(Lossless):
    """Has a config that accepts misspelt fields."""

    config_cls = LooseConfig


class ThawedConfig(AcceleratorConfig):
    """Can be changed."""

    model_config = ConfigDict(frozen=False)


@fails("check_config_round_trip")
class Thawed(Lossless):
    """Has a config that is not frozen."""

    config_cls = ThawedConfig


class BareConfig(AcceleratorConfig):
    """Says nothing of its field."""

    layers: int = 1


@fails("check_config_round_trip")
class Bare(Lossless):
    """Has a field without a description."""

    config_cls = BareConfig


class LossyConfig(AcceleratorConfig):
    """Loses digits on the way."""

    scale: float = Field(0.123, description="Some number.")

    @field_serializer("scale")
    def _rounded(self, value: float) -> float:
        return round(value, 1)


@fails("check_config_round_trip")
class Lossy(Lossless):
    """Has a config that is another one after JSON."""

    config_cls = LossyConfig


@fails("check_fingerprint_is_json_and_stable")
class Restless(Shout):
    """Tells a new fingerprint each time."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {"count": next(_COUNTER)}


@fails("check_fingerprint_is_json_and_stable")
class Unsorted(Shout):
    """Tells a fingerprint in the order of a set, which is another one in each process."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {"words": list({f"word {number}" for number in range(50)})}


@fails("check_fingerprint_is_json_and_stable")
class NotJson(Shout):
    """Tells a fingerprint that no JSON can hold."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {"seen": {1, 2}}


# Accelerators


@fails("check_attach_reversible")
class LeakyHook(Scale):
    """Registers a hook that stays."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        super().attach(model, artefact, patch)
        assert model.module is not None
        model.module.head.register_forward_hook(_nothing)
        # Whoever is stopped by an error cleans up, so that one check only fails.
        patch.push(_clear_after_error(model.module.head))


@fails("check_attach_reversible")
class LeakyWeights(Scale):
    """Changes a weight in place."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        super().attach(model, artefact, patch)
        if self.config.keep_ratio == 1:
            return
        assert model.module is not None
        weight = model.module.head.weight.data
        old = weight[0, 0].clone()
        weight[0, 0] = 3.0

        def restore(kind: Any, error: Any, trace: Any) -> bool:
            if error is not None:
                weight[0, 0] = old
            return False

        patch.push(restore)


@fails("check_detaches_after_exception")
class Fragile(Scale):
    """Undoes its edit only where nothing went wrong."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        super().attach(model, artefact, patch)
        assert model.module is not None
        handle = model.module.head.register_forward_hook(_nothing)

        def remove(kind: Any, error: Any, trace: Any) -> bool:
            if error is None:
                handle.remove()
            return False

        patch.push(remove)


@fails("check_supports_is_light")
class HeavyPlanner(Scale):
    """Asks torch whether it supports a model."""

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        import torch

        return None if torch.__version__ else "no torch"


@fails("check_supports_is_light")
class Mumbler(Scale):
    """Says that it does not support a model, but not why."""

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        return "" if info.family == "unheard-of" else None


@fails("check_on_load_and_on_generate_are_pure")
class Impure(Scale):
    """Writes into the options that it is given."""

    def on_generate(self, options: GenerationOptions) -> GenerationOptions:
        if "a" in options.extra:
            options.extra["a"]["seen"] = True
        return options


@fails("check_on_load_and_on_generate_are_pure")
class Forgetful(Scale):
    """Asks for something else the second time."""

    _asked = 0

    def on_load(self, request: LoadRequest) -> LoadRequest:
        self._asked += 1
        return replace(request, threads=self._asked)


@fails("check_slots_declared")
class Undeclared(Scale):
    """Does not say what it changes in the form that the planner reads."""

    occupies = ("kv-cache",)

    def control(self) -> None:
        return None


@fails("check_slots_declared")
class Typist(Scale):
    """Names a field of the request that is not there."""

    alters = frozenset({"atention"})


@fails("check_slots_declared")
class SecretQuantizer(Scale):
    """Changes the weights, but says that it changes something else."""

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        import torch

        assert model.module is not None
        if self.config.keep_ratio < 1:
            with torch.no_grad():
                model.module.head.weight.round_(decimals=1)

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        pass


class IdleConfig(AcceleratorConfig):
    """Config of an accelerator that does nothing."""


@fails("check_is_active")
class Idle(Accelerator[IdleConfig]):
    """Says that it engaged, and changes nothing."""

    config_cls = IdleConfig
    occupies = frozenset({Slot.KV_CACHE})

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        pass


@fails("check_is_active")
class HonestlyIdle(Idle):
    """Says that it did nothing."""

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        return {"engaged": False}


@fails("check_identical_if_expected")
class Boastful(Lossless):
    """Claims to be lossless, and is not."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        patch.hook(model.module.mix, lambda module, args, kwargs, output: output * -1.0)


@fails("check_keep_all_identity")
class NearlyAll(Scale):
    """Drops a little even where everything is to be kept."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        patch.hook(model.module.mix, self.scaled)

    def scaled(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return output * (self.config.keep_ratio - 0.001)


@fails("check_deterministic")
class Moody(Scale):
    """Makes a random choice each time it is made."""

    def __init__(self, config: ScaleConfig) -> None:
        super().__init__(config)
        self._factor = random.uniform(0.2, 0.8)

    def scaled(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return output * self._factor


@fails("check_deterministic")
class Drifting(Scale):
    """Remembers how often it was attached."""

    _times = 0

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        self._times += 1
        super().attach(model, artefact, patch)

    def scaled(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return output * (self.config.keep_ratio / self._times)


@fails("check_batch_equals_single")
class Neighbourly(Scale):
    """Lets the rows of a batch see each other."""

    def scaled(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return output * self.config.keep_ratio + output.mean(0, keepdim=True)


@fails("check_keeps_what_it_says")
class Modest(Halve):
    """Tells of fewer tokens than it keeps."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        super().attach(model, artefact, patch)

        def fewer(generate: Any, *args: Any) -> list[Prediction]:
            return [replace(p, visual_tokens=(1,) * len(p.visual_tokens)) for p in generate(*args)]

        patch.wrap(model, "generate", fewer)


@fails("check_keeps_what_it_says")
class Vague(Halve):
    """Tells how many tokens it keeps, but other ones."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        super().attach(model, artefact, patch)

        def other(generate: Any, *args: Any) -> list[Prediction]:
            return [replace(p, token_depths=b"\1" * len(p.token_depths)) for p in generate(*args)]

        patch.wrap(model, "generate", other)


@fails("check_equals_masked")
class Louder(Halve):
    """Makes up for the tokens that it drops by raising the states of those that are left."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        super().attach(model, artefact, patch)
        assert model.anatomy is not None
        patch.hook(model.anatomy.layers[0], lambda module, args, kwargs, output: output * 1.1)


@fails("check_cached_equals_uncached")
class Cachebound(Halve):
    """Raises states where nothing is cached."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        from stabfw.components.reduction_session import cache_of

        super().attach(model, artefact, patch)

        def raised(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            return output * 1.1 if cache_of(kwargs) is None else None

        assert model.anatomy is not None
        patch.hook(model.anatomy.layers[0], raised)


@fails("check_composes_with_quantization")
class Unrounded(Halve):
    """Goes by weights, and gives up where they are no floating-point numbers."""

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        assert model.anatomy is not None
        self.plain = hasattr(model.anatomy.layers[0].self_attn.q_proj, "weight")
        super().attach(model, artefact, patch)

    def select(self, context: Context) -> Reduction:
        kept = super().select(context).keep
        return Reduction(kept if self.plain else kept.new_tensor(range(context.visual_tokens)))


@fails("check_control_is_valid")
class OutOfControl(Scale):
    """Names a control that nobody offers."""

    def control(self) -> tuple[str, Mapping[str, Any]]:
        return "nobody", {}


@fails("check_control_is_valid")
class Overdone(Scale):
    """Hands its whole config on, `type` included."""

    def control(self) -> tuple[str, Mapping[str, Any]]:
        return "scale", self.config.model_dump()


@fails("check_control_is_valid")
class Elsewhere(Scale):
    """Names a control that changes another part."""

    occupies = frozenset({Slot.DECODING})


@fails("check_control_is_valid")
class Unequal(Scale):
    """Names a control that keeps more tokens."""

    occupies = frozenset({Slot.VISUAL_TOKENS})

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        super().attach(model, artefact, patch)
        tokens = (4, round(4 * self.config.keep_ratio))

        def fewer(generate: Any, *args: Any) -> list[Prediction]:
            return [replace(p, visual_tokens=tokens) for p in generate(*args)]

        patch.wrap(model, "generate", fewer)

    def control(self) -> tuple[str, Mapping[str, Any]]:
        return "unequal", {"keep_ratio": 0.75}


@fails("check_reports_json")
class Chatty(Scale):
    """Reports what no JSON can hold."""

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        return {"engaged": True, "module": model.module}


@fails("check_reports_json")
class Silent(Scale):
    """Reports something that is neither True nor False nor a reason."""

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        return {"engaged": 3}


def _nothing(module: Any, args: Any, output: Any) -> None:
    return None


def _clear_after_error(module: Any) -> Any:
    def clear(kind: Any, error: Any, trace: Any) -> bool:
        if error is not None:
            module._forward_hooks.clear()
        return False

    return clear


# Perturbations


class PlainConfig(PerturbationConfig):
    """Has no strength."""


@fails("check_deterministic_given_rng")
class Salted(Shout):
    """Draws from the system, once for each component."""

    def __init__(self, config: ShoutConfig) -> None:
        super().__init__(config)
        self._salt = str(random.random())

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        salt = self._salt if self.config.rate else ""
        return replace(instance, question=instance.question + salt)


@fails("check_deterministic_given_rng")
class Lazy(Dim):
    """Draws when a picture is decoded, so each decoding is another picture."""

    config_cls = PlainConfig

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        def change(image: Image) -> Image:
            first = Image.from_pixels(image.pixels >> 1)
            draws = itertools.count()

            def load() -> Any:
                # Only from the second decoding on, which no other check comes to.
                return first.pixels if next(draws) < 1 else first.pixels >> 1

            return Image(first.digest, load)

        return replace(instance, images=tuple(map(change, instance.images)))


@fails("check_original_not_mutated")
class Mutating(Dim):
    """Works in the pixels that it is given."""

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        changed = super().perturb(instance, rng)
        if self.config.severity:
            for image in instance.images:
                image.pixels[0, 0] = 0
        return changed


@fails("check_other_modality_untouched")
class Meddling(Dim):
    """Says that it changes pictures, and changes the text too."""

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        changed = super().perturb(instance, rng)
        return replace(changed, hint="Look twice.") if self.config.severity else changed


@fails("check_keeps_identity_fields")
class Renaming(Shout):
    """Gives the changed instance a new id."""

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        return replace(super().perturb(instance, rng), id=instance.id + "-loud")


@fails("check_keeps_identity_fields")
class Relettering(Shout):
    """Gives options new ids."""

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        changed = super().perturb(instance, rng)
        if self.config.rate == 0:
            return changed
        renamed = tuple(replace(choice, id=choice.id + "'") for choice in instance.choices)
        return replace(changed, choices=renamed)


@fails("check_pictures_are_pictures")
class Lying(Dim):
    """Keeps the digest of pictures that it changed."""

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        changed = super().perturb(instance, rng)
        kept = zip(instance.images, changed.images, strict=True)
        return replace(changed, images=tuple(Image(a.digest, b.load) for a, b in kept))


@fails("check_pictures_are_pictures")
class Floating(Dim):
    """Makes pictures of floats."""

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        if self.config.severity == 0:
            return instance
        return instance.with_pixels(lambda pixels: pixels / np.float32(2))


@fails("check_identity_at_zero")
class Restive(Shout):
    """Changes instances even where it should not."""

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        return replace(super().perturb(instance, rng), hint=instance.hint + " ")


@fails("check_order_independent")
class Counting(Shout):
    """Numbers the instances that come by."""

    _seen = 0

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        self._seen += 1
        number = f" ({self._seen})" if self.config.rate else ""
        return replace(instance, question=instance.question + number)


@fails("check_changes_something")
class Futile(Perturbation[PlainConfig]):
    """Changes nothing."""

    config_cls = PlainConfig
    modality = Modality.TEXT

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        return instance


# Benchmarks


@fails("check_stable_ids")
class Shuffled(Cards):
    """Gives its instances in the order of a set, which is another one in each process."""

    def made(self, split: str) -> Iterator[Instance]:
        items = {item.id: item for item in super().made(split)}
        yield from (items[key] for key in set(items))


@fails("check_stable_ids")
class Repeating(Cards):
    """Gives some instances twice."""

    def made(self, split: str) -> Iterator[Instance]:
        items = list(super().made(split))
        yield from (item for item in items for _ in range(2))


@fails("check_stable_ids")
class Missing(Cards):
    """Has no data."""

    def made(self, split: str) -> Iterator[Instance]:
        raise DataError("cards.json: no such file")


@fails("check_limit")
class Limitless(Cards):
    """Does not keep to its limit."""

    def instances(self, split: str) -> Iterator[Instance]:
        yield from self.made(split)


@fails("check_limit")
class LastFirst(Cards):
    """Takes the last instances where a limit asks for the first."""

    def instances(self, split: str) -> Iterator[Instance]:
        items = list(self.made(split))
        yield from items[-min(self.config.limit or len(items), len(items)) :]


@fails("check_one_picture_one_cluster")
class Scattered(Cards):
    """Takes questions about one picture for independent."""

    def made(self, split: str) -> Iterator[Instance]:
        yield from (replace(item, cluster_id=item.id) for item in super().made(split))


@fails("check_gold_scores_full")
class Strict(Cards):
    """Wants answers in capitals, which the reader has folded away."""

    def score(self, answer: Answer, instance: Instance) -> Score:
        correct = answer.value is not None and answer.value.isupper()
        return Score(float(correct), correct)


@fails("check_missing_answer_scores_nothing")
class Generous(Cards):
    """Takes any answer."""

    def score(self, answer: Answer, instance: Instance) -> Score:
        return Score(1.0, True)


@fails("check_extract_never_raises")
class Brittle(Cards):
    """Looks at the first letter, whether there is one or not."""

    def extract(self, text: str, instance: Instance) -> Answer:
        return super().extract(text if text[0] else "", instance)


@fails("check_extract_never_raises")
class Guessing(Cards):
    """Says no where it cannot read yes."""

    def extract(self, text: str, instance: Instance) -> Answer:
        answer = super().extract(text, instance)
        if instance.kind is AnswerKind.YES_NO and answer.value is None:
            return Answer("no", AnswerKind.YES_NO)
        return answer


@fails("check_extract_and_score_pure")
class Remembering(Cards):
    """Scores the same answer lower the next time."""

    _times = 0

    def score(self, answer: Answer, instance: Instance) -> Score:
        good = super().score(answer, instance)
        self._times += 1
        return good if good.correct else Score(0.0 if self._times < 99 else 1e-9, False)


@fails("check_aggregate")
class Fleeting(Cards):
    """Grades the last answer only."""

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        return {"last": float(graded[-1].kind is AnswerKind.SHORT)}


@fails("check_aggregate")
class Piling(Cards):
    """Adds to what it found the last time."""

    _sum = 0.0

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        self._sum += sum(one.score.value for one in graded)
        return {"sum": self._sum}


@fails("check_aggregate")
class Contrary(Cards):
    """Is the better the more is wrong."""

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        return {"errors": float(sum(not one.score.correct for one in graded))}


@fails("check_aggregate")
class Undefined(Cards):
    """Is not a number where nothing is right."""

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        right = sum(one.score.correct for one in graded)
        return {"odds": 1.0 if right else float("nan")}


@fails("check_letters_follow_the_order_shown")
class Settled(Cards):
    """Reads letters in the original order of the options, whatever was shown."""

    def extract(self, text: str, instance: Instance) -> Answer:
        if instance.kind is AnswerKind.CHOICE:
            original = sorted(instance.choices, key=lambda choice: "rgb".index(choice.id))
            return extract_choice(text, tuple(original))
        return super().extract(text, instance)


@fails("check_options_are_read_back")
class Loud(Cards):
    """Would have yes and no shouted, which is not read."""

    def options(self, instance: Instance) -> tuple[Option, ...]:
        if instance.kind is AnswerKind.YES_NO:
            return Option("YES", ("YES",)), Option("NO", ("NO",))
        return super().options(instance)


@fails("check_render_is_pure_and_contains_question")
class Wordless(Cards):
    """Leaves the options out of the prompt."""

    def render(self, instance: Instance) -> str:
        return instance.question


@fails("check_render_is_pure_and_contains_question")
class Canned(Cards):
    """Asks the original question, whatever was made of it."""

    def render(self, instance: Instance) -> str:
        options = "".join(f"\n{choice.text}" for choice in instance.choices)
        return instance.question.removeprefix("Zzxq ") + options


@fails("check_splits_share_no_image")
class Overlapping(Cards):
    """Has the same pictures in every split."""

    def made(self, split: str) -> Iterator[Instance]:
        yield from super().made("test")


class Hiding(Fair):
    def questions(self, instance: Instance, answer: str) -> tuple[str, ...]:
        return (f"{instance.question}\nsaid: {answer}\nIs it right?",)


class Presuming(Fair):
    def read(self, reply: str, order: int) -> Verdict | None:
        return super().read(reply, order) or (0.0,)


class OneSided(Fair):
    orders = 2


class Wavering(Fair):
    def questions(self, instance: Instance, answer: str) -> tuple[str, ...]:
        return (f"{next(_COUNTER)} {super().questions(instance, answer)[0]}",)


@fails("check_judge_is_told_and_read")
class HiddenGold(Cards):
    """Has a judge that does not know what is right."""

    judged = Hiding()


@fails("check_judge_is_told_and_read")
class GuessedVerdict(Cards):
    """Takes whatever a judge says for no."""

    judged = Presuming()


@fails("check_judge_is_told_and_read")
class OneOrder(Cards):
    """Says that it asks in both orders, and asks in one."""

    judged = OneSided()


@fails("check_judge_is_told_and_read")
class AnotherQuestion(Cards):
    """Never asks a judge the same again."""

    judged = Wavering()


@fails("check_fingerprint")
class Watched(Cards):
    """Tells another fingerprint once it has been read."""

    _read = False

    def fingerprint(self) -> Mapping[str, Any]:
        return {"read": self._read}

    def made(self, split: str) -> Iterator[Instance]:
        self._read = True
        yield from super().made(split)


# Models


@fails("check_describe_is_light")
class HeavyModel(ToyModel):
    """Asks torch what it is."""

    def describe(self, request: LoadRequest) -> ModelInfo:
        import torch

        assert torch.__version__
        return super().describe(request)


@fails("check_described_is_observed")
class Surprising(ToyModel):
    """Is of another family than it was said to be."""

    def loaded(self, request: LoadRequest) -> LoadedToy:
        model = super().loaded(request)
        model.info = replace(model.info, family="other")
        return model


@fails("check_described_is_observed")
class Willful(ToyModel):
    """Loads something else than was asked for."""

    def loaded(self, request: LoadRequest) -> LoadedToy:
        return super().loaded(replace(request, attention="eager"))


class Warm(LoadedToy):
    def score(
        self, encoded: Encoded, continuations: Any, options: GenerationOptions
    ) -> list[list[Prediction]]:
        return [
            [replace(p, logprobs=tuple(value / 2 for value in p.logprobs)) for p in row]
            for row in super().score(encoded, continuations, options)
        ]


class Backwards(LoadedToy):
    def score(
        self, encoded: Encoded, continuations: Any, options: GenerationOptions
    ) -> list[list[Prediction]]:
        return [row[::-1] for row in super().score(encoded, continuations, options)]


class SeesPadding(LoadedToy):
    def mask(self, ids: Any) -> Any:
        return ids >= 0


class Mixed(LoadedToy):
    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        return super().generate(encoded, options)[::-1]


class Dicing(LoadedToy):
    def choose(self, logits: Any) -> Any:
        import torch

        # The first row and all single prompts stay greedy, so that padding is not blamed.
        drawn = torch.multinomial(logits.exp(), 1)[:, 0]
        return drawn if len(logits) > 1 and self.dicing else logits.argmax(-1)

    dicing = False

    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        self.times = getattr(self, "times", 0) + 1
        self.dicing = self.times > 1
        return super().generate(encoded, options)


class SecondBest(LoadedToy):
    def choose(self, logits: Any) -> Any:
        return logits.topk(2).indices[:, 1]


class Terse(LoadedToy):
    def prediction(self, tokens: list[int], logprobs: list[float], top: Any) -> Prediction:
        whole = super().prediction(tokens, logprobs, top)
        return replace(whole, logprobs=whole.logprobs[:-1])


class Upside(LoadedToy):
    def prediction(self, tokens: list[int], logprobs: list[float], top: Any) -> Prediction:
        whole = super().prediction(tokens, logprobs, top)
        best, *rest = whole.top
        return replace(whole, top=(best, *rest[::-1]))


class Endless(LoadedToy):
    def prediction(self, tokens: list[int], logprobs: list[float], top: Any) -> Prediction:
        whole = super().prediction(tokens, logprobs, top)
        return replace(whole, finish=FinishReason.ERROR)


def _with(cls: type[LoadedToy]) -> Any:
    def loaded(self: ToyModel, request: LoadRequest) -> LoadedToy:
        model = ToyModel.loaded(self, request)
        return cls(model.info, model.request, model.module)

    return loaded


@fails("check_score_equals_generate")
class Softened(ToyModel):
    """Scores at another temperature than it generates."""

    loaded = _with(Warm)


@fails("check_scores_batch_equals_single")
class Reordered(ToyModel):
    """Scores the answers to a prompt in another order."""

    loaded = _with(Backwards)


@fails("check_batch_equals_single")
class ShortSighted(ToyModel):
    """Takes padding for words."""

    can_score = False
    loaded = _with(SeesPadding)


@fails("check_batch_equals_single")
class Confused(ToyModel):
    """Gives the answers of a batch in another order."""

    can_score = False
    loaded = _with(Mixed)


@fails("check_greedy_and_deterministic")
class Gambler(ToyModel):
    """Draws answers at random."""

    can_score = False
    loaded = _with(Dicing)


@fails("check_greedy_and_deterministic")
class RunnerUp(ToyModel):
    """Answers with the second-best token."""

    loaded = _with(SecondBest)


@fails("check_predictions_complete")
class Secretive(ToyModel):
    """Keeps the last log-probability to itself."""

    loaded = _with(Terse)


@fails("check_predictions_complete")
class UpsideDown(ToyModel):
    """Tells likely tokens in the wrong order."""

    loaded = _with(Upside)


@fails("check_predictions_complete")
class Unending(ToyModel):
    """Says that good answers are errors."""

    loaded = _with(Endless)


class Same(Vision):
    """Tells what another does."""

    def __init__(self, right: Vision) -> None:
        self.right, self.block = right, right.block

    def places(self, inputs: Mapping[str, Any]) -> Any:
        return self.right.places(inputs)

    def scores(self, inputs: Mapping[str, Any], call: BlockCall) -> Any:
        return self.right.scores(inputs, call)

    def keys(self, inputs: Mapping[str, Any], call: BlockCall) -> Any:
        return self.right.keys(inputs, call)


class OnePlace(Same):
    def places(self, inputs: Mapping[str, Any]) -> Any:
        return super().places(inputs).fill_(0)


class EndlessKeys(Same):
    def keys(self, inputs: Mapping[str, Any], call: BlockCall) -> Any:
        return super().keys(inputs, call).fill_(float("inf"))


@fails("check_anatomy_is_right")
class Piled(Sighted):
    """Has all its visual tokens in one place."""

    @contextmanager
    def open(self, request: LoadRequest) -> Iterator[LoadedModel]:
        with super().open(request) as model:
            model._anatomy = replace(model.anatomy, vision=OnePlace(model.anatomy.vision))
            yield model


@fails("check_anatomy_is_right")
class Unlocked(Sighted):
    """Has keys of its visual tokens that are no numbers."""

    @contextmanager
    def open(self, request: LoadRequest) -> Iterator[LoadedModel]:
        with super().open(request) as model:
            model._anatomy = replace(model.anatomy, vision=EndlessKeys(model.anatomy.vision))
            yield model


@fails("check_dropping_equals_a_shorter_prompt")
class Twisted(Sighted):
    """Names another rotary embedding than its decoder uses."""

    @contextmanager
    def open(self, request: LoadRequest) -> Iterator[LoadedModel]:
        with super().open(request) as model:
            rotary = copy.deepcopy(model.anatomy.rotary)
            rotary.inv_freq *= 2
            model._anatomy = replace(model.anatomy, rotary=rotary)
            yield model


@fails("check_described_is_observed")
class Blindfolded(Sighted):
    """Is said to tell of its vision tower, but does not."""

    @contextmanager
    def open(self, request: LoadRequest) -> Iterator[LoadedModel]:
        with super().open(request) as model:
            model._anatomy = replace(model.anatomy, vision=None)
            yield model


_KEPT: list[Any] = []


@fails("check_frees_on_exit")
class Hoarding(ToyModel):
    """Keeps what it loaded."""

    def loaded(self, request: LoadRequest) -> LoadedToy:
        model = super().loaded(request)
        _KEPT.append(model.module)
        return model


@fails("check_frees_on_exit")
class Careless(ToyModel):
    """Frees the model only where nothing went wrong."""

    @contextmanager
    def open(self, request: LoadRequest) -> Iterator[LoadedModel]:
        model = self.loaded(request)
        _KEPT.append(model.module)
        yield model
        _KEPT.clear()
        model.module = None


# Metrics


@fails("check_recording_changes_nothing")
class Touching(First):
    """Gives back other scores than it got."""

    def record(self, model: LoadedModel, patch: Any) -> Recording:
        assert model.module is not None
        patch.hook(model.module, lambda module, args, kwargs, output: output * 1.5)
        return super().record(model, patch)


@fails("check_recording_changes_nothing")
class Staying(First):
    """Hooks in past the patch."""

    def record(self, model: LoadedModel, patch: Any) -> Recording:
        assert model.module is not None
        model.module.mix.register_forward_hook(lambda module, args, output: None)
        return super().record(model, patch)


@fails("check_records_what_it_says")
class Padding(First):
    """Takes padding for a part of the prompt."""

    def told(self, args: Any, output: Any, row: int) -> dict[str, Any]:
        return {**super().told(args, output, row), "length": np.array(args[0].shape[1])}


@fails("check_records_what_it_says")
class Half(First):
    """Records one of two numbers."""

    def told(self, args: Any, output: Any, row: int) -> dict[str, Any]:
        return {**super().told(args, output, row), "scores": output[row, :1].numpy()}


@fails("check_records_what_it_says")
class Forgetting(First):
    """Records nothing of a batch's last prompt."""

    def record(self, model: LoadedModel, patch: Any) -> Recording:
        take = super().record(model, patch)
        return lambda: dict(list(take().items())[:-1])


REGISTRY = registry({**{key: f"toys:{offer}" for key, offer in OFFERS.items()}, **_BROKEN})
