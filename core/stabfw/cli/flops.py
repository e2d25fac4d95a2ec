"""`stabfw flops`: what a prompt costs a model, without its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, get_args

import click

from stabfw.components import Architecture, Kind, Model
from stabfw.components.costs import BYTES, Convention, Flops, Head, ImageCost, Schedule, prefill
from stabfw.components.reduction import budget
from stabfw.components.schedules import keep, lvpruning
from stabfw.errors import UnsupportedError
from stabfw.registry import Registry

from .config import parsed_config

#: The plugin that reads a checkpoint named by a directory or a hub id.
_CHECKPOINTS = "hf-vlm"


@click.command("flops", short_help="Compute FLOPs and bytes of a model without its weights.")
@click.option(
    "--model",
    "name",
    required=True,
    help="A hub id whose config is known or cached, a directory, or a model plugin.",
)
@click.option(
    "--config",
    metavar="JSON",
    help="Parameters of the model plugin, such as '{\"max_pixels\": 802816}'.",
)
@click.option(
    "--image",
    "sizes",
    multiple=True,
    metavar="WxH",
    help="Width and height of a picture in pixels; repeat it for several.  [default: 336x336]",
)
@click.option(
    "--visual-tokens",
    type=click.IntRange(0),
    metavar="N",
    help="Visual tokens to begin with instead of pictures; the vision part is then left out.",
)
@click.option(
    "--text-tokens",
    default=30,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="All other tokens of the prompt.",
)
@click.option(
    "--keep",
    "kept",
    metavar="LAYER:KEPT,...",
    help="Visual tokens that are left at the input of a layer, counted from 0: a number of tokens "
    "(2:288) or a share of the original ones (2:0.5).",
)
@click.option(
    "--pruning",
    metavar="lvpruning:RATIO",
    help="The schedule of a method and the cost of its own modules, instead of --keep.",
)
@click.option(
    "--convention",
    default=Convention.LINEAR.value,
    show_default=True,
    type=click.Choice([c.value for c in Convention]),
    help="Count linear and convolution layers only, or the matrix products of attention as well.",
)
@click.option(
    "--head",
    default="all",
    show_default=True,
    type=click.Choice(get_args(Head)),
    help="Logits of all tokens that are left, or of the last one, as when answers are generated.",
)
@click.option(
    "--dtype",
    type=click.Choice(list(BYTES)),
    help="Of weights and cache.  [default: the checkpoint's own]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    name: str,
    config: str | None,
    sizes: tuple[str, ...],
    visual_tokens: int | None,
    text_tokens: int,
    kept: str | None,
    pruning: str | None,
    convention: str,
    head: Head,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Compute FLOPs and bytes of one prompt's prefill, in closed form.

    Nothing is loaded or downloaded: the sizes are read from config files. A multiply-accumulate
    is two operations.

    \b
    Examples:
      stabfw flops --model llava-hf/llava-1.5-7b-hf
      stabfw flops --model llava-hf/llava-1.5-7b-hf --pruning lvpruning:0.5
      stabfw flops --model Qwen/Qwen2.5-VL-7B-Instruct --image 1280x720 --keep 2:0.5
      stabfw flops --model qwen2-vl --config '{"source": "Qwen/Qwen2-VL-2B-Instruct",
        "max_pixels": 802816}'
    """
    if sizes and visual_tokens is not None:
        raise click.UsageError("give --image or --visual-tokens, not both")
    if kept and pruning:
        raise click.UsageError("give --keep or --pruning, not both")
    architecture = _architecture(name, config)
    images: list[ImageCost] = []
    if visual_tokens is None:
        images = [architecture.image(*_size(size)) for size in sizes or ("336x336",)]
        visual_tokens = sum(image.visual_tokens for image in images)
    try:
        if pruning:
            schedule = _pruned(pruning, architecture, visual_tokens, text_tokens)
        else:
            schedule = _kept(kept, architecture, visual_tokens)
    except ValueError as error:
        hint = "--pruning" if pruning else "--keep"
        raise click.BadParameter(str(error), param_hint=hint) from None
    cost = _Cost(
        model=name,
        architecture=architecture,
        visual_tokens=visual_tokens,
        text_tokens=text_tokens,
        schedule=schedule,
        flops=prefill(architecture, images, text_tokens, schedule, head),
        convention=Convention(convention),
        head=head,
        dtype=dtype or architecture.dtype,
    )
    if as_json:
        click.echo(json.dumps(cost.as_json(), indent=2))
    else:
        _print(cost)


@dataclass(frozen=True)
class _Cost:
    """What is shown."""

    model: str
    architecture: Architecture
    visual_tokens: int
    text_tokens: int
    schedule: Schedule
    flops: Mapping[str, Flops]
    convention: Convention
    head: Head
    dtype: str

    def counted(self, part: str) -> int:
        return self.flops.get(part, Flops()).counted(self.convention)

    @property
    def total(self) -> int:
        return sum(map(self.counted, self.flops))

    @property
    def parts(self) -> list[str]:
        """In the order of the computation."""
        parts = dict.fromkeys([*self.architecture.parameters, *self.flops])
        del parts["head"]
        return [*parts, "head"]

    @property
    def token_bytes(self) -> int:
        """Of the cache, for one token in one layer."""
        return self.architecture.decoder.cache_bytes(self.dtype)

    @property
    def prompt_bytes(self) -> int:
        """Of the cache, for the prompt."""
        lengths = [visual + self.text_tokens for visual in self.schedule.visual_tokens]
        return sum(lengths) * self.token_bytes

    def as_json(self) -> dict[str, Any]:
        parameters, layers = self.architecture.parameters, self.architecture.decoder.layers
        total = sum(parameters.values())
        return {
            "model": self.model,
            "family": self.architecture.family,
            "dtype": self.dtype,
            "convention": self.convention.value,
            "head": self.head,
            "visual_tokens": self.visual_tokens,
            "text_tokens": self.text_tokens,
            "visual_tokens_by_layer": list(self.schedule.visual_tokens),
            "flops": {
                "total": self.total,
                "parts": {part: self.counted(part) for part in self.flops},
            },
            "parameters": {"total": total, "parts": dict(parameters)},
            "weight_bytes": {dtype: total * size for dtype, size in BYTES.items()},
            "kv_cache_bytes": {
                "token_and_layer": self.token_bytes,
                "token": self.token_bytes * layers,
                "prompt": self.prompt_bytes,
            },
        }


def _architecture(name: str, config: str | None) -> Architecture:
    from pydantic import ValidationError

    registry = Registry()
    values = parsed_config(config)
    plugin = name
    if name not in registry.names(Kind.MODEL):
        plugin, values = _CHECKPOINTS, {"source": name, **values}
    component = registry.load(Kind.MODEL, plugin)
    try:
        model = component(component.config_cls(**values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the config"
        raise click.BadParameter(
            f"{plugin}: {where}: {first['msg']}; `stabfw plugins {plugin}` lists its parameters",
            param_hint="--config",
        ) from error
    assert isinstance(model, Model)
    architecture = model.architecture()
    if architecture is None:
        raise UnsupportedError(
            f"{name}: this model does not state its sizes, so its costs are not known"
        )
    return architecture


def _size(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)):
        raise click.BadParameter(
            f"'{text}' is not a width and a height in pixels, such as 640x480",
            param_hint="--image",
        )
    return int(match[1]), int(match[2])


def _kept(text: str | None, architecture: Architecture, visual_tokens: int) -> Schedule:
    kept: dict[int, int] = {}
    for item in text.split(",") if text else ():
        if not (match := re.fullmatch(r"(\d+):(\d+)(\.\d+)?", item.strip())):
            raise click.BadParameter(
                f"'{item}' is not LAYER:KEPT, such as 2:288 or 2:0.5", param_hint="--keep"
            )
        if int(match[1]) in kept:
            raise click.BadParameter(f"layer {match[1]} is given twice", param_hint="--keep")
        number = match[2] + (match[3] or "")
        count = budget(visual_tokens, float(number)) if match[3] else int(number)
        kept[int(match[1])] = count
    return keep(architecture.decoder.layers, visual_tokens, kept)


def _pruned(
    text: str, architecture: Architecture, visual_tokens: int, text_tokens: int
) -> Schedule:
    if not (match := re.fullmatch(r"lvpruning:(\d+(?:\.\d+)?)", text)):
        raise click.BadParameter(
            f"'{text}' is not lvpruning:RATIO, such as lvpruning:0.5; give any other schedule "
            "with --keep",
            param_hint="--pruning",
        )
    return lvpruning(architecture.decoder, visual_tokens, text_tokens, float(match[1]))


def _print(cost: _Cost) -> None:
    from rich.markup import escape
    from rich.table import Table

    from .tables import terminal

    parameters = cost.architecture.parameters
    size, total = BYTES[cost.dtype], sum(parameters.values())
    unit, scale = ("TFLOPs", 1e12) if cost.total >= 1e11 else ("GFLOPs", 1e9)
    table = Table(
        title=escape(
            f"{cost.model}: {cost.visual_tokens:,} visual and {cost.text_tokens:,} text tokens"
        ),
        title_justify="left",
        header_style="bold",
    )
    table.add_column("part")
    for column in ("parameters", f"weights ({cost.dtype})", unit, "share"):
        table.add_column(column, justify="right")
    for part in cost.parts:
        number = parameters.get(part)
        table.add_row(
            part,
            "" if number is None else f"{number:,}",
            "" if number is None else _bytes(number * size),
            f"{cost.counted(part) / scale:.4f}" if part in cost.flops else "not counted",
            f"{cost.counted(part) / cost.total:.1%}" if part in cost.flops else "",
        )
    table.add_section()
    table.add_row(
        "total", f"{total:,}", _bytes(total * size), f"{cost.total / scale:.4f}", "", style="bold"
    )
    counted = "attention included" if cost.convention is Convention.MATMUL else "linear layers only"
    logits = "all tokens" if cost.head == "all" else "the last token"
    console = terminal()
    console.print(table)
    console.print(f"counted: {counted}, logits of {logits}", highlight=False)
    layers = cost.architecture.decoder.layers
    console.print(f"visual tokens by layer: {_by_layer(cost.schedule)}", highlight=False)
    console.print(
        f"KV cache: {_bytes(cost.token_bytes)} a token and layer, "
        f"{_bytes(cost.token_bytes * layers)} a token, {_bytes(cost.prompt_bytes)} this prompt",
        highlight=False,
    )


def _by_layer(schedule: Schedule) -> str:
    told, first = [], 0
    for count, group in groupby(schedule.visual_tokens):
        last = first + len(list(group)) - 1
        told.append(f"{count:,} ({first}-{last})" if last > first else f"{count:,} ({first})")
        first = last + 1
    return ", ".join(told)


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:,.4g} {unit}"
        number /= 1024
    return f"{number:,.2f} GiB"
