"""Edits are undone in reverse order, also after an error, and a fingerprint shows what is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stabfw.components.patch import Patch, fingerprint, weights_digest
from torch import nn


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)))


def edit_all(patch: Patch, model: Any) -> None:
    patch.hook(model[0], lambda _m, _a, _k, output: output + 1)
    patch.pre_hook(model[0], lambda _m, args, kwargs: ((args[0] * 2,), kwargs))
    patch.wrap(model[1], "forward", lambda original, x: original(x) * 3)
    patch.swap(model, "1.1", nn.Linear(3, 2))
    patch.set(model[0], "note", print)


def test_every_edit_acts_and_is_undone(model: Any) -> None:
    data = torch.ones(2, 4)
    before, structure = model(data), fingerprint(model)
    with Patch() as patch:
        edit_all(patch, model)
        assert not torch.equal(model(data), before)
        assert fingerprint(model) != structure
    assert torch.equal(model(data), before)
    assert fingerprint(model) == structure


def test_edits_are_undone_after_an_error(model: Any) -> None:
    structure = fingerprint(model)

    def edit_and_fail() -> None:
        with Patch() as patch:
            edit_all(patch, model)
            raise KeyError

    with pytest.raises(KeyError):
        edit_and_fail()
    assert fingerprint(model) == structure


def test_last_edit_is_undone_first(model: Any) -> None:
    with Patch() as patch:
        patch.set(model, "value", 1)
        patch.set(model, "value", 2)
        assert model.value == 2
    assert "value" not in vars(model)


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda m: m[0].register_forward_hook(print), "module 0"),
        (lambda m: setattr(m[1], "forward", print), "module 1"),
        (lambda m: setattr(m[1], "0", nn.GELU()), "module 1.0"),
        (lambda m: m.half(), "parameters 0.weight"),
        (lambda m: m.register_buffer("extra", torch.zeros(1)), "buffers extra"),
    ],
)
def test_fingerprint_names_the_part_that_was_edited(model: Any, edit: Any, part: str) -> None:
    before = fingerprint(model)
    edit(model)
    after = fingerprint(model)
    assert part in {key for key in before | after if before.get(key) != after.get(key)}


def test_weights_digest_sees_one_changed_value(model: Any) -> None:
    before = weights_digest(model)
    assert weights_digest(model) == before
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6
    assert weights_digest(model) != before
