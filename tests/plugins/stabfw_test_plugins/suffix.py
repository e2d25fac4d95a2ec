"""`suffix`: a perturbation that adds a random number to the question."""

from dataclasses import replace

from pydantic import Field
from stabfw.components import Modality, Perturbation, PerturbationConfig
from stabfw.registry import hookimpl


class SuffixConfig(PerturbationConfig):
    strength: int = Field(1, ge=0, description="0 changes nothing.")


class Suffix(Perturbation[SuffixConfig]):
    config_cls = SuffixConfig
    modality = Modality.TEXT

    def perturb(self, instance, rng):
        if self.config.strength == 0:
            return instance
        return replace(instance, question=f"{instance.question} {rng.integers(1000)}")


@hookimpl
def stabfw_register_perturbations(register):
    register("suffix", Suffix)
