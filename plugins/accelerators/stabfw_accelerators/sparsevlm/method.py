"""The selection and recycling of SparseVLM."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction, Select, budget, keep_highest

_RECYCLED = 0.3
_TOKENS_A_CLUSTER = 10


def rated(keep_ratio: float, recycle: bool) -> Select:
    """Keep the visual tokens that the raters attended to most in the layer before.

    Args:
        keep_ratio: Share of the original visual tokens that is kept.
        recycle: Whether some of the others are merged into a few more.
    """

    def select(context: Context) -> Reduction:
        count = budget(context.original_visual_tokens, keep_ratio)
        if count >= context.visual_tokens:
            return Reduction(torch.arange(context.visual_tokens))
        question = context.text_spans[-1]
        words = context.text_features[-len(question) :]
        chosen = raters(context.original_features, words).tolist()
        rows = [question[number] for number in chosen]
        scores = context.attention(context.layer - 1, rows).mean((0, 1))
        kept = keep_highest(scores, count)
        if not recycle:
            return kept
        keep, states = recycled(context.states, scores.to(context.states.device), kept.keep)
        return Reduction(keep, states)

    return select


def raters(visual: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Choose the words that visual tokens are close to.

    Args:
        visual: Embeddings of the visual tokens, of shape (visual tokens, size).
        words: Embeddings of the words, of shape (words, size).

    Returns:
        Indices of the words above the mean; of all words, if none is.
    """
    closeness = (visual.float() @ words.float().T).softmax(1).mean(0)
    above = (closeness > closeness.mean()).nonzero()[:, 0]
    return above if len(above) else torch.arange(len(words))


def recycled(
    states: torch.Tensor, scores: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge the better ones of the tokens that are not kept.

    Args:
        states: Of all tokens, of shape (tokens, hidden size).
        scores: Of all tokens, of shape (tokens,).
        kept: Indices of those that are kept; not all of them.

    Returns:
        Indices of the kept tokens and of the centres of the clusters, ascending, and what stands
        there.
    """
    kept = kept.to(states.device)
    dropped = torch.ones(len(states), dtype=torch.bool, device=states.device)
    dropped[kept] = False
    rest = dropped.nonzero()[:, 0]
    better = rest[keep_highest(scores[rest], int(len(rest) * _RECYCLED) + 1).keep]
    centres, means = density_peaks(states[better], len(better) // _TOKENS_A_CLUSTER + 1)
    keep, order = torch.cat([kept, better[centres]]).sort()
    return keep, torch.cat([states[kept], means])[order]


def density_peaks(states: torch.Tensor, clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find clusters around points that are dense and far from any denser one, and average them.

    Du et al., 2016, density peaks clustering by k nearest neighbours, with as many neighbours as
    clusters, the point itself among them.

    Args:
        states: Of shape (points, size).
        clusters: How many, at most as many as points.

    Returns:
        Indices of the centres and means of their clusters, of shapes (clusters,) and
        (clusters, size).
    """
    points = states.float()
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart / points.shape[1] ** 0.5
    density = (-apart.topk(clusters, largest=False).values.square().mean(1)).exp()
    # Of equally dense points the earlier one counts as denser.
    denser = density[None] > density[:, None]
    denser |= (density[None] == density[:, None]).tril(-1)
    nearest_denser = torch.where(denser, apart, apart.max()).min(1).values
    ranked = (nearest_denser * density).argsort(descending=True, stable=True)
    centres = ranked[:clusters]
    cluster = apart[centres].argmin(0)
    cluster[centres] = torch.arange(clusters, device=states.device)
    total = torch.zeros_like(points[:clusters]).index_add_(0, cluster, points)
    size = torch.bincount(cluster, minlength=clusters)
    return centres, (total / size[:, None]).to(states)
