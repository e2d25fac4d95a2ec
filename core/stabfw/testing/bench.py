"""The model that accelerators are tried on, and what it answers."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from stabfw.components import (
    Accelerator,
    Artefact,
    Encoded,
    GenerationOptions,
    LoadedModel,
    LoadRequest,
    Model,
    ModelInfo,
    Prediction,
    Prompt,
)
from stabfw.components.patch import Patch, fingerprint, weights_digest
from stabfw.testing.check import NotApplicableError, require
from stabfw.testing.samples import fit_data, prompts
from stabfw.testing.subject import Subject

#: Long enough to decode with a cache, short enough for a check.
OPTIONS = GenerationOptions(max_new_tokens=6, top_tokens=5)


class Bench:
    """Holds one loaded model at a time, for as long as it is as it was after loading.

    Args:
        model: The model; choose a small one, since it is loaded in float32, and its weights are
            compared after every use. None if there is none.
    """

    def __init__(self, model: Model[Any] | None) -> None:
        self._model = model
        self._held: _Held | None = None
        self._answers: dict[str, list[Prediction]] = {}
        self._artefacts: dict[str, Artefact] = {}

    @property
    def model(self) -> Model[Any]:
        """The model.

        Raises:
            NotApplicableError: If there is none.
        """
        if self._model is None:
            raise NotApplicableError("there is no model to try it on: give one as `model`")
        return self._model

    def request(self) -> LoadRequest:
        """How it is loaded: in float32, where equal answers can be demanded."""
        return replace(self.model.request(), dtype="float32")

    def info(self) -> ModelInfo:
        """What it is."""
        return self.model.describe(self.request())

    def baseline(self, request: LoadRequest) -> list[Prediction]:
        """What it answers to the samples without an accelerator; kept."""
        if repr(request) not in self._answers:
            with self.opened(request) as model:
                self._answers[repr(request)] = answers(model)
        return self._answers[repr(request)]

    def artefact(
        self, accelerator: Accelerator[Any], request: LoadRequest, fresh: bool
    ) -> Artefact:
        """What it has at hand, or makes of the samples; kept.

        Args:
            accelerator: The accelerator.
            request: How to load the model that it is fitted on, and that is thrown away.
            fresh: Whether to fit anew in any case.
        """
        key = repr((request, type(accelerator), accelerator.config))
        if (ready := accelerator.at_hand(self.info())) is not None:
            return ready
        if fresh or key not in self._artefacts:
            with self.opened(request, fresh=True) as model:
                self._artefacts[key] = accelerator.fit(model, fit_data())
            self.close()
        return self._artefacts[key]

    @contextmanager
    def opened(
        self,
        request: LoadRequest,
        transform: Accelerator[Any] | None = None,
        artefact: Artefact | None = None,
        fresh: bool = False,
    ) -> Iterator[LoadedModel]:
        """Give the model loaded this way and transformed, or what is held of it.

        Args:
            request: How to load it.
            transform: Transforms it, if given.
            artefact: For that.
            fresh: Whether to load it anew in any case.
        """
        key = (request, type(transform), transform and transform.config, artefact)
        held, self._held = self._held, None
        if held is not None and (fresh or held.key != key):
            held.close()
            held = None
        if held is None:
            held = _Held(key, self.model, request, transform, artefact)
        try:
            yield held.model
        except BaseException:
            held.close()
            raise
        if held.changed():
            held.close()
        else:
            self._held = held

    def close(self) -> None:
        """Free the model."""
        if self._held is not None:
            self._held.close()
            self._held = None


class _Held:
    def __init__(
        self,
        key: object,
        model: Model[Any],
        request: LoadRequest,
        transform: Accelerator[Any] | None,
        artefact: Artefact | None,
    ) -> None:
        self.key = key
        self._exit = ExitStack()
        try:
            self.model = self._exit.enter_context(model.open(request))
            if transform is not None:
                transform.transform(self.model, artefact)
            # A model may set itself up at its first use; that is no change by an accelerator.
            answers(self.model, prompts()[:1])
        except BaseException:
            self._exit.close()
            raise
        self._state = state(self.model)

    def changed(self) -> bool:
        return state(self.model) != self._state

    def close(self) -> None:
        self._exit.close()
        gc.collect()


@dataclass(frozen=True)
class Trial:
    """An accelerator beside the model that it accelerates, loaded and transformed for it.

    Attributes:
        accelerator: The accelerator, not yet attached.
        model: The model.
        artefact: What `fit` produced.
    """

    accelerator: Accelerator[Any]
    model: LoadedModel
    artefact: Artefact | None

    def attach(self, patch: Patch) -> None:
        """Attach the accelerator until the patch ends."""
        self.accelerator.attach(self.model, self.artefact, patch)

    def answers(
        self, asked: Sequence[Prompt] = (), options: GenerationOptions = OPTIONS
    ) -> list[Prediction]:
        """What the model answers now, to the samples by default."""
        return answers(self.model, asked, self.accelerator.on_generate(options))


@dataclass(frozen=True)
class Loading:
    """How an accelerator wants the bench's model loaded.

    Attributes:
        accelerator: The accelerator.
        request: What `on_load` asks for.
        matched: The same for its matched baseline: only the acceleration is taken back.
    """

    accelerator: Accelerator[Any]
    request: LoadRequest
    matched: LoadRequest


def loading(subject: Subject, **changes: Any) -> Loading:
    """Plan a subject's accelerator on the bench's model.

    Args:
        subject: The accelerator.
        changes: Values of its config to change.

    Raises:
        NotApplicableError: If there is no model, or the accelerator does not support it.
    """
    accelerator: Accelerator[Any] = subject.make(**changes)
    plain = subject.bench.request()
    if reason := accelerator.supports(subject.bench.info(), plain):
        raise NotApplicableError(f"it does not support the model that it is tried on: {reason}")
    request = accelerator.on_load(plain)
    kept = {f.name: getattr(plain, f.name) for f in fields(plain) if f.name in accelerator.alters}
    return Loading(accelerator, request, replace(request, **kept))


@contextmanager
def trial(subject: Subject, fresh: bool = False, **changes: Any) -> Iterator[Trial]:
    """Load the bench's model for a subject's accelerator.

    A model that is held may have been transformed by another component with the same config, as
    happens to stacks that share a loaded model.

    Args:
        subject: The accelerator.
        fresh: Whether to load the model anew in any case.
        changes: Values of its config to change.

    Raises:
        NotApplicableError: If there is no model, or the accelerator does not support it.
    """
    bench, plan = subject.bench, loading(subject, **changes)
    accelerator = plan.accelerator
    artefact = bench.artefact(accelerator, plan.request, fresh) if accelerator.needs_fit else None
    transforms = type(accelerator).transform is not Accelerator.transform
    transform = accelerator if transforms else None
    with bench.opened(plan.request, transform, artefact, fresh) as model:
        yield Trial(accelerator, model, artefact)


def answers(
    model: LoadedModel,
    asked: Sequence[Prompt] = (),
    options: GenerationOptions = OPTIONS,
) -> list[Prediction]:
    """What a model answers to a batch, to the samples by default."""
    encoded: Encoded = model.encode(list(asked) or list(prompts()))
    return model.generate(encoded, options)


def bits(prediction: Prediction) -> tuple[Any, ...]:
    """All of a prediction that must be equal where nothing changed; its times are not."""
    p = prediction
    options = dict(p.options), p.options_logprob
    tokens = p.visual_tokens, p.token_depths
    return p.text, p.token_ids, p.logprobs, p.top, p.finish, *tokens, *options


def difference(
    one: Sequence[Prediction], other: Sequence[Prediction], words: tuple[str, str]
) -> str:
    """Say where two lists of predictions first differ to the last bit, or nothing.

    Args:
        one: Some predictions.
        other: Others to the same prompts.
        words: What to call the two.
    """
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        if bits(a) != bits(b):
            return (
                f"prompt {number}: {a.text!r} (log-probabilities {_short(a.logprobs)}) "
                f"{words[0]}, {b.text!r} ({_short(b.logprobs)}) {words[1]}"
            )
    return ""


def state(model: LoadedModel) -> tuple[dict[str, str], str]:
    """Structure and weights of a model's module."""
    module = model.module
    return ({}, "") if module is None else (fingerprint(module), weights_digest(module))


def require_same(
    who: object,
    one: Sequence[Prediction],
    other: Sequence[Prediction],
    tolerance: float,
    words: tuple[str, str],
    remedy: str = "",
) -> None:
    """Require the same answers, up to rounding.

    Args:
        who: Is to blame.
        one: Some predictions.
        other: Others to the same prompts.
        tolerance: How far log-probabilities may be apart.
        words: What to call the two.
        remedy: What may help.
    """
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        far = [abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=False)]
        require(
            a.token_ids == b.token_ids and max(far, default=0.0) <= tolerance,
            f"{who}: prompt {number} is answered {a.text!r} ({_short(a.logprobs)}) {words[0]}, "
            f"but {b.text!r} ({_short(b.logprobs)}) {words[1]}, in float32{remedy}",
        )


def require_same_in_batches(
    who: object, together: Sequence[Prediction], alone: Sequence[Prediction], tolerance: float
) -> None:
    """Require equal answers from a padded batch and from its prompts one by one.

    Args:
        who: Is to blame.
        together: The batch's predictions.
        alone: Those of each prompt alone.
        tolerance: How far log-probabilities may be apart.
    """
    words = (f"in a batch of {len(together)}", "alone")
    remedy = ". Padding may be seen: use the attention mask, and pad on the left"
    require_same(who, together, alone, tolerance, words, remedy)


def _short(logprobs: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in logprobs[:4])
