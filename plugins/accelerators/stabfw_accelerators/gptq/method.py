"""Rounding by the inverse Hessian, and layers made of what was rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer
from stabfw.components import FitData, LoadedModel

from stabfw_accelerators.calibration import observe
from stabfw_accelerators.hqq.method import settle


@dataclass(frozen=True)
class Rounded:
    """A weight [out, in] as integers.

    Attributes:
        codes: The integers, of shape (out, in).
        scale: What a step is worth in each group, of shape (out, groups).
        zero: The integer that stands for 0, of the same shape.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    def restored(self) -> torch.Tensor:
        """The weight that is computed with, in float32."""
        groups = self.codes.reshape(*self.scale.shape, -1)
        return ((groups - self.zero[..., None]) * self.scale[..., None]).reshape(self.codes.shape)


@torch.no_grad()
def solve(
    weight: torch.Tensor, hessian: torch.Tensor, bits: int, group_size: int, damping: float
) -> Rounded:
    """Round a weight, column after column (the paper's algorithm 1).

    As in the authors' code, the range of a group reaches from its extremes to 0, and weights whose
    input is always 0 become 0. Scales are those of the most current weights, as the paper has it;
    that code takes them from the weights at the start of a block of 128 columns, which is the same
    for groups of 128 or more.

    Args:
        weight: The weight [out, in].
        hessian: Sum over tokens of the outer product of the layer's input [in, in], in float32.
        bits: Bits per weight.
        group_size: Columns of a row that share scale and zero point.
        damping: Added to the Hessian's diagonal, as a share of its mean.

    Returns:
        The integers, scales and zero points.
    """
    left, most = weight.detach().float().clone(), 2**bits - 1
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    silent = diagonal == 0
    diagonal[silent] = 1.0
    left[:, silent] = 0.0
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    spread = torch.linalg.cholesky(inverse, upper=True)

    codes, scales, zeros = torch.zeros_like(left), [], []
    for begin in range(0, left.shape[1], group_size):
        end = begin + group_size
        group = left[:, begin:end]
        low, high = group.amin(dim=1).clamp(max=0), group.amax(dim=1).clamp(min=0)
        # As they are stored, so that columns make up for their rounding as well.
        scale = ((high - low) / most).clamp(min=1e-6).to(weight.dtype).float()
        zero = (-low / scale).round().clamp(0, most)
        lost = torch.zeros_like(group)
        for column in range(begin, end):
            now = left[:, column]
            codes[:, column] = ((now / scale).round() + zero).clamp(0, most)
            rounded = (codes[:, column] - zero) * scale
            error = (now - rounded) / spread[column, column]
            left[:, column:end] -= error[:, None] * spread[column, column:end]
            lost[:, column - begin] = error
        left[:, end:] -= lost @ spread[begin:end, end:]
        scales.append(scale)
        zeros.append(zero)
    return Rounded(codes, torch.stack(scales, 1), torch.stack(zeros, 1))


def quantize_in_turn(
    model: LoadedModel,
    linears: Mapping[str, torch.nn.Linear],
    data: FitData,
    bits: int,
    group_size: int,
    damping: float,
) -> dict[str, torch.Tensor]:
    """Round the layers in the order of the model, each on what the rounded ones before put out.

    Takes as many passes over the data as there are decoder layers, and memory for the Hessians of
    one of them.

    Args:
        model: The model; its weights are replaced by the rounded ones.
        linears: The layers by dotted name.
        data: What is asked.
        bits: Bits per weight.
        group_size: Weights of a row that share scale and zero point.
        damping: Added to the Hessian's diagonal, as a share of its mean.

    Returns:
        For each layer the packed integers, scales and zero points: what `put_in_place` takes.
    """
    found: dict[str, torch.Tensor] = {}
    turns = in_turn(model, linears)
    for turn, names in enumerate(turns):
        hessians: dict[str, torch.Tensor] = {}

        def see(name: str, inputs: torch.Tensor, sums: Any = hessians) -> None:
            inputs = inputs.float()
            sums[name] = sums.get(name, 0) + inputs.T @ inputs

        observe(
            model,
            {name: linears[name] for name in names},
            replace(data, progress=_shifted(data, turn, len(turns))),
            see,
        )
        for name in names:
            weight = linears[name].weight
            rounded = solve(weight, hessians.pop(name), bits, group_size, damping)
            # A new parameter: an output projection may share its weight with the embedding.
            restored = rounded.restored().to(weight.dtype)
            linears[name].weight = torch.nn.Parameter(restored, requires_grad=False)
            groups = rounded.codes.reshape(-1, group_size)
            found[f"{name}.codes"] = Quantizer.pack[Quantizer.bit_to_packing[bits]](groups).cpu()
            found[f"{name}.scale"] = rounded.scale.cpu()
            found[f"{name}.zero"] = rounded.zero.cpu()
    return found


def _shifted(data: FitData, turn: int, turns: int) -> Callable[..., None]:
    """Progress of one of several passes."""

    def progress(done: int, total: int, values: Mapping[str, float]) -> None:
        data.progress(turn * total + done, turns * total, values)

    return progress


def in_turn(model: LoadedModel, linears: Mapping[str, torch.nn.Linear]) -> list[list[str]]:
    """What is before the decoder, then its layers, then the output projection."""
    assert model.anatomy is not None, "chosen_linears refuses models without an anatomy"
    place = {
        id(module): number
        for number, layer in enumerate(model.anatomy.layers)
        for module in layer.modules()
    }
    last = len(model.anatomy.layers)
    turns: dict[int, list[str]] = {}
    for name, linear in linears.items():
        turn = place.get(id(linear), last if name == model.anatomy.head else -1)
        turns.setdefault(turn, []).append(name)
    return [turns[turn] for turn in sorted(turns)]


def put_in_place(
    root: torch.nn.Module,
    linears: Mapping[str, torch.nn.Linear],
    found: Mapping[str, torch.Tensor],
    bits: int,
    group_size: int,
) -> None:
    """Put layers of the package hqq in the place of linear ones.

    Args:
        root: The module that holds them.
        linears: The layers by dotted name.
        found: What `quantize_in_turn` returned.
        bits: Bits per weight.
        group_size: Weights of a row that share scale and zero point.
    """
    config = BaseQuantizeConfig(nbits=bits, group_size=group_size, axis=1)
    packing = Quantizer.bit_to_packing[bits]
    for name, linear in linears.items():
        device, dtype = linear.weight.device, linear.weight.dtype
        layer = HQQLinear(None, config, compute_dtype=dtype, device=str(device), initialize=False)
        codes = found[f"{name}.codes"].to(device)
        layer.W_q = torch.nn.Parameter(codes, requires_grad=False)
        layer.bias = linear.bias
        layer.in_features, layer.out_features = linear.in_features, linear.out_features
        layer.axis, layer.channel_wise, layer.ready = 1, True, True
        layer.meta = {
            "nbits": bits,
            "group_size": group_size,
            "shape": linear.weight.shape,
            "scale": found[f"{name}.scale"].reshape(-1, 1).to(device, dtype),
            "zero": found[f"{name}.zero"].reshape(-1, 1).to(device, dtype),
            "axis": 1,
            "packing": packing,
            "unpack_view_dtype": Quantizer.unpack_view_dtype[packing],
            "view_as_float": False,
            "quant_scale": False,
            "quant_zero": False,
            "compute_dtype": dtype,
        }
        settle(root, name, layer)
