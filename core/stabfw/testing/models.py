"""What is demanded of models; they are loaded in float32."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from stabfw.components import FinishReason, GenerationOptions, LoadedModel, LoadRequest, Model
from stabfw.components.patch import Patch
from stabfw.components.reduction import Context, Positions, Reduction, reduce_visual_tokens
from stabfw.errors import UnsupportedError
from stabfw.registry.contract import listed
from stabfw.testing.bench import OPTIONS, answers, difference, require_same_in_batches
from stabfw.testing.check import CheckError, NotApplicableError, require
from stabfw.testing.elsewhere import asked
from stabfw.testing.samples import prompts
from stabfw.testing.subject import Subject

_TOLERANCE = 1e-3
# The same computation on the same shapes.
_SCORE_TOLERANCE = 1e-5
#: Share of the visual tokens that is left to try dropping the others.
_KEPT = 0.4


def check_describe_is_light(subject: Subject) -> None:
    """`request` and `describe` need no torch, and tell the same in any process."""
    reply = asked(subject, "describe")
    require(
        not reply.heavy,
        f"describing {subject} imports {listed(reply.heavy)}: read its config files instead",
    )
    model: Model[Any] = subject.make()
    request = model.request()
    here = {"request": asdict(request), "info": asdict(model.describe(request))}
    require(
        reply.value == json.loads(json.dumps(here)),
        f"{subject} is described differently in another process: {_unequal(here, reply.value)}",
    )


def check_described_is_observed(subject: Subject) -> None:
    """The loaded model is what was described, and was loaded as requested."""
    with _opened(subject) as model:
        info = subject.make().describe(model.request)
        require(
            model.info == info,
            f"{subject} is described otherwise than it is: "
            f"{_unequal(asdict(info), asdict(model.info))}",
        )
        require(
            model.request == _request(subject.make()),
            f"{subject} does not keep the request that it was loaded with",
        )
        anatomy = model.anatomy
        require(
            info.has_anatomy == (anatomy is not None),
            f"{subject} is described with has_anatomy={info.has_anatomy}, but the loaded model "
            f"{'states none' if anatomy is None else 'states one'}",
        )
        if anatomy is not None:
            require(
                info.layers == len(anatomy.layers),
                f"{subject} is described with {info.layers} layers, but has {len(anatomy.layers)}",
            )
            rotary = getattr(anatomy.decoder.config, "rope_parameters", None) or {}
            require(
                info.multimodal_positions == ("mrope_section" in rotary),
                f"{subject} is described with multimodal_positions={info.multimodal_positions}, "
                f"but its rotary positions are {dict(rotary)}",
            )
            require(
                info.has_vision == (anatomy.vision is not None),
                f"{subject} is described with has_vision={info.has_vision}, but its anatomy "
                f"{'tells nothing' if anatomy.vision is None else 'tells'} of the vision tower",
            )
        counts = {count for answer in answers(model) for count in answer.visual_tokens}
        if info.visual_tokens is not None and counts:
            require(
                counts == {info.visual_tokens},
                f"{subject} is described with {info.visual_tokens} visual tokens, but reports "
                f"{sorted(counts)}",
            )


def check_batch_equals_single(subject: Subject) -> None:
    """Prompts in a padded batch are answered as they are one by one, each in its own row."""
    with _opened(subject) as model:
        encoded = model.encode(prompts())
        require(
            encoded.instance_ids == tuple(prompt.instance_id for prompt in prompts()),
            f"{subject} encodes rows in another order than the prompts'",
        )
        together = model.generate(encoded, OPTIONS)
        alone = [answer for prompt in prompts() for answer in answers(model, [prompt])]
    require_same_in_batches(subject, together, alone, _TOLERANCE)


def check_greedy_and_deterministic(subject: Subject) -> None:
    """It answers with the most likely token, and the same to the last bit each time."""
    with _opened(subject) as model:
        first, second = answers(model), answers(model)
    with _opened(subject) as model:
        third = answers(model)
    for again, when in ((second, "asked again"), (third, "loaded again")):
        found = difference(first, again, ("first", f"when {when}"))
        require(not found, f"{subject}: {found}")
    for answer in first:
        if answer.top and answer.token_ids:
            require(
                answer.token_ids[0] == answer.top[0].id,
                f"{subject} answers {answer.text!r} with another first token than the most likely "
                f"one, {answer.top[0].text!r}: decoding must be greedy",
            )


def check_predictions_complete(subject: Subject) -> None:
    """Log-probabilities, likely tokens, visual tokens and the reason of ending are told."""
    with _opened(subject) as model:
        layers = model.info.layers if model.info.has_anatomy else None
        answered = answers(model)
        short = answers(model, options=GenerationOptions(max_new_tokens=1, top_tokens=3))
    require(
        len(answered) == len(short) == len(prompts()),
        f"{subject} gives {len(answered)} predictions for {len(prompts())} prompts",
    )
    for answer in short:
        require(
            len(answer.token_ids) == 1 and len(answer.top) == 3,
            f"{subject} gives {len(answer.token_ids)} tokens and {len(answer.top)} likely ones "
            "where max_new_tokens is 1 and top_tokens 3",
        )
    for answer in answered:
        told = f"{subject}, answer {answer.text!r}"
        tokens, logprobs = answer.token_ids, answer.logprobs
        require(
            0 < len(tokens) == len(logprobs),
            f"{told}: {len(tokens)} tokens, but {len(logprobs)} log-probabilities",
        )
        require(
            all(math.isfinite(value) and value <= 0 for value in logprobs),
            f"{told}: {logprobs} are no log-probabilities",
        )
        best = [token.logprob for token in answer.top]
        require(
            len(best) == OPTIONS.top_tokens and best == sorted(best, reverse=True),
            f"{told}: `top` must hold {OPTIONS.top_tokens} tokens, best first, not {best}",
        )
        require(
            answer.finish in (FinishReason.STOP, FinishReason.LENGTH)
            and (answer.finish is FinishReason.STOP or len(tokens) == OPTIONS.max_new_tokens),
            f"{told}: ended by {answer.finish} after {len(tokens)} of {OPTIONS.max_new_tokens} "
            "tokens",
        )
        require(
            layers is None or len(answer.visual_tokens) == layers,
            f"{told}: visual tokens of {len(answer.visual_tokens)} layers, not of {layers}",
        )


def check_score_equals_generate(subject: Subject) -> None:
    """Scoring the tokens that it generated gives the log-probabilities that they had."""
    with _opened(subject) as model:
        _require_scores(subject, model)
        encoded, generated = model.encode(prompts()), answers(model)
        scored = model.score(encoded, [[answer.token_ids] for answer in generated], OPTIONS)
        for prompt in prompts():
            require(
                bool(model.tokens(prompt, "A")),
                f"{subject} has no tokens for 'A' as an answer to {prompt.text!r}",
            )
    for answer, (again,) in zip(generated, scored, strict=True):
        far = [abs(a - b) for a, b in zip(answer.logprobs, again.logprobs, strict=True)]
        require(
            again.token_ids == answer.token_ids and max(far) <= _SCORE_TOLERANCE,
            f"{subject} gives {answer.text!r} the log-probabilities {answer.logprobs} when it "
            f"generates it, but {again.logprobs} when it scores it: score on the same path, "
            "prefill and then one forced token a step",
        )


def check_scores_batch_equals_single(subject: Subject) -> None:
    """Several answers of different lengths are scored in a padded batch as they are alone."""
    with _opened(subject) as model:
        _require_scores(subject, model)
        asked, generated = prompts(), [answer.token_ids for answer in answers(model)]
        rows = [
            [own, other[:1], other[:2]][: 1 + number % 3]
            for number, (own, other) in enumerate(zip(generated, generated[::-1], strict=True))
        ]
        together = model.score(model.encode(asked), rows, OPTIONS)
        alone = [
            model.score(model.encode([prompt]), [row], OPTIONS)[0]
            for prompt, row in zip(asked, rows, strict=True)
        ]
    for number, (one, other, row) in enumerate(zip(together, alone, rows, strict=True)):
        require(
            [answer.token_ids for answer in one] == row,
            f"{subject}, prompt {number}: other answers are scored than were given, or in "
            "another order",
        )
        require_same_in_batches(f"{subject}, prompt {number}", one, other, _TOLERANCE)


def _require_scores(subject: Subject, model: LoadedModel) -> None:
    if model.info.can_score:
        return
    try:
        model.score(model.encode(prompts()[:1]), [[(0,)]], OPTIONS)
    except UnsupportedError as error:
        raise NotApplicableError(str(error)) from error
    raise CheckError(f"{subject} scores answers, though it is described with can_score=False")


def check_anatomy_is_right(subject: Subject) -> None:
    """Keeping all visual tokens changes nothing, and what is told of each of them is whole."""
    import torch

    seen = set()

    def everything(context: Context) -> Reduction:
        seen.add(context.instance_id)
        _require_told(subject, context, told=anatomy is not None and anatomy.vision is not None)
        return Reduction(torch.arange(context.visual_tokens))

    with _opened(subject) as model:
        anatomy = model.anatomy
        if anatomy is None:
            raise NotApplicableError(f"{subject} states no anatomy")
        if model.info.no_reduction:
            raise NotApplicableError(f"visual tokens cannot be dropped: {model.info.no_reduction}")
        before = answers(model)
        with Patch() as patch:
            reduce_visual_tokens(
                model, dict.fromkeys(range(len(anatomy.layers)), everything), patch
            )
            after = answers(model)
    require(bool(seen), f"{subject}: its anatomy finds no visual tokens in prompts with pictures")
    found = difference(before, after, ("untouched", "with all visual tokens kept"))
    require(not found, f"{subject}: {found}")


def check_dropping_equals_a_shorter_prompt(subject: Subject) -> None:
    """Without some visual tokens before the first layer, it is as if it had never had them."""
    import torch

    from stabfw.testing.reductions import near, shorter_prompt

    kept: dict[str, torch.Tensor] = {}

    def some(context: Context) -> Reduction:
        chosen = torch.from_numpy(context.rng().random(context.visual_tokens) < _KEPT)
        kept[context.instance_id] = chosen.nonzero()[:, 0]
        return Reduction(kept[context.instance_id])

    with _opened(subject) as model:
        anatomy = model.anatomy
        if anatomy is None or model.info.no_reduction:
            raise NotApplicableError("its visual tokens cannot be dropped")
        policies: tuple[Positions, ...] = ("keep", "renumber")
        for positions in policies[: 1 if model.info.multimodal_positions else 2]:
            with Patch() as patch:
                reduce_visual_tokens(model, {0: some}, patch, positions)
                answered = answers(model)
            for number, (prompt, answer) in enumerate(zip(prompts(), answered, strict=True)):
                keep = kept[prompt.instance_id]
                found = shorter_prompt(model, anatomy, prompt, keep, positions)
                require(
                    near(found, answer, _TOLERANCE),
                    f"{subject}: with positions={positions!r}, the first token of prompt {number} "
                    "has other probabilities than without the dropped tokens in the prompt: its "
                    "anatomy may name the wrong layers or rotary embedding",
                )


def _require_told(subject: Subject, context: Context, told: bool) -> None:
    count = context.visual_tokens
    require(
        context.features.shape == context.states.shape,
        f"{subject}: features of shape {tuple(context.features.shape)} for states of shape "
        f"{tuple(context.states.shape)}",
    )
    if not told:
        return
    places, scores, keys = context.places, context.vision_scores, context.vision_keys
    require(
        places.shape == (count, 4) and scores.shape == (count,) and keys.shape[0] == count,
        f"{subject}: {count} visual tokens have places of shape {tuple(places.shape)}, scores "
        f"of shape {tuple(scores.shape)} and keys of shape {tuple(keys.shape)}",
    )
    patches = [place for place in map(tuple, places.tolist()) if place[1] >= 0]
    require(
        len(set(patches)) == len(patches) > 0,
        f"{subject}: several visual tokens are said to be from one place",
    )
    marks = places[:, 1] < 0
    require(
        bool(scores.isfinite().all())
        and float(scores.min()) >= 0
        and float(scores[marks.to(scores.device)].sum()) == 0,
        f"{subject}: scores of visual tokens must be shares of attention, and 0 where a token "
        "stands for no part of a picture",
    )
    require(
        bool(keys.isfinite().all()) and not keys[marks.to(keys.device)].any(),
        f"{subject}: keys of visual tokens must be finite, and 0 where a token stands for no part "
        "of a picture",
    )


def check_frees_on_exit(subject: Subject) -> None:
    """Leaving the context frees the module, also after an error."""
    for error in (None, _InjectedError()):
        with suppress(_InjectedError), _opened(subject) as model:
            if model.module is None:
                raise NotApplicableError("it has no module")
            module = weakref.ref(model.module)
            answers(model, prompts()[:1])
            if error is not None:
                raise error
        # The handle may outlive the context, but not what it held. An error holds its frames.
        error = None
        gc.collect()
        require(module() is None, f"{subject} is still in memory after its context was left")


class _InjectedError(Exception):
    pass


@contextmanager
def _opened(subject: Subject) -> Iterator[LoadedModel]:
    model: Model[Any] = subject.make()
    with model.open(_request(model)) as loaded:
        yield loaded


def _request(model: Model[Any]) -> LoadRequest:
    return replace(model.request(), dtype="float32")


def _unequal(one: Any, other: Any) -> str:
    keys = [key for key in one if one[key] != other.get(key)]
    return "; ".join(f"{key}: {one[key]} and {other.get(key)}" for key in keys)[:300]


CHECKS = (
    check_describe_is_light,
    check_described_is_observed,
    check_batch_equals_single,
    check_greedy_and_deterministic,
    check_predictions_complete,
    check_score_equals_generate,
    check_scores_batch_equals_single,
    check_anatomy_is_right,
    check_dropping_equals_a_shorter_prompt,
    check_frees_on_exit,
)
