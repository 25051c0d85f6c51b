"""Pretrain `seem-nano`, the small SEEM inside this package, on drawn street scenes.

    python examples/pretrain_seem_nano.py --work_dir nano --minutes 60      # again to go on where it stopped
    ACCELERATE_USE_CPU=1 torchrun --nproc_per_node 2 examples/pretrain_seem_nano.py --work_dir nano ...
    python examples/pretrain_seem_nano.py --work_dir nano --export ssprompt_hf/assets/seem-nano

Scenes are drawn once, into `work_dir`, by all cores. Training stops after `--minutes` of its schedule (`--steps`) and
resumes from `work_dir/checkpoint.pt`.

The decoder and its queries learn from clear scenes, with the changes of colour that are usual in training on street
scenes. The image encoder also sees scenes whose appearance is changed (`seem_nano/appearance.py`). By way of a linear
classifier of pixels, which is thrown away, it learns features that hold in any of them. The four adverse conditions
are never seen: they are what prompts are to be learned for. So that prompts can do much, the decoder has only two
layers: each further layer asks the image more and the prompt less.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from seem_nano.batches import IMAGE_SIZES, PRETRAINING_SEED, SIZE, Batches, draw_scenes, normalise
from seem_nano.losses import phrase_loss, pixel_loss, set_loss, stroke_loss
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig

from ssprompt_hf.data.street_scenes.source import STREET_CLASSES, STREET_THINGS
from ssprompt_hf.metrics import confusion_matrix, scores_from_confusion
from ssprompt_hf.models.seem import SeemConfig, SeemForUniversalSegmentation, SeemImageProcessor, SeemProcessor
from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer
from ssprompt_hf.models.seem.outputs import SeemImageFeatures, SeemQueryStates
from ssprompt_hf.segmentation.predictions import QueryPrediction, mix_scores
from ssprompt_hf.training.losses import SemanticLoss
from ssprompt_hf.utils.files import atomic_path


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
        decoder_layers=2,
        dim_feedforward=256,
        num_queries=100,
        num_spatial_memories=16,
        prompt_templates=["{}"],
        known_phrases=list(STREET_CLASSES),
        object_mask_threshold=0.5,
        overlap_threshold=0.6,
    )


# For use: a little finer than in training, which suits thin things. Mean IoU of 60 validation scenes by
# `ssprompt-hf evaluate --image_size`: 75.9 at 256, 76.7 at 288, 76.6 at 320 pixels.
SHORTER_SIDE = 288


class Pretraining(nn.Module):
    """The model, and what is thrown away after pretraining: a linear classifier of pixels."""

    def __init__(self):
        super().__init__()
        self.model = SeemForUniversalSegmentation(nano_config()).to(memory_format=torch.channels_last)
        config = self.model.config
        self.pixel_head = nn.Conv2d(config.mask_feature_size, len(STREET_CLASSES), 1)
        self.semantic = [SemanticLoss("dice"), SemanticLoss("nll")]

    def decode(self, features: SeemImageFeatures) -> list[SeemQueryStates]:
        """What the queries answer before each layer and at last."""
        base = self.model.model
        queries = base.object_queries().expand(len(features.mask_features), -1, -1)
        positions = base.mask_decoder.query_positions.expand(len(queries), -1, -1)
        decoded = base.mask_decoder(features, queries, positions)
        return [base.mask_decoder.predict(states) for states in (*decoded.earlier, decoded.last)]

    def forward(self, tokenizer, batch: dict, step: int) -> torch.Tensor:
        model = self.model
        generator = torch.Generator().manual_seed(step)
        class_embeddings = embed_names(model, tokenizer, batch["names"])
        features = model.model.get_image_features(batch["pixel_values"], prepare=False)
        loss = 3.0 * pixel_loss(self.pixel_head, features, batch["labels"])
        features, batch = _clear_part(features, batch)
        answers = self.decode(features)
        matched = (set_loss(model, states, class_embeddings, features, batch) for states in answers)
        loss = loss + sum(matched) / len(answers)
        class_logits = model.class_logits(answers[-1].class_embeds, class_embeddings)
        mask_logits = (answers[-1].mask_embeds @ features.mask_features.flatten(2)).unflatten(
            2, features.mask_features.shape[-2:]
        )
        prediction = QueryPrediction(class_logits, mask_logits, features.padded_size)
        loss = loss + 3.0 * sum(form(prediction, batch["labels"]).mean() for form in self.semantic)
        if step % 4 == 1:
            loss = loss + stroke_loss(model, features, batch, generator)
        if step % 4 == 3:
            loss = loss + phrase_loss(model, tokenizer, features, class_embeddings, batch, generator)
        return loss


def _clear_part(features: SeemImageFeatures, batch: dict) -> tuple[SeemImageFeatures, dict]:
    """What the decoder learns from: the images that have segments, which come first."""
    count = len(batch["masks"])
    clear = SeemImageFeatures(
        mask_features=features.mask_features[:count],
        multi_scale_features=tuple(level[:count] for level in features.multi_scale_features),
        padded_size=features.padded_size,
    )
    return clear, batch | {"labels": batch["labels"][:count]}


def embed_names(model, tokenizer, names: list[str]) -> torch.Tensor:
    text = tokenizer([*names, "background"], padding=True, return_tensors="pt").to(model.device)
    embeddings = model.model.text_model(text["input_ids"], text["attention_mask"]).text_embeds
    return embeddings / (embeddings.norm(dim=-1, keepdim=True) + 1e-7)


@torch.no_grad()
def evaluate(model, tokenizer, scenes: dict[str, np.ndarray], batch_size: int = 10) -> dict:
    """Mean IoU of semantic inference at full resolution, with the base class names."""
    model.eval()
    embeddings = embed_names(model, tokenizer, list(STREET_CLASSES))
    matrix = 0
    for start in range(0, len(scenes["label"]), batch_size):
        images = torch.from_numpy(scenes["image"][start : start + batch_size].copy()).permute(0, 3, 1, 2).float()
        images = F.interpolate(normalise(images), IMAGE_SIZES[0], mode="bilinear", align_corners=False)
        output = model(pixel_values=images.to(model.device), class_embeddings=embeddings)
        masks = F.interpolate(output.masks_queries_logits, SIZE, mode="bilinear", align_corners=False)
        prediction = mix_scores(output.class_queries_logits, masks).argmax(1)
        labels = torch.from_numpy(scenes["label"][start : start + batch_size].copy()).to(model.device)
        matrix = matrix + confusion_matrix(prediction, labels, len(STREET_CLASSES))
    model.train()
    return scores_from_confusion(matrix, list(STREET_CLASSES))


def learning_rate(step: int, steps: int, peak: float) -> float:
    warmup = 300
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * max(0.5 * (1 + math.cos(math.pi * progress)), 0.01)


def to_device(batch: dict, device: torch.device) -> dict:
    """The batch on `device`; images in the layout of the convolutions."""
    moved = {name: [value.to(device) for value in batch[name]] for name in ("classes", "masks")}
    images = batch["pixel_values"].to(device, memory_format=torch.channels_last)
    return {"pixel_values": images, "labels": batch["labels"].to(device), "names": batch["names"], **moved}


def average_over_processes(accelerator: Accelerator, tensors: list[torch.Tensor]):
    """Replace each tensor by its mean over the processes, in one message."""
    if accelerator.num_processes > 1:
        flat = accelerator.reduce(torch.cat([tensor.flatten() for tensor in tensors]), "mean")
        for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(values.view_as(tensor))


def train(args):
    torch.manual_seed(PRETRAINING_SEED)
    torch.set_num_threads(args.threads)
    accelerator = Accelerator()
    tokenizer = byte_tokenizer()
    training = Pretraining().to(accelerator.device).train()
    parameters = list(training.parameters())
    decay = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=args.lr, fused=True
    )
    checkpoint, step = args.work_dir / "checkpoint.pt", 0
    if args.init_from is not None and not checkpoint.exists():
        weights = SeemForUniversalSegmentation.from_pretrained(args.init_from).state_dict()
        known = training.model.state_dict()
        # The classes of the export are drawn anew in every step; a deeper decoder gives its first layers.
        training.model.load_state_dict({name: weights[name] for name in known})
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=accelerator.device)
        training.load_state_dict(state["training"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    with accelerator.main_process_first():
        scenes = draw_scenes(args.work_dir, "train", args.num_scenes, args.workers)
        validation = draw_scenes(args.work_dir, "validation", 100, args.workers)
    batches = torch.utils.data.DataLoader(
        Batches(scenes, range(step, args.steps), args.batch_size, accelerator.process_index),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
    )
    start, recent, began = time.time(), [], step
    for batch in batches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        with accelerator.autocast():
            loss = training(tokenizer, to_device(batch, accelerator.device), step)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        average_over_processes(accelerator, [p.grad for p in parameters if p.grad is not None])
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent.append(loss.item())
        step += 1
        if step % 100 == 0:
            speed = (step - began) * args.batch_size * accelerator.num_processes / (time.time() - start)
            accelerator.print(f"step {step}/{args.steps} loss {np.mean(recent):.3f} {speed:.1f} images/s", flush=True)
            recent = []
        late = torch.tensor(float(time.time() - start > 60 * args.minutes), device=accelerator.device)
        expired = accelerator.reduce(late).item() > 0
        if step % args.evaluate_every == 0 or step == args.steps or expired:
            # Running statistics of the images differ a little between processes.
            average_over_processes(accelerator, [b for b in training.buffers() if b.is_floating_point()])
            if accelerator.is_main_process:
                with atomic_path(checkpoint) as temporary:
                    state = {"training": training.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                    torch.save(state, temporary)
                scores = evaluate(training.model, tokenizer, validation)
                record = {"step": step, "minutes": (time.time() - start) / 60, "mean_iou": scores["mean_iou"]}
                print(json.dumps({**record, **scores["per_class_iou"]}), flush=True)
                with (args.work_dir / "log.jsonl").open("a") as log:
                    log.write(json.dumps(record) + "\n")
        if expired:
            break
    accelerator.end_training()


def export(args):
    """Write the model in half precision with its class embeddings, tokenizer and processor."""
    tokenizer = byte_tokenizer()
    model = SeemForUniversalSegmentation(nano_config()).eval()
    training = torch.load(args.work_dir / "checkpoint.pt", weights_only=True, map_location="cpu")["training"]
    model.load_state_dict(
        {name.removeprefix("model."): x for name, x in training.items() if name.startswith("model.")}
    )
    image_processor = SeemImageProcessor(
        size={"shortest_edge": SHORTER_SIDE, "longest_edge": 4 * SHORTER_SIDE},
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
    parser.add_argument("--batch_size", type=int, default=8, help="images of one process")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--num_scenes", type=int, default=8000)
    parser.add_argument("--evaluate_every", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    (export if arguments.export else train)(arguments)
