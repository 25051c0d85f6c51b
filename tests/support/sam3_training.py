"""A tiny SAM 3 with three classes, drawn scenes, and a trainer of them; run as a script, it trains."""

import json
import os
import sys

import torch
from peft import get_peft_model
from tiny_sam3 import tiny_sam3

from ssprompt_hf import SSPromptConfig, SSPromptTrainer, SSPromptTrainingArguments
from ssprompt_hf.data import ClassInfo, SegmentationClasses, SegmentationDataset, load_street_scenes
from ssprompt_hf.data.classes import IGNORE_INDEX

NAMES = ("road", "sky", "car")
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
    return SegmentationDataset(CLASSES, FewClasses(count, split), "few classes")


def sam3_trainer(output_dir, config=None, model=None, evaluation=None, **arguments) -> SSPromptTrainer:
    defaults = {"max_steps": 2, "per_device_train_batch_size": 2, "negative_classes": 1, "use_cpu": True}
    defaults |= {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", "learning_rate": 0.1}
    args = SSPromptTrainingArguments(output_dir=str(output_dir), **(defaults | arguments))
    base = tiny_sam3(class_names=list(NAMES)) if model is None else model
    adapted = get_peft_model(base, config or SSPromptConfig())
    return SSPromptTrainer(adapted, args, base.default_image_processor(), few_scenes(), evaluation)


def learned(trainer: SSPromptTrainer) -> dict[str, torch.Tensor]:
    parameters = trainer.model.named_parameters()
    return {name: parameter.detach().clone() for name, parameter in parameters if parameter.requires_grad}


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer = sam3_trainer(**json.loads(sys.argv[1]))
    trainer.train()
    if trainer.is_world_process_zero():
        torch.save(learned(trainer), os.path.join(trainer.args.output_dir, "learned.pt"))
