"""What is demanded of accelerators, tried on a small model."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import asdict, fields, replace
from typing import Any

from stabfw.components import (
    Accelerator,
    Fidelity,
    GenerationOptions,
    Kind,
    LoadRequest,
    Slot,
)
from stabfw.components.patch import Patch
from stabfw.components.reduction import seen_by_layer
from stabfw.errors import PluginError
from stabfw.registry.contract import listed
from stabfw.testing.bench import (
    OPTIONS,
    Trial,
    answers,
    bits,
    difference,
    loading,
    require_same,
    require_same_in_batches,
    state,
    trial,
)
from stabfw.testing.check import CheckError, NotApplicableError, require
from stabfw.testing.elsewhere import asked
from stabfw.testing.samples import prompts
from stabfw.testing.subject import Subject, component

_LOAD = LoadRequest(source="nowhere", options={"a": {"b": 1}})
_GENERATION = GenerationOptions(extra={"a": {"b": 1}})
# In float32 a padded batch and a single prompt differ by rounding only, which is enlarged where
# activations or caches are quantized on the way.
_TOLERANCE = 1e-3
_TOLERANCE_QUANTIZED = 0.02
#: What weights are quantized by to try others on them: the first that is at hand.
_QUANTIZERS = ("int8", "hqq")


def check_attach_reversible(subject: Subject) -> None:
    """After `attach`, leaving the patch restores structure, weights and every last bit."""
    _require_attaches(subject)
    # Loaded anew: an earlier check may have left a change behind that it would repeat.
    with trial(subject, fresh=True) as tried:
        _require_module(tried)
        before, answered = state(tried.model), answers(tried.model)
        with Patch() as patch:
            tried.attach(patch)
            tried.answers()
        _require_restored(subject, tried, before, answered, "afterwards")


def check_detaches_after_exception(subject: Subject) -> None:
    """The same holds when generation fails half-way."""
    _require_attaches(subject)
    with trial(subject, fresh=True) as tried:
        module = _require_module(tried)
        before, answered = state(tried.model), answers(tried.model)
        with suppress(_InjectedError), Patch() as patch:
            tried.attach(patch)
            patch.hook(module, _fail)
            tried.answers()
            # A model that never calls its module fails here.
            raise _InjectedError
        _require_restored(subject, tried, before, answered, "after an error")


def check_supports_is_light(subject: Subject) -> None:
    """Planning needs no torch: `supports`, `on_load`, `on_generate` and `control` run without."""
    reply = asked(subject, "plan")
    for reason in reply.value:
        require(
            reason is None or (isinstance(reason, str) and bool(reason.strip())),
            f"supports() of {subject} must return None or a reason, not {reason!r}",
        )
    require(
        not reply.heavy,
        f"planning with {subject} imports {listed(reply.heavy)}: import them in fit, transform or "
        "attach",
    )


def check_on_load_and_on_generate_are_pure(subject: Subject) -> None:
    """They return a changed copy, always the same one, and leave their argument alone."""
    one, other = subject.make(), subject.make()
    for name, argument in (("on_load", _LOAD), ("on_generate", _GENERATION)):
        given = copy.deepcopy(argument)
        results = [getattr(item, name)(given) for item in (one, one, other)]
        require(given == argument, f"{name}() of {subject} changes its argument: return a copy")
        require(
            all(type(result) is type(argument) for result in results),
            f"{name}() of {subject} must return a {type(argument).__name__}",
        )
        require(
            results[0] == results[1] == results[2],
            f"{name}() of {subject} returns something else each time",
        )
        try:
            json.dumps(asdict(results[0]), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CheckError(f"{name}() of {subject} returns what is not JSON: {error}") from error


def check_slots_declared(subject: Subject) -> None:
    """`occupies` names, from `Slot`, every part that is seen to change."""
    cls: Any = subject.component_cls
    occupies: Any = getattr(cls, "occupies", None)
    require(
        isinstance(occupies, frozenset) and all(isinstance(slot, Slot) for slot in occupies),
        f"{cls.__qualname__}.occupies must be a frozenset of Slot, not {occupies!r}",
    )
    unknown = sorted(set(cls.alters) - {field.name for field in fields(LoadRequest)})
    require(not unknown, f"{cls.__qualname__}.alters names no fields of LoadRequest: {unknown}")
    require(
        isinstance(cls.fidelity, Fidelity) and isinstance(cls.expects_identical, bool),
        f"{cls.__qualname__}.fidelity must be a Fidelity, and expects_identical a bool",
    )
    plan = loading(subject)
    baseline = subject.bench.baseline(plan.matched)
    with subject.bench.opened(plan.matched) as model:
        weights = state(model)[1]
    with trial(subject) as tried, Patch() as patch:
        changed = {Slot.WEIGHTS: state(tried.model)[1] != weights}
        tried.attach(patch)
        answered = tried.answers()
    changed[Slot.ATTENTION] = plan.request.attention != plan.matched.attention
    changed[Slot.VISUAL_TOKENS] = [p.visual_tokens for p in answered] != [
        p.visual_tokens for p in baseline
    ]
    seen = {slot for slot, yes in changed.items() if yes}
    hidden = sorted(seen - occupies)
    require(
        not hidden,
        f"{cls.__qualname__} changes {listed(hidden)} without saying so in `occupies`",
    )


def check_is_active(subject: Subject) -> None:
    """`report` says that it engaged; then some log-probability differs, unless it is lossless."""
    plan = loading(subject)
    baseline = subject.bench.baseline(plan.matched)
    answered, report = _accelerated(subject)
    engaged = report.get("engaged")
    require(
        engaged is not False,
        f"{subject} reports that it did nothing: {dict(report)}",
    )
    if engaged is not True:
        raise NotApplicableError(f"it was not exercised: {engaged}")
    if plan.accelerator.expects_identical:
        return
    require(
        [(p.token_ids, p.logprobs) for p in answered]
        != [(p.token_ids, p.logprobs) for p in baseline],
        f"{subject} reports that it engaged, but every log-probability is that of the baseline",
    )


def check_identical_if_expected(subject: Subject) -> None:
    """Where it says that answers stay identical, they do."""
    if not subject.component_cls.expects_identical:  # type: ignore[attr-defined]
        raise NotApplicableError("it does not claim identical answers")
    plan = loading(subject)
    baseline = subject.bench.baseline(plan.matched)
    answered, _ = _accelerated(subject)
    for number, (a, b) in enumerate(zip(answered, baseline, strict=True)):
        require(
            a.token_ids == b.token_ids,
            f"{subject} claims identical answers, but answers prompt {number} with {a.text!r}, "
            f"the baseline with {b.text!r}",
        )


def check_keep_all_identity(subject: Subject) -> None:
    """With `keep_ratio` 1 nothing changes, not even the last bit."""
    if "keep_ratio" not in subject.component_cls.config_cls.model_fields:
        raise NotApplicableError("its config has no keep_ratio")
    baseline = subject.bench.baseline(loading(subject, keep_ratio=1.0).matched)
    answered, _ = _accelerated(subject, keep_ratio=1.0)
    found = difference(answered, baseline, ("with keep_ratio 1", "without the accelerator"))
    require(not found, f"{subject}: {found}")


def check_deterministic(subject: Subject) -> None:
    """Asked again, attached again and loaded again, it answers the same to the last bit."""
    with trial(subject) as tried:
        with Patch() as patch:
            tried.attach(patch)
            first, second = tried.answers(), tried.answers()
        with Patch() as patch:
            tried.attach(patch)
            third = tried.answers()
    answered, _ = _accelerated(subject, fresh=True)
    for again, when in (
        (second, "asked again"),
        (third, "attached again"),
        (answered, "loaded again"),
    ):
        found = difference(first, again, ("first", f"when {when}"))
        require(not found, f"{subject}: {found}")


def check_batch_equals_single(subject: Subject) -> None:
    """In float32, prompts in a padded batch are answered as they are one by one."""
    with trial(subject) as tried, Patch() as patch:
        if tried.model.request.dtype != "float32":
            raise NotApplicableError(
                f"it runs in {tried.model.request.dtype}, which rounds too much"
            )
        tried.attach(patch)
        together = tried.answers()
        alone = [answer for prompt in prompts() for answer in tried.answers([prompt])]
    quantized = {Slot.WEIGHTS, Slot.KV_CACHE} & set(tried.accelerator.occupies)
    tolerance = _TOLERANCE_QUANTIZED if quantized else _TOLERANCE
    require_same_in_batches(subject, together, alone, tolerance)


def check_keeps_what_it_says(subject: Subject) -> None:
    """Each decoder layer sees as many visual tokens as the predictions tell, counted on the way."""
    _require_drops(subject)
    with trial(subject) as tried, Patch() as patch:
        anatomy = tried.model.anatomy
        if anatomy is None:
            raise NotApplicableError("the model that it is tried on states no anatomy")
        tried.attach(patch)
        lengths: dict[int, int] = {}

        def measure(number: int) -> Any:
            def hook(module: Any, args: Any, kwargs: Any) -> None:
                hidden = args[0] if args else kwargs["hidden_states"]
                # Prefill comes first; a step of decoding adds one token to each layer.
                lengths.setdefault(number, hidden.shape[1])

            return hook

        for number, layer in enumerate(anatomy.layers):
            patch.pre_hook(layer, measure(number))
        for number, prompt in enumerate(prompts()):
            lengths.clear()
            (answer,) = tried.answers([prompt])
            ids = tried.model.encode([prompt]).inputs["input_ids"]
            text = int((ids != anatomy.image_token_id).sum())
            seen = tuple(lengths[layer] - text for layer in sorted(lengths))
            require(
                answer.visual_tokens == seen,
                f"{subject}: the prediction for prompt {number} tells {answer.visual_tokens} "
                f"visual tokens by layer, but the layers saw {seen}",
            )
            depths = answer.token_depths
            require(
                not depths or seen_by_layer(depths, len(seen)) == seen,
                f"{subject}: the depths of the visual tokens of prompt {number} do not add up to "
                f"{seen}: {list(depths)}",
            )


def check_equals_masked(subject: Subject) -> None:
    """Dropping is as good as hiding: a model that computes every token answers the same."""
    _require_drops(subject)
    from stabfw.testing.reductions import Hidden, attach_recording

    with trial(subject) as tried:
        with Patch() as patch:
            recorder = attach_recording(tried, patch)
            dropped = tried.answers()
        with Patch() as patch:
            Hidden(tried.model, recorder, recorder.prefills[0], patch)
            hidden = tried.answers()
    words = ("with dropped tokens", "with the same ones hidden")
    require_same(subject, dropped, hidden, _TOLERANCE, words)


def check_cached_equals_uncached(subject: Subject) -> None:
    """Decoding with the cache gives what is computed anew at every step, if the choice stays."""
    _require_drops(subject)
    from stabfw.testing.reductions import attach_recording, decided

    with trial(subject) as tried, Patch() as patch:
        recorder = attach_recording(tried, patch)
        cached = tried.answers()
        recorder.prefills.clear()
        uncached = tried.answers(options=replace(OPTIONS, extra={"use_cache": False}))
        first, *later = recorder.prefills
    if any(decided(step) != decided(first) for step in later):
        raise NotApplicableError("computed anew, it goes by each token of the answer")
    require_same(subject, cached, uncached, _TOLERANCE, ("with the cache", "without it"))


def check_composes_with_quantization(subject: Subject) -> None:
    """On quantized weights it engages, changes something, and comes off again."""
    _require_drops(subject)
    if Slot.WEIGHTS in subject.component_cls.occupies:  # type: ignore[attr-defined]
        raise NotApplicableError("it changes the weights itself")
    quantizer = _quantizer(subject)
    bench, plan = subject.bench, loading(subject)
    accelerator = plan.accelerator
    artefact = bench.artefact(accelerator, plan.request, False) if accelerator.needs_fit else None
    with bench.opened(quantizer.on_load(plan.request), quantizer, fresh=True) as model:
        tried = Trial(accelerator, model, artefact)
        before, answered = state(model), answers(model)
        with Patch() as patch:
            tried.attach(patch)
            reduced = tried.answers()
            engaged = accelerator.report(model)["engaged"]
        _require_restored(subject, tried, before, answered, "on quantized weights")
        require(
            engaged is not False,
            f"{subject} reports that it did nothing on quantized weights",
        )
        require(
            engaged is not True or [bits(p) for p in reduced] != [bits(p) for p in answered],
            f"{subject} reports that it engaged on quantized weights, but changes nothing",
        )


def check_control_is_valid(subject: Subject) -> None:
    """`control` names an installed accelerator that spends the same budget on the same slots."""
    accelerator: Accelerator[Any] = subject.make()
    control = accelerator.control()
    if control is None:
        raise NotApplicableError("it names no control")
    name, config = control
    try:
        cls: Any = subject.registry.load(Kind.ACCELERATOR, name)
        # As the planner does it, so that a field too many is noticed.
        made: Any = cls(cls.config_cls(**config))
        component(cls, name, config)
    except (PluginError, ValueError, TypeError) as error:
        raise CheckError(f"control() of {subject} is no accelerator: {error}") from error
    require(
        made.occupies == accelerator.occupies,
        f"control() of {subject} changes {listed(sorted(made.occupies))}, not "
        f"{listed(sorted(accelerator.occupies))}",
    )
    if Slot.VISUAL_TOKENS not in made.occupies:
        return
    with trial(subject) as tried:
        counts = []
        for one in (tried.accelerator, made):
            with Patch() as patch:
                one.attach(tried.model, tried.artefact, patch)
                counts.append([answer.visual_tokens for answer in tried.answers()])
    require(
        counts[0] == counts[1],
        f"control() of {subject} does not spend its budget: visual tokens by layer are "
        f"{counts[1][0]} where {subject} leaves {counts[0][0]}",
    )


def check_reports_json(subject: Subject) -> None:
    """`report` is plain JSON with `engaged`: True, False or a reason."""
    _, report = _accelerated(subject)
    try:
        json.dumps(dict(report), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckError(f"report() of {subject} is not JSON: {error}") from error
    engaged = report.get("engaged")
    require(
        isinstance(engaged, bool) or (isinstance(engaged, str) and bool(engaged)),
        f"report() of {subject} must say `engaged`: True, False or a reason, not {engaged!r}",
    )


class _InjectedError(Exception):
    pass


def _fail(*_: Any) -> None:
    raise _InjectedError


def _accelerated(subject: Subject, fresh: bool = False, **changes: Any) -> Any:
    with trial(subject, fresh, **changes) as tried, Patch() as patch:
        tried.attach(patch)
        answered = tried.answers()
        return answered, tried.accelerator.report(tried.model)


def _require_drops(subject: Subject) -> None:
    if Slot.VISUAL_TOKENS not in subject.component_cls.occupies:  # type: ignore[attr-defined]
        raise NotApplicableError("it drops no visual tokens")


def _quantizer(subject: Subject) -> Accelerator[Any]:
    """A quantizer that is installed and can quantize the bench's model."""
    for name in _QUANTIZERS:
        with suppress(PluginError):
            cls: Any = subject.registry.load(Kind.ACCELERATOR, name)
            quantizer: Accelerator[Any] = cls(cls.config_cls())
            if quantizer.supports(subject.bench.info(), subject.bench.request()) is None:
                return quantizer
    raise NotApplicableError(f"none of {listed(_QUANTIZERS)} is at hand to quantize the model")


def _require_attaches(subject: Subject) -> None:
    cls: Any = subject.component_cls
    if cls.attach is Accelerator.attach:
        raise NotApplicableError("it does not override attach()")


def _require_module(tried: Trial) -> Any:
    if tried.model.module is None:
        raise NotApplicableError("the model that it is tried on has no module")
    return tried.model.module


def _require_restored(
    subject: Subject, tried: Trial, before: Any, answered: Any, when: str
) -> None:
    structure, weights = state(tried.model)
    left = sorted(
        key
        for key in structure.keys() | before[0].keys()
        if structure.get(key) != before[0].get(key)
    )
    remedy = "make every edit in attach() through `patch`"
    require(not left, f"{subject} leaves changes {when} ({listed(left[:3])}): {remedy}")
    require(weights == before[1], f"{subject} leaves changed weights {when}: {remedy}")
    found = difference(answered, answers(tried.model), ("before", when))
    require(not found, f"{subject} leaves something behind: {found}; {remedy}")


CHECKS = (
    check_attach_reversible,
    check_detaches_after_exception,
    check_supports_is_light,
    check_on_load_and_on_generate_are_pure,
    check_slots_declared,
    check_is_active,
    check_identical_if_expected,
    check_keep_all_identity,
    check_deterministic,
    check_batch_equals_single,
    check_keeps_what_it_says,
    check_equals_masked,
    check_cached_equals_uncached,
    check_composes_with_quantization,
    check_control_is_valid,
    check_reports_json,
)
