"""Losses of semantic, instance and panoptic training.

Every loss is a mean over images of a loss that depends on one image alone. So the same images give the same gradient
whether they come in one batch, in several accumulated ones, or from several processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..data.classes import IGNORE_INDEX
from ..errors import SSPromptError
from ..models.matching import MatchingWeights
from ..models.transformers_compat import Mask2FormerLoss
from ..segmentation.predictions import ClassPrediction, Prediction, QueryPrediction

SEMANTIC_LOSSES = ("mixed", "dice", "balanced", "nll", "cross_entropy")
# Dice alone hardly moves a class that is predicted nowhere, as one with a name the model does not know; a little
# likelihood brings it back.
BALANCED_SHARE = 0.1
RESOLUTIONS = ("mask", "label")
PRESENCE_WEIGHT = 0.1
"""Of the loss of presence beside one per pixel: our own choice, by analogy with `BALANCED_SHARE`."""
# So few points at which masks are compared take no time worth saving.
FREE_POINTS = 1024


def check_labels(labels: torch.Tensor, num_classes: int) -> None:
    """
    Raises:
        SSPromptError: `labels`, integer `(B, H, W)`, hold an index that is no class.
    """
    outside = (labels != IGNORE_INDEX) & (labels >= num_classes)
    if outside.any():
        raise SSPromptError(
            f"labels hold class index {int(labels[outside][0])}, but the model has {num_classes} classes (0 to "
            f"{num_classes - 1}): set the class names of the data set"
        )


def label_shares(labels: torch.Tensor, num_classes: int, size: tuple[int, int]) -> torch.Tensor:
    """
    How many label pixels of each class lie in each cell of a coarser grid.

    A loss weighted by these counts equals the loss at label resolution of scores that are constant in a cell; nothing
    thin is lost, as it would be by sampling one pixel a cell.

    Args:
        labels: integer `(B, H, W)`, class index, 255 ignored.
        num_classes: K.
        size: `(h, w)` of the grid.

    Returns:
        float32 `(B, K, h, w)`; a cell without labelled pixels is 0 in all classes.
    """
    batch_size, height, width = labels.shape
    rows = torch.arange(height, device=labels.device) * size[0] // height
    columns = torch.arange(width, device=labels.device) * size[1] // width
    cells = rows[:, None] * size[1] + columns
    num_cells = size[0] * size[1]
    # ignored pixels are counted as one class more, which is cheaper than leaving them out
    classes = torch.where(labels == IGNORE_INDEX, num_classes, labels)
    images = torch.arange(batch_size, device=labels.device)[:, None, None] * (num_classes + 1)
    index = (classes + images) * num_cells + cells
    counts = torch.bincount(index.flatten(), minlength=batch_size * (num_classes + 1) * num_cells)
    return counts.view(batch_size, num_classes + 1, *size)[:, :num_classes].float()


def presence_losses(prediction: ClassPrediction, present: torch.Tensor) -> torch.Tensor:
    """
    Binary cross-entropy of a model's word on whether a class is in an image at all.

    Args:
        prediction: with `presence_logits`.
        present: bool `(B, K)`, the truth.

    Returns:
        `(B,)`, for each image the mean over the classes it was asked about.
    """
    wanted = present[prediction.image_of, prediction.class_of].float()
    losses = F.binary_cross_entropy_with_logits(prediction.presence_logits.float(), wanted, reduction="none")
    sums, counts = losses.new_zeros(2, prediction.batch_size)
    sums = sums.index_add(0, prediction.image_of, losses)
    counts = counts.index_add(0, prediction.image_of, torch.ones_like(losses))
    return sums / counts.clamp(min=1)


class SemanticLoss(nn.Module):
    """
    A loss per pixel on the class scores of semantic inference; and, where the base model says whether a class is in
    the image at all, a share of the loss of that.

    Args:
        form:
            - `"cross_entropy"`: softmax cross-entropy with the scores as logits, as the paper's text reads;
            - `"nll"`: negative log-likelihood of the scores normalised to sum to 1, which is the cross-entropy with
              the logarithms of the scores as logits;
            - `"balanced"`: the same, pixels weighted by the square root of their class's inverse frequency;
            - `"mixed"`: `"dice"` plus a tenth of `"balanced"`;
            - `"dice"`: one minus the soft Dice coefficient of the normalised scores, averaged over the classes that
              are present.
        class_frequencies: `(K,)`, share or number of training pixels of each class; needed by `"balanced"` and
            `"mixed"`.
        resolution: `"mask"`: scores at the resolution of the masks, against the shares of the labels in each cell.
            `"label"`: masks are first enlarged to the labels, as in inference; one image at a time, and again in the
            backward pass, as this takes a hundred times the memory of the labels.

    Raises:
        SSPromptError: an unknown form or resolution, or no frequencies where they are needed.
    """

    def __init__(self, form: str = "mixed", class_frequencies: torch.Tensor | None = None, resolution: str = "mask"):
        super().__init__()
        if form not in SEMANTIC_LOSSES:
            raise SSPromptError(f"semantic_loss is {form!r}; it must be one of {', '.join(SEMANTIC_LOSSES)}")
        if resolution not in RESOLUTIONS:
            raise SSPromptError(f"loss_resolution is {resolution!r}; it must be 'mask' or 'label'")
        self.form, self.resolution = form, resolution
        weights = None
        if form in ("balanced", "mixed"):
            if class_frequencies is None:
                raise SSPromptError(f"the loss {form!r} needs the class frequencies of the training labels")
            frequencies = class_frequencies.float() / class_frequencies.sum()
            # a class that never occurs would have an infinite weight, which meets no pixel
            weights = frequencies.clamp(min=1e-8).rsqrt()
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, prediction: Prediction, labels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            prediction: of B images, over the padded images.
            labels: integer `(B, H, W)`, class index, 255 ignored, over the padded image.

        Returns:
            `(B,)`, the loss of each image; 0 for an image without labelled pixels.
        """
        num_classes = prediction.num_classes
        check_labels(labels, num_classes)
        if self.resolution == "mask":
            scores = prediction.class_scores()
            if len(scores) != len(labels):
                raise ValueError(f"{len(labels)} label maps for {len(scores)} images")
            losses = self._image_losses(scores, label_shares(labels, num_classes, scores.shape[-2:]))
        else:
            losses = torch.cat(
                [
                    checkpoint(self._label_resolution_loss, prediction.image(index), label[None], use_reentrant=False)
                    for index, label in enumerate(labels)
                ]
            )
        if getattr(prediction, "presence_logits", None) is not None:
            present = label_shares(labels, num_classes, (1, 1)).flatten(1) > 0
            losses = losses + PRESENCE_WEIGHT * presence_losses(prediction, present)
        return losses

    def _label_resolution_loss(self, prediction: Prediction, labels: torch.Tensor) -> torch.Tensor:
        counts = label_shares(labels, prediction.num_classes, labels.shape[-2:])
        return self._image_losses(prediction.class_scores(labels.shape[-2:]), counts)

    def _image_losses(self, scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """`scores` and `counts` `(B, K, h, w)` -> `(B,)`."""
        scores, counts = scores.flatten(2), counts.flatten(2).to(scores.dtype)
        if self.form == "dice":
            return self._dice(scores, counts)
        if self.form == "mixed":
            return self._dice(scores, counts) + BALANCED_SHARE * self._likelihood(scores, counts)
        return self._likelihood(scores, counts)

    def _likelihood(self, scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        if self.form == "cross_entropy":
            log_probabilities = scores.log_softmax(dim=1)
        else:
            # a floor far below any score that matters keeps the gradient of unseen classes finite
            log_probabilities = scores.clamp(min=1e-8).log()
            log_probabilities = log_probabilities - log_probabilities.logsumexp(dim=1, keepdim=True)
        if self.class_weights is not None:
            counts = counts * self.class_weights[:, None]
        total = counts.sum(dim=(1, 2))
        return -(counts * log_probabilities).sum(dim=(1, 2)) / total.clamp(min=torch.finfo(total.dtype).tiny)

    @staticmethod
    def _dice(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        probabilities = scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-8)
        labelled = counts.sum(dim=1, keepdim=True)
        areas = counts.sum(dim=2)
        overlap = (probabilities * counts).sum(dim=2)
        predicted = (probabilities * labelled).sum(dim=2)
        present = areas > 0
        losses = (1 - 2 * overlap / (predicted + areas).clamp(min=1e-8)) * present
        return losses.sum(dim=1) / present.sum(dim=1).clamp(min=1)


class _ImageMatchingLoss(Mask2FormerLoss):
    """Mask2Former's criterion, normalised by the targets of its own image on its own process."""

    def get_num_masks(self, class_labels: list[torch.Tensor], device: torch.device) -> torch.Tensor:
        count = sum(len(labels) for labels in class_labels)
        return torch.as_tensor(max(count, 1), dtype=torch.float, device=device)


class MatchingLoss(nn.Module):
    """
    Hungarian matching of queries to segments, then cross-entropy on classes, binary cross-entropy and Dice on masks.

    Masks are compared at random points, hardly more of them than a predicted mask has cells. They are drawn per image
    from a seed that the caller gives, so that neither the batch nor the process an image falls in, nor an
    interruption, changes them.

    Args:
        num_classes: K.
        weights: of costs and losses.
    """

    def __init__(self, num_classes: int, weights: MatchingWeights | None = None):
        super().__init__()
        weights = weights or MatchingWeights()
        self.num_classes = num_classes
        self.weights = weights.of_losses()
        self.num_points = weights.train_num_points
        # for queries that choose among all classes, and for those that are asked about one
        self.criterion, self.class_criterion = (
            weights.criterion(count, _ImageMatchingLoss) for count in (num_classes, 1)
        )

    def forward(
        self,
        prediction: Prediction,
        class_labels: list[torch.Tensor],
        mask_labels: list[torch.Tensor],
        seeds: list[int],
    ) -> torch.Tensor:
        """
        Args:
            prediction: of B images, over the padded images.
            class_labels: one int64 `(M,)` an image; M may be 0.
            mask_labels: one bool or float `(M, H, W)` an image, over the padded image.
            seeds: of the random points, one an image.

        Returns:
            `(B,)`, the weighted loss of each image.

        Raises:
            SSPromptError: the base model has no masks of single objects.
        """
        if isinstance(prediction, QueryPrediction):
            losses = [
                self._image_loss(
                    prediction.class_queries_logits[index],
                    prediction.masks_queries_logits[index],
                    class_labels[index],
                    mask_labels[index],
                    seed,
                )
                for index, seed in enumerate(seeds)
            ]
            return torch.stack(losses)
        return self._class_losses(prediction, class_labels, mask_labels, seeds)

    def _class_losses(
        self,
        prediction: ClassPrediction,
        class_labels: list[torch.Tensor],
        mask_labels: list[torch.Tensor],
        seeds: list[int],
    ) -> torch.Tensor:
        """
        Of a model that is asked about one class at a time: queries are matched to the segments of that class, and
        their score is a binary choice. A class that is not there teaches presence alone, as in the training of SAM 3.
        """
        queries = prediction.queries
        if queries is None:
            raise SSPromptError("the base model has no masks of single objects: train with task='semantic'")
        device = queries.scores_logits.device
        present = torch.zeros(prediction.batch_size, prediction.num_classes, dtype=torch.bool, device=device)
        for index, labels in enumerate(class_labels):
            present[index, labels.to(device)] = True
        losses = queries.scores_logits.new_zeros(prediction.batch_size, dtype=torch.float)
        if prediction.presence_logits is not None:
            losses = losses + self.weights["loss_cross_entropy"] * presence_losses(prediction, present)
        pairs = zip(prediction.image_of.tolist(), prediction.class_of.tolist())
        for pair, (image, label) in enumerate(pairs):
            own = class_labels[image] == label
            if not own.any() and prediction.presence_logits is not None:
                continue
            # the softmax over a logit and 0 is the sigmoid
            logits = queries.scores_logits[pair]
            logits = torch.stack([logits, torch.zeros_like(logits)], dim=-1)
            loss = self._image_loss(
                logits,
                queries.masks_logits[pair],
                torch.zeros_like(class_labels[image][own]),
                mask_labels[image][own],
                seeds[image] + label,
            )
            share = own.sum() / max(len(class_labels[image]), 1) if own.any() else 1 / prediction.num_classes
            losses = losses.index_add(0, torch.tensor([image], device=device), (share * loss)[None])
        return losses

    def _image_loss(
        self,
        class_logits: torch.Tensor,
        mask_logits: torch.Tensor,
        class_labels: torch.Tensor,
        mask_labels: torch.Tensor,
        seed: int,
    ) -> torch.Tensor:
        """Of one image: `(Q, K + 1)`, `(Q, h, w)`, `(M,)`, `(M, H, W)` -> a number."""
        device = class_logits.device
        # more points than a mask has cells say nothing new, and cost most of a step where masks are small
        num_points = min(self.num_points, max(mask_logits[0].numel(), FREE_POINTS))
        criterion = self.criterion if class_logits.shape[-1] == self.num_classes + 1 else self.class_criterion
        criterion.num_points = criterion.matcher.num_points = num_points
        class_logits, mask_logits = class_logits[None].float(), mask_logits[None].float()
        # half precision makes the matching unstable
        with _seeded(seed, device), torch.autocast(device.type, enabled=False):
            if len(class_labels) == 0:
                return self._loss_without_targets(class_logits)
            parts = criterion(mask_logits, class_logits, [mask_labels.float()], [class_labels])
        return sum(weight * parts[name] for name, weight in self.weights.items())

    def _loss_without_targets(self, class_logits: torch.Tensor) -> torch.Tensor:
        """Every query should answer "no object"; there are no masks to compare."""
        nothing = class_logits.new_full(class_logits.shape[:2], class_logits.shape[-1] - 1, dtype=torch.long)
        return self.weights["loss_cross_entropy"] * F.cross_entropy(class_logits.transpose(1, 2), nothing)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed`; afterwards the generators go on as if nothing had been drawn."""
    if device.type == "cpu":
        fork = torch.random.fork_rng([])
    else:
        fork = torch.random.fork_rng([device], device_type=device.type)
    with fork:
        torch.manual_seed(seed)
        yield
