"""Choose training settings on images that no table reports.

    python benchmarks/sweep.py --method ssprompt --grid learning_rate=0.003,0.01,0.03 semantic_loss=mixed,dice
    python benchmarks/sweep.py --method coop --grid learning_rate=0.001,0.01,0.1 --data_dir FOLDER --output FILE

Every combination of the grid is trained and scored on every domain and seed; what has been done before is read from
its file. Domains are scenes of the split `validation` and, with `--data_dir`, `photographs`: the first two thirds of a
folder's training images to choose shots from, and the last third to be scored on, or, with `--held_out`, those of one
sequence. Prints the gain in mean IoU over zero-shot, best first, and writes all of it to `--output`.
"""

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

from transformers import PrinterCallback

from ssprompt_hf.data.dataset import SegmentationDataset
from ssprompt_hf.data.few_shot import FewShotSelection
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.reproduce.cells import CellRunner
from ssprompt_hf.reproduce.jobs import Evaluate
from ssprompt_hf.reproduce.plans import ROWS, Score, Training
from ssprompt_hf.reproduce.presets import Domain, make_preset
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.feature_cache import FeatureCache
from ssprompt_hf.training.runs import prepare_training
from ssprompt_hf.training.settings import METHODS, DataArguments, PromptArguments
from ssprompt_hf.training.trainer import SSPromptTrainer
from ssprompt_hf.tuners import PromptConfig
from ssprompt_hf.utils.files import write_json

SHOTS = 16


def parse_grid(texts: list[str]) -> list[dict]:
    """`["a=1,2", "b=x"]` -> `[{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]`; values are JSON where they can be."""
    names, choices = [], []
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise SSPromptError(f"grid holds {text!r}; write NAME=VALUE,VALUE,...")
        names.append(name)
        choices.append([_value(value) for value in values.split(",")])
    return [dict(zip(names, values)) for values in itertools.product(*choices)]


def _value(text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def validation_domains(names: list[str], num_images: int) -> list[Domain]:
    """The embedded domains, scored on scenes of the split `validation`."""
    known = make_preset("embedded").domains
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SSPromptError(f"domains holds {unknown[0]!r}; known are {', '.join(known)}")
    changes = {"eval_split": "validation", "max_eval_images": num_images}
    return [replace(known[name], data={**known[name].data, **changes}) for name in names]


def held_out_photographs(data_dir: Path, folder: Path, held_out: str | None = None) -> Domain:
    """The training images of a folder like CamVid, in two parts: a folder of links, and lists of names. The second are
    those whose names begin with `held_out`, by default the last third."""
    images, labels = (data_dir / name / "train" for name in ("images", "annotations"))
    names = sorted(path.name for path in images.glob("*") if path.is_file())
    if not names or not (data_dir / "classes.json").is_file():
        raise SSPromptError(f"data_dir is {str(data_dir)!r}; it must hold images/train and classes.json")
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in (("images", images), ("annotations", labels), ("classes.json", data_dir / "classes.json")):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target.resolve())
    second = names[len(names) * 2 // 3 :] if held_out is None else [n for n in names if n.startswith(held_out)]
    if not second:
        raise SSPromptError(f"held_out is {held_out!r}, which no name in {str(images)!r} begins with")
    for split, part in (("train", [name for name in names if name not in second]), ("val", second)):
        (folder / f"{split}.txt").write_text("\n".join(part) + "\n")
    return Domain("photographs", "photographs", {"data_dir": str(folder)}, "photographs")


def add_domain_options(parser: argparse.ArgumentParser, domains: list[str], num_images: int) -> None:
    """The options that `chosen_domains` reads, and their defaults."""
    parser.add_argument("--domains", nargs="*", default=domains)
    parser.add_argument("--data_dir", type=Path, help="a folder like CamVid, for the domain photographs")
    parser.add_argument("--held_out", help="score on photographs whose names begin so, not on the last third")
    parser.add_argument("--num_images", type=int, default=num_images, help="validation scenes of a domain")
    parser.add_argument("--image_size", type=int, help="shorter side in pixels (default: the base model's)")


def chosen_domains(options: argparse.Namespace, folder: Path) -> list[Domain]:
    """What the options say to be trained and scored on; `folder` is for the lists of photographs."""
    domains = validation_domains(options.domains, options.num_images)
    if options.data_dir is not None:
        domains.append(held_out_photographs(options.data_dir, folder / "photographs", options.held_out))
    if options.image_size is not None:
        domains = [replace(domain, data={**domain.data, "image_size": options.image_size}) for domain in domains]
    return domains


def quiet_trainer(
    data: DataArguments,
    prompts: PromptArguments,
    images: SegmentationDataset,
    selection: FewShotSelection,
    seed: int,
    folder: str,
    cache: FeatureCache | None = None,
    **arguments: object,
) -> SSPromptTrainer:
    """A trainer for semantic segmentation with the evaluation images of `data`, which writes and prints nothing."""
    args = SSPromptTrainingArguments(
        output_dir=folder,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **arguments,
    )
    evaluation = data.load_evaluation("semantic")
    trainer = prepare_training(data, prompts, args, images, selection, evaluation, cache)
    trainer.remove_callback(PrinterCallback)
    return trainer


def split_trial(method: str, trial: dict) -> tuple[dict, tuple]:
    """A trial's training arguments, and its fields of the method's configuration."""
    config = METHODS[ROWS[method].prompts["method"]].__dataclass_fields__
    config = set(config) - set(PromptConfig.__dataclass_fields__)
    options = tuple((name, value) for name, value in trial.items() if name in config)
    return {name: value for name, value in trial.items() if name not in config}, options


def mean_iou(runner: CellRunner, work: Score) -> float:
    """In percent; found now, or read from its file."""
    runner.run(Evaluate((work,)))
    return runner.finished(work)["scores"]["mean_iou"]


def sweep(
    method: str, base_model: str, trials: list[dict], domains: list[Domain], seeds: list[int], folder: Path
) -> list[dict]:
    """
    Train and score every trial everywhere.

    Returns:
        one record a trial, best first: `settings`, `gain` (points of mean IoU over zero-shot, mean over domains and
        seeds) and `scores`, domain -> one mean IoU in percent a seed.
    """
    parts = [split_trial(method, trial) for trial in trials]
    first = CellRunner(folder, parts[0][0])
    runners = [first] + [CellRunner(folder, arguments, first.shared) for arguments, _ in parts[1:]]
    records = [{"method": method, "settings": trial, "scores": {}} for trial in trials]
    zero_shot = {}
    for domain in domains:
        zero_shot[domain.name] = mean_iou(first, Score(base_model, domain, "semantic"))
        print(f"{domain.name}: zero-shot {zero_shot[domain.name]:.2f}", flush=True)
        for seed in seeds:
            for runner, record, (_, options) in zip(runners, records, parts):
                training = Training(method, base_model, domain, "semantic", SHOTS, seed, options)
                score = mean_iou(runner, Score(base_model, domain, "semantic", training))
                record["scores"].setdefault(domain.name, []).append(score)
                print(f"{domain.name}, seed {seed}, {record['settings']}: {score:.2f}", flush=True)
    for record in records:
        gains = [score - zero_shot[name] for name, scores in record["scores"].items() for score in scores]
        record["gain"] = round(mean(gains), 2)
    return sorted(records, key=lambda record: -record["gain"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=[name for name in ROWS if name != "zero_shot"], default="ssprompt")
    parser.add_argument(
        "--grid",
        nargs="+",
        required=True,
        metavar="NAME=VALUE,...",
        help="training arguments, and fields of the method's configuration",
    )
    parser.add_argument("--base_model", default="seem-nano")
    add_domain_options(parser, ["fog", "night", "taxonomy"], num_images=50)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--output_dir", type=Path, default=Path("out/sweep"), help="for cells and adapters")
    parser.add_argument("--output", type=Path, help="JSON file for the results, added to what is there")
    args = parser.parse_args()
    domains = chosen_domains(args, args.output_dir)
    records = sweep(args.method, args.base_model, parse_grid(args.grid), domains, args.seeds, args.output_dir)
    for record in records:
        means = ", ".join(f"{name} {mean(scores):.2f}" for name, scores in record["scores"].items())
        print(f"{record['gain']:+6.2f}  {record['settings']}  ({means})")
    if args.output is not None:
        earlier = json.loads(args.output.read_text()) if args.output.exists() else []
        write_json(args.output, earlier + records)


if __name__ == "__main__":
    try:
        main()
    except SSPromptError as error:
        raise SystemExit(f"error: {error}") from None
