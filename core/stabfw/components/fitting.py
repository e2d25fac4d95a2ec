"""What an accelerator is fitted to, and where it tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stabfw.components.data import Prompt


@dataclass(frozen=True)
class Example:
    """One instance of the data.

    Attributes:
        prompt: What the model is asked.
        answer: The gold answer as the model should write it; empty where there is none.
    """

    prompt: Prompt
    answer: str = ""

    @classmethod
    def of(cls, prompt: Prompt, references: tuple[str, ...]) -> Example:
        """Write the first reference as an answer to a prompt.

        An option is written as the reference has it, or else by its first text.
        """
        first = next(iter(references), "")
        texts = {option.id: option.texts for option in prompt.options}.get(first, (first,))
        return cls(prompt, first if first in texts else texts[0])


def _nowhere(*_: object) -> None:
    return None


@dataclass(frozen=True)
class FitData:
    """What `Accelerator.fit` is given besides the model.

    Attributes:
        examples: The calibration or training data that the spec names.
        kept: What an interrupted fit of the same recipe last gave to `keep`, or None.
        keep: Keeps a state from which an interrupted fit can go on.
        progress: Tells that so many steps of a total are done, with values worth a curve.
    """

    examples: tuple[Example, ...]
    kept: bytes | None = None
    keep: Callable[[bytes], None] = _nowhere
    progress: Callable[[int, int, Mapping[str, float]], None] = _nowhere

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """What the model is asked, without the answers."""
        return tuple(example.prompt for example in self.examples)
