"""Pretrain `seem-lite`, the default base model: a small SEEM whose backbone knows ImageNet, on drawn street scenes.

    pip install -e .[pretrain]
    python examples/pretrain_seem_lite.py --work_dir lite --max_minutes 7 --photographs FOLDER
    python examples/pretrain_seem_lite.py --work_dir lite --export out/seem-lite

Made for a machine with one GPU and many cores, and without a network. Other processes draw scenes into
`work_dir/scenes`, some like those of the data set, most of them more varied, while the model learns from those that
are there. Windows, colours and textures are drawn anew for every batch, on the device of training. The rate falls with
the time that is left; a run that was interrupted goes on from `work_dir/checkpoint.pt`. What is exported is the mean
of the weights along the way. As a batch holds the scenes that are drawn by then, no two runs are equal to the bit.

Photographs are optional, and have no labels: drawn images take on some of their statistics, and later in the run the
mean model labels them for the model in training where it is sure of itself ("DACS", Tranheden et al., 2021). Clicks
are learned on both, with corrections. The four adverse conditions of the street scenes are never seen: they are what
prompts are to be learned for. Some changes of appearance are of their kind, though, such as veils and gloss. So that
prompts can do much, the decoder has only two layers: each further layer asks the image more and the prompt less.
"""

import argparse
import copy
import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
from seem_lite.appearance import Textures, change_appearance, change_colors
from seem_lite.architecture import LITE, lite_config, published_backbone
from seem_lite.clicks import click_loss, drawn_objects, labelled_parts
from seem_lite.convolutions import CUDNN_FORMAT, WAYS, choose_convolutions, time_convolutions
from seem_lite.losses import PROMPTED_IMAGES, match, phrase_loss, pixel_loss, set_loss
from seem_lite.names import base_classes, draw_classes
from seem_lite.photographs import Photographs, paste_classes, pseudo_labels
from seem_lite.scenes import PRETRAINING_SEED, ScenePool, start_drawing
from seem_lite.views import IMAGE_SIZES, PIXEL_MEAN, PIXEL_STD, Batch, drawn_batch, normalise
from torch import nn

from ssprompt_hf.data.street_scenes.source import STREET_CLASSES, STREET_THINGS
from ssprompt_hf.models.seem import (
    SeemForUniversalSegmentation,
    SeemImageProcessor,
    SeemProcessor,
)
from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer
from ssprompt_hf.models.seem.outputs import SeemImageFeatures, SeemQueryStates
from ssprompt_hf.segmentation.predictions import QueryPrediction, mix_scores
from ssprompt_hf.training.losses import SemanticLoss
from ssprompt_hf.utils.files import atomic_path

# For use: images are enlarged like the scenes that are learned from, up to the second.
SHORTER_SIDE, MAX_SHORTER_SIDE = 288, 432
ENLARGEMENT = 1.5
WARMUP_STEPS = 40
FIRST_SCENES = 512  # to begin with
PHOTOGRAPHED_CLICKS = 0.5  # weight: what a model labels is no object for sure


class Pretraining(nn.Module):
    """The model, and what is thrown away after pretraining: a linear classifier of pixels."""

    def __init__(self, lite: int):
        super().__init__()
        self.model = SeemForUniversalSegmentation(lite_config(lite))
        self.pixel_head = nn.Conv2d(self.model.config.mask_feature_size, len(STREET_CLASSES), 1)
        self.semantic = [SemanticLoss("dice"), SemanticLoss("nll")]

    def start(self, lite: int, init_from: str | None) -> None:
        """Weights of another model, as far as they fit; for the backbone those of ImageNet, unless the other model has
        the same backbone."""
        fitting = {}
        if init_from is not None:
            known = self.model.state_dict()
            weights = SeemForUniversalSegmentation.from_pretrained(init_from).state_dict()
            fitting = {n: x for n, x in weights.items() if n in known and known[n].shape == x.shape}
            self.model.load_state_dict(fitting, strict=False)
        backbone = self.model.model.backbone
        if not all(f"model.backbone.{name}" in fitting for name in backbone.state_dict()):
            backbone.load_state_dict(published_backbone(lite))

    @torch.no_grad()
    def label(self, pixel_values: torch.Tensor, class_embeddings: torch.Tensor) -> torch.Tensor:
        """Class scores of the base classes, `(B, K, h, w)`: means of the queries' and the linear classifier's."""
        features = self.model.model.get_image_features(pixel_values, prepare=False)
        scores = query_scores(self.model, features, class_embeddings)
        return scores + self.pixel_head(features.mask_features).float().softmax(1)

    def forward(self, tokenizer, batch: Batch, step: int, photographs: dict | None = None) -> torch.Tensor:
        """
        The loss of a step.

        Args:
            batch: of drawn scenes.
            photographs: `pixel_values` of the same size, and `labels`, base classes called `names`.
        """
        model, drawn = self.model, len(batch.labels)
        pixel_values, base_labels = batch.pixel_values, batch.base_labels
        if photographs is not None:
            pixel_values = torch.cat([pixel_values, photographs["pixel_values"]])
            base_labels = torch.cat([base_labels, photographs["labels"]])
        features = model.model.get_image_features(pixel_values, prepare=False)
        answers = decode(model, features)
        loss = 3.0 * pixel_loss(self.pixel_head, features.mask_features, base_labels)
        class_embeddings = embed_names(model, tokenizer, batch.names)
        if photographs is not None:
            embeddings = embed_names(model, tokenizer, photographs["names"])
            others = slice(drawn, None)
            prediction = predict(model, _rows(features, others), _rows(answers[-1], others), embeddings)
            share = (len(pixel_values) - drawn) / drawn
            loss = loss + 3.0 * share * sum(form(prediction, photographs["labels"]).mean() for form in self.semantic)
            if step % 2:
                few = _rows(features, slice(drawn, drawn + PROMPTED_IMAGES))
                objects, known = labelled_parts(photographs["labels"][:PROMPTED_IMAGES])
                loss = loss + PHOTOGRAPHED_CLICKS * click_loss(model, few, objects, known)
            features, answers = _rows(features, slice(drawn)), [_rows(states, slice(drawn)) for states in answers]
        class_logits = [model.class_logits(states.class_embeds, class_embeddings) for states in answers]
        matching = match(answers, class_logits, features.mask_features, batch)
        matched = (
            set_loss(states, logits, queries, features.mask_features, batch)
            for states, logits, queries in zip(answers, class_logits, matching)
        )
        loss = loss + sum(matched) / len(answers)
        prediction = predict(model, features, answers[-1], class_embeddings)
        loss = loss + 3.0 * sum(form(prediction, batch.labels).mean() for form in self.semantic)
        few = _rows(features, slice(PROMPTED_IMAGES))
        if step % 2:
            loss = loss + click_loss(model, few, drawn_objects(batch, len(few.mask_features)))
        elif step % 4 == 2:
            loss = loss + phrase_loss(model, tokenizer, few, batch)
        return loss


def decode(model: SeemForUniversalSegmentation, features: SeemImageFeatures) -> list[SeemQueryStates]:
    """What the queries answer before each layer and at last."""
    decoder = model.model.mask_decoder
    queries = model.model.object_queries().expand(len(features.mask_features), -1, -1)
    positions = decoder.query_positions.expand(len(queries), -1, -1)
    decoded = decoder(features, queries, positions)
    return [decoder.predict(states) for states in (*decoded.earlier, decoded.last)]


def predict(model, features: SeemImageFeatures, states: SeemQueryStates, class_embeddings) -> QueryPrediction:
    masks = states.mask_embeds @ features.mask_features.flatten(2)
    masks = masks.unflatten(2, features.mask_features.shape[-2:])
    return QueryPrediction(model.class_logits(states.class_embeds, class_embeddings), masks, features.padded_size)


def query_scores(model, features: SeemImageFeatures, class_embeddings: torch.Tensor) -> torch.Tensor:
    """Class scores `(B, K, h, w)` that sum to 1 in each pixel."""
    prediction = predict(model, features, decode(model, features)[-1], class_embeddings)
    scores = mix_scores(prediction.class_queries_logits, prediction.masks_queries_logits)
    return scores / scores.sum(1, keepdim=True).clamp(min=1e-6)


def ask_teacher(name: str, tokenizer, photographs: Photographs, device: torch.device) -> None:
    """Let another model, by its name or folder, label the photographs once and for all."""
    model = SeemForUniversalSegmentation.from_pretrained(name).to(device).eval()
    with torch.no_grad():
        class_embeddings = embed_names(model, tokenizer, list(STREET_CLASSES))

    def label(images: torch.Tensor) -> torch.Tensor:
        features = model.model.get_image_features(normalise(images), prepare=False)
        return query_scores(model, features, class_embeddings)

    photographs.ask(label)


def _rows(output, rows: slice):
    """The same for some images of a batch only; works for `SeemImageFeatures` and `SeemQueryStates`."""
    values = {}
    for name, value in output.items():
        if isinstance(value, torch.Tensor):
            value = value[rows]
        elif name == "multi_scale_features":
            value = tuple(level[rows] for level in value)
        values[name] = value
    return type(output)(**values)


def embed_names(model, tokenizer, names: list[str]) -> torch.Tensor:
    text = tokenizer([*names, "background"], padding=True, return_tensors="pt").to(model.device)
    embeddings = model.model.text_model(text["input_ids"], text["attention_mask"]).text_embeds
    return embeddings / (embeddings.norm(dim=-1, keepdim=True) + 1e-7)


def rate_at(step: int, progress: float) -> float:
    """Share of the peak rate: a warm-up by steps, then half a cosine by time."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(0.5 * (1 + math.cos(math.pi * min(progress, 1))), 0.01)


@torch.no_grad()
def taught_photographs(teacher, tokenizer, photographs, images, batch, count, generator) -> dict:
    """Photographs with what another model said of them or the teacher says now, drawn classes pasted in."""
    size = images.shape[2:]
    names = base_classes(generator).names
    if photographs.scores is not None:
        plain, scores = photographs.cut_scored(count, size)
    else:
        plain = photographs.cut(count, size)
        scores = teacher.label(normalise(plain), embed_names(teacher.model, tokenizer, list(STREET_CLASSES)))
    labels = pseudo_labels(scores, size)
    changed = change_colors(plain)
    changed = torch.where(torch.rand(count, 1, 1, 1, device=plain.device) < 0.3, change_appearance(changed), changed)
    changed, labels = paste_classes(changed, labels, images[:count], batch.base_labels[:count], len(STREET_CLASSES))
    return {"pixel_values": normalise(changed), "labels": labels, "names": names}


def optimizer_of(training: Pretraining, args) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    """AdamW without decay of norms and biases; the backbone has a rate of its own, or none."""
    backbone = set(training.model.model.backbone.parameters())
    groups = []
    for parameters, lr in (
        ([p for p in training.parameters() if p not in backbone], args.lr),
        (list(backbone) if args.backbone_lr else [], args.lr * args.backbone_lr),
    ):
        decayed = [p for p in parameters if p.ndim > 1]
        rest = [p for p in parameters if p.ndim <= 1]
        groups += [
            {"params": decayed, "weight_decay": 0.05, "peak": lr},
            {"params": rest, "weight_decay": 0.0, "peak": lr},
        ]
    if not args.backbone_lr:
        training.model.model.backbone.requires_grad_(False)
    groups = [group for group in groups if group["params"]]
    device_type = next(training.parameters()).device.type
    optimizer = torch.optim.AdamW(groups, lr=args.lr, fused=device_type == "cuda")
    return optimizer, [p for group in groups for p in group["params"]]


def train(args):
    torch.manual_seed(PRETRAINING_SEED + args.seed)  # of what starts at random
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    began, limit = time.time(), 60 * args.max_minutes
    workers = start_drawing(args.scenes_dir, args.num_scenes, args.workers) if args.workers else []
    memory_format = torch.contiguous_format
    if device.type == "cuda":  # while others draw
        way = args.convolutions
        if way == "auto":
            way = choose_convolutions(
                [sys.executable, __file__, "--work_dir", str(args.work_dir), "--time_convolutions",
                 "--lite", str(args.lite), "--batch_size", str(args.batch_size)],
                limit,
            )  # fmt: skip
            print(f"convolutions: {way}, after {time.time() - began:.0f} s", flush=True)
        WAYS[way]()
        memory_format = CUDNN_FORMAT if way == "cudnn" else memory_format
    tokenizer = byte_tokenizer()
    training = Pretraining(args.lite)
    training.start(args.lite, args.init_from)
    training = training.to(device, memory_format=memory_format).train()
    training.model.model.backbone.eval()  # running statistics stay those of ImageNet
    optimizer, learned = optimizer_of(training, args)
    teacher = copy.deepcopy(training).eval().requires_grad_(False)
    averaged = [teacher.get_parameter(name) for name, p in training.named_parameters() if p.requires_grad]
    checkpoint, step, earlier = args.work_dir / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        training.load_state_dict(state["training"])
        teacher.load_state_dict(state["teacher"])
        optimizer.load_state_dict(state["optimizer"])
        step, earlier = state["step"], state["seconds"]
    photographs = Photographs(args.photographs, device) if args.photographs else None
    if photographs is not None and args.teacher is not None:
        ask_teacher(args.teacher, tokenizer, photographs, device)
    textures = Textures(device)
    pool = ScenePool(args.scenes_dir, args.num_scenes, device)
    pool.wait_for(FIRST_SCENES)
    print(f"ready after {time.time() - began:.0f} s with {pool.size} scenes", flush=True)
    base = base_classes()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    losses, first_step, skipped, saved = [], step, 0, time.time()
    while True:
        seconds = earlier + time.time() - began
        progress = max(seconds / limit, step / args.max_steps)
        finished = progress >= 1
        if finished or time.time() - saved > args.save_seconds:
            save(args, checkpoint, training, teacher, optimizer, step, seconds)
            saved = time.time()
        if finished:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_at(step, progress)
        pool.read_new()
        seed = PRETRAINING_SEED + step + 1_000_000 * args.seed
        torch.manual_seed(seed)  # a run that goes on does not begin with the same views
        generator = torch.Generator().manual_seed(seed)
        size = IMAGE_SIZES[step % len(IMAGE_SIZES)]
        batch, images = drawn_batch(pool, photographs, textures, draw_classes(generator), base, args.batch_size, size)
        with autocast:
            taught = None
            if photographs is not None and args.num_photographs and progress >= args.self_training_from:
                taught = taught_photographs(
                    teacher, tokenizer, photographs, images, batch, args.num_photographs, generator
                )
            loss = training(tokenizer, batch, step, taught)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        if nn.utils.clip_grad_norm_(learned, 1.0).isfinite():
            optimizer.step()
        else:  # 46 of 1225 steps in bfloat16 on a GPU, and none of 106 in float32 on a CPU
            skipped += 1
        step += 1
        with torch.no_grad():
            decay = min(0.999, (1 + step) / (10 + step))
            torch._foreach_lerp_(averaged, learned_in_order(training), 1 - decay)
        losses.append(loss.detach().nan_to_num())
        if step % args.log_every == 0:
            speed = (step - first_step) * args.batch_size / (time.time() - began)
            mean = torch.stack(losses).mean().item()
            record = {"step": step, "progress": progress, "loss": mean, "images_a_second": speed, "scenes": pool.size}
            record["skipped"] = skipped
            print(json.dumps({name: round(value, 4) for name, value in record.items()}), flush=True)
            losses = []
    for worker in workers:
        worker.terminate()


def convolution_steps(args, way: str) -> list:
    """A round of steps of image encoders alone, one an image size, as `time_convolutions` wants them."""
    device = torch.device(args.device)
    model = SeemForUniversalSegmentation(lite_config(args.lite)).train()
    model.model.backbone.eval()
    if way == "cudnn":
        model = model.to(memory_format=CUDNN_FORMAT)
    model = model.to(device)

    def step(size: tuple[int, int]) -> None:
        pixel_values = torch.randn(args.batch_size, 3, *size, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            features = model.model.get_image_features(pixel_values, prepare=False)
        features.mask_features.float().square().mean().backward()
        model.zero_grad()

    return [partial(step, size) for size in IMAGE_SIZES]


def learned_in_order(training: Pretraining) -> list[nn.Parameter]:
    """In the order of `named_parameters`, as the averages are."""
    return [parameter for parameter in training.parameters() if parameter.requires_grad]


def save(args, path: Path, training, teacher, optimizer, step: int, seconds: float) -> None:
    """The checkpoint, and the mean model in half precision beside it (`--weights_file`)."""
    state = {
        "training": training.state_dict(),
        "teacher": teacher.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    if args.weights_file is not None:
        weights = {name: value.half() for name, value in teacher.state_dict().items() if value.is_floating_point()}
        with atomic_path(args.weights_file) as temporary:
            torch.save(weights, temporary)


def export(args):
    """Write the mean model in half precision with its class embeddings, tokenizer and processor."""
    tokenizer = byte_tokenizer()
    model = SeemForUniversalSegmentation(lite_config(args.lite)).eval()
    if args.weights_file is not None:
        weights = torch.load(args.weights_file, weights_only=True, map_location="cpu")
    else:
        weights = torch.load(args.work_dir / "checkpoint.pt", weights_only=True, map_location="cpu")["teacher"]
    known = model.state_dict()
    weights = {name.removeprefix("model."): x for name, x in weights.items() if name.startswith("model.")}
    # counters of batches, which only training needs, are not among them
    model.load_state_dict({name: weights.get(name, known[name]) for name in known})
    image_processor = SeemImageProcessor(
        size={"shortest_edge": SHORTER_SIDE, "longest_edge": 4 * SHORTER_SIDE},
        max_shortest_edge=MAX_SHORTER_SIDE,
        enlargement=ENLARGEMENT,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
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
    parser.add_argument("--scenes_dir", type=Path, help="where scenes are drawn (default: work_dir/scenes)")
    parser.add_argument("--photographs", type=Path, help="folder of photographs, without labels")
    parser.add_argument("--num_photographs", type=int, default=10, help="a batch; 0: no self-training")
    parser.add_argument("--teacher", help="an exported model that labels the photographs, in place of self-training")
    parser.add_argument("--export", type=Path, help="write the model of the checkpoint to this folder, and stop")
    parser.add_argument("--weights_file", type=Path, help="also write, or export, the mean weights in half precision")
    parser.add_argument("--self_training_from", type=float, default=0.45, help="share of the time before it begins")
    parser.add_argument("--init_from", help="start from what fits of an exported model, such as seem-lite itself")
    parser.add_argument("--lite", type=int, choices=list(LITE), default=2, help="which EfficientNet-Lite")
    parser.add_argument("--max_minutes", type=float, default=120.0, help="length of the schedule")
    parser.add_argument("--max_steps", type=int, default=10**9, help="or so many steps, if they are over sooner")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--backbone_lr", type=float, default=0.1, help="times --lr; 0 freezes the backbone")
    parser.add_argument("--num_scenes", type=int, default=16000)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw; 0: others do")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--convolutions", choices=["auto", *WAYS], default="auto", help="auto: what is faster here")
    parser.add_argument("--time_convolutions", action="store_true", help="measure that, and stop")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log_every", type=int, default=100)
    parser.add_argument("--save_seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    if arguments.time_convolutions:
        time_convolutions(partial(convolution_steps, arguments))
        sys.exit()
    if arguments.teacher is not None and arguments.photographs is None:
        parser.error("--teacher labels photographs: add --photographs FOLDER")
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    arguments.scenes_dir = arguments.scenes_dir or arguments.work_dir / "scenes"
    (export if arguments.export else train)(arguments)
