"""How prompts are answered: by generating, by choosing, or with the answers of another cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stabfw.components import Encoded, FinishReason, LoadedModel, Prediction, Prompt
from stabfw.components.likelihood import among, either
from stabfw.components.model import OptionTokens
from stabfw.errors import DataError, RunError
from stabfw.plan import Cell

#: The answers of another cell and the hashes of what they answer, by instance id.
Given = Mapping[str, tuple[str, Prediction]]


def answer(
    model: LoadedModel, cell: Cell, prompts: Sequence[Prompt], given: Given
) -> list[Prediction]:
    """Answer a batch in the way that its cell asks for.

    Args:
        model: The model, with the cell's stack attached.
        cell: Says how.
        prompts: The batch.
        given: What the cell's parent answered; empty if it has none.

    Returns:
        One prediction a prompt.

    Raises:
        DataError: If one has to choose and there is nothing to choose from.
        RunError: If the tokens of a given answer are another text to this model.
        UnsupportedError: If the model cannot score answers.
    """
    encoded = model.encode(prompts)
    if cell.parent:
        return _scored(model, cell, encoded, given)
    if cell.mode == "likelihood":
        return _chosen(model, cell, encoded)
    return model.generate(encoded, cell.options)


def require_answer(prompt: Prompt, given: Given) -> None:
    """Make sure that another cell has an answer to this very prompt.

    Raises:
        DataError: If there is no answer.
        RunError: If it is the answer to another prompt.
    """
    input_hash, known = given.get(prompt.instance_id, ("", Prediction("")))
    if known.finish is FinishReason.ERROR or not known.token_ids:
        raise DataError(f"the baseline has no answer to be scored: {known.error or 'no tokens'}")
    if input_hash != prompt.digest:
        raise RunError(
            f"instance {prompt.instance_id}: the baseline was asked something else, so its answer "
            "cannot be scored"
        )


def _scored(model: LoadedModel, cell: Cell, encoded: Encoded, given: Given) -> list[Prediction]:
    answers = [given[instance_id][1] for instance_id in encoded.instance_ids]
    told = model.score(encoded, [[one.token_ids] for one in answers], cell.options)
    for one, (again,) in zip(answers, told, strict=True):
        if again.text != one.text:
            raise RunError(
                f"the baseline's answer {one.text!r} reads {again.text!r} here, so its tokens "
                "cannot be scored: the two models have different tokenizers"
            )
    return [replace(again, finish=one.finish) for one, (again,) in zip(answers, told, strict=True)]


def _chosen(model: LoadedModel, cell: Cell, encoded: Encoded) -> list[Prediction]:
    rows = encoded.options or ({},) * len(encoded.instance_ids)
    for instance_id, options in zip(encoded.instance_ids, rows, strict=True):
        if not options:
            raise DataError(
                f"instance {instance_id}: there are no options that this model could choose from; "
                "use `generation: {mode: generate}`"
            )
    answers = [[way for ways in row.values() for way in ways] for row in rows]
    scored = model.score(encoded, answers, cell.options)
    return [_likeliest(row, told) for row, told in zip(rows, scored, strict=True)]


def _likeliest(options: OptionTokens, scored: Sequence[Prediction]) -> Prediction:
    """Choose the option with the highest sum over the ways to write it; the first one of equals."""
    left = iter(scored)
    told = {option: [next(left) for _ in ways] for option, ways in options.items()}
    raw = {option: either(sum(p.logprobs) for p in ways) for option, ways in told.items()}
    shares, mass = among(raw)
    best = max(told[max(raw, key=lambda option: raw[option])], key=lambda p: sum(p.logprobs))
    return replace(best, finish=FinishReason.STOP, options=shares, options_logprob=mass)
