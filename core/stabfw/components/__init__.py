"""The contracts that plugins implement.

A plugin imports from here and from nowhere else in stabfw. Nothing here imports torch.
"""

from stabfw.components.accelerator import Accelerator, AcceleratorConfig, Artefact, Fidelity, Slot
from stabfw.components.base import API_VERSION, Component, ComponentConfig, Kind
from stabfw.components.benchmark import (
    Benchmark,
    BenchmarkConfig,
    Graded,
    SampledConfig,
    option_lines,
)
from stabfw.components.costs import Architecture
from stabfw.components.data import (
    Answer,
    AnswerKind,
    AnswerStatus,
    Choice,
    FinishReason,
    Image,
    Instance,
    Option,
    Outline,
    Prediction,
    Prompt,
    Score,
    TopToken,
)
from stabfw.components.extract import (
    EXTRACTOR_VERSION,
    extract_choice,
    extract_number,
    extract_text,
    extract_yes_no,
    final_answer,
    normalised,
)
from stabfw.components.files import file_digest
from stabfw.components.fitting import Example, FitData
from stabfw.components.judging import Rubric, Verdict, read_ratings, read_score, read_yes_no
from stabfw.components.metric import Metric, MetricConfig, MetricValue, Recording
from stabfw.components.model import (
    Encoded,
    GenerationOptions,
    LoadedModel,
    LoadRequest,
    Model,
    ModelConfig,
    ModelInfo,
)
from stabfw.components.perturbation import Modality, Perturbation, PerturbationConfig

__all__ = [
    "API_VERSION",
    "EXTRACTOR_VERSION",
    "Accelerator",
    "AcceleratorConfig",
    "Answer",
    "AnswerKind",
    "AnswerStatus",
    "Architecture",
    "Artefact",
    "Benchmark",
    "BenchmarkConfig",
    "Choice",
    "Component",
    "ComponentConfig",
    "Encoded",
    "Example",
    "Fidelity",
    "FinishReason",
    "FitData",
    "GenerationOptions",
    "Graded",
    "Image",
    "Instance",
    "Kind",
    "LoadRequest",
    "LoadedModel",
    "Metric",
    "MetricConfig",
    "MetricValue",
    "Modality",
    "Model",
    "ModelConfig",
    "ModelInfo",
    "Option",
    "Outline",
    "Perturbation",
    "PerturbationConfig",
    "Prediction",
    "Prompt",
    "Recording",
    "Rubric",
    "SampledConfig",
    "Score",
    "Slot",
    "TopToken",
    "Verdict",
    "extract_choice",
    "extract_number",
    "extract_text",
    "extract_yes_no",
    "file_digest",
    "final_answer",
    "normalised",
    "option_lines",
    "read_ratings",
    "read_score",
    "read_yes_no",
]
