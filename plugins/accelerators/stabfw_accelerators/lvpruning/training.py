"""Training of LVPruning's decision modules on a frozen model."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from stabfw.components import Example, FitData, LoadedModel
from stabfw.components.patch import Patch
from stabfw.errors import DataError, UnsupportedError
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from stabfw_accelerators.lvpruning import Training
from stabfw_accelerators.lvpruning.artefacts import dump
from stabfw_accelerators.lvpruning.decision import Decision

#: What a dropped token weighs in attention. Zero would have no logarithm; this is lost in the
#: rounding of float32, and the gradient through the logarithm is still that of the product.
_NOTHING = 1e-20
#: Parts of a training after which its state is kept.
_KEPT = 20
_IGNORED = -100


def train(
    model: LoadedModel, data: FitData, layers: Sequence[int], heads: int, training: Training
) -> bytes:
    """Train modules to drop visual tokens without hurting the model's loss on gold answers.

    While training, no token is dropped: dropped ones are hidden from all others by the attention
    of the layers that follow, and whether a token is dropped is drawn by the straight-through
    Gumbel-softmax. The loss is the cross-entropy of the answers plus the squared distance of the
    kept shares from what they should be. A share is that of all pictures which go through the model
    together: a single picture's strays by chance, and its square would push all of its tokens
    alike, harder than the answers tell them apart.

    Args:
        model: The model, which is not changed.
        data: Prompts with gold answers.
        layers: The decoder layers before which modules decide.
        heads: Attention heads of a module.
        training: How.

    Returns:
        The modules, as `artefacts.dump` writes them.

    Raises:
        DataError: If no example has an answer.
        UnsupportedError: If the model's parts are not known.
    """
    anatomy = model.anatomy
    if anatomy is None or model.module is None:
        raise UnsupportedError(f"lvpruning: {model.info.family} states no anatomy")
    examples = [e for e in data.examples if e.answer and e.prompt.images]
    if not examples:
        raise DataError("lvpruning: no training example has a picture and a gold answer")
    device = next(p.device for p in model.module.parameters() if not p.is_meta)
    with torch.random.fork_rng(), _frozen(model.module):
        torch.manual_seed(training.seed)
        size: Any = anatomy.decoder.config.hidden_size  # type: ignore[union-attr]
        modules = {layer: Decision(size, heads).to(device) for layer in layers}
        weights = [p for module in modules.values() for p in module.parameters()]
        optimizer = torch.optim.AdamW(weights, training.learning_rate, weight_decay=0.0)
        batches = list(_batches(len(examples), training))
        schedule = get_cosine_schedule_with_warmup(
            optimizer, round(training.warmup_ratio * len(batches)), len(batches)
        )
        parts = {"optimizer": optimizer, "schedule": schedule, **_named(modules)}
        done = _restore(data.kept, parts)
        every = max(1, len(batches) // _KEPT)
        for step in range(done, len(batches)):
            asked = [examples[number] for number in batches[step]]
            values = _step(model, asked, modules, training, optimizer)
            schedule.step()
            data.progress(step + 1, len(batches), values)
            if (step + 1) % every == 0 and step + 1 < len(batches):
                data.keep(_state(step + 1, parts))
    return dump(modules, model.info, training.model_dump())


@dataclass
class _Gates:
    """What of the visual tokens is still seen in one forward pass.

    Attributes:
        visual: Where visual tokens are, of shape (batch, length).
        text: Where the prompt's text is, likewise.
        allowed: Who may look at whom, additive, of shape (batch, 1, length, length).
        kept: 1 for a token that is kept, else 0, of shape (batch, length).
        shares: Kept share of the visual tokens after each module, each of shape (batch,).
    """

    visual: torch.Tensor
    text: torch.Tensor
    allowed: torch.Tensor
    kept: torch.Tensor
    shares: list[torch.Tensor] = field(default_factory=list)
    _mask: torch.Tensor | None = None

    def decide(self, logits: torch.Tensor, temperature: float) -> None:
        """Drop tokens for good, by the logits of keep and remove of all tokens."""
        drawn = nn.functional.gumbel_softmax(logits.float(), temperature, hard=True)[..., 0]
        self.kept = self.kept * torch.where(self.visual, drawn, 1.0)
        count = (self.kept * self.visual).sum(1)
        self.shares.append(count / self.visual.sum(1).clamp(min=1))
        self._mask = None

    def mask(self) -> torch.Tensor:
        """An additive mask that hides dropped tokens from all but themselves."""
        if self._mask is None:
            others = 1 - torch.eye(self.kept.shape[1], device=self.kept.device)
            kept = self.kept.clone()
            if kept.requires_grad:
                kept.register_hook(_bounded_by(kept.detach()))  # type: ignore[no-untyped-call]
            hidden = (kept + _NOTHING).log()
            self._mask = self.allowed + hidden[:, None, None] * others
        return self._mask


def _bounded_by(kept: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Let no dropped token pull harder than the hardest-pulling kept one.

    What a dropped token would do is told by a gradient of exp(A), without a bound: a few tokens
    that attention would turn to would otherwise decide every step.
    """

    def bound(gradient: torch.Tensor) -> torch.Tensor:
        most = (gradient.abs() * kept).amax()
        return gradient.clamp(-most, most)

    return bound


def _step(
    model: LoadedModel,
    asked: Sequence[Example],
    modules: Mapping[int, Decision],
    training: Training,
    optimizer: torch.optim.Optimizer,
) -> Mapping[str, float]:
    """Take one step of the optimizer; return the numbers worth a curve."""
    optimizer.zero_grad()
    told: dict[str, float] = {}
    for begin in range(0, len(asked), training.micro_batch_size):
        part = asked[begin : begin + training.micro_batch_size]
        causal, shares = _forward(model, part, modules, training.temperature)
        targets = zip(shares, training.keep_ratios, strict=True)
        ratio = torch.stack([(share.mean() - target).square() for share, target in targets]).mean()
        loss = causal + training.ratio_weight * ratio
        weight = len(part) / len(asked)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        values = {"loss": loss, "loss_causal": causal, "loss_ratio": ratio}
        values |= {f"kept_{n}": share.mean() for n, share in enumerate(shares, 1)}
        for name, value in values.items():
            told[name] = told.get(name, 0.0) + weight * value.item()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    return told


def _forward(
    model: LoadedModel,
    asked: Sequence[Example],
    modules: Mapping[int, Decision],
    temperature: float,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the cross-entropy of the answers, and the kept shares after each module."""
    assert model.anatomy is not None
    assert model.module is not None
    inputs, labels = _with_answers(model, asked)
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    answered = labels.shape[1]
    prompt = torch.arange(ids.shape[1], device=ids.device) < ids.shape[1] - answered
    visual = ids == model.anatomy.image_token_id
    causal = torch.ones(ids.shape[1], ids.shape[1], device=ids.device).tril().bool()
    # A row of padding that may look nowhere would give NaN.
    allowed = (causal & valid[:, None]) | torch.eye(ids.shape[1], device=ids.device).bool()
    dtype: Any = model.module.dtype
    lowest = torch.finfo(dtype).min
    gates = _Gates(
        visual,
        valid & ~visual & prompt,
        torch.zeros(allowed.shape, device=ids.device).masked_fill(~allowed, lowest)[:, None],
        torch.ones(ids.shape, device=ids.device),
    )
    with Patch() as patch:
        for number in range(min(modules), len(model.anatomy.layers)):
            hook = _gate(gates, modules.get(number), temperature)
            patch.pre_hook(model.anatomy.layers[number], hook)
        logits = model.module(**inputs, use_cache=False, logits_to_keep=answered + 1).logits
    losses = nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels, ignore_index=_IGNORED, reduction="none"
    )
    # Every example weighs the same, whatever its length and whatever goes along with it.
    return (losses.sum(1) / (labels != _IGNORED).sum(1)).mean(), gates.shares


def _gate(gates: _Gates, module: Decision | None, temperature: float) -> Callable[..., Any]:
    """Make the pre-hook of a decoder layer, with the module that decides before it, if any."""

    def hook(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if module is not None:
            states = hidden.float()
            gates.decide(module(states, states, gates.text), temperature)
        return args, kwargs | {"attention_mask": gates.mask().to(hidden.dtype)}

    return hook


def _with_answers(
    model: LoadedModel, asked: Sequence[Example]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Encode prompts with their answers behind them, padded on the right.

    Returns:
        The model's inputs; the tokens of the answers, of shape (batch, longest answer).
    """
    inputs: dict[str, Any] = dict(model.encode([example.prompt for example in asked]).inputs)
    ids = inputs["input_ids"]
    answers = [torch.tensor(model.tokens(e.prompt, e.answer)) for e in asked]
    labels = nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=_IGNORED)
    labels = labels.to(ids.device)
    there = labels != _IGNORED
    inputs.setdefault("attention_mask", torch.ones_like(ids))
    tails = {"input_ids": labels.clamp(min=0), "attention_mask": there}
    for name, tensor in inputs.items():
        if tensor.shape == ids.shape:
            # What is told of each token besides says nothing of text.
            tail = tails.get(name, torch.zeros_like(labels))
            inputs[name] = torch.cat([tensor, tail.to(tensor)], 1)
    return inputs, labels


@contextmanager
def _frozen(module: Any) -> Iterator[None]:
    """Let nothing be learned by the model, and let it take the masks that it is given."""
    learned = [weight for weight in module.parameters() if weight.requires_grad]
    attention = module.get_decoder().config._attn_implementation
    for weight in learned:
        weight.requires_grad_(False)
    # Its mask is added to the scores, so that gradients go through it on every device.
    module.set_attn_implementation("eager")
    try:
        with torch.enable_grad():
            yield
    finally:
        module.set_attn_implementation(attention)
        for weight in learned:
            weight.requires_grad_(True)


def _batches(examples: int, training: Training) -> Iterator[list[int]]:
    for epoch in range(training.epochs):
        order = list(range(examples))
        random.Random(f"{training.seed} {epoch}").shuffle(order)
        for begin in range(0, examples, training.batch_size):
            yield order[begin : begin + training.batch_size]


def _named(modules: Mapping[int, Decision]) -> dict[str, Any]:
    return {f"module {layer}": module for layer, module in modules.items()}


def _state(done: int, parts: Mapping[str, Any]) -> bytes:
    state = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()
    noise = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
    torch.save({"done": done, "noise": noise, "parts": state}, buffer)
    return buffer.getvalue()


def _restore(kept: bytes | None, parts: Mapping[str, Any]) -> int:
    """Take up a kept state; return how many steps it had done."""
    if kept is None:
        return 0
    state = torch.load(io.BytesIO(kept), weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    torch.set_rng_state(state["noise"]["cpu"])
    torch.cuda.set_rng_state_all(state["noise"]["cuda"])
    return int(state["done"])
