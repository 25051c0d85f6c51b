"""Evaluation of instances and panoptic segments from files to scores and exported predictions."""

import json

import numpy as np
import pytest
from dataset_files import write_acdc
from judges import cityscapes_ids, cityscapes_instance_scores, cityscapes_semantic_scores, random_scene, save
from PIL import Image
from tiny_training import SCRIPT, run_python, save_tiny_base, tiny_images, tiny_trainer

from ssprompt_hf.cli.main import main
from ssprompt_hf.data.datasets.cityscapes import CLASSES
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.metrics import CocoScores
from ssprompt_hf.segmentation.export import PredictionExporter

EXAMPLES = SCRIPT.parents[2] / "examples"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    """Five images in the official layout; with a caravan, which is ignored as a class but told apart."""
    root, rng = tmp_path_factory.mktemp("cityscapes"), np.random.default_rng(0)
    for number in range(5):
        name = f"aachen/aachen_{number:06d}_000019"
        truth = random_scene(rng, things=CLASSES.thing_indices[:3], size=(64, 128), scale=2)
        labels, instances = cityscapes_ids(truth, CLASSES.ids)
        labels[:20, :20], instances[:20, :20] = 29, 29001
        save(root / "leftImg8bit" / "val" / f"{name}_leftImg8bit.png", rng.integers(0, 256, (64, 128, 3), np.uint8))
        save(root / "gtFine" / "val" / f"{name}_gtFine_labelIds.png", labels)
        save(root / "gtFine" / "val" / f"{name}_gtFine_instanceIds.png", instances.astype(np.uint16))
    return root


def options(base, cityscapes, output, task):
    data = ["--base_model", base, "--dataset", "cityscapes", "--data_dir", str(cityscapes)]
    return [*data, "--task", task, "--use_cpu", "--disable_tqdm", "True", "--output_dir", str(output)]


def test_command_exports_what_official_scripts_score_alike(base, cityscapes, tmp_path):
    pytest.importorskip("cityscapesscripts.evaluation", reason="judges: pip install cityscapesscripts")
    command = ["evaluate", *options(base, cityscapes, tmp_path, "instance"), "--export", str(tmp_path / "export")]
    assert main([*command, "--dataloader_num_workers", "2"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    scores = metrics["scores"]["zero_shot"]
    assert metrics["zero_shot_coco_ap"] == scores["coco_ap"]
    stems = [f"aachen_{number:06d}_000019" for number in range(5)]
    truth = cityscapes / "gtFine" / "val" / "aachen"
    semantic = cityscapes_semantic_scores(
        [tmp_path / "export" / "semantic" / f"{stem}_leftImg8bit.png" for stem in stems],
        [truth / f"{stem}_gtFine_labelIds.png" for stem in stems],
    )
    assert scores["mean_iou"] == pytest.approx(100 * semantic["averageScoreClasses"], abs=1e-9)
    averages, _, _ = cityscapes_instance_scores(
        [tmp_path / "export" / "instance" / f"{stem}_leftImg8bit.txt" for stem in stems],
        [truth / f"{stem}_gtFine_instanceIds.png" for stem in stems],
    )
    assert scores["cityscapes_ap"] == pytest.approx(100 * averages["allAp"], abs=1e-9)
    assert scores["cityscapes_ap50"] == pytest.approx(100 * averages["allAp50%"], abs=1e-9)


def test_exported_ids_are_those_of_the_data_set(base, tmp_path):
    """ACDC: `image_id` as in its panoptic JSON; semantic predictions in train ids, called like the images."""
    root = write_acdc(tmp_path / "acdc", ("fog",))
    file = root / "gt_panoptic/fog/fog_val_gt_panoptic.json"
    described = json.loads(file.read_text())
    described["images"][0]["id"] = described["annotations"][0]["image_id"] = "GOPR0475_frame_000041"
    file.write_text(json.dumps(described))
    command = ["evaluate", "--base_model", base, "--dataset", "acdc/fog", "--data_dir", str(root), "--use_cpu"]
    command += ["--task", "panoptic", "--output_dir", str(tmp_path), "--export", str(tmp_path / "export")]
    assert main(command) == 0
    (entry,) = json.loads((tmp_path / "export/panoptic.json").read_text())["annotations"]
    assert entry["image_id"] == "GOPR0475_frame_000041"
    assert {segment["category_id"] for segment in entry["segments_info"]} <= set(CLASSES.ids)
    with Image.open(tmp_path / "export/semantic/GOPR0475_fog_val_frame_000041_rgb_anon.png") as image:
        assert np.isin(np.asarray(image), range(19)).all()


# panoptic scores and files contain semantic ones
@pytest.mark.parametrize("task, score", [("instance", "coco_ap"), ("panoptic", "pq_things")])
def test_two_processes_give_the_scores_and_files_of_one(base, cityscapes, tmp_path, task, score):
    """One process that loads by itself, and two with two loader processes each."""
    one, two = tmp_path / "one", tmp_path / "two"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    several = ["--export", str(two / "export"), "--dataloader_num_workers", "2"]
    script = [EXAMPLES / "evaluate.py", *options(base, cityscapes, two, task), *several]
    run_python(*launch, *script, ACCELERATE_USE_CPU="1")
    assert main(["evaluate", *options(base, cityscapes, one, task), "--export", str(one / "export")]) == 0
    first, second = (json.loads((folder / "metrics.json").read_text())["scores"] for folder in (one, two))
    assert str(first) == str(second)  # as texts, for NaN
    assert score in first["zero_shot"]
    names = [
        sorted(path.relative_to(folder) for path in (folder / "export").rglob("*") if path.is_file())
        for folder in (one, two)
    ]
    assert names[0] == names[1] and len(names[0]) >= {"semantic": 5, "instance": 11, "panoptic": 11}[task]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names[0])


def test_scores_of_tasks_stand_beside_mean_iou(tmp_path):
    images = tiny_images(3, "validation")
    for task, names in (
        ("instance", {"coco_ap", "coco_ap50", "cityscapes_ap", "cityscapes_ap50"}),
        ("panoptic", {"pq", "sq", "rq", "pq_things", "pq_stuff"}),
    ):
        trainer = tiny_trainer(tmp_path / task, evaluation=images, task=task)
        exporter = PredictionExporter(tmp_path / task, images.file_names, images.classes.ids)
        trainer.evaluator.exporters["adapted"] = exporter
        both = trainer.evaluate_by_class(with_zero_shot=True)
        assert set(both) == {"adapted", "zero_shot"} and names < set(both["adapted"])
        # prompts that have not been trained change nothing, and what was written is what was scored
        assert str(both["adapted"]) == str(both["zero_shot"])
        exporter.finish()
        assert {f"eval_{name}" for name in names} < set(trainer.evaluate())
    written = json.loads((tmp_path / "instance" / "instance" / "coco_instances.json").read_text())
    assert {"image_id", "category_id", "segmentation", "score"} == set(written[0])
    assert both["adapted"]["per_class_pq"].keys() == both["adapted"]["per_class_iou"].keys()


def test_a_task_without_labels_is_refused(tmp_path):
    images = tiny_images(2)
    read = images.source.read
    images.source.read = lambda row: {key: value for key, value in read(row).items() if key != "instance"}
    trainer = tiny_trainer(tmp_path, evaluation=images, task="panoptic")
    with pytest.raises(SSPromptError, match="needs instance maps"):
        trainer.evaluate()


def test_memory_of_scores_does_not_grow_with_images():
    scores = CocoScores(3)
    truth = {"label": np.zeros((512, 512), np.uint8), "instance": np.ones((512, 512), np.int32)}
    guess = {"masks": np.ones((4, 512, 512), bool), "labels": np.zeros(4), "scores": np.arange(4)}
    for image in range(20):
        scores.add(prediction=guess, reference=truth, image_id=image)
    arrays = [array for record in scores._records.values() for array in record]
    assert all(array.base is None or array.base.nbytes < 10_000 for array in arrays)
    assert sum(array.nbytes for array in arrays) < 20 * 1_000
