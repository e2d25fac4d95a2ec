"""What is demanded of perturbations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stabfw.components import Instance, Modality, Perturbation
from stabfw.testing.check import NotApplicableError, require
from stabfw.testing.samples import instances
from stabfw.testing.subject import Subject

if TYPE_CHECKING:
    import numpy as np

#: Names of config fields that say how strong a perturbation is.
STRENGTHS = ("severity", "strength", "rate", "level", "amount")


def check_deterministic_given_rng(subject: Subject) -> None:
    """Equal generators give equal instances, pixel by pixel, each time a picture is decoded."""
    once = _perturbed(subject.make(), instances())
    first = _contents(once)
    require(
        _contents(once) == first,
        f"{subject}: a picture has other pixels when it is decoded again; draw random numbers in "
        "perturb(), not when a picture is loaded",
    )
    require(
        _contents(_perturbed(subject.make(), instances())) == first,
        f"{subject}: equal generators gave different instances; `rng` must be the only source of "
        "randomness",
    )


def check_original_not_mutated(subject: Subject) -> None:
    """The instance that is given stays as it was."""
    originals = instances()
    before = [(_content(item), dict(item.slices)) for item in originals]
    _contents(_perturbed(subject.make(), originals))
    after = [(_content(item), dict(item.slices)) for item in originals]
    require(
        after == before, f"{subject} changes the instance that it is given: work on a copy of it"
    )


def check_other_modality_untouched(subject: Subject) -> None:
    """An image perturbation leaves the text alone, and a text perturbation the images."""
    perturbation = subject.make()
    other = _text if perturbation.modality is Modality.IMAGE else _pictures
    for before, after in zip(instances(), _perturbed(perturbation, instances()), strict=True):
        require(
            other(after) == other(before),
            f"{subject} says that it changes the {perturbation.modality}, but changes "
            f"{'the text' if other is _text else 'the pictures'} too",
        )


def check_keeps_identity_fields(subject: Subject) -> None:
    """Id, kind, references, ids of options, cluster, group and slices stay."""
    for before, after in zip(instances(), _perturbed(subject.make(), instances()), strict=True):
        for field in ("id", "kind", "references", "cluster_id", "group_id", "slices"):
            old, new = getattr(before, field), getattr(after, field)
            require(new == old, f"{subject} changes `{field}` from {old!r} to {new!r}")
        require(
            {choice.id for choice in after.choices} == {choice.id for choice in before.choices},
            f"{subject} changes the ids of options, which answers and references refer to",
        )


def check_pictures_are_pictures(subject: Subject) -> None:
    """Pictures are uint8 RGB, and their digest changes if and only if their pixels do."""
    import numpy as np

    for before, after in zip(instances(), _perturbed(subject.make(), instances()), strict=True):
        for old, new in zip(before.images, after.images, strict=False):
            pixels = new.pixels
            require(
                pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3,
                f"{subject} makes a picture of {pixels.dtype} and shape {pixels.shape}; pictures "
                "are uint8 of shape (height, width, 3)",
            )
            same = np.array_equal(pixels, old.pixels)
            require(
                same == (new.digest == old.digest),
                f"{subject} makes a picture whose digest does not follow from its pixels: make it "
                "with Image.from_pixels or instance.with_pixels",
            )


def check_identity_at_zero(subject: Subject) -> None:
    """Strength 0 changes nothing."""
    fields = subject.component_cls.config_cls.model_fields
    field = next((name for name in STRENGTHS if name in fields), None)
    if field is None:
        raise NotApplicableError(f"its config has none of {', '.join(STRENGTHS)}")
    perturbation = subject.make(**{field: 0})
    require(
        _contents(_perturbed(perturbation, instances())) == _contents(instances()),
        f"{subject} changes instances even with {field}=0",
    )


def check_order_independent(subject: Subject) -> None:
    """One instance's result depends neither on the others nor on their order."""
    perturbation = subject.make()
    forwards = _contents(_perturbed(perturbation, instances()))
    backwards = _contents(_perturbed(perturbation, instances()[::-1]))
    require(
        backwards[::-1] == forwards,
        f"{subject} gives other instances in another order: keep no state between calls",
    )


def check_changes_something(subject: Subject) -> None:
    """With the config given, at least one of the sample instances changes."""
    require(
        _contents(_perturbed(subject.make(), instances())) != _contents(instances()),
        f"{subject} changes none of {len(instances())} instances",
    )


def _perturbed(perturbation: Perturbation[Any], items: Iterable[Instance]) -> list[Instance]:
    if not perturbation.takes_from_another:
        return [perturbation.perturb(item, _generator(item)) for item in items]
    return [perturbation.perturb_with(item, _other(item), _generator(item)) for item in items]


def _other(instance: Instance) -> Instance:
    return next(item for item in instances() if item.images and item.id != instance.id)


def _generator(instance: Instance) -> np.random.Generator:
    import numpy as np

    return np.random.default_rng(int(instance.id, 16))


def _contents(items: Iterable[Instance]) -> list[Any]:
    return [_content(item) for item in items]


def _content(item: Instance) -> Any:
    return _text(item), _pictures(item)


def _text(item: Instance) -> Any:
    return item.question, item.choices, item.hint, item.option_style


def _pictures(item: Instance) -> Any:
    decoded = [(image.digest, image.pixels) for image in item.images]
    return [
        (digest, pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest())
        for digest, pixels in decoded
    ]


CHECKS = (
    check_deterministic_given_rng,
    check_original_not_mutated,
    check_other_modality_untouched,
    check_keeps_identity_fields,
    check_pictures_are_pictures,
    check_identity_at_zero,
    check_order_independent,
    check_changes_something,
)
