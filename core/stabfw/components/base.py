"""What all kinds of components have in common."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

#: Version of the contracts in this package. A plugin states the one that it was written for.
API_VERSION = 1


class Kind(enum.StrEnum):
    """The kinds of components; each has its own entry-point group."""

    MODEL = "model"
    ACCELERATOR = "accelerator"
    BENCHMARK = "benchmark"
    PERTURBATION = "perturbation"
    METRIC = "metric"

    @property
    def group(self) -> str:
        """The entry-point group that plugins of this kind register in."""
        return f"stabfw.{self}s"

    @property
    def hook(self) -> str:
        """The pluggy hook through which plugins of this kind register."""
        return f"stabfw_register_{self}s"


class ComponentConfig(BaseModel):
    """Base of every component's config: what a user may write beside `type:` in a spec.

    Fields are frozen and unknown fields are errors. Give each field a `description`; it is
    shown by editors through the JSON Schema and by `stabfw plugins NAME`.

    Attributes:
        aside: Fields that change no answer. They enter neither names nor keys.
    """

    aside: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=ComponentConfig)


class Component(Generic[C]):
    """Base of all components: a class with a config.

    Attributes:
        config_cls: The pydantic model of the component's parameters.
        api_version: Version of the contract that the component was written for.
        behaviour_version: Raise it when the same config gives other answers than before. It
            enters the cache keys, so older outcomes are not reused.
        notice: A sentence that every page made with the component must show.
    """

    config_cls: ClassVar[type[ComponentConfig]]
    api_version: ClassVar[int] = API_VERSION
    behaviour_version: ClassVar[int] = 1
    notice: ClassVar[str] = ""

    def __init__(self, config: C) -> None:
        self.config = config

    def fingerprint(self) -> Mapping[str, Any]:
        """Content outside the config that decides the outcome, such as hashes of files it reads.

        Returns:
            JSON-compatible values. They enter the cache keys.
        """
        return {}
