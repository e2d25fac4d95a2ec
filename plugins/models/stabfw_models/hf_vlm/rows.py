"""Split a batch into its rows, for what can only be done with one prompt at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from stabfw.components import Encoded
from stabfw.components.anatomy import Anatomy
from stabfw.errors import UnsupportedError


def split_rows(encoded: Encoded, anatomy: Anatomy | None) -> list[Encoded]:
    """Make a batch of each row, without padding, as if its prompt had been encoded alone.

    Args:
        encoded: The batch, padded on the left.
        anatomy: Tells which picture each visual token is from.

    Raises:
        UnsupportedError: If the model does not tell, or has inputs of an unknown shape.
    """
    inputs = encoded.inputs
    ids, count = inputs["input_ids"], len(encoded.instance_ids)
    valid = inputs["attention_mask"].bool()
    split: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    pictures = _pictures(inputs, anatomy)
    for name, tensor in inputs.items():
        if tensor.shape[:2] == ids.shape:
            parts = [tensor[row, None, valid[row]] for row in range(count)]
        else:
            parts = list(torch.split(tensor, _lengths(name, inputs, pictures)))
        for row, part in enumerate(parts):
            # A prompt without a picture is encoded without these inputs.
            if len(part):
                split[row][name] = part
    return [
        Encoded((name,), split[row], encoded.options[row : row + 1])
        for row, name in enumerate(encoded.instance_ids)
    ]


def _pictures(inputs: Mapping[str, Any], anatomy: Anatomy | None) -> list[int]:
    """How many pictures each row has."""
    if anatomy is None or anatomy.vision is None:
        raise UnsupportedError(
            "this model does not tell which pictures of a batch belong to which prompt, so its "
            "prompts cannot be answered one at a time; set `batch_size: 1`"
        )
    visual = (inputs["input_ids"] == anatomy.image_token_id).sum(1).tolist()
    if not any(visual):
        return [0] * len(visual)
    owners = torch.split(anatomy.vision.places(inputs)[:, 0], visual)
    return [len(set(owner.tolist())) for owner in owners]


def _lengths(name: str, inputs: Mapping[str, Any], pictures: list[int]) -> list[int]:
    """How much of an input's first dimension belongs to each row."""
    tensor, grid = inputs[name], inputs.get("image_grid_thw")
    if name == "pixel_values" and grid is not None:
        # Patches of pictures of any size, one after another.
        return [int(part.prod(1).sum()) for part in torch.split(grid, pictures)]
    if len(tensor) != sum(pictures):
        raise UnsupportedError(
            f"the input {name}, of shape {tuple(tensor.shape)}, cannot be split into the pictures "
            f"of each prompt, {pictures}; set `batch_size: 1`"
        )
    return pictures
