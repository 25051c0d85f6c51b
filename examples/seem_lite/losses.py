"""Losses of pretraining: sets of segments, phrases and pixels; all of a batch at once."""

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from ssprompt_hf.training.losses import label_shares

from .views import Batch

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, NO_OBJECT_WEIGHT = 2.0, 5.0, 5.0, 0.1  # as SEEM and Mask2Former
# Clicks and phrases are learned from the first images of a batch: each asks the decoder once more, or several times.
PROMPTED_IMAGES = 12


def pair_costs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Weighted BCE + dice of every query with every segment: `(B, Q, P)` logits, `(B, M, P)` targets: `(B, Q, M)`."""
    logits = logits.float()
    probability, transposed = logits.sigmoid(), targets.transpose(1, 2)
    bce = (F.softplus(logits).sum(2, keepdim=True) - logits @ transposed) / logits.shape[2]
    total = probability.sum(2, keepdim=True) + targets.sum(2)[:, None]
    return MASK_WEIGHT * bce + DICE_WEIGHT * (1 - (2 * probability @ transposed + 1) / (total + 1))


def mask_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Weighted BCE + dice of pairs `(..., P)`; returns `(...)`."""
    logits = logits.float()
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * targets).sum(-1) + 1) / (probability.sum(-1) + targets.sum(-1) + 1)
    return MASK_WEIGHT * bce + DICE_WEIGHT * dice


@torch.no_grad()
def match(answers: list, class_logits: list[torch.Tensor], mask_features: torch.Tensor, batch: Batch) -> list:
    """
    Hungarian matching on masks at half their resolution.

    Args:
        answers: `SeemQueryStates` of L rounds. class_logits: of each, `(B, Q, classes + 1)`.

    Returns:
        for each round int64 `(B, M)`: the query of each segment, 0 in unused places.
    """
    features = F.avg_pool2d(mask_features, 2).flatten(2)
    targets = F.avg_pool2d(batch.masks, 2).flatten(2)
    classes = batch.classes.clamp(min=0)[:, None]
    costs = []
    for states, logits in zip(answers, class_logits):
        cost = pair_costs(states.mask_embeds @ features, targets)
        probability = logits.float().softmax(-1)
        costs.append(cost - CLASS_WEIGHT * probability.gather(2, classes.expand(-1, logits.shape[1], -1)))
    # a step whose numbers are not finite is skipped later
    costs = torch.stack(costs).nan_to_num(1e4).cpu().numpy()
    # the places in use come first
    counts = (batch.classes >= 0).sum(1).tolist()
    queries = torch.zeros(len(answers), *batch.classes.shape, dtype=torch.long)
    for index, count in enumerate(counts):
        for layer in range(len(answers)):
            rows, columns = linear_sum_assignment(costs[layer, index, :, :count])
            queries[layer, index, torch.from_numpy(columns)] = torch.from_numpy(rows)
    return list(queries.to(mask_features.device))


def set_loss(
    states, class_logits: torch.Tensor, queries: torch.Tensor, mask_features: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """Losses of the matched pairs at full resolution, and of the classes of all queries."""
    used = batch.classes >= 0
    embeds = states.mask_embeds.gather(1, queries[..., None].expand(-1, -1, states.mask_embeds.shape[-1]))
    losses = mask_losses(embeds @ mask_features.flatten(2), batch.masks.flatten(2))
    no_object = class_logits.shape[-1] - 1
    # unused places write to a row that is cut off
    targets = torch.full((len(queries), class_logits.shape[1] + 1), no_object, device=queries.device)
    targets.scatter_(1, torch.where(used, queries, class_logits.shape[1]), batch.classes)
    weights = class_logits.new_ones(no_object + 1, dtype=torch.float)
    weights[-1] = NO_OBJECT_WEIGHT
    class_loss = F.cross_entropy(class_logits.float().transpose(1, 2), targets[:, :-1], weights)
    return (losses * used).sum() / used.sum().clamp(min=1) + CLASS_WEIGHT * class_loss


def _some_segments(batch: Batch, count: int, images: int) -> torch.Tensor:
    """Random segments `(images, count)`, as places in `batch.masks`."""
    used = (batch.classes[:images] >= 0).float()
    used[:, 0] += 1e-6  # an image without any
    return torch.multinomial(used, count, replacement=True)


def phrase_loss(model, tokenizer, features, batch: Batch, num_phrases: int = 2) -> torch.Tensor:
    """A class name must be answered by the union of its segments: trains grounding. `features`
    are those of the first images of the batch."""
    images = len(features.mask_features)
    chosen = _some_segments(batch, num_phrases, images)
    classes = batch.classes[:images].gather(1, chosen)
    same = (batch.classes[:images, None] == classes[..., None]).float()
    targets = (same @ batch.masks[:images].flatten(2)).clamp(max=1)
    names = [batch.names[index] for index in classes.clamp(min=0).flatten().tolist()]
    text = tokenizer(names, padding=True, return_tensors="pt").to(targets.device)
    ids, mask = (text[name].unflatten(0, (-1, num_phrases)) for name in ("input_ids", "attention_mask"))
    states = model.model(image_features=features, input_ids=ids, attention_mask=mask, output_objects=False)
    logits = states.phrase_states.mask_embeds @ features.mask_features.flatten(2)
    with torch.no_grad():
        best = pair_costs(logits, targets).argmin(1)
    chosen_logits = logits.gather(1, best[..., None].expand(-1, -1, logits.shape[2]))
    similarity = model._phrase_similarity(states).float()
    return mask_losses(chosen_logits, targets).mean() + 0.5 * F.cross_entropy(similarity, best)


def pixel_loss(pixel_head, mask_features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a linear classifier on the mask features. It is not part of the model: it only shows the image
    encoder what the queries will need, long before they can."""
    logits = pixel_head(mask_features).float().log_softmax(1)
    counts = label_shares(labels, logits.shape[1], logits.shape[-2:])
    weights = (counts.sum((0, 2, 3)) + 1).rsqrt()[:, None, None]
    return -(weights * counts * logits).sum() / (weights * counts).sum().clamp(min=1e-6)
