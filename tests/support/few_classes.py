"""Drawn scenes of which three classes are left, and a trainer of any base model on them."""

from pathlib import Path

import torch
from peft import get_peft_model
from PIL import Image
from torch import nn

from ssprompt_hf import SSPromptConfig, SSPromptTrainer, SSPromptTrainingArguments
from ssprompt_hf.data import ClassInfo, SegmentationClasses, SegmentationDataset, load_street_scenes
from ssprompt_hf.data.classes import IGNORE_INDEX

NAMES = ["road", "sky", "car"]
CLASSES = SegmentationClasses(tuple(ClassInfo(name, index, name == "car") for index, name in enumerate(NAMES)))


class FewClasses:
    """Drawn scenes of which all classes but `NAMES` are ignored."""

    def __init__(self, count: int, split: str):
        self.scenes = load_street_scenes("street-scenes/clear", split, num_images=count, size=(32, 64))
        self.file_names = self.scenes.file_names
        self.ids = [self.scenes.classes.names.index(name) for name in NAMES]

    def read(self, row: int) -> dict:
        example = self.scenes[row]
        return {"image": example["image"], "label": self._few(example["label"]), "instance": example["instance"]}

    def read_label(self, row: int):
        return self._few(self.scenes.read_label(row))

    def _few(self, label):
        few = label * 0 + IGNORE_INDEX
        for index, number in enumerate(self.ids):
            few[label == number] = index
        return few

    def fingerprint(self) -> str:
        return self.scenes.fingerprint


def few_scenes(count: int = 2, split: str = "train") -> SegmentationDataset:
    """Of 32x64 pixels."""
    return SegmentationDataset(CLASSES, FewClasses(count, split), "few classes")


def few_classes_trainer(
    output_dir, base: nn.Module, config=None, evaluation=None, image_processor=None, **arguments
) -> SSPromptTrainer:
    """Of a base model for `NAMES`: two steps, on two images."""
    defaults = {"max_steps": 2, "per_device_train_batch_size": 2, "negative_classes": 1, "use_cpu": True}
    defaults |= {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", "learning_rate": 0.1}
    args = SSPromptTrainingArguments(output_dir=str(output_dir), **(defaults | arguments))
    adapted = get_peft_model(base, config or SSPromptConfig())
    image_processor = image_processor or base.default_image_processor()
    return SSPromptTrainer(adapted, args, image_processor, few_scenes(), evaluation)


def learned(trainer: SSPromptTrainer) -> dict[str, torch.Tensor]:
    parameters = trainer.model.named_parameters()
    return {name: parameter.detach().clone() for name, parameter in parameters if parameter.requires_grad}


def first_step(trainer: SSPromptTrainer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of the first batch."""
    trainer.model.zero_grad()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}


def save_few_scenes(folder: Path) -> Path:
    """As a user has data: images, label files and a class list."""
    scenes = few_scenes()
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(2):
            example = scenes[index]
            Image.fromarray(example["image"]).save(folder / "images" / split / f"{split}{index}.png")
            Image.fromarray(example["label"]).save(folder / "annotations" / split / f"{split}{index}.png")
    CLASSES.save(folder / "classes.json")
    return folder
