"""Pretrain `seem-nano`, the small SEEM inside this package, on drawn street scenes.

    python examples/pretrain_seem_nano.py --work_dir nano --minutes 60      # again to go on where it stopped
    python examples/pretrain_seem_nano.py --work_dir nano --export ssprompt_hf/assets/seem-nano

Scenes are drawn once, into `work_dir`, by all cores. Training stops after `--minutes` of its schedule (`--steps`) and
resumes from `work_dir/checkpoint.pt`. Images of the four adverse conditions are never seen.
"""

import argparse
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from transformers import CLIPTokenizer, ResNetConfig

from ssprompt_hf.data.street_scenes import STREET_CLASSES, STREET_SYNONYMS, STREET_THINGS, StreetScenes
from ssprompt_hf.metrics import confusion_matrix, scores_from_confusion
from ssprompt_hf.models.seem import SeemConfig, SeemForUniversalSegmentation, SeemImageProcessor, SeemProcessor
from ssprompt_hf.training.losses import SemanticLoss, label_shares

SIZE, SMALL_SIZE = (192, 384), (128, 256)
PRETRAINING_SEED = 7919  # few-shot experiments draw their scenes from seeds 0, 1, 2, ...
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, NO_OBJECT_WEIGHT = 2.0, 5.0, 5.0, 0.1  # as SEEM and Mask2Former


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: one token a byte, so that any name can be written in 514 tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=64)


def nano_config() -> SeemConfig:
    return SeemConfig(
        backbone_config=ResNetConfig(
            embedding_size=40,
            hidden_sizes=[40, 80, 160, 224],
            depths=[2, 2, 2, 1],
            layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        text_config={
            "vocab_size": 514,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "projection_dim": 96,
            "bos_token_id": 512,
            "eos_token_id": 513,
            "pad_token_id": 513,
        },
        feature_size=96,
        mask_feature_size=96,
        hidden_dim=96,
        projection_dim=96,
        encoder_layers=2,
        encoder_feedforward_dim=256,
        num_attention_heads=4,
        decoder_layers=6,
        dim_feedforward=256,
        num_queries=100,
        num_spatial_memories=16,
        prompt_templates=["{}"],
        object_mask_threshold=0.5,
        overlap_threshold=0.6,
    )


# ------------------------------------------------------------------------------------------------------------ scenes


def _draw_block(block: range, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scenes = StreetScenes(split=split, size=SIZE, num_images=block.stop, seed=PRETRAINING_SEED)
    items = [scenes[index] for index in block]
    return tuple(np.stack([item[name] for item in items]) for name in ("image", "label", "instance"))


def draw_scenes(folder: Path, split: str, num_images: int, workers: int) -> dict[str, np.ndarray]:
    """Draw `num_images` scenes into memory-mapped files, once; returns image, label and instance arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"image": (*SIZE, 3), "label": SIZE, "instance": SIZE}
    dtypes = {"image": np.uint8, "label": np.uint8, "instance": np.int32}
    paths = {name: folder / f"{split}_{num_images}_{name}.npy" for name in shapes}
    done = folder / f"{split}_{num_images}.done"
    if not done.exists():
        arrays = {
            name: np.lib.format.open_memmap(path, "w+", dtypes[name], (num_images, *shapes[name]))
            for name, path in paths.items()
        }
        blocks = [range(start, min(start + 50, num_images)) for start in range(0, num_images, 50)]
        with ProcessPoolExecutor(workers) as pool:
            for block, drawn in zip(blocks, pool.map(_draw_block, blocks, [split] * len(blocks))):
                for name, values in zip(shapes, drawn):
                    arrays[name][block.start : block.stop] = values
        done.touch()
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def augment(image, label, instance, size: tuple[int, int], rng: np.random.Generator):
    """Mirror, a window of the scene (all of it down to 1 / 1.6 of its sides) resized to `size`, changes of colour."""
    image, label, instance = (torch.from_numpy(np.array(x)) for x in (image, label, instance))
    if rng.random() < 0.5:
        image, label, instance = image.flip(1), label.flip(1), instance.flip(1)
    zoom = float(np.exp(rng.uniform(0.0, np.log(1.6)))) if rng.random() < 0.6 else 1.0
    h, w = int(SIZE[0] / zoom), int(SIZE[1] / zoom)
    top, left = rng.integers(0, SIZE[0] - h + 1), rng.integers(0, SIZE[1] - w + 1)
    image = image.permute(2, 0, 1).float()[None, :, top : top + h, left : left + w]
    image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=h > size[0])[0]
    rows, columns = (torch.arange(n) * old // n for n, old in ((size[0], h), (size[1], w)))
    label, instance = (x[top : top + h, left : left + w][rows][:, columns] for x in (label, instance))
    gain = torch.tensor(rng.uniform(0.85, 1.15, (3, 1, 1)), dtype=torch.float32) * float(rng.uniform(0.8, 1.25))
    image = (image * gain + float(rng.uniform(-12, 12))).clamp(0, 255)
    return image, label, instance


def segments_of(label: torch.Tensor, instance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class ids `(n,)` and masks `(n, H, W)`: one segment per instance of a thing and per class of stuff."""
    thing = torch.isin(label, torch.tensor(STREET_THINGS, dtype=label.dtype)) & (instance > 0)
    segment = torch.where(thing, instance.long() + 256, label.long())
    ids = segment.unique()
    ids = ids[ids != 255]
    masks = segment == ids[:, None, None]
    keep = masks.flatten(1).sum(1) >= 12
    masks = masks[keep]
    classes = torch.stack([label[mask][0] for mask in masks]).long()
    return classes, masks


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]


class Batches(torch.utils.data.Dataset):
    """Training batch `step`, a function of the step alone, so that a run can be interrupted anywhere.

    The first `small_steps` steps see scenes at two thirds of their size, which takes less than half the time.
    """

    def __init__(self, scenes: dict[str, np.ndarray], steps: range, small_steps: int, batch_size: int):
        self.scenes, self.steps, self.small_steps, self.batch_size = scenes, steps, small_steps, batch_size

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: int) -> dict:
        step = self.steps[position]
        rng = np.random.default_rng([PRETRAINING_SEED, step])
        names = [str(rng.choice(STREET_SYNONYMS[name])) for name in STREET_CLASSES]
        size = SMALL_SIZE if step < self.small_steps else SIZE
        images, labels, classes, masks = [], [], [], []
        for index in rng.integers(0, len(self.scenes["label"]), self.batch_size):
            image, label, instance = augment(
                *(self.scenes[name][index] for name in ("image", "label", "instance")), size, rng
            )
            image_classes, image_masks = segments_of(label, instance)
            images.append(image)
            labels.append(label)
            classes.append(image_classes)
            # At the resolution of the masks: the share of each cell that belongs to the segment.
            masks.append(F.avg_pool2d(image_masks[:, None].float(), 4)[:, 0])
        pixels = (torch.stack(images) - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[
            :, None, None
        ]
        return {
            "pixel_values": pixels,
            "labels": torch.stack(labels),
            "classes": classes,
            "masks": masks,
            "names": names,
        }


# ------------------------------------------------------------------------------------------------------------ losses


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
    weights = torch.ones(no_object + 1)
    weights[-1] = NO_OBJECT_WEIGHT
    class_targets = torch.full(class_logits.shape[:2], no_object)
    total = 0.0
    for index, (classes, masks) in enumerate(zip(batch["classes"], batch["masks"])):
        if not len(classes):
            continue
        with torch.no_grad():
            cost = pair_costs(coarse[index], F.avg_pool2d(masks[:, None], 2).flatten(1))
            cost = cost - CLASS_WEIGHT * class_logits[index].softmax(-1)[:, classes]
            queries, segments = linear_sum_assignment(cost.numpy())
        class_targets[index, queries] = classes[segments]
        logits = states.mask_embeds[index, queries] @ features.mask_features[index].flatten(1)
        total = total + mask_losses(logits, masks[segments].flatten(1)).sum() / num_segments
    return total + CLASS_WEIGHT * F.cross_entropy(class_logits.transpose(1, 2), class_targets, weights)


def stroke_loss(model, features, batch, generator: torch.Generator, num_objects: int = 4) -> torch.Tensor:
    """A few random pixels of random segments must give these segments back: trains the visual sampler."""
    height, width = batch["labels"].shape[-2:]
    strokes = torch.zeros(len(batch["masks"]), num_objects, height, width, dtype=torch.bool)
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
    text = tokenizer(phrases, padding=True, return_tensors="pt")
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


# ---------------------------------------------------------------------------------------------------------- training


def embed_names(model, tokenizer, names: list[str]) -> torch.Tensor:
    text = tokenizer([*names, "background"], padding=True, return_tensors="pt")
    embeddings = model.model.text_model(text["input_ids"], text["attention_mask"]).text_embeds
    return embeddings / (embeddings.norm(dim=-1, keepdim=True) + 1e-7)


def pixel_loss(pixel_head, features, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a linear classifier on the mask features. It is not part of the model: it only shows the image
    encoder what the queries will need, long before they can."""
    logits = pixel_head(features.mask_features).log_softmax(1)
    counts = label_shares(labels, len(STREET_CLASSES), logits.shape[-2:])
    weights = (counts.sum((0, 2, 3)) + 1).rsqrt()[:, None, None]
    return -(weights * counts * logits).sum() / (weights * counts).sum()


def total_loss(model, pixel_head, tokenizer, semantic, batch, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    class_embeddings = embed_names(model, tokenizer, batch["names"])
    output = model.model(pixel_values=batch["pixel_values"], output_auxiliary_predictions=True)
    features = output.image_features
    supervised = [output.auxiliary_states[0], output.auxiliary_states[3], output.object_states]
    loss = sum(set_loss(model, states, class_embeddings, features, batch) for states in supervised) / 3
    loss = loss + 3.0 * pixel_loss(pixel_head, features, batch["labels"])
    class_logits = model.class_logits(output.object_states.class_embeds, class_embeddings)
    mask_logits = (output.object_states.mask_embeds @ features.mask_features.flatten(2)).unflatten(
        2, features.mask_features.shape[-2:]
    )
    loss = loss + 3.0 * sum(form(class_logits, mask_logits, batch["labels"]).mean() for form in semantic)
    if step % 4 == 1:
        loss = loss + stroke_loss(model, features, batch, generator)
    if step % 4 == 3:
        loss = loss + phrase_loss(model, tokenizer, features, class_embeddings, batch, generator)
    return loss


@torch.no_grad()
def evaluate(model, tokenizer, scenes: dict[str, np.ndarray], batch_size: int = 10) -> dict:
    """Mean IoU of semantic inference at full resolution, with the base class names."""
    model.eval()
    embeddings = embed_names(model, tokenizer, list(STREET_CLASSES))
    matrix = 0
    for start in range(0, len(scenes["label"]), batch_size):
        images = torch.from_numpy(scenes["image"][start : start + batch_size].copy()).permute(0, 3, 1, 2).float()
        output = model(pixel_values=normalise(images), class_embeddings=embeddings)
        masks = F.interpolate(output.masks_queries_logits, SIZE, mode="bilinear", align_corners=False).sigmoid()
        scores = output.class_queries_logits.softmax(-1)[..., :-1].transpose(1, 2) @ masks.flatten(2)
        prediction = scores.argmax(1).unflatten(1, SIZE)
        labels = torch.from_numpy(scenes["label"][start : start + batch_size].copy())
        matrix = matrix + confusion_matrix(prediction, labels, len(STREET_CLASSES))
    model.train()
    return scores_from_confusion(matrix, list(STREET_CLASSES))


def learning_rate(step: int, steps: int, peak: float) -> float:
    warmup = 300
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * max(0.5 * (1 + math.cos(math.pi * progress)), 0.01)


def save_checkpoint(path: Path, **state):
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(args):
    torch.manual_seed(PRETRAINING_SEED)
    torch.set_num_threads(args.threads)
    tokenizer = byte_tokenizer()
    model = SeemForUniversalSegmentation(nano_config()).to(memory_format=torch.channels_last).train()
    pixel_head = torch.nn.Conv2d(model.config.mask_feature_size, len(STREET_CLASSES), 1)
    parameters = [*model.parameters(), *pixel_head.parameters()]
    decay = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=args.lr, fused=True
    )
    checkpoint, step = args.work_dir / "checkpoint.pt", 0
    if args.init_from is not None and not checkpoint.exists():
        weights = SeemForUniversalSegmentation.from_pretrained(args.init_from).state_dict()
        del weights["class_embeddings.weight"]  # the classes of the export; here they are drawn anew in every step
        model.load_state_dict(weights)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        pixel_head.load_state_dict(state["pixel_head"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    scenes = draw_scenes(args.work_dir, "train", args.num_scenes, args.workers)
    validation = draw_scenes(args.work_dir, "validation", 100, args.workers)
    semantic = [SemanticLoss("dice"), SemanticLoss("nll")]
    batches = torch.utils.data.DataLoader(
        Batches(scenes, range(step, args.steps), int(args.steps * args.small_share), args.batch_size),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
    )
    start, recent, began = time.time(), [], step
    log = (args.work_dir / "log.jsonl").open("a", buffering=1)
    for batch in batches:
        rate = learning_rate(step, args.steps, args.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        loss = total_loss(model, pixel_head, tokenizer, semantic, batch, step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent.append(loss.item())
        step += 1
        if step % 100 == 0:
            speed = (step - began) * args.batch_size / (time.time() - start)
            print(f"step {step}/{args.steps} loss {np.mean(recent):.3f} {speed:.1f} images/s", flush=True)
            recent = []
        expired = time.time() - start > 60 * args.minutes
        if step % args.evaluate_every == 0 or step == args.steps or expired:
            scores = evaluate(model, tokenizer, validation)
            record = {"step": step, "minutes": (time.time() - start) / 60, "mean_iou": scores["mean_iou"]}
            print(json.dumps({**record, **scores["per_class_iou"]}), flush=True)
            log.write(json.dumps(record) + "\n")
            save_checkpoint(
                checkpoint,
                model=model.state_dict(),
                pixel_head=pixel_head.state_dict(),
                optimizer=optimizer.state_dict(),
                step=step,
            )
        if expired:
            break


def export(args):
    """Write the model in half precision with its class embeddings, tokenizer and processor."""
    tokenizer = byte_tokenizer()
    model = SeemForUniversalSegmentation(nano_config()).eval()
    model.load_state_dict(torch.load(args.work_dir / "checkpoint.pt", weights_only=True)["model"])
    image_processor = SeemImageProcessor(
        size={"shortest_edge": SIZE[0], "longest_edge": 4 * SIZE[0]},
        object_mask_threshold=model.config.object_mask_threshold,
        overlap_threshold=model.config.overlap_threshold,
        thing_class_ids=list(STREET_THINGS),
    )
    processor = SeemProcessor(image_processor, tokenizer)
    model.set_class_names(list(STREET_CLASSES), tokenizer, list(STREET_THINGS))
    model.half().save_pretrained(args.export)
    processor.save_pretrained(args.export)
    # Half precision is how the weights travel, not how they compute.
    path = args.export / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["backbone_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (args.export / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=Path, required=True, help="scenes, checkpoint and log")
    parser.add_argument("--export", type=Path, help="write the model of the checkpoint to this folder, and stop")
    parser.add_argument("--init_from", help="start from the weights of an exported model, such as seem-nano itself")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time, to be resumed later")
    parser.add_argument("--steps", type=int, default=7200, help="length of the schedule")
    parser.add_argument("--small_share", type=float, default=0.75, help="share of the steps at two thirds of the size")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--num_scenes", type=int, default=8000)
    parser.add_argument("--evaluate_every", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    (export if arguments.export else train)(arguments)
