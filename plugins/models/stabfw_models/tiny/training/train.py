"""Train an embedded model in two stages, with checkpoints that a killed run resumes from.

Stage 0 trains the vision tower alone with throw-away heads (colour and shape of every patch, its
row and column where the tower is told, and which objects the scene holds). Stage 1 freezes the
tower and trains the projector and the language model on packed questions, the loss on answers
only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from stabfw_benchmarks.shapes import scenes
from transformers import PreTrainedTokenizerFast

from stabfw_models.tiny.training import data
from stabfw_models.tiny.training.architectures import ARCHITECTURES, CELL, Architecture

log = logging.getLogger(__name__)

# Tables and first layers are looked up or convolved, not multiplied: Muon does not suit them.
_NOT_FOR_MUON: Final = ("embed", "lm_head", "patch", "heads.")
_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class Recipe:
    """Length and size of a training run.

    Attributes:
        model: Name of the architecture.
        hardest: Difficulties go up to this one.
        widening: How fast they widen to it in stage 1, from 0.3: the skills of a small model
            appear sooner on clear scenes.
    """

    model: str = "tiny-llava"
    seed: int = 0
    vision_steps: int = 1400
    vision_images: int = 24
    vision_rate: float = 4e-3
    steps: int = 4800
    images: int = 8
    questions: int = 10
    rate: float = 4e-3
    hardest: float = 1.2
    widening: float = 2.1
    save_every: int = 200


RECIPES: Final = {
    recipe.model: recipe
    for recipe in (
        Recipe(),
        Recipe("tiny-llava-next", vision_steps=0, steps=1200, rate=2e-3, widening=9.0),
        Recipe("tiny-qwen2-vl", vision_steps=700, steps=3000, rate=3e-3),
        Recipe("tiny-qwen2.5-vl", vision_steps=700, steps=3000, rate=3e-3),
    )
}
"""What made the shipped weights, by model."""


def train(recipe: Recipe, folder: Path) -> str:
    """Train, or resume the run in ``folder``, and export to ``folder/export``.

    Returns:
        The SHA-256 of the exported weights: the same recipe gives the same one on the same
        machine.

    Raises:
        ValueError: If the run in ``folder`` was started with another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    architecture, model, tokenizer = _untrained(recipe.model)
    stages = (
        _VisionStage(architecture, model, recipe),
        _LanguageStage(model, data.Packer(architecture, tokenizer), recipe),
    )
    for number, stage in enumerate(stages):
        _run_stage(number, stage, recipe, folder / "checkpoint.pt")
    return architecture.export(model, tokenizer, folder / "export")


def export_checkpoint(folder: Path) -> str:
    """Export the latest checkpoint of an unfinished run; returns the SHA-256 of the weights."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    architecture, model, tokenizer = _untrained(saved["recipe"]["model"])
    weights = saved["trained"]
    model.load_state_dict(
        {n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")}
    )
    return architecture.export(model, tokenizer, folder / "export")


def _untrained(name: str) -> tuple[Architecture, Any, PreTrainedTokenizerFast]:
    architecture = ARCHITECTURES[name]
    tokenizer = architecture.tokenizer(data.tokenizer_corpus(architecture.gap))
    return architecture, architecture.model(tokenizer), tokenizer


class Muon(torch.optim.Optimizer):
    """Orthogonalise each matrix's momentum before stepping (K. Jordan et al., 2024), in fp32.

    ``torch.optim.Muon`` multiplies in bf16, which is slow on CPUs; here matrices of one shape are
    also batched.
    """

    def __init__(
        self, params: Sequence[torch.nn.Parameter], lr: float, momentum: float = 0.95
    ) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "decay": 0.01})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = _orthogonalise(
                    torch.stack([self._momentum(p, group["momentum"]) for p in parameters])
                )
                scale = 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "average" not in state:
            state["average"] = torch.zeros_like(parameter)
        average: torch.Tensor = state["average"].mul_(momentum).add_(gradient)
        return gradient + momentum * average


class _Stage(torch.nn.Module):
    """What is common to both stages: trained parameters, step count, learning rate, loss."""

    steps: int
    rate: float
    decay_share: float
    architecture: Architecture
    model: Any

    def trains(self, parameter: str) -> bool:
        """Whether it changes a parameter of the model."""
        raise NotImplementedError

    def loss(self, step: int) -> torch.Tensor:
        raise NotImplementedError

    def schedule(self, step: int) -> float:
        """Warm up, hold, and fall linearly at the end."""
        left = (self.steps - step) / self.steps
        return min(1.0, (step + 1) / 40) * min(1.0, left / self.decay_share)


class _VisionStage(_Stage):
    def __init__(self, architecture: Architecture, model: Any, recipe: Recipe) -> None:
        super().__init__()
        self.steps, self.rate, self.decay_share = recipe.vision_steps, recipe.vision_rate, 0.5
        self.architecture, self.model, self.recipe = architecture, model, recipe
        longest = max(max(size) for size in architecture.sizes) // CELL
        places = {"row": longest, "column": longest} if architecture.absolute else {}
        outputs = {
            "color": 1 + len(scenes.COLORS),
            "shape": 1 + len(scenes.SHAPES),
            **places,
            "presence": len(scenes.COLORS) * len(scenes.SHAPES),
        }
        width = model.config.get_text_config().hidden_size
        self.heads = torch.nn.ModuleDict(
            {name: torch.nn.Linear(width, size) for name, size in outputs.items()}
        )

    def trains(self, parameter: str) -> bool:
        return self.architecture.in_tower(parameter)

    def loss(self, step: int) -> torch.Tensor:
        recipe = self.recipe
        hardest = min(recipe.hardest, 0.4 + step / self.steps)
        batch = data.vision_scenes(
            recipe.seed, step, recipe.vision_images, hardest, self.architecture.sizes
        )
        targets = data.vision_targets(batch)
        cells = self.architecture.cells(self.model, [scene.pixels for scene in batch])
        features, flat = cells.features, cells.features.flatten(0, 2)
        filled = targets.colors > 0
        losses = {
            "color": F.cross_entropy(self.heads["color"](flat), targets.colors.flatten()),
            "shape": F.cross_entropy(self.heads["shape"](features[filled]), targets.shapes[filled]),
            "presence": F.binary_cross_entropy_with_logits(
                self.heads["presence"](cells.pooled), targets.presence
            ),
        }
        total = losses["color"] + losses["shape"] + losses["presence"]
        if self.architecture.absolute:
            height, width = filled.shape[1:]
            rows = torch.arange(height).repeat_interleave(width).repeat(len(batch))
            columns = torch.arange(width).repeat(height * len(batch))
            losses["row"] = F.cross_entropy(self.heads["row"](flat), rows)
            losses["column"] = F.cross_entropy(self.heads["column"](flat), columns)
            total = total + 0.3 * (losses["row"] + losses["column"])
        if step % 20 == 0:
            shares = (f"{name} {float(loss.detach()):.3f}" for name, loss in losses.items())
            log.info("heads: %s", " ".join(shares))
        return total


class _LanguageStage(_Stage):
    def __init__(self, model: Any, packer: data.Packer, recipe: Recipe) -> None:
        super().__init__()
        self.steps, self.rate, self.decay_share = recipe.steps, recipe.rate, 0.45
        self.architecture, self.model, self.recipe = packer.architecture, model, recipe
        self.packer = packer

    def trains(self, parameter: str) -> bool:
        return self.architecture.trained_with_language(parameter)

    def loss(self, step: int) -> torch.Tensor:
        recipe = self.recipe
        rows = data.language_rows(
            recipe.seed,
            step,
            recipe.images,
            recipe.questions,
            min(recipe.hardest, 0.3 + recipe.widening * (step / self.steps)),
            self.architecture.sizes,
        )
        return answer_loss(self.model, self.packer, rows)


def answer_loss(model: Any, packer: data.Packer, rows: Sequence[data.Row]) -> torch.Tensor:
    """Weighted cross-entropy of the answers, given pictures and questions."""
    inputs = packer.architecture.inputs([row.pixels for row in rows])
    visual = model.model.get_image_features(**inputs).pooler_output
    prefixes = [
        packer.prefix(model, inputs, number, len(features))
        for number, features in enumerate(visual)
    ]
    packed = packer.pack(rows, prefixes)
    embedded = model.model.language_model.embed_tokens(packed.input_ids)
    places = packed.input_ids == model.config.image_token_id
    hidden = model.model.language_model(
        inputs_embeds=embedded.masked_scatter(places[..., None], torch.cat(list(visual))),
        attention_mask=packed.attention,
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[packed.rows, packed.columns])
    losses = F.cross_entropy(logits, packed.targets, reduction="none")
    return (losses * packed.weights).sum() / packed.weights.sum()


def _run_stage(number: int, stage: _Stage, recipe: Recipe, checkpoint: Path) -> None:
    """Run one stage from its beginning or its checkpoint; skip it when a later one has begun."""
    saved: dict[str, Any] = {"stage": -1}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["recipe"] != asdict(recipe):
            raise ValueError(f"{checkpoint} belongs to another recipe: {saved['recipe']}")
    if saved["stage"] > number:
        return
    for name, parameter in stage.model.named_parameters():
        parameter.requires_grad_(stage.trains(name))
    optimizers, clipped = _optimizers(stage)
    first = 0
    if saved["stage"] == number:
        stage.load_state_dict(saved["trained"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first = saved["step"]
    elif saved["stage"] == number - 1 and number > 0:
        stage.load_state_dict({k: v for k, v in saved["trained"].items() if k.startswith("model.")})
    smooth: float | None = None
    began = time.process_time()
    for step in range(first, stage.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = stage.rate * stage.schedule(step)
        loss = stage.loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(clipped, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        value = float(loss.detach())
        smooth = value if smooth is None else 0.95 * smooth + 0.05 * value
        if (step + 1) % 20 == 0:
            spent = time.process_time() - began
            log.info("stage %d step %d loss %.4f cpu %.0f s", number, step + 1, smooth, spent)
        if (step + 1) % recipe.save_every == 0 or step + 1 == stage.steps:
            _save(checkpoint, recipe, number, step + 1, stage, optimizers)


def _optimizers(
    stage: _Stage,
) -> tuple[tuple[torch.optim.Optimizer, ...], list[torch.nn.Parameter]]:
    """Muon for the matrices within the network; AdamW, with clipped gradients, for the rest."""
    trained = [(name, p) for name, p in stage.named_parameters() if p.requires_grad]
    matrices = [
        p for name, p in trained if p.ndim == 2 and not any(part in name for part in _NOT_FOR_MUON)
    ]
    taken = {id(p) for p in matrices}
    others = [p for _, p in trained if id(p) not in taken]
    adam = torch.optim.AdamW(others, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.0)
    return (Muon(matrices, stage.rate), adam), others


def _save(
    path: Path,
    recipe: Recipe,
    number: int,
    step: int,
    stage: _Stage,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    state = {
        "recipe": asdict(recipe),
        "stage": number,
        "step": step,
        "trained": stage.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    # Renaming is atomic: a run killed while saving keeps its previous checkpoint.
    partial.replace(path)


def _orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Push all singular values of a batch of matrices towards 1 (Newton-Schulz, quintic)."""
    a, b, c = _NEWTON_SCHULZ
    x: torch.Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x
