"""A healthy component of each kind, and a model small enough to be tried on a thousand times."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from pydantic import Field
from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    AnswerKind,
    Artefact,
    Benchmark,
    BenchmarkConfig,
    Choice,
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
    MetricConfig,
    MetricValue,
    Modality,
    Model,
    ModelConfig,
    ModelInfo,
    Perturbation,
    PerturbationConfig,
    Prediction,
    Prompt,
    Recording,
    Rubric,
    Slot,
    TopToken,
    Verdict,
)
from stabfw.components.reduction import Context, Reduction, reduce_visual_tokens
from stabfw.registry import Registry, hookimpl
from stabfw_models.tiny import TinyLlava

END, PAD, VOCABULARY, WIDTH = 0, 1, 40, 12


def plugin(kind: Kind, name: str, cls: type[Component[Any]], hook: str = "") -> SimpleNamespace:
    """What an entry point may refer to instead of a module."""

    @hookimpl
    def registration(register: Any) -> None:
        register(hook or name, cls)

    return SimpleNamespace(**{kind.hook: registration})


def registry(offers: Mapping[tuple[Kind, str], str]) -> Registry:
    """A registry of attributes of modules, written `module:attribute`."""
    found = [EntryPoint(name, value, kind.group) for (kind, name), value in offers.items()]
    return Registry(EntryPoints(found), hidden=())


class ToyModelConfig(ModelConfig):
    """Config of the toy model."""


class ToyModel(Model[ToyModelConfig]):
    """Averages words and pixels, then picks the likeliest next token, over and over."""

    config_cls = ToyModelConfig
    layers: int | None = 2
    can_score = True

    def request(self) -> LoadRequest:
        return LoadRequest(source="toy")

    def describe(self, request: LoadRequest) -> ModelInfo:
        return ModelInfo(
            "toy",
            layers=self.layers,
            visual_tokens=4,
            can_score=self.can_score,
            processor="ToyProcessor",
        )

    @contextmanager
    def open(self, request: LoadRequest) -> Iterator[LoadedModel]:
        model = self.loaded(request)
        try:
            yield model
        finally:
            model.module = None

    def loaded(self, request: LoadRequest) -> LoadedToy:
        from toy_module import make

        return LoadedToy(self.describe(request), request, make(WIDTH, VOCABULARY))


class LoadedToy(LoadedModel):
    module: Any

    def __init__(self, info: ModelInfo, request: LoadRequest, module: Any) -> None:
        self.info, self.request, self.module = info, request, module

    def encode(self, prompts: Sequence[Prompt]) -> Encoded:
        import torch

        rows = [[2 + ord(letter) % (VOCABULARY - 2) for letter in p.text] for p in prompts]
        width = max(map(len, rows))
        ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
        means = [p.images[0].pixels.mean() / 255 if p.images else 0.0 for p in prompts]
        return Encoded(
            tuple(p.instance_id for p in prompts),
            {"ids": ids, "pixels": torch.tensor(means, dtype=torch.float32)[:, None]},
        )

    def mask(self, ids: Any) -> Any:
        return ids != PAD

    def choose(self, logits: Any) -> Any:
        return logits.argmax(-1)

    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        return self.answered(encoded, options)

    def tokens(self, prompt: Prompt, text: str) -> tuple[int, ...]:
        return tuple(2 + ord(letter) % (VOCABULARY - 2) for letter in text)

    def score(
        self, encoded: Encoded, continuations: Any, options: GenerationOptions
    ) -> list[list[Prediction]]:
        if not self.info.can_score:
            return super().score(encoded, continuations, options)
        found: list[list[Prediction]] = [[] for _ in continuations]
        for number in range(max(map(len, continuations))):
            forced = [(*row[number : number + 1], (END,))[0] for row in continuations]
            told = self.answered(encoded, options, forced)
            for row, prediction in enumerate(told):
                found[row] += [prediction] * (number < len(continuations[row]))
        return found

    def answered(
        self, encoded: Encoded, options: GenerationOptions, forced: Any = None
    ) -> list[Prediction]:
        import torch

        ids, pixels = encoded.inputs["ids"], encoded.inputs["pixels"]
        mask, steps = self.mask(ids), []
        chosen = []
        self.batch = encoded
        length = max(map(len, forced)) if forced else options.max_new_tokens
        try:
            with torch.inference_mode():
                for step in range(length):
                    steps.append(self.module(ids, mask, pixels).log_softmax(-1))
                    if forced:
                        row = [(*tokens[step : step + 1], END)[0] for tokens in forced]
                        chosen.append(torch.tensor(row))
                    else:
                        chosen.append(self.choose(steps[-1]))
                    ids = torch.cat([ids, chosen[-1][:, None]], 1)
                    mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        finally:
            self.batch = None
        best = steps[0].topk(options.top_tokens)
        return [
            self.prediction(
                [int(token[row]) for token in chosen][: len(forced[row]) if forced else None],
                [float(step[row, token[row]]) for step, token in zip(steps, chosen, strict=True)],
                zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True),
            )
            for row in range(len(ids))
        ]

    def prediction(self, tokens: list[int], logprobs: list[float], top: Any) -> Prediction:
        length = tokens.index(END) + 1 if END in tokens else len(tokens)
        return Prediction(
            text=" ".join(map(str, tokens[:length])),
            token_ids=tuple(tokens[:length]),
            logprobs=tuple(logprobs[:length]),
            top=tuple(TopToken(token, str(token), value) for token, value in top),
            finish=FinishReason.STOP if END in tokens else FinishReason.LENGTH,
            visual_tokens=(4, 4),
        )


class ScaleConfig(AcceleratorConfig):
    """Config of the toy accelerator."""

    keep_ratio: float = Field(0.5, gt=0, le=1, description="How much of each state is kept.")


class Scale(Accelerator[ScaleConfig]):
    """Makes hidden states smaller."""

    config_cls = ScaleConfig
    occupies = frozenset({Slot.KV_CACHE})

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        if self.config.keep_ratio < 1:
            patch.hook(model.module.mix, self.scaled)

    def scaled(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return output * self.config.keep_ratio

    def control(self) -> tuple[str, Mapping[str, Any]] | None:
        return "scale", {"keep_ratio": self.config.keep_ratio}


class LosslessConfig(AcceleratorConfig):
    """Config of the lossless accelerator."""


class Lossless(Accelerator[LosslessConfig]):
    """Multiplies by one."""

    config_cls = LosslessConfig
    occupies = frozenset({Slot.KV_CACHE})
    expects_identical = True

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        patch.hook(model.module.mix, lambda module, args, kwargs, output: output * 1.0)


class HalveConfig(AcceleratorConfig):
    """Config of the toy token reduction."""


class Halve(Accelerator[HalveConfig]):
    """Keeps every other visual token before the first layer; tried on a model with an anatomy."""

    config_cls = HalveConfig
    occupies = frozenset({Slot.VISUAL_TOKENS})

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Any) -> None:
        self.tally = reduce_visual_tokens(model, {0: self.select}, patch)

    def select(self, context: Context) -> Reduction:
        import torch

        return Reduction(torch.arange(0, context.visual_tokens, 2))

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        return self.tally.report()


class RoundConfig(AcceleratorConfig):
    """Config of the toy quantizer."""


class Round(Accelerator[RoundConfig]):
    """Rounds the decoder's attention; offered under the name that the kit looks for."""

    config_cls = RoundConfig
    occupies = frozenset({Slot.WEIGHTS})

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        return None if info.has_anatomy else "it has no anatomy"

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        from toy_module import Rounded

        assert model.anatomy is not None
        for layer in model.anatomy.layers:
            attention: Any = layer.self_attn
            for name in ("q_proj", "k_proj", "v_proj"):
                setattr(attention, name, Rounded(getattr(attention, name)))

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        return {"engaged": True}


class ShoutConfig(PerturbationConfig):
    """Config of the toy perturbation."""

    rate: float = Field(1.0, ge=0, le=1, description="Share of letters in capitals.")


class Shout(Perturbation[ShoutConfig]):
    """Puts letters into capitals."""

    config_cls = ShoutConfig
    modality = Modality.TEXT

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        chances = rng.random(len(instance.question))
        letters = [
            letter.upper() if chance < self.config.rate else letter
            for letter, chance in zip(instance.question, chances, strict=True)
        ]
        return replace(instance, question="".join(letters))


class DimConfig(PerturbationConfig):
    """Config of the toy image perturbation."""

    severity: int = Field(2, ge=0, le=4, description="How dark it gets.")


class Dim(Perturbation[DimConfig]):
    """Halves brightness several times."""

    config_cls = DimConfig
    modality = Modality.IMAGE

    def perturb(self, instance: Instance, rng: Any) -> Instance:
        return instance.with_pixels(lambda pixels: pixels >> self.config.severity)


class CardsConfig(BenchmarkConfig):
    """Config of the toy benchmark."""

    deck: Literal["small", "large"] = Field("small", description="How many cards there are.")


class Cards(Benchmark[CardsConfig]):
    """Plain coloured cards."""

    config_cls = CardsConfig
    splits = ("test", "train")

    def fingerprint(self) -> Mapping[str, Any]:
        return {"cards": "1"}

    def instances(self, split: str) -> Iterator[Instance]:
        made = list(self.made(split))
        yield from made[: self.config.limit]

    def made(self, split: str) -> Iterator[Instance]:
        names = (Choice("r", "red"), Choice("g", "green"), Choice("b", "blue"))
        for number in range(8):
            place = (number + 1) % 3 if number % 2 else number % 3
            pixels = np.full((6, 6, 3), number, np.uint8)
            pixels[..., place] = 200 if split == "test" else 220
            image = Image.from_pixels(pixels)
            yield Instance.create(
                (image,),
                "Which colour does this card have?",
                native_id=f"{split}-{number}-choice",
                kind=AnswerKind.CHOICE,
                choices=names,
                references=(names[place].id,),
            )
            yield Instance.create(
                (image,),
                "Is this card red?",
                native_id=f"{split}-{number}-red",
                kind=AnswerKind.YES_NO,
                references=("yes" if place == 0 else "no",),
            )
            yield Instance.create(
                (image,), "Name the colour.", native_id=number, references=(names[place].text,)
            )

    def aggregate(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        return {"points": sum(one.score.value for one in graded)}


class Fair(Rubric):
    """Asks as it should, and reads a reply that is yes or no and nothing else."""

    def questions(self, instance: Instance, answer: str) -> tuple[str, ...]:
        golds = " / ".join(instance.references)
        return (f"{instance.question}\nright: {golds}\nsaid: {answer}\nIs it right?",)

    def read(self, reply: str, order: int) -> Verdict | None:
        return {"yes": (1.0,), "no": (0.0,)}.get(reply)

    def score(self, verdicts: Sequence[Verdict]) -> float:
        return verdicts[0][0]


class JudgedCards(Cards):
    """The same cards, whose answers a judge scores."""

    judged = Fair()


class ZeroConfig(MetricConfig):
    """Config of the toy metric."""


class Zero(Metric[ZeroConfig]):
    """Always zero."""

    config_cls = ZeroConfig

    def compute(self, pairs: Any) -> list[MetricValue]:
        return [MetricValue("zero", 0.0, None, None, len(pairs), "none")]


class First(Metric[ZeroConfig]):
    """Has the length of each prompt recorded, and the first scores of two tokens."""

    config_cls = ZeroConfig

    def extras(self) -> Mapping[str, int]:
        return {"length": 1, "scores": 2}

    def cannot_record(self, info: ModelInfo) -> str | None:
        return None if info.family == "toy" else "it is no toy"

    def record(self, model: LoadedModel, patch: Any) -> Recording:
        seen: dict[str, dict[str, Any]] = {}

        def see(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            assert model.batch is not None
            for row, instance_id in enumerate(model.batch.instance_ids):
                seen.setdefault(instance_id, self.told(args, output, row))

        def take() -> Mapping[str, Mapping[str, Any]]:
            told = dict(seen)
            seen.clear()
            return told

        assert model.module is not None
        patch.hook(model.module, see)
        return take

    def told(self, args: Any, output: Any, row: int) -> dict[str, Any]:
        return {"length": args[1][row].sum().numpy(), "scores": output[row, :2].numpy()}

    def compute(self, pairs: Any) -> list[MetricValue]:
        return []


class Sighted(TinyLlava):
    """States an anatomy, as the toy does not."""


HEALTHY: dict[tuple[Kind, str], type[Component[Any]]] = {
    (Kind.MODEL, "toy"): ToyModel,
    (Kind.MODEL, "sighted"): Sighted,
    (Kind.ACCELERATOR, "scale"): Scale,
    (Kind.ACCELERATOR, "lossless"): Lossless,
    (Kind.ACCELERATOR, "halve"): Halve,
    (Kind.ACCELERATOR, "int8"): Round,
    (Kind.PERTURBATION, "shout"): Shout,
    (Kind.PERTURBATION, "dim"): Dim,
    (Kind.BENCHMARK, "cards"): Cards,
    (Kind.BENCHMARK, "judged"): JudgedCards,
    (Kind.METRIC, "zero"): Zero,
    (Kind.METRIC, "first"): First,
}
OFFERS = {}
for (_kind, _name), _cls in HEALTHY.items():
    OFFERS[_kind, _name] = f"offer_{_name}"
    setattr(sys.modules[__name__], f"offer_{_name}", plugin(_kind, _name, _cls))
