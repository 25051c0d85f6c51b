"""What transformers, accelerate and PyTorch do with the outputs of a model and with its labels, as for any model."""

import pytest
import torch
from accelerate.utils import find_batch_size
from prompted_seem import adapted, same, small_seem
from tiny_seem import images
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten, tree_unflatten

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models.seem import SeemForUniversalSegmentationOutput
from ssprompt_hf.models.transformers_compat import Mask2FormerLoss


@pytest.fixture(scope="module")
def model():
    return small_seem()


@pytest.fixture(scope="module")
def pixels():
    return images().float()


def segments(seed: int = 0) -> dict[str, list[torch.Tensor]]:
    """Two segments in the first image, none in the second."""
    masks = torch.rand(2, 64, 96, generator=torch.Generator().manual_seed(seed)) > 0.5
    return {
        "mask_labels": [masks, masks[:0]],
        "class_labels": [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.long)],
    }


def logits(output) -> tuple[torch.Tensor, torch.Tensor]:
    return output.class_queries_logits, output.masks_queries_logits


class TestContainers:
    def test_features_are_a_dict_with_its_methods(self, model, pixels):
        prepared = model.get_image_features(pixels)
        assert list(dict(prepared)) == list(prepared.keys()) == [name for name, _ in prepared.items()]
        assert len(prepared.values()) == len(prepared) == 6
        assert find_batch_size(prepared) == find_batch_size(model(pixel_values=pixels)) == 2

    def test_files_of_features_keep_their_names(self, model, pixels):
        """Caches that were written before the fields were called otherwise stay good."""
        cached = model.image_features(pixels[:1], "projections")
        levels = [f"{name}.{index}" for name in ("multi_scale_features", "attention_features") for index in range(3)]
        layers = [f"{name}.{index}" for name in ("keys", "values") for index in range(3)]
        assert set(cached) == {"mask_features", "padded_size", *levels, *layers}
        features = model.decoder_inputs([cached])["image_features"]
        assert torch.equal(features.key_states[2], cached["keys.2"])
        assert torch.equal(features.value_states[0], cached["values.0"])

    def test_outputs_are_trees(self, model, pixels):
        output = model(pixel_values=pixels, output_hidden_states=True)
        leaves, tree = tree_flatten(output)
        again = tree_unflatten(leaves, tree)
        assert type(again) is SeemForUniversalSegmentationOutput and again.keys() == output.keys()
        assert all(one is other for one, other in zip(leaves, tree_flatten(again)[0]))

    def test_export(self, pixels):
        model = small_seem(decoder_layers=1)
        exported = torch.export.export(model, (), {"pixel_values": pixels}, strict=False).module()
        assert same(logits(exported(pixel_values=pixels)), logits(model(pixel_values=pixels)))

    def test_return_dict(self, model, pixels):
        whole = model(pixel_values=pixels, **segments())
        parts = model(pixel_values=pixels, return_dict=False)
        assert type(parts) is tuple and same(parts[:2], logits(whole))
        assert type(model.model(pixel_values=pixels, return_dict=False)) is tuple

    @pytest.mark.parametrize("made", [small_seem, adapted], ids=["bare", "adapted"])
    def test_unknown_arguments_are_type_errors(self, pixels, made):
        model = made()
        with pytest.raises(TypeError, match="unexpected keyword argument 'image_size'"):
            model(pixel_values=pixels, image_size=[(64, 96)])
        with pytest.raises(TypeError, match="num_items_in_batch"):
            model(pixel_values=pixels, num_items_in_batch=2)


def test_hidden_states_and_attentions(model, pixels):
    plain = model(pixel_values=pixels)
    assert plain.hidden_states is plain.attentions is plain.cross_attentions is None
    output = model(pixel_values=pixels, output_hidden_states=True, output_attentions=True)
    assert same(logits(output), logits(plain))
    config = model.config
    assert len(output.hidden_states) == config.num_hidden_layers + 1
    assert torch.equal(output.hidden_states[0][1], model.model.object_queries())
    answers = model.model.mask_decoder.predict(output.hidden_states[-1])
    assert torch.equal(answers.class_embeds, output.class_queries_embeds)
    queries, heads = config.num_queries, config.num_attention_heads
    assert [tuple(one.shape) for one in output.attentions] == [(2, heads, queries, queries)] * 3
    assert [one.shape[-1] for one in output.cross_attentions] == [2 * 3, 4 * 6, 8 * 12]
    for one in (*output.attentions, *output.cross_attentions):
        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1]))
    layer, states = model.model.mask_decoder.layers[0], output.hidden_states[0]
    features = model.get_image_features(pixels)
    mean = (output.cross_attentions[0] @ features.value_states[0]).transpose(1, 2).flatten(2)
    after = layer.cross_attention_norm(states + layer.cross_attention.out_proj(mean))
    own = layer.self_attention
    query = own.split_heads(own.q_proj(after + model.model.mask_decoder.query_positions))
    keys = own.split_heads(own.k_proj(after + model.model.mask_decoder.query_positions))
    expected = (query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    torch.testing.assert_close(output.attentions[0], expected)


class TestLoss:
    @pytest.mark.parametrize("all_layers", [True, False])
    def test_it_is_that_of_mask2former(self, pixels, all_layers):
        model = small_seem(use_auxiliary_loss=all_layers)
        output = model(pixel_values=pixels, output_auxiliary_predictions=True)
        torch.manual_seed(0)
        loss = model(pixel_values=pixels, **segments()).loss
        weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
        settings = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "no_object_weight": 0.1}
        sampling = {"train_num_points": 12544, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75}
        config = type("Config", (), {"num_labels": 3, **settings, **sampling})
        torch.manual_seed(0)
        masks = [masks.float() for masks in segments()["mask_labels"]]
        parts = Mask2FormerLoss(config, weights)(
            output.masks_queries_logits,
            output.class_queries_logits,
            masks,
            segments()["class_labels"],
            output.auxiliary_predictions if all_layers else None,
        )
        expected = sum(weight * part for key, weight in weights.items() for name, part in parts.items() if key in name)
        torch.testing.assert_close(loss, expected)
        assert len(parts) == (12 if all_layers else 3)

    def test_it_learns(self, pixels):
        model = adapted()
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=0.05)
        losses = []
        for _ in range(4):
            torch.manual_seed(0)
            loss = model(pixel_values=pixels, **segments()).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.5

    def test_class_maps_in_place_of_segments(self, model, pixels):
        labels = torch.full((2, 64, 96), 255)
        labels[0, :20], labels[0, 20:50] = 2, 0
        masks = torch.stack([labels[0] == 0, labels[0] == 2])
        torch.manual_seed(0)
        expected = model(pixel_values=pixels, **segments() | {"mask_labels": [masks, masks[:0]]}).loss
        torch.manual_seed(0)
        assert torch.equal(model(pixel_values=pixels, labels=labels).loss, expected)
        output = model(pixel_values=pixels)
        kept = {name: output[name] for name in ("class_queries_embeds", "masks_queries_logits")}
        assert model(**kept, labels=labels).loss.isfinite()

    def test_bad_labels(self, model, pixels):
        good = segments()
        with pytest.raises(SSPromptError, match="hold 3, but the model has 3 classes"):
            model(pixel_values=pixels, **good | {"class_labels": [torch.tensor([0, 3]), good["class_labels"][1]]})
        with pytest.raises(SSPromptError, match="image 0 has 2 mask_labels, but 1 class_labels"):
            model(pixel_values=pixels, **good | {"class_labels": [torch.tensor([0]), good["class_labels"][1]]})
        with pytest.raises(SSPromptError, match="mask_labels are for 1 and class_labels for 2 images"):
            model(pixel_values=pixels, **good | {"mask_labels": good["mask_labels"][:1]})
        with pytest.raises(SSPromptError, match="both or neither"):
            model(pixel_values=pixels, mask_labels=good["mask_labels"])


def _step(rank: int, store, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = DistributedDataParallel(adapted().train(), find_unused_parameters=True)
    one = slice(rank, rank + 1)
    torch.manual_seed(0)
    model(
        pixel_values=images().float()[one], **{name: part[:1] for name, part in segments(rank).items()}
    ).loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    results.put((rank, gradients))
    torch.distributed.destroy_process_group()


def test_two_processes_that_look_for_unused_parameters(tmp_path):
    """As `transformers.Trainer` wraps a PeftModel."""
    context = torch.multiprocessing.get_context("fork")  # nothing to import again
    results = context.Queue()
    workers = [context.Process(target=_step, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert found[0].keys() == found[1].keys() and len(found[0]) > 2
    assert all((gradient == found[1][name]).all() for name, gradient in found[0].items())
    assert sum(gradient.any() for gradient in found[0].values()) == 2
