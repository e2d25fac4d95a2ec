"""What a plugin does in a fresh interpreter, where nothing heavy has been imported yet."""

from __future__ import annotations

import importlib
import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from stabfw.components import GenerationOptions, LoadRequest, ModelInfo
from stabfw.testing.check import CheckError
from stabfw.testing.subject import Subject, component

#: Packages that take seconds to import, so nothing that only plans may import them.
HEAVY = ("datasets", "mlflow", "torch", "transformers")

_PROGRAM = "from stabfw.testing.elsewhere import main; main()"


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        value: The answer, as JSON knows it.
        heavy: Heavy packages that were imported on the way.
    """

    value: Any
    heavy: tuple[str, ...]


def imported(subject: Subject) -> Reply:
    """Import the module that a plugin's entry point names, and nothing else of it."""
    return _ask("import", {"module": subject.plugin.entry_point.module})


def asked(subject: Subject, question: str, **arguments: Any) -> Reply:
    """Make a subject's component and ask it one of the questions below.

    Raises:
        CheckError: If that fails.
    """
    cls = subject.component_cls
    told = {
        "module": cls.__module__,
        "class": cls.__qualname__,
        "name": subject.name,
        "config": json.loads(subject.make().config.model_dump_json(exclude={"type"})),
        "arguments": arguments,
    }
    return _ask(question, told)


def _ask(question: str, told: dict[str, Any]) -> Reply:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Text hashes differ between processes, and with them the order of sets.
        "PYTHONHASHSEED": "12345",
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps({"question": question, **told}),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CheckError(f"in a fresh interpreter: {reason}")
    # What a plugin prints comes before it.
    reply = json.loads(done.stdout.splitlines()[-1])
    return Reply(reply["value"], tuple(reply["heavy"]))


def main() -> None:
    """Answer the question on standard input; the fresh interpreter runs this."""
    told = json.load(sys.stdin)
    module = importlib.import_module(told["module"])
    value: Any = None
    if told["question"] != "import":
        cls = operator.attrgetter(told["class"])(module)
        made = component(cls, told["name"], told["config"])
        value = _QUESTIONS[told["question"]](made, **told["arguments"])
    print()
    print(json.dumps({"value": value, "heavy": [name for name in HEAVY if name in sys.modules]}))


def _fingerprint(component: Any) -> Any:
    return dict(component.fingerprint())


def _ids(component: Any, split: str, count: int) -> list[str]:
    return [instance.id for instance in islice(component.instances(split), count)]


def _describe(component: Any) -> Any:
    request = component.request()
    return {"request": asdict(request), "info": asdict(component.describe(request))}


def _plan(component: Any) -> Any:
    request = LoadRequest(source="nowhere")
    known = ModelInfo(
        "llava",
        layers=32,
        visual_tokens=576,
        has_anatomy=True,
        has_vision=True,
        can_score=True,
        weights={"model.safetensors": "0" * 64},
        processor="Processor",
    )
    unknown = ModelInfo("unheard-of")
    reasons = [component.supports(info, request) for info in (known, unknown)]
    component.on_load(request)
    component.on_generate(GenerationOptions())
    component.control()
    return reasons


_QUESTIONS: dict[str, Callable[..., Any]] = {
    "fingerprint": _fingerprint,
    "ids": _ids,
    "describe": _describe,
    "plan": _plan,
}
