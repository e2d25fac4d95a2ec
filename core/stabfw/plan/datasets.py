"""What a benchmark holds: the facts about its instances that planning and measuring need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from stabfw.components import EXTRACTOR_VERSION, AnswerKind, Benchmark, Instance, Outline
from stabfw.components.base import Component
from stabfw.errors import DataError, SpecError
from stabfw.store import Store, digest

_FORMAT = 4
_SIDE = 16


@dataclass(frozen=True)
class Row:
    """One instance without its pixels.

    Attributes:
        id: Identity of the question.
        cluster: Instances with the same value are not independent.
        group: Instances with the same value are scored together; empty where there is none.
        kind: How the answer looks.
        question: The user message as rendered from the clean instance.
        references: Gold answers.
        gold: The same, readable.
        slices: Names under which results are broken down.
        images: Digests of the pictures.
        looks: Perceptual hashes of the pictures that can be read, 256 bits in hexadecimal: those
            of pictures that look alike differ in few bits.
        pixels: Number of pixels of all pictures together; 0 where they cannot be read.
        prompt: Digest of pictures, message and options.
        options: How many answers there are to choose from; 0 where it is free.
    """

    id: str
    cluster: str
    group: str
    kind: str
    question: str
    references: tuple[str, ...]
    gold: str
    slices: Mapping[str, str]
    images: tuple[str, ...]
    looks: tuple[str, ...]
    pixels: int
    prompt: str
    options: int


@dataclass(frozen=True)
class Dataset:
    """A split of a benchmark as planned.

    Attributes:
        name: Name of the benchmark in results.
        type: Name of its plugin.
        benchmark: The component.
        split: The split.
        rows: Its instances, in order; empty where only the outline is known.
        outline: How much it holds, where that is known without the data.
    """

    name: str
    type: str
    benchmark: Benchmark[Any]
    split: str
    rows: tuple[Row, ...]
    outline: Outline | None = None

    @property
    def size(self) -> int:
        """Number of its instances."""
        if self.rows or self.outline is None:
            return len(self.rows)
        return self.outline.instances

    @property
    def free(self) -> int:
        """Number of its instances whose answer is free, which a judge can compare."""
        if not self.rows and self.benchmark.judged is not None:
            return self.size
        return sum(row.kind == AnswerKind.FREE for row in self.rows)

    @property
    def unreadable(self) -> int:
        """Number of its instances whose pictures cannot be read."""
        return sum(1 for row in self.rows if row.images and not row.pixels)

    @cached_property
    def inputs(self) -> str:
        """Hash of everything that is asked; gold labels are not part of it."""
        return digest([[row.id, row.prompt] for row in self.rows])

    @cached_property
    def scorer(self) -> str:
        """Version of how answers are read and scored: rules, config and gold labels."""
        config = self.benchmark.config.model_dump(mode="json", exclude={"name"})
        rules = [EXTRACTOR_VERSION, self.benchmark.scorer_version, config]
        gold = [[row.id, row.references] for row in self.rows]
        return digest([self.type, rules, gold])[:16]


def outline_dataset(name: str, kind: str, benchmark: Benchmark[Any]) -> Dataset | None:
    """Describe a benchmark without its data, or None if nothing is known of it.

    Raises:
        SpecError: If the benchmark has no such split.
    """
    split = _split(name, benchmark)
    outline = benchmark.outline(split)
    return None if outline is None else Dataset(name, kind, benchmark, split, (), outline)


def _split(name: str, benchmark: Benchmark[Any]) -> str:
    split = benchmark.config.split or benchmark.splits[0]
    if split not in benchmark.splits:
        raise SpecError(
            f"benchmark '{name}' has no split '{split}'; it has {', '.join(benchmark.splits)}"
        )
    return split


def open_dataset(store: Store, name: str, kind: str, benchmark: Benchmark[Any]) -> Dataset:
    """Describe the instances of a benchmark, from the store where it is known to hold them.

    Args:
        store: Where descriptions are kept.
        name: Name of the benchmark in results.
        kind: Name of its plugin.
        benchmark: The component.

    Returns:
        The data set.

    Raises:
        DataError: If the data is missing, not as expected, or has an instance twice.
        SpecError: If the benchmark has no such split.
    """
    split = _split(name, benchmark)
    fingerprint = digest(
        [
            _FORMAT,
            kind,
            split,
            benchmark.config.model_dump(mode="json"),
            benchmark.behaviour_version,
            dict(benchmark.fingerprint()),
        ]
    )
    keeps = type(benchmark).fingerprint is not Component.fingerprint
    if keeps and (content := store.dataset(fingerprint)) is not None:
        rows = tuple(_row(item) for item in content)
    else:
        unreadable: list[str] = []
        rows = tuple(_describe(benchmark, i, unreadable) for i in benchmark.instances(split))
        _check(name, rows, unreadable)
        if keeps:
            store.put_dataset(fingerprint, [asdict(row) for row in rows])
    return Dataset(name, kind, benchmark, split, rows, benchmark.outline(split))


def _describe(benchmark: Benchmark[Any], instance: Instance, unreadable: list[str]) -> Row:
    prompt = benchmark.prompt(instance)
    names = {choice.id: choice.text for choice in instance.choices}
    gold = [f"{ref} ({names[ref]})" if ref in names else ref for ref in instance.references]
    return Row(
        id=instance.id,
        cluster=instance.cluster_id,
        group=instance.group_id,
        kind=instance.kind.value,
        question=prompt.text,
        references=instance.references,
        gold=" / ".join(gold),
        slices=dict(instance.slices),
        images=tuple(image.digest for image in instance.images),
        **_seen(instance, unreadable),
        prompt=prompt.digest,
        options=len(prompt.options),
    )


def _seen(instance: Instance, unreadable: list[str]) -> dict[str, Any]:
    """What of a row needs the pixels."""
    from imagehash import dhash
    from PIL import Image

    try:
        pictures = [image.pixels for image in instance.images]
    except DataError as error:
        # The executor records the unreadable image as an error of this instance.
        unreadable.append(str(error))
        return {"looks": (), "pixels": 0}
    looks = tuple(str(dhash(Image.fromarray(picture), _SIDE)) for picture in pictures)
    return {"looks": looks, "pixels": sum(p.shape[0] * p.shape[1] for p in pictures)}


def _row(item: dict[str, Any]) -> Row:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in item.items()}
    return Row(**values)


def _check(name: str, rows: tuple[Row, ...], unreadable: list[str]) -> None:
    if not rows:
        raise DataError(f"benchmark '{name}' has no instances")
    if len(unreadable) == len(rows):
        raise DataError(
            f"benchmark '{name}': no picture can be read; the first one: {unreadable[0]}"
        )
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise DataError(
                f"benchmark '{name}' has the instance {row.id} twice ({row.question[:60]!r}); "
                "give `Instance.create` a native_id that tells them apart"
            )
        seen.add(row.id)
