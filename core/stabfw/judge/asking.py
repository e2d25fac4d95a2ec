"""Putting questions to the judge, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stabfw.components import FinishReason, Prompt
from stabfw.errors import RunError
from stabfw.judge.cases import Case
from stabfw.plan import Judge
from stabfw.store import Store


def ask(
    judge: Judge, cases: Iterable[Case], store: Store, progress: Callable[[int, int], None]
) -> int:
    """Ask what is not in the store; whole batches are kept, so an interrupted judge goes on there.

    Everything is asked once before anything is asked again.

    Args:
        judge: Who is asked.
        cases: About what.
        store: Where replies are kept.
        progress: Told how many replies there are, and how many there are to be.

    Returns:
        How many replies were made now.

    Raises:
        StabfwError: If the judge cannot be loaded or reached, or fails.
    """
    questions = list(dict.fromkeys(question for case in cases for question in case.questions))
    wanted = {
        judge.key(question, attempt): question
        for attempt in range(1 + judge.repeats)
        for question in questions
    }
    left = [key for key in wanted if store.verdict(key) is None]
    if not left:
        return 0
    done = len(wanted) - len(left)
    progress(done, len(wanted))
    with judge.model.open(judge.request) as model:
        for start in range(0, len(left), judge.batch_size):
            keys = left[start : start + judge.batch_size]
            prompts = [Prompt(key, (), wanted[key]) for key in keys]
            predictions = model.generate(model.encode(prompts), judge.options)
            for prediction in predictions:
                if prediction.finish is FinishReason.ERROR:
                    raise RunError(f"{judge.name} fails: {prediction.error}")
            store.put_verdicts(
                (key, wanted[key], prediction.text)
                for key, prediction in zip(keys, predictions, strict=True)
            )
            progress(done + start + len(keys), len(wanted))
    return len(left)
