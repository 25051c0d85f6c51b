"""Many threads, one model, several adapters: prompts of each call, beside a lock around switching and predicting.

python benchmarks/threads.py                  # seem-nano, four threads with an adapter each, 40 images

Each thread names its adapter in `predict`. The other variant is what a server without that argument has to do: a lock
around `set_adapter` and `predict`.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from measuring import argument_parser, write_numbers

from ssprompt_hf import SSPromptModel
from ssprompt_hf.tuners import SSPromptConfig


def make_model(adapters: int) -> tuple[SSPromptModel, list[str]]:
    """`seem-nano` with so many different adapters."""
    torch.manual_seed(0)
    names = [f"adapter-{number}" for number in range(adapters)]
    model = SSPromptModel.from_pretrained("seem-nano")
    for name in names:
        model.add_adapter(name, SSPromptConfig(init_embeddings="noise", init_std=0.5, inference_mode=True))
    model.set_adapter(names[0])
    return model.eval(), names


def main():
    """Print images a second of both, and their ratio."""
    parser = argument_parser(__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=4, help="threads that ask")
    parser.add_argument("--images", type=int, default=40, help="images in all")
    options = parser.parse_args()
    torch.set_num_threads(1)  # of PyTorch: the threads that ask share the cores
    model, names = make_model(options.workers)
    image = np.random.default_rng(0).integers(0, 255, (360, 480, 3), dtype=np.uint8)
    lock = threading.Lock()

    def with_lock(name: str) -> np.ndarray:
        with lock:
            model.set_adapter(name)
            return model.predict(image).class_map

    def prompts_of_the_call(name: str) -> np.ndarray:
        return model.predict(image, adapter=name).class_map

    alone = {name: with_lock(name) for name in names}
    variants = {"a lock": with_lock, "prompts of the call": prompts_of_the_call}
    rates = dict.fromkeys(variants, 0.0)
    asked = [names[number % len(names)] for number in range(options.images)]
    for _ in range(options.repeats):
        for title, predict in variants.items():
            start = time.perf_counter()
            with ThreadPoolExecutor(options.workers) as pool:
                answers = list(pool.map(predict, asked))
            rates[title] = max(rates[title], len(asked) / (time.perf_counter() - start))
            wrong = sum(not np.array_equal(answer, alone[name]) for name, answer in zip(asked, answers))
            if wrong:
                raise SystemExit(f"{title}: {wrong} of {len(asked)} answers are another adapter's")
    for title, rate in rates.items():
        print(f"{title:<20} {rate:6.2f} images/s  {rate / rates['a lock']:.2f}")
    write_numbers({"images_per_second": rates}, options.output)


if __name__ == "__main__":
    main()
