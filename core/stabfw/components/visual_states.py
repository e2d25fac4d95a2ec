"""What visual tokens look like inside the language model while it reads a prompt.

Hooks look and change nothing. They see what a token reduction left: which tokens are still there
follows from `LoadedModel.token_depths`, and where they are from the padding, which is on the left
before and after a reduction.

Torch is imported when states are watched, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from stabfw.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

    from stabfw.components.model import LoadedModel
    from stabfw.components.patch import Patch

States = Mapping[str, Mapping[int, "torch.Tensor"]]


def watch_visual_states(
    model: LoadedModel, depths: Collection[int], patch: Patch
) -> Callable[[], States]:
    """Keep the hidden states of visual tokens during prefill, until the patch ends.

    To be called when a stack is attached, so that its own hooks come first. Where a prompt is
    prefilled several times (to score several answers, or without a cache), the first time counts.

    Args:
        model: The model; it must have an anatomy.
        depths: After how many decoder layers: 0 is what enters the first one, after any reduction
            there; the number of layers is what leaves the last one, before the final norm.
        patch: Removes the hooks.

    Returns:
        A function that gives the states seen since it was called last, by instance id and depth,
        of shape (visual tokens left, hidden size), in the model's own precision and on its device.
        A prompt without a picture has no rows.

    Raises:
        UnsupportedError: If the model states no anatomy, or has fewer layers.
    """
    anatomy = model.anatomy
    if anatomy is None or model.module is None:
        raise UnsupportedError(f"visual states: {model.info.family} states no anatomy")
    layers = len(anatomy.layers)
    if not all(0 <= depth <= layers for depth in depths):
        raise UnsupportedError(f"visual states: {sorted(depths)} are not among 0 to {layers}")
    watch = _Watch(model, anatomy.image_token_id, layers)
    patch.pre_hook(model.module, watch.before_model)
    for depth in depths:
        if depth < layers:
            patch.pre_hook(anatomy.layers[depth], watch.before_layer(depth))
        else:
            patch.hook(anatomy.layers[-1], watch.after_last)
    return watch.take


class _Watch:
    def __init__(self, model: LoadedModel, image_token_id: int, layers: int) -> None:
        self._model = model
        self._image_token_id = image_token_id
        self._layers = layers
        self._prefill = False
        self._valid: torch.Tensor
        self._visual: torch.Tensor
        self._seen: dict[str, dict[int, torch.Tensor]] = {}

    def take(self) -> States:
        seen, self._seen = self._seen, {}
        return seen

    def before_model(self, module: Any, args: Any, kwargs: Any) -> None:
        from stabfw.components.reduction_session import cache_of

        cache = cache_of(kwargs)
        batch = self._model.batch
        self._prefill = batch is not None and (cache is None or cache.get_seq_length() == 0)
        if batch is None or not self._prefill:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None or len(ids) != len(batch.instance_ids):
            raise UnsupportedError("visual states need input_ids with one row per instance")
        ids, mask = ids.cpu(), kwargs.get("attention_mask")
        self._valid = (ids == ids) if mask is None else mask.cpu().bool()
        self._visual = ids == self._image_token_id

    def before_layer(self, depth: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            self._see(depth, args[0] if args else kwargs["hidden_states"])

        return hook

    def after_last(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._see(self._layers, output[0] if isinstance(output, tuple) else output)

    def _see(self, depth: int, hidden: torch.Tensor) -> None:
        batch = self._model.batch
        if not self._prefill or batch is None:
            return
        for row, instance_id in enumerate(batch.instance_ids):
            seen = self._seen.setdefault(instance_id, {})
            if depth not in seen:
                columns = self._columns(row, depth, hidden.shape[1])
                seen[depth] = hidden[row, columns.to(hidden.device)].detach()

    def _columns(self, row: int, depth: int, width: int) -> torch.Tensor:
        """Where in a row the visual tokens are that are left at some depth."""
        alive = self._valid[row].clone()
        visual = self._visual[row]
        if self._model.token_depths and (told := self._model.token_depths[row]):
            places = visual.nonzero()[:, 0]
            least = min(depth, self._layers - 1)
            for place, reached in zip(places.tolist(), told, strict=True):
                alive[place] = reached > least
        left = visual[alive]
        # Padding is on the left, so a row ends where the sequence ends.
        columns: torch.Tensor = left.nonzero()[:, 0] + width - len(left)
        return columns
