"""A tiny adapted model and a few drawn scenes, the same whenever they are made; run as a script, it trains.

python tiny.py '{"output_dir": "...", "max_steps": 6}' [--kill-at STEP] [--resume]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import TrainerCallback

from ssprompt_hf.cli.main import main as run_command
from ssprompt_hf.data.loading import load_street_scenes
from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer
from ssprompt_hf.models.seem.configuration_seem import SeemConfig
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor
from ssprompt_hf.models.seem.modeling_seem import SeemForUniversalSegmentation
from ssprompt_hf.training import runs
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.checkpoints import last_complete_checkpoint
from ssprompt_hf.training.trainer import SSPromptTrainer
from ssprompt_hf.tuners.ssprompt import SSPromptConfig

SCRIPT = Path(__file__).resolve()
WIDTH = 32


def tiny_seem(num_classes: int = 11) -> SeemForUniversalSegmentation:
    """SEEM with a focal backbone, three decoder layers and random weights and classes."""
    torch.manual_seed(0)
    config = SeemConfig(
        backbone_config={"model_type": "seem_focalnet", "embed_dim": 8, "depths": [1, 1, 1, 1]},
        use_text_model=False,
        use_spatial_prompt_encoder=False,
        feature_size=WIDTH,
        mask_feature_size=WIDTH,
        hidden_dim=WIDTH,
        projection_dim=WIDTH,
        encoder_layers=1,
        encoder_feedforward_dim=WIDTH,
        dim_feedforward=WIDTH,
        num_attention_heads=2,
        decoder_layers=3,
        num_queries=6,
    )
    model = SeemForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the small usual initialisation gives masks without any contrast
            if parameter.ndim > 1:
                parameter.mul_(3)
    embeddings = torch.nn.functional.normalize(torch.randn(num_classes + 1, WIDTH), dim=-1)
    model.set_class_embeddings(embeddings, [f"class {index}" for index in range(num_classes)])
    return model


def save_tiny_base(folder, **settings) -> str:
    """A base model as users have it: weights, a tokenizer of bytes, an image processor; no class names yet."""
    torch.manual_seed(0)
    text = {"vocab_size": 514, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    config = tiny_seem().config.to_dict() | {"use_text_model": True, "use_spatial_prompt_encoder": True}
    config |= {"text_config": text | {"model_type": "seem_text"}, "class_names": None, "prompt_templates": ["{}"]}
    config |= settings
    model = SeemForUniversalSegmentation(SeemConfig.from_dict(config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


def tiny_adapted(**config) -> torch.nn.Module:
    """The tiny model with an untrained SSPrompt adapter."""
    return get_peft_model(tiny_seem(), SSPromptConfig(**config))


def prompts(model) -> dict[str, torch.Tensor]:
    """Copies of all that is learned."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def tiny_images(count: int = 5, split: str = "train"):
    """Drawn scenes of 32x64 pixels."""
    return load_street_scenes("street-scenes/fog", split, num_images=count, size=(32, 64))


def tiny_processor() -> SeemImageProcessor:
    """Does not resize the tiny scenes."""
    return SeemImageProcessor(size={"shortest_edge": 32, "longest_edge": 128})


def tiny_trainer(
    output_dir, model=None, train=None, evaluation=None, callbacks=None, image_processor=None, **arguments
) -> SSPromptTrainer:
    """A trainer of everything above."""
    defaults = {"max_steps": 4, "per_device_train_batch_size": 2, "use_cpu": True, "disable_tqdm": True}
    args = SSPromptTrainingArguments(output_dir=str(output_dir), **(defaults | arguments))
    model = tiny_adapted() if model is None else model
    train = tiny_images() if train is None else train
    processor = tiny_processor() if image_processor is None else image_processor
    return SSPromptTrainer(model, args, processor, train, evaluation, callbacks=callbacks)


def run_python(*command, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python command` in a process of its own: one thread, no GPU, off the network."""
    environment |= os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, *map(str, command)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if check and process.returncode:
        raise AssertionError(f"{command} failed ({process.returncode}):\n{process.stdout}\n{process.stderr}")
    return process


class KillAt(TrainerCallback):
    """Ends the process as a power cut would, after `step` steps and what is saved then."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class InterruptAt(TrainerCallback):
    """Ctrl-C after `step` steps."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def interrupted(command: list[str], step: int = 3) -> int:
    """Run `ssprompt-hf` with Ctrl-C after `step` steps; its exit code."""
    prepare = runs.prepare_training

    def prepare_and_interrupt(*args, **kwargs):
        trainer = prepare(*args, **kwargs)
        trainer.add_callback(InterruptAt(step))
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "prepare_training", prepare_and_interrupt)
        return run_command(command)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("arguments", type=json.loads)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--evaluate", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    callbacks = [] if options.kill_at is None else [KillAt(options.kill_at)]
    evaluation = tiny_images(3, "validation") if options.evaluate else None
    trainer = tiny_trainer(**options.arguments, callbacks=callbacks, evaluation=evaluation)
    checkpoint = last_complete_checkpoint(trainer.args.output_dir) if options.resume else None
    if options.resume and checkpoint is None:
        raise SystemExit("no checkpoint to resume from")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(os.path.join(trainer.args.output_dir, "adapter"))
    results = trainer.evaluate_by_class(with_zero_shot=True) if options.evaluate else {}
    cache = trainer.feature_cache
    counts = {"misses": cache.misses, "hits": cache.hits}
    path = os.path.join(trainer.args.output_dir, f"results-{trainer.args.process_index}.json")
    with open(path, "w") as file:
        json.dump({"history": trainer.state.log_history, "results": results, **counts}, file)


if __name__ == "__main__":
    main()
