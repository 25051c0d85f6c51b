"""Random scenes, and the official tools and naive definitions that judge the metrics."""

import contextlib
import copy
import io
import json

import numpy as np
from PIL import Image

from ssprompt_hf.segmentation.export import PredictionExporter


def random_scene(rng, num_classes=6, things=(2, 3, 4, 5), size=(40, 56), void=0.05, crowds=True, scale=1):
    """`label` and `instance`: blocks of stuff, things on top, some of them tiny, crowds and void."""
    label = np.repeat(np.repeat(rng.integers(0, 2, (size[0] // 8, size[1] // 8)), 8, 0), 8, 1).astype(np.uint8)
    instance = np.zeros(size, np.int32)
    for number in range(1, int(rng.integers(1, 12))):
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        h, w = rng.integers(1, 22 * scale, 2)
        label[y : y + h, x : x + w] = rng.choice(things)
        instance[y : y + h, x : x + w] = 0 if crowds and rng.random() < 0.2 else number
    label[rng.random(size) < void] = 255
    if void:
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        label[y : y + 10, x : x + 10] = 255
    instance[~np.isin(label, things)] = 0
    return {"label": label, "instance": instance}


def random_instances(rng, truth, num_classes=6, things=(2, 3, 4, 5), ties=True):
    """Overlapping masks: true ones shifted or cut, repeated ones, noise, empty masks; often equal scores."""
    masks, labels = [], []
    keys = np.unique(np.stack([truth["label"], truth["instance"]], -1)[np.isin(truth["label"], things)], axis=0)
    for label, number in keys:
        mask = (truth["label"] == label) & (truth["instance"] == number)
        for _ in range(rng.integers(0, 4)):
            masks.append(
                np.roll(mask, rng.integers(-2, 3, 2), (0, 1)) & (rng.random(mask.shape) < rng.choice([1, 0.9]))
            )
            labels.append(label if rng.random() < 0.85 else rng.choice(things))
    for _ in range(rng.integers(0, 4)):
        mask = np.zeros(truth["label"].shape, bool)
        y, x, h, w = *rng.integers(0, 40, 2), *rng.integers(0, 25, 2)
        mask[y : y + h, x : x + w] = True
        masks.append(mask)
        labels.append(rng.choice(things))
    scores = np.round(rng.random(len(masks)), 1 if ties else 6)
    masks = np.stack(masks) if masks else np.zeros((0, *truth["label"].shape), bool)
    return {"masks": masks, "labels": np.array(labels, np.int64), "scores": scores}


def random_panoptic(rng, truth, num_classes=6, things=(2, 3, 4, 5)):
    """Disjoint segments near the true ones, with holes, wrong classes and parts without prediction."""
    segmentation, infos = np.zeros(truth["label"].shape, np.int32), []
    known = truth["label"] != 255
    for label, number in np.unique(np.stack([truth["label"], truth["instance"]], -1)[known], axis=0):
        mask = (truth["label"] == label) & (truth["instance"] == number)
        mask = np.roll(mask, rng.integers(-1, 2, 2), (0, 1)) & (rng.random(mask.shape) < rng.choice([1, 0.95, 0.5]))
        guess = int(label if rng.random() < 0.85 else rng.integers(num_classes))
        if guess not in things and any(info["label_id"] == guess for info in infos):
            continue
        if mask.any() and rng.random() < 0.9:
            segmentation[mask] = len(infos) + 1
            infos.append({"id": len(infos) + 1, "label_id": guess})
    if rng.random() < 0.7:
        segmentation[(segmentation == 0) & (rng.random(mask.shape) < 0.9)] = len(infos) + 1
        infos.append({"id": len(infos) + 1, "label_id": int(rng.choice(things))})
    seen = np.unique(segmentation)
    return {"segmentation": segmentation, "segments_info": [info for info in infos if info["id"] in seen]}


def true_objects(truth, things):
    """Masks, labels and crowd flags, in the order of class and instance number."""
    keys = np.unique(np.stack([truth["label"], truth["instance"]], -1)[np.isin(truth["label"], things)], axis=0)
    masks = [(truth["label"] == label) & (truth["instance"] == number) for label, number in keys]
    return masks, [int(label) for label, _ in keys], [int(number == 0) for _, number in keys]


def pycocotools_scores(predictions, truths, num_classes):
    """`(stats (12,), precision (10, 101, K, 4, 3))` of `pycocotools`."""
    return evaluate_coco(*coco_dicts(predictions, truths, num_classes))


def prepared_coco(predictions, truths, num_classes, *tools):
    """A function that computes AP of masks that are coded already."""
    dicts = coco_dicts(predictions, truths, num_classes)
    return lambda: evaluate_coco(*copy.deepcopy(dicts), *tools)[0][0]


def coco_dicts(predictions, truths, num_classes):
    """The truth as a COCO file holds it, and a list of results."""
    from pycocotools import mask as rle

    annotations, results = [], []
    every = [mask for prediction, truth in zip(predictions, truths) for mask in (*prediction["masks"], *truth[0])]
    height, width = every[0].shape if every else (1, 1)  # of use to no one, but asked for
    for image, (prediction, truth) in enumerate(zip(predictions, truths), start=1):
        for mask, label, crowd in zip(*truth):
            code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "iscrowd": crowd,
                    "segmentation": code,
                    "area": int(mask.sum()),
                    "bbox": rle.toBbox(code).tolist(),
                }
            )
        for mask, label, score in zip(prediction["masks"], prediction["labels"], prediction["scores"]):
            code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            results.append(
                {"image_id": image, "category_id": int(label) + 1, "segmentation": code, "score": float(score)}
            )
    truth = {
        "info": {},
        "images": [{"id": i + 1, "height": height, "width": width} for i in range(len(truths))],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(num_classes)],
        "annotations": annotations,
    }
    return truth, results


def evaluate_coco(truth, results, coco_class=None, evaluator=None):
    """Runs `pycocotools`, or other classes with its interface."""
    if coco_class is None:
        from pycocotools.coco import COCO as coco_class
        from pycocotools.cocoeval import COCOeval as evaluator

    with contextlib.redirect_stdout(io.StringIO()):
        coco, detections = coco_class(), coco_class()
        coco.dataset = truth
        coco.createIndex()
        if results:
            detections = coco.loadRes(results)
        else:
            detections.dataset = {**truth, "annotations": []}
            detections.createIndex()
        judge = evaluator(coco, detections, "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats, judge.eval["precision"]


def naive_panoptic_quality(predictions, truths, num_classes, things):
    """
    The official rules as sets of pixels, image by image.

    `truths` are lists of (mask, class, crowd); pixels of no mask are void. Returns `{"all" | "things" | "stuff": (PQ,
    SQ, RQ)}` and the same for every class that has segments.
    """
    tp, fp, fn, iou = np.zeros((4, num_classes))
    for prediction, truth in zip(predictions, truths):
        pixels = [(set(np.flatnonzero(mask)), label, crowd) for mask, label, crowd in truth]
        known = set().union(*(mask for mask, _, _ in pixels))
        crowds = {label: mask for mask, label, crowd in pixels if crowd}
        found = set()
        for info in prediction["segments_info"]:
            guess = set(np.flatnonzero(prediction["segmentation"] == info["id"]))
            matched = False
            for number, (mask, label, crowd) in enumerate(pixels):
                if crowd or label != info["label_id"] or not mask & guess:
                    continue
                overlap = len(mask & guess) / len(mask | (guess & known))
                if overlap > 0.5:
                    matched = True
                    found.add(number)
                    tp[label] += 1
                    iou[label] += overlap
            ignored = len(guess - known) + len(guess & crowds.get(info["label_id"], set()))
            if not matched and ignored / len(guess) <= 0.5:
                fp[info["label_id"]] += 1
        for number, (_, label, crowd) in enumerate(pixels):
            fn[label] += not crowd and number not in found
    seen = [k for k in range(num_classes) if tp[k] + fp[k] + fn[k]]
    rows = {k: (iou[k] / (w := tp[k] + (fp[k] + fn[k]) / 2), iou[k] / max(tp[k], 1), tp[k] / w) for k in seen}
    means = {}
    for name, chosen in (
        ("all", seen),
        ("things", [k for k in seen if k in things]),
        ("stuff", [k for k in seen if k not in things]),
    ):
        means[name] = np.mean([rows[k] for k in chosen], axis=0) if chosen else np.full(3, np.nan)
    return means, rows


def cityscapes_ids(truth, classes):
    """`labelIds` and `instanceIds` maps of train ids `label` with official label ids `classes`, void as id 0."""
    table = np.zeros(256, np.int32)
    table[: len(classes)] = classes
    ids = table[truth["label"]]
    return ids.astype(np.uint8), np.where(truth["instance"] > 0, ids * 1000 + truth["instance"], ids)


def cityscapes_instance_scores(text_files, instance_files):
    """The official script's `(averages, AP matrix (classes, 10), class names)`."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script

    args = script.CArgs()
    vars(args).update(vars(script.args))
    args.quiet, args.JSONOutput = True, False
    args.predictionPath = str(text_files[0].parent.resolve())
    script.setInstanceLabels(args)
    files = [str(path) for path in instance_files]
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # the script still uses the name that numpy 2.4 dropped
    # as `evaluateImgLists`, which would also write files into the working and the package's directory
    truth = script.instances2dict(files, False)
    matches = script.matchGtWithPreds([str(path) for path in text_files], files, truth, args)
    with np.errstate(invalid="ignore"):
        matrix = script.evaluateMatches(matches, args)
        averages = script.computeAverages(matrix, args)
    return averages, matrix[0], args.instLabels


def cityscapes_semantic_scores(prediction_files, label_files):
    """The official script's results for files of label ids."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    args = script.CArgs()
    vars(args).update(vars(script.args))
    args.quiet, args.JSONOutput, args.evalInstLevelScore = True, False, False
    return script.evaluateImgLists([str(path) for path in prediction_files], [str(path) for path in label_files], args)


def cityscapes_panoptic_scores(truth_json, truth_folder, prediction_json, prediction_folder):
    """The official script's results, which follow those of `panopticapi`, in this process."""
    from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script

    truth, prediction = (json.loads(path.read_text()) for path in (truth_json, prediction_json))
    categories = {category["id"]: category for category in truth["categories"]}
    by_image = {entry["image_id"]: entry for entry in prediction["annotations"]}
    pairs = [(entry, by_image[entry["image_id"]]) for entry in truth["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        statistics = script.pq_compute_single_core(0, pairs, str(truth_folder), str(prediction_folder), categories)
    return script.average_pq(statistics, categories)


def prepared_panoptic(folder, predictions, truths, classes, things):
    """A function that computes PQ of files that are written already."""
    names = [f"{number}.png" for number in range(len(truths))]
    exporters = [PredictionExporter(folder / kind, names, classes.ids) for kind in ("truth", "guess")]
    for index, (prediction, truth) in enumerate(zip(predictions, truths)):
        segmentation, infos = np.zeros(truth["label"].shape, np.int32), []
        for label, number in np.unique(np.stack([truth["label"], truth["instance"]], -1).reshape(-1, 2), axis=0):
            if label != 255:
                mask = (truth["label"] == label) & (truth["instance"] == number)
                segmentation[mask] = len(infos) + 1
                infos.append({"id": len(infos) + 1, "label_id": int(label)})
        exporters[0].add_panoptic(index, segmentation, infos)
        exporters[1].add_panoptic(index, **prediction)
    for exporter in exporters:
        exporter.finish()
    path = folder / "truth" / "panoptic.json"
    truth = json.loads(path.read_text())
    for entry in truth["annotations"]:
        for info in entry["segments_info"]:
            info["iscrowd"] = 0
    truth["categories"] = [{"id": number, "isthing": int(k in things)} for k, number in enumerate(classes.ids)]
    path.write_text(json.dumps(truth))
    files = [f for kind in ("truth", "guess") for f in (folder / kind / "panoptic.json", folder / kind / "panoptic")]
    return lambda: cityscapes_panoptic_scores(*files)["All"]["pq"]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path
