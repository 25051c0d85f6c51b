"""How much can be had from the frozen pixel features: a linear classifier of them, learned from the same few images.

    python benchmarks/linear_probe.py --domains fog night rain snow
    python benchmarks/linear_probe.py --data_dir data/camvid --eval_split val

The mask features of `seem-nano` are what masks are made from. A classifier of each of their pixels has no queries, no
default prompts and no class names to start from; what it reaches tells whether prompts are held back by the features
or by what is learned from few images. `--shots 100` shows what more images would bring.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from ssprompt_hf.data.transforms import flip_example
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.hub.base_models import resolve_base_model
from ssprompt_hf.metrics import confusion_matrix, scores_from_confusion
from ssprompt_hf.models.seem import SeemForUniversalSegmentation, SeemImageProcessor
from ssprompt_hf.reproduce.presets import make_preset
from ssprompt_hf.training.losses import label_shares
from ssprompt_hf.training.run import select_training_images
from ssprompt_hf.training.settings import DataArguments, PromptArguments

BASE_MODEL = "seem-nano"


class Features:
    """Mask features and labels of images, float16 to hold many."""

    def __init__(self):
        self.model = SeemForUniversalSegmentation.from_pretrained(resolve_base_model(BASE_MODEL)).eval()
        self.processor = SeemImageProcessor.from_pretrained(resolve_base_model(BASE_MODEL))

    @torch.no_grad()
    def __call__(self, images, mirrored: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`(D, h, w)` features of the image without padding, and labels `(H, W)` at original size."""
        found = []
        for index in range(len(images)):
            for example in (images[index], flip_example(images[index]))[: 1 + mirrored]:
                inputs = self.processor(images=example["image"], return_tensors="pt")
                features = self.model.model.get_image_features(inputs["pixel_values"], prepare=False).mask_features[0]
                height, width = (int(side) // 4 for side in inputs["image_sizes"][0])
                found.append((features[:, :height, :width].half(), torch.from_numpy(example["label"].copy())))
        return found


def learn(examples: list, num_classes: int, steps: int, learning_rate: float) -> nn.Conv2d:
    """The classifier, by likelihood; classes are weighted by the square root of their inverse frequency."""
    torch.manual_seed(0)
    head = nn.Conv2d(examples[0][0].shape[0], num_classes, 1)
    shares = [label_shares(label[None].long(), num_classes, features.shape[1:])[0] for features, label in examples]
    weights = (sum(share.sum((1, 2)) for share in shares) + 1).rsqrt()[:, None, None]
    optimizer = torch.optim.Adam(head.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        loss = 0
        for index in torch.randint(len(examples), (4,)).tolist():
            wanted = weights * shares[index]
            loss = loss - (wanted * head(examples[index][0].float()[None])[0].log_softmax(0)).sum() / wanted.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head


@torch.no_grad()
def score(head: nn.Conv2d, examples: list, names: list[str]) -> float:
    """Mean IoU in percent."""
    matrix = 0
    for features, label in examples:
        logits = F.interpolate(head(features.float()[None]), label.shape, mode="bilinear", align_corners=False)
        matrix = matrix + confusion_matrix(logits[0].argmax(0), label, len(names))
    return 100 * scores_from_confusion(matrix, names)["mean_iou"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", default=[], help="of the embedded preset: fog, night, ...")
    parser.add_argument("--data_dir", help="a folder of images, labels and classes.json")
    parser.add_argument("--eval_split", default="test")
    parser.add_argument("--max_eval_images", type=int, default=100)
    parser.add_argument("--shots", nargs="+", type=int, default=[16])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    args = parser.parse_args()
    own = {"base_model": BASE_MODEL, "eval_split": args.eval_split, "max_eval_images": args.max_eval_images}
    known = make_preset("embedded").domains
    domains = {name: DataArguments(**(dict(known[name].data) | own)) for name in args.domains}
    if args.data_dir is not None:
        domains[args.data_dir] = DataArguments(data_dir=args.data_dir, **own)
    features = Features()
    for name, data in domains.items():
        images, evaluation = data.load(data.train_split, "semantic"), data.load_evaluation("semantic")
        looked_at = features(evaluation)
        for shots in args.shots:
            for seed in args.seeds:
                selection = select_training_images(images, PromptArguments(shots=shots, allow_fewer=True), seed)
                examples = features(images.select(selection.indices), mirrored=True)
                head = learn(examples, len(images.classes), args.steps, args.learning_rate)
                result = score(head, looked_at, images.classes.names)
                count = len(selection.indices)
                print(f"{name}, {shots} shots ({count} images), seed {seed}: {result:.1f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except SSPromptError as error:
        raise SystemExit(f"error: {error}") from None
