"""What is counted of a model, with and without its adapter, and who looks on."""

import numpy as np
import pytest
import torch
from tiny_training import prompts, tiny_adapted, tiny_images, tiny_processor, tiny_seem, tiny_trainer

from ssprompt_hf.metrics import scores_from_confusion
from ssprompt_hf.segmentation.predictions import QueryPrediction
from ssprompt_hf.training.evaluator import ADAPTED, WITH_ZERO_SHOT, ZERO_SHOT, Evaluator, base_model


def moved_model():
    """The tiny model with an adapter that changes what it says."""
    model = tiny_adapted()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


def counted(guess, truth, num_classes: int) -> np.ndarray:
    """A confusion matrix, pixel by pixel; the last column is that of pixels without a class."""
    matrix = np.zeros((num_classes, num_classes + 1), np.int64)
    for true, given in zip(np.asarray(truth).flatten().tolist(), np.asarray(guess).flatten().tolist()):
        if true < num_classes:
            matrix[true, given] += 1
    return matrix


class Exporter:
    """Remembers what it is told to write."""

    def __init__(self):
        self.maps = {}

    def add_semantic(self, index, class_map):
        assert index not in self.maps
        self.maps[index] = class_map.clone()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_observers_see_every_image_once_in_every_state(tmp_path, batch_size):
    images = tiny_images(3, "validation")
    trainer = tiny_trainer(tmp_path, moved_model(), evaluation=images, per_device_eval_batch_size=batch_size)
    trainer.evaluator.exporters[ADAPTED], seen, others = Exporter(), {}, []

    def observe(index, state, *what):
        assert (index, state) not in seen
        seen[index, state] = what

    trainer.evaluator.observers += [observe, lambda index, state, *_: others.append((index, state))]
    both = trainer.evaluate_by_class(with_zero_shot=True)
    assert sorted(seen) == sorted(others) == [(index, state) for index in range(3) for state in (ADAPTED, ZERO_SHOT)]
    totals = dict.fromkeys((ADAPTED, ZERO_SHOT), 0)
    for (index, state), (prediction, geometry, class_map, label, confusion) in seen.items():
        assert isinstance(prediction, QueryPrediction) and len(prediction.class_queries_logits) == 1
        assert geometry.target_size == tuple(class_map.shape) == (32, 64)
        assert np.array_equal(label.numpy(), images[index]["label"])
        assert np.array_equal(confusion.numpy(), counted(class_map, label, 11))
        totals[state] = totals[state] + confusion
        if state == ADAPTED:
            assert torch.equal(trainer.evaluator.exporters[ADAPTED].maps[index], class_map)
    for state, total in totals.items():
        assert str(both[state]) == str(scores_from_confusion(total, images.classes.names))  # as texts, for NaN
    assert both[ADAPTED] != both[ZERO_SHOT]
    # the next evaluation begins anew, in one state
    seen.clear()
    trainer.evaluator.exporters = {}
    assert str(trainer.evaluate_by_class()) == str({ADAPTED: both[ADAPTED]})
    assert sorted(seen) == [(index, ADAPTED) for index in range(3)]


def test_an_evaluator_needs_no_trainer():
    images, processor, model = tiny_images(2, "validation"), tiny_processor(), moved_model()
    start = prompts(model)
    evaluator = Evaluator(processor, "panoptic")
    evaluator.states = WITH_ZERO_SHOT
    examples = evaluator.examples(images)
    assert evaluator.examples(images) is examples and evaluator.examples(images.select([0])) is not examples
    examples.load_pixels = True
    base = base_model(model)
    assert base is model.get_base_model() and base_model(base) is base
    evaluator.begin(images, model)
    for index in range(len(images)):
        example = examples[index]
        features = base.image_features(example["pixel_values"], "features")
        matrices = evaluator.add(model, features, index, example["label"], example["instance"])
        for matrix, alone in zip(matrices, (model, tiny_seem())):
            with torch.no_grad():
                outputs = alone(pixel_values=example["pixel_values"])
            expected = processor.post_process_semantic_segmentation(outputs, [(32, 64)])[0]
            assert np.array_equal(matrix.numpy(), counted(expected, example["label"], 11))
        evaluator.add_confusions(matrices)
    evaluator.compute()
    scores = evaluator.scores()
    assert list(scores) == [ADAPTED, ZERO_SHOT] and all("pq" in values for values in scores.values())
    assert scores[ADAPTED]["mean_iou"] != scores[ZERO_SHOT]["mean_iou"]
    assert all(torch.equal(tensor, start[name]) for name, tensor in prompts(model).items())


def test_a_model_without_an_adapter_is_the_same_in_both_states():
    images, model = tiny_images(1, "validation"), tiny_seem()
    evaluator = Evaluator(tiny_processor(), "semantic")
    evaluator.states = WITH_ZERO_SHOT
    evaluator.begin(images, model)
    examples = evaluator.examples(images)
    examples.load_pixels = True
    example = examples[0]
    features = model.image_features(example["pixel_values"], "features")
    first, second = evaluator.add(model, features, 0, example["label"])
    assert torch.equal(first, second) and first.sum() == (example["label"] != 255).sum()
