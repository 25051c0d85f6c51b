"""The losses against plain loops over pixels, finite differences, and each other."""

import math

import pytest
import torch
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.segmentation.predictions import ClassPrediction, ClassQueries, QueryPrediction, mix_scores
from ssprompt_hf.training.losses import (
    SEMANTIC_LOSSES,
    MatchingLoss,
    MatchingWeights,
    SemanticLoss,
    label_shares,
)

BATCH, QUERIES, CLASSES, HEIGHT, WIDTH = 2, 5, 3, 4, 6
FREQUENCIES = torch.tensor([80.0, 15.0, 5.0])


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(BATCH, QUERIES, CLASSES + 1, generator=generator, dtype=torch.float64),
        2 * torch.randn(BATCH, QUERIES, HEIGHT, WIDTH, generator=generator, dtype=torch.float64),
    )


def queries(class_logits, mask_logits) -> QueryPrediction:
    """A prediction over images of the size of the labels."""
    return QueryPrediction(class_logits, mask_logits, (HEIGHT, WIDTH))


def make_labels(scale: int = 1):
    labels = torch.randint(
        0, CLASSES, (BATCH, HEIGHT * scale, WIDTH * scale), generator=torch.Generator().manual_seed(1)
    )
    labels[0, :scale] = 255
    labels[1][labels[1] == 2] = 255  # a class that the second image lacks
    return labels


def naive_scores(class_logits, mask_logits):
    scores = torch.zeros(BATCH, CLASSES, HEIGHT, WIDTH, dtype=torch.float64)
    for image in range(BATCH):
        for query in range(QUERIES):
            probabilities = class_logits[image, query].softmax(0)
            for name in range(CLASSES):
                scores[image, name] += probabilities[name] * mask_logits[image, query].sigmoid()
    return scores


def naive_loss(form, scores, label):
    """One image, pixel by pixel."""
    if form == "mixed":
        return naive_loss("dice", scores, label) + 0.1 * naive_loss("balanced", scores, label)
    pixels = [(row, column) for row in range(HEIGHT) for column in range(WIDTH) if label[row, column] != 255]
    if form == "dice":
        losses = []
        for name in {int(label[pixel]) for pixel in pixels}:
            normalised = {pixel: float(scores[name][pixel] / scores[:, pixel[0], pixel[1]].sum()) for pixel in pixels}
            overlap = sum(normalised[pixel] for pixel in pixels if label[pixel] == name)
            area = sum(1 for pixel in pixels if label[pixel] == name)
            losses.append(1 - 2 * overlap / (sum(normalised.values()) + area))
        return sum(losses) / len(losses)
    total = weight_sum = 0.0
    for row, column in pixels:
        at, truth = scores[:, row, column], int(label[row, column])
        if form == "cross_entropy":
            loss = math.log(at.exp().sum()) - float(at[truth])
        else:
            loss = -math.log(at[truth] / at.sum())
        weight = float(FREQUENCIES[truth] / FREQUENCIES.sum()) ** -0.5 if form == "balanced" else 1.0
        total, weight_sum = total + weight * loss, weight_sum + weight
    return total / weight_sum


def test_class_scores_equal_the_sum_over_queries(logits):
    torch.testing.assert_close(mix_scores(*logits), naive_scores(*logits))


@pytest.mark.parametrize("form", SEMANTIC_LOSSES)
def test_semantic_loss_equals_a_loop_over_pixels(form, logits):
    labels = make_labels()
    expected = [naive_loss(form, scores, label) for scores, label in zip(naive_scores(*logits), labels)]
    losses = SemanticLoss(form, FREQUENCIES)(queries(*logits), labels)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", SEMANTIC_LOSSES)
@pytest.mark.parametrize("resolution", ["mask", "label"])
def test_gradients_agree_with_finite_differences(form, resolution, logits):
    inputs = [item.requires_grad_() for item in logits]
    # label resolution computes in float32 by design, so only the mask resolution can be checked in float64
    if resolution == "label":
        loss = SemanticLoss(form, FREQUENCIES, resolution)
        labels = make_labels(2)
        value = loss(queries(*inputs), labels).sum()
        gradient = torch.autograd.grad(value, inputs)
        direction = [torch.randn(item.shape, generator=torch.Generator().manual_seed(2)).double() for item in inputs]
        step = 1e-2
        ahead, behind = (
            loss(queries(*(item + sign * step * move for item, move in zip(inputs, direction))), labels).sum()
            for sign in (1, -1)
        )
        slope = sum((grad * move).sum() for grad, move in zip(gradient, direction))
        torch.testing.assert_close(slope.item(), ((ahead - behind) / (2 * step)).item(), rtol=2e-3, atol=2e-4)
        return
    assert torch.autograd.gradcheck(lambda *x: SemanticLoss(form, FREQUENCIES)(queries(*x), make_labels()), inputs)


def test_nll_is_the_cross_entropy_of_log_scores(logits):
    labels = make_labels()
    scores = mix_scores(*logits)
    for image in range(BATCH):
        expected = torch.nn.functional.cross_entropy(
            scores[image : image + 1].log(), labels[image : image + 1], ignore_index=255
        )
        loss = SemanticLoss("nll")(queries(*logits).image(image), labels[image : image + 1])
        torch.testing.assert_close(loss[0], expected)


def test_shares_count_every_pixel_once():
    labels = make_labels(3)
    shares = label_shares(labels, CLASSES, (HEIGHT, WIDTH))
    one_hot = torch.stack([labels == name for name in range(CLASSES)], dim=1).float()
    torch.testing.assert_close(shares, torch.nn.functional.avg_pool2d(one_hot, 3) * 9)
    odd = label_shares(labels, CLASSES, (5, 7))  # cells of different sizes
    assert torch.equal(odd.sum((2, 3)), one_hot.sum((2, 3)))


@pytest.mark.parametrize("form", SEMANTIC_LOSSES)
def test_mask_resolution_is_the_loss_of_scores_constant_in_a_cell(form, logits):
    labels = make_labels(2)
    large = logits[1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    loss = SemanticLoss(form, FREQUENCIES)
    torch.testing.assert_close(loss(queries(*logits), labels), loss(queries(logits[0], large), labels))


def test_label_resolution_enlarges_the_masks_as_inference_does(logits):
    labels = make_labels(2)
    enlarged = torch.nn.functional.interpolate(logits[1].float(), scale_factor=2, mode="bilinear", align_corners=False)
    expected = SemanticLoss("nll")(queries(logits[0], enlarged), labels)
    torch.testing.assert_close(SemanticLoss("nll", resolution="label")(queries(*logits), labels), expected)


@pytest.mark.parametrize("form", SEMANTIC_LOSSES)
def test_images_without_labels_have_no_loss_and_no_gradient(form, logits):
    inputs = [item.requires_grad_() for item in logits]
    loss = SemanticLoss(form, FREQUENCIES)(queries(*inputs), torch.full((BATCH, HEIGHT, WIDTH), 255))
    assert loss.tolist() == [0, 0]
    assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(loss.sum(), inputs))


@pytest.mark.parametrize("form", SEMANTIC_LOSSES)
def test_confident_mistakes_have_finite_gradients(form):
    class_logits = torch.full((1, 1, CLASSES + 1), -100.0)
    class_logits[..., 0] = 100.0
    masks = torch.full((1, 1, 2, 2), 50.0).requires_grad_()
    class_logits.requires_grad_()
    loss = SemanticLoss(form, FREQUENCIES)(queries(class_logits, masks), torch.ones(1, 2, 2, dtype=torch.long)).sum()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, [class_logits, masks]))


def test_semantic_loss_refuses_what_it_cannot_use(logits):
    with pytest.raises(SSPromptError, match=r"'focal'.*must be one of mixed"):
        SemanticLoss("focal")
    with pytest.raises(SSPromptError, match="class frequencies"):
        SemanticLoss("balanced")
    with pytest.raises(SSPromptError, match="'image'"):
        SemanticLoss("dice", resolution="image")
    with pytest.raises(SSPromptError, match="class index 3, but the model has 3 classes"):
        SemanticLoss("dice")(queries(*logits), make_labels() * 0 + 3)


def segments():
    """Two images: three segments, and none."""
    masks = torch.zeros(3, 16, 24, dtype=torch.bool)
    masks[0, :8], masks[1, 8:, :12], masks[2, 8:, 12:] = True, True, True
    empty = torch.zeros(0, 16, 24, dtype=torch.bool)
    return [torch.tensor([0, 2, 2]), torch.zeros(0, dtype=torch.long)], [masks, empty]


def test_matching_loss_is_that_of_mask2former(logits):
    class_logits, mask_logits = (item.float() for item in logits)
    class_labels, mask_labels = segments()
    weights = MatchingWeights(train_num_points=64)
    losses = MatchingLoss(CLASSES, weights)(queries(class_logits, mask_logits), class_labels, mask_labels, [7, 8])
    config = Mask2FormerConfig(num_labels=CLASSES, train_num_points=64, no_object_weight=0.1)
    parts = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    torch.manual_seed(7)
    reference = Mask2FormerLoss(config, parts)(
        mask_logits[:1], class_logits[:1], [mask_labels[0].float()], [class_labels[0]]
    )
    expected = sum(parts[name] * reference[name] for name in parts)
    torch.testing.assert_close(losses[0], expected)
    nothing = -class_logits[1].log_softmax(-1)[:, -1].mean()
    torch.testing.assert_close(losses[1], 2 * nothing)


def test_random_points_depend_on_the_seed_of_the_image_alone(logits):
    class_logits, mask_logits = (item.float() for item in logits)
    class_labels, mask_labels = (part[:1] * 2 for part in segments())
    loss = MatchingLoss(CLASSES, MatchingWeights(train_num_points=16))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    prediction = queries(class_logits, mask_logits)
    together = loss(prediction, class_labels, mask_labels, [1, 2])
    assert torch.equal(before, torch.get_rng_state())
    second = loss(prediction.image(1), class_labels[1:], mask_labels[1:], [2])
    assert torch.equal(together[1:], second)
    other = loss(prediction.image(1), class_labels[1:], mask_labels[1:], [3])
    assert not torch.equal(other, second)


# Models that are asked about one class at a time

PAIRS = {"image_of": torch.tensor([0, 0, 0, 1, 1]), "class_of": torch.tensor([0, 1, 2, 0, 2])}


def answers(has_presence: bool = True, num_queries: int = QUERIES, requires_grad: bool = False) -> ClassPrediction:
    """Of two images about three classes; the second image was not asked about class 1."""
    generator = torch.Generator().manual_seed(3)
    count = len(PAIRS["class_of"])
    maps = torch.rand(count, HEIGHT, WIDTH, generator=generator)
    scores = torch.randn(count, num_queries, generator=generator)
    masks = torch.randn(count, num_queries, 16, 24, generator=generator)
    presence = torch.randn(count, generator=generator)
    for tensor in (maps, scores, masks, presence):
        tensor.requires_grad_(requires_grad)
    queries = ClassQueries(scores, masks)
    return ClassPrediction(
        maps, **PAIRS, batch_size=2, num_classes=CLASSES, presence_logits=presence if has_presence else None,
        queries=queries,
    )  # fmt: skip


def binary(logit: float, truth: bool) -> float:
    return math.log1p(math.exp(-logit if truth else logit))


@pytest.mark.parametrize("form", SEMANTIC_LOSSES)
def test_semantic_loss_of_classes_that_were_asked_about(form):
    prediction, labels = answers(), make_labels()  # the second image has the classes 0 and 1
    scores = torch.zeros(BATCH, CLASSES, HEIGHT, WIDTH)
    for pair, (image, name) in enumerate(zip(PAIRS["image_of"].tolist(), PAIRS["class_of"].tolist())):
        scores[image, name] = prediction.maps[pair]
    labels[1][labels[1] == 1] = 0  # what is there is asked about
    expected = torch.tensor([naive_loss(form, *pair) for pair in zip(scores, labels)])
    logits = prediction.presence_logits.tolist()
    present = [True, True, True, True, False]
    told = [binary(*pair) for pair in zip(logits, present)]
    expected += 0.1 * torch.tensor([sum(told[:3]) / 3, sum(told[3:]) / 2])
    torch.testing.assert_close(SemanticLoss(form, FREQUENCIES)(prediction, labels), expected)
    prediction.presence_logits = None
    alone = SemanticLoss(form, FREQUENCIES)(prediction, labels)
    assert (alone < expected).all()


@pytest.mark.parametrize("resolution", ["mask", "label"])
def test_presence_is_learned_beside_pixels(resolution):
    prediction, labels = answers(requires_grad=True), make_labels(2)
    labels[1][labels[1] == 1] = 0
    loss = SemanticLoss("mixed", FREQUENCIES, resolution)(prediction, labels)
    maps, presence = torch.autograd.grad(loss.sum(), [prediction.maps, prediction.presence_logits])
    assert maps.flatten(1).abs().sum(1).min() > 0
    truth, counts = torch.tensor([1.0, 1, 1, 1, 0]), torch.tensor([3.0, 3, 3, 2, 2])
    torch.testing.assert_close(presence, 0.1 * (prediction.presence_logits.sigmoid() - truth).detach() / counts)


def test_one_query_and_one_target_by_hand():
    """Mask logits of 0 are 0 between pixels and at edges, too, and an empty mask is."""
    score, presence = 0.7, torch.tensor([-0.4, 1.1])
    prediction = ClassPrediction(
        torch.zeros(2, 8, 8), torch.tensor([0, 0]), torch.tensor([1, 2]), 1, CLASSES, presence,
        ClassQueries(torch.tensor([[score], [5.0]]), torch.zeros(2, 1, 8, 8)),
    )  # fmt: skip
    targets = [torch.tensor([1])], [torch.zeros(1, 8, 8, dtype=torch.bool)]
    points = 1024
    expected = 2 * (binary(-0.4, True) + binary(1.1, False)) / 2  # presence
    expected += 2 * binary(score, True) + 5 * math.log(2) + 5 * (1 - 1 / (points / 2 + 1))
    (loss,) = MatchingLoss(CLASSES)(prediction, *targets, [3])
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # without presence the class that is not there teaches its score
    prediction.presence_logits = None
    expected += 2 * binary(5.0, False) / CLASSES - (binary(-0.4, True) + binary(1.1, False))
    assert MatchingLoss(CLASSES)(prediction, *targets, [3]).item() == pytest.approx(expected, rel=1e-6)


def test_matching_loss_of_single_classes_is_that_of_mask2former():
    """Each class counts by its share in the segments of its image."""
    prediction, (class_labels, mask_labels) = answers(), segments()  # classes 0, 2, 2 in the first image, none
    losses = MatchingLoss(CLASSES, MatchingWeights(train_num_points=64))(prediction, class_labels, mask_labels, [7, 8])
    parts = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    reference = Mask2FormerLoss(Mask2FormerConfig(num_labels=1, train_num_points=64, no_object_weight=0.1), parts)
    told = [binary(*pair) for pair in zip(prediction.presence_logits.tolist(), [True, False, True, False, False])]
    expected = 2 * sum(told[:3]) / 3
    for pair, share in ((0, 1 / 3), (2, 2 / 3)):
        name = int(PAIRS["class_of"][pair])
        own = class_labels[0] == name
        scores = prediction.queries.scores_logits[pair]
        torch.manual_seed(7 + name)
        found = reference(
            prediction.queries.masks_logits[pair][None],
            torch.stack([scores, torch.zeros_like(scores)], -1)[None],
            [mask_labels[0][own].float()],
            [torch.zeros(int(own.sum()), dtype=torch.long)],
        )
        expected += share * sum(weight * found[part] for part, weight in parts.items())
    torch.testing.assert_close(losses[0], expected)
    assert losses[1].item() == pytest.approx(2 * sum(told[3:]) / 2)


@pytest.mark.parametrize("has_presence", [True, False])
def test_gradients_of_single_classes(has_presence):
    prediction = answers(has_presence, requires_grad=True)
    MatchingLoss(CLASSES)(prediction, *segments(), [7, 8]).sum().backward()
    learned = torch.tensor([True, False, True, False, False])
    masks = prediction.queries.masks_logits.grad.flatten(1).abs().sum(1)
    scores = prediction.queries.scores_logits.grad.abs().sum(1)
    assert torch.equal(masks > 0, learned)
    # without presence, absent classes teach the scores that there is nothing
    assert torch.equal(scores > 0, learned if has_presence else torch.ones(5, dtype=torch.bool))
    if has_presence:
        assert (prediction.presence_logits.grad != 0).all()


def test_masks_of_single_objects_are_needed():
    prediction = answers()
    prediction.queries = None
    with pytest.raises(SSPromptError, match="no masks of single objects: train with task='semantic'"):
        MatchingLoss(CLASSES)(prediction, *segments(), [7, 8])
