"""Who judges free answers: one fixed model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stabfw.components import Benchmark, GenerationOptions, LoadRequest, Model, ModelInfo
from stabfw.errors import SpecError
from stabfw.store import digest

if TYPE_CHECKING:
    from stabfw.plan.cells import Cell


@dataclass(frozen=True)
class Judge:
    """A model that is asked about answers.

    Attributes:
        name: Its name in results.
        model: The model.
        request: How to load it.
        fields: Everything of it that can change a reply, as JSON-compatible values.
        options: How it replies.
        repeats: How often everything is asked again.
        batch_size: Questions put at a time.
    """

    name: str
    model: Model[Any]
    request: LoadRequest
    fields: Mapping[str, Any]
    options: GenerationOptions
    repeats: int
    batch_size: int

    def key(self, question: str, attempt: int) -> str:
        """Hash what decides a reply: the judge, the whole question, and the how-manieth try it is.

        Args:
            question: What is asked, its answers included.
            attempt: 0, and from 1 on where the same is asked again.
        """
        return digest([self.fields, asdict(self.options), question, attempt])

    def most_replies(self, cells: Iterable[Cell], pairs: Collection[Cell]) -> int:
        """Count the replies that an experiment needs at most; equal texts need fewer.

        Args:
            cells: All that are answered.
            pairs: Those of them that are compared with a baseline, as often as they are.
        """
        scored = sum(
            cell.dataset.size * rubric.orders
            for cell in cells
            if (rubric := cell.dataset.benchmark.judged) is not None and not cell.parent
        )
        compared = sum(2 * cell.dataset.free for cell in pairs)
        return (scored + compared) * (1 + self.repeats)


def fixed(name: str, request: LoadRequest, info: ModelInfo) -> None:
    """Refuse a judge of which nothing says that it is the same one tomorrow.

    Raises:
        SpecError: If neither its files nor a revision are known.
    """
    if not info.weights and not request.revision:
        raise SpecError(
            f"judge: {name} has no revision, so nobody could tell when {request.source} serves "
            "another model under the same name; add what is served to it, for instance\n"
            "    judge: {model: {type: openai-endpoint, url: …, model: gpt-4-0613, "
            'revision: "2023-06-13"}}'
        )


def require_judge(name: str, benchmark: Benchmark[Any]) -> None:
    """Refuse a benchmark whose answers no rule can score.

    Raises:
        SpecError: If only a judge can.
    """
    if benchmark.judged is not None:
        raise SpecError(
            f"benchmark '{name}': its answers are scored by a judge; name one in the spec:\n"
            "    judge: {model: {type: openai-endpoint, url: http://localhost:8000/v1, "
            "model: NAME, revision: REVISION}}"
        )
