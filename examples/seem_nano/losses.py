"""Losses of pretraining: sets of segments, semantic inference, strokes and phrases."""

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from ssprompt_hf.training.losses import label_shares

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, NO_OBJECT_WEIGHT = 2.0, 5.0, 5.0, 0.1  # as SEEM and Mask2Former


def pair_costs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Weighted BCE + dice of every query with every segment: `(Q, P)` logits, `(n, P)` targets -> `(Q, n)`."""
    probability = logits.sigmoid()
    bce = (F.softplus(logits).sum(1, keepdim=True) - logits @ targets.T) / logits.shape[1]
    dice = 1 - (2 * probability @ targets.T + 1) / (probability.sum(1, keepdim=True) + targets.sum(1) + 1)
    return MASK_WEIGHT * bce + DICE_WEIGHT * dice


def mask_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Weighted BCE + dice of pairs `(n, P)`; returns `(n,)`."""
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * targets).sum(1) + 1) / (probability.sum(1) + targets.sum(1) + 1)
    return MASK_WEIGHT * bce + DICE_WEIGHT * dice


def set_loss(model, states, class_embeddings, features, batch) -> torch.Tensor:
    """Hungarian matching on masks at half their resolution; losses of the matched pairs at full resolution."""
    class_logits = model.class_logits(states.class_embeds, class_embeddings)
    coarse = states.mask_embeds.detach() @ F.avg_pool2d(features.mask_features.detach(), 2).flatten(2)
    num_segments = max(sum(len(classes) for classes in batch["classes"]), 1)
    no_object = class_logits.shape[-1] - 1
    weights = class_logits.new_ones(no_object + 1)
    weights[-1] = NO_OBJECT_WEIGHT
    class_targets = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
    total = 0.0
    for index, (classes, masks) in enumerate(zip(batch["classes"], batch["masks"])):
        if not len(classes):
            continue
        with torch.no_grad():
            cost = pair_costs(coarse[index], F.avg_pool2d(masks[:, None], 2).flatten(1))
            cost = cost - CLASS_WEIGHT * class_logits[index].softmax(-1)[:, classes]
            queries, segments = linear_sum_assignment(cost.cpu().numpy())
        class_targets[index, queries] = classes[segments]
        logits = states.mask_embeds[index, queries] @ features.mask_features[index].flatten(1)
        total = total + mask_losses(logits, masks[segments].flatten(1)).sum() / num_segments
    return total + CLASS_WEIGHT * F.cross_entropy(class_logits.transpose(1, 2), class_targets, weights)


def stroke_loss(model, features, batch, generator: torch.Generator, num_objects: int = 4) -> torch.Tensor:
    """A few random pixels of random segments must give these segments back: trains the visual sampler."""
    height, width = batch["labels"].shape[-2:]
    device = features.mask_features.device
    strokes = torch.zeros(len(batch["masks"]), num_objects, height, width, dtype=torch.bool, device=device)
    targets = []
    for index, masks in enumerate(batch["masks"]):
        chosen = torch.randint(len(masks), (num_objects,), generator=generator)
        targets.append(masks[chosen])
        for row, mask in enumerate(masks[chosen]):
            inside = (mask > 0.5).nonzero() if (mask > 0.5).any() else (mask == mask.max()).nonzero()
            count = int(torch.randint(1, 7, (), generator=generator))
            cells = inside[torch.randint(len(inside), (count,), generator=generator)]
            strokes[index, row, cells[:, 0] * 4 + 1, cells[:, 1] * 4 + 1] = True
    states = model.model(image_features=features, positive_prompt_masks=strokes, output_objects=False)
    copies = model.config.queries_per_object
    logits = states.spatial_states.mask_embeds @ features.mask_features.flatten(2)
    logits = logits.unflatten(1, (num_objects, copies)).flatten(0, 1)
    targets = torch.cat(targets).flatten(1)
    losses = mask_losses(logits.flatten(0, 1), targets.repeat_interleave(copies, 0)).unflatten(0, (-1, copies))
    fit = states.spatial_states.mask_embeds.unflatten(1, (num_objects, copies))
    fit = (fit * states.spatial_prompts.mask_embeds[:, :, None]).sum(-1).flatten(0, 1)
    return losses.min(1).values.mean() + 0.5 * F.cross_entropy(fit / fit.shape[-1] ** 0.5, losses.argmin(1))


def phrase_loss(model, tokenizer, features, class_embeddings, batch, generator, num_phrases: int = 2) -> torch.Tensor:
    """A class name must be answered by the union of its segments: trains grounding."""
    phrases, targets = [], []
    for classes, masks in zip(batch["classes"], batch["masks"]):
        for index in torch.randint(len(classes), (num_phrases,), generator=generator):
            phrases.append(batch["names"][classes[index]])
            targets.append(masks[classes == classes[index]].sum(0).clamp(max=1))
    text = tokenizer(phrases, padding=True, return_tensors="pt").to(features.mask_features.device)
    ids, mask = (text[name].unflatten(0, (-1, num_phrases)) for name in ("input_ids", "attention_mask"))
    states = model.model(image_features=features, input_ids=ids, attention_mask=mask, output_objects=False)
    logits = (states.phrase_states.mask_embeds @ features.mask_features.flatten(2)).repeat_interleave(num_phrases, 0)
    with torch.no_grad():
        targets = torch.stack(targets).flatten(1)
        costs = torch.stack([pair_costs(query, target[None])[:, 0] for query, target in zip(logits, targets)])
        best = costs.argmin(1)
    chosen = logits[torch.arange(len(best)), best]
    similarity = model._phrase_similarity(states).transpose(1, 2).flatten(0, 1)
    return mask_losses(chosen, targets).mean() + 0.5 * F.cross_entropy(similarity, best)


def pixel_loss(pixel_head, features, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a linear classifier on the mask features. It is not part of the model: it only shows the image
    encoder what the queries will need, long before they can."""
    logits = pixel_head(features.mask_features).log_softmax(1)
    counts = label_shares(labels, logits.shape[1], logits.shape[-2:])
    weights = (counts.sum((0, 2, 3)) + 1).rsqrt()[:, None, None]
    return -(weights * counts * logits).sum() / (weights * counts).sum()
