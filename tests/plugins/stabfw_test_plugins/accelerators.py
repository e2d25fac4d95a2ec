"""Accelerators with one known property each."""

import json
from dataclasses import replace
from pathlib import Path

from pydantic import Field
from stabfw.components import Accelerator, AcceleratorConfig, Artefact, Slot
from stabfw.registry import hookimpl

from .parrot import WORDS, number_of


def _wrap_generate(model, patch, change):
    def generate(original, encoded, options):
        predictions = original(encoded, options)
        return [change(i, p) for i, p in zip(encoded.instance_ids, predictions, strict=True)]

    patch.wrap(model, "generate", generate)


class PlantedConfig(AcceleratorConfig):
    answers: dict[str, str] = Field({}, description="Instance id to the answer to give instead.")


class Planted(Accelerator[PlantedConfig]):
    """Changes exactly the answers that it is told to."""

    config_cls = PlantedConfig
    occupies = frozenset({Slot.DECODING})

    def attach(self, model, artefact, patch):
        answers = self.config.answers
        _wrap_generate(
            model, patch, lambda i, p: replace(p, text=answers[i]) if i in answers else p
        )


class CrowdedConfig(AcceleratorConfig):
    share: float = Field(0.3, ge=0, le=1, description="Share of answers that depend on the batch.")


class Crowded(Accelerator[CrowdedConfig]):
    """Makes answers depend on who shares the batch."""

    config_cls = CrowdedConfig
    occupies = frozenset({Slot.DECODING})

    def attach(self, model, artefact, patch):
        def generate(original, encoded, options):
            company = "".join(sorted(encoded.instance_ids))
            return [
                replace(p, text=WORDS[number_of(i + company) % len(WORDS)])
                if number_of(i) % 1000 < 1000 * self.config.share
                else p
                for i, p in zip(encoded.instance_ids, original(encoded, options), strict=True)
            ]

        patch.wrap(model, "generate", generate)


class PlainConfig(AcceleratorConfig):
    pass


class Leaky(Accelerator[PlainConfig]):
    """Leaves a hook behind."""

    config_cls = PlainConfig
    occupies = frozenset({Slot.ATTENTION})

    def attach(self, model, artefact, patch):
        first = next(iter(model.module.children()))
        first.register_forward_hook(lambda module, args, output: output)


class Idle(Accelerator[PlainConfig]):
    """Admits that it did nothing."""

    config_cls = PlainConfig
    occupies = frozenset({Slot.VISUAL_TOKENS})

    def report(self, model):
        return {"engaged": False, "kept": 64}


class Half(Accelerator[PlainConfig]):
    """Needs half precision as a circumstance; the acceleration itself does nothing to answers."""

    config_cls = PlainConfig
    occupies = frozenset({Slot.KV_CACHE})

    def on_load(self, request):
        return replace(request, dtype="bfloat16")


class FittedConfig(AcceleratorConfig):
    note: str = Field("", description="Enters the artefact.")
    used: int = Field(0, description="Does not enter the artefact.")
    cut: Path | None = Field(None, description="The first step fails while this file exists.")
    file: Path | None = Field(None, description="An artefact that is at hand.")


class Fitted(Accelerator[FittedConfig]):
    """Gives the answers that it saw most while it was fitted."""

    config_cls = FittedConfig
    occupies = frozenset({Slot.WEIGHTS})
    needs_fit = True

    def at_hand(self, info):
        return self.config.file and Artefact(self.config.file.read_bytes())

    def fitted_by(self):
        return {"note": self.config.note}

    def fit(self, model, data):
        begin = int(data.kept or 0)
        for step in range(begin, 3):
            data.progress(step + 1, 3, {"loss": 1 / (step + 1)})
            data.keep(str(step + 1).encode())
            if self.config.cut is not None and self.config.cut.exists():
                raise RuntimeError("cut")
        texts = [[len(e.prompt.text), e.answer] for e in data.examples]
        return Artefact(json.dumps([self.config.note, texts, begin]).encode())

    def attach(self, model, artefact, patch):
        note, texts, _ = json.loads(artefact.data)
        _wrap_generate(model, patch, lambda i, p: replace(p, text=p.text if texts else note))


class Picky(Accelerator[PlainConfig]):
    config_cls = PlainConfig
    occupies = frozenset({Slot.WEIGHTS})

    def supports(self, info, request):
        return f"works on llava only, this is {info.family}" if info.family != "llava" else None


class FailingConfig(AcceleratorConfig):
    flag: Path = Field(description="Fails while this file exists.")
    exit: bool = Field(False, description="Whether to take the process down instead.")


class Failing(Accelerator[FailingConfig]):
    config_cls = FailingConfig
    occupies = frozenset({Slot.DECODING})

    def attach(self, model, artefact, patch):
        def change(instance_id, prediction):
            if self.config.flag.exists():
                if self.config.exit:
                    import os

                    self.config.flag.unlink()
                    os._exit(9)
                raise ValueError("planted failure")
            return prediction

        _wrap_generate(model, patch, change)


@hookimpl
def stabfw_register_accelerators(register):
    for cls in (Planted, Crowded, Leaky, Idle, Half, Fitted, Picky, Failing):
        register(cls.__name__.lower(), cls)
