"""Several threads ask one model with several adapters: each gets its answer, and the model stays as it was."""

import copy
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import NamedTuple

import numpy as np
import pytest
import torch
from prompted_seem import CLASSES, OTHER_CLASSES, logits, same, set_classes, small_seem, train, word_tokenizer

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import AdapterError
from ssprompt_hf.tuners import LOCNConfig, SSPromptConfig
from ssprompt_hf.tuners.locn.layer import LOCNLayer

IMAGE = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
NAMES = ["fog", "night", "harbour"]
ROUNDS = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model, and three adapters of which one has other classes."""
    root = tmp_path_factory.mktemp("threads")
    small_seem().save_pretrained(root / "base")
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        base = small_seem()
        if name == "harbour":
            set_classes(base, OTHER_CLASSES, [1, 3])
        model = SSPromptModel(base, SSPromptConfig(init_embeddings="noise", init_std=0.5 + seed))
        train(model, lr=0.1).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module", params=[False, True], ids=["merged", "apart"])
def loaded(folders, request):
    """The model, and the answers of every adapter, trained and untrained, made active in the ordinary way."""
    model = SSPromptModel.from_pretrained(folders / "base", folders / "fog", "fog", is_trainable=request.param)
    for name in NAMES[1:]:
        model.load_adapter(folders / name, name)
    model.eval()
    expected = {}
    for name in NAMES:
        model.set_adapter(name)
        expected[name, False] = Answer(model.config.class_names, logits(model), class_map(model))
        with model.zero_shot() as call:
            expected[name, True] = Answer(call.class_names, logits(model), class_map(model))
    assert not expected["fog", False].equals(expected["night", False])
    return model, expected


@pytest.fixture
def asked(loaded):
    loaded[0].set_adapter("fog")
    return loaded


class Answer(NamedTuple):
    class_names: list[str]
    logits: tuple
    class_map: np.ndarray

    def equals(self, other: "Answer") -> bool:
        names = self.class_names == other.class_names
        return names and same(self.logits, other.logits) and np.array_equal(self.class_map, other.class_map)


def class_map(model, **kwargs) -> np.ndarray:
    return model.predict(IMAGE, **kwargs).class_map.copy()


def answer(model, **kwargs) -> Answer:
    with torch.no_grad(), model.use_adapter(**kwargs) as call:
        return Answer(call.class_names, logits(model), class_map(model))


def together(*jobs) -> list:
    start = Barrier(len(jobs))

    def run(job):
        start.wait()
        return [job(turn) for turn in range(ROUNDS)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]


def test_each_thread_gets_the_adapter_that_it_names(asked):
    model, expected = asked

    def ask(name):
        return lambda turn: (name, model.predict(IMAGE, adapter=name))

    for results in together(*map(ask, NAMES)):
        for name, result in results:
            assert result.class_names == expected[name, False].class_names
            assert np.array_equal(result.class_map, expected[name, False].class_map)
    assert model.active_adapter == "fog" and same(logits(model), expected["fog", False].logits)


def test_whatever_other_threads_switch_merge_or_disable(asked):
    model, expected = asked
    merged = any(layer.merged for layer in model.base_model.prompt_layers())

    def ask(name, zero_shot):
        return lambda turn: answer(model, adapter_name=name, zero_shot=zero_shot).equals(expected[name, zero_shot])

    def switch(turn):
        for name in NAMES:
            model.set_adapter(name)
        return True

    def disable(turn):
        with model.disable_adapter(), model.disable_adapter():
            return model.config.class_names in (CLASSES, OTHER_CLASSES)

    def merge(turn):
        model.merge_adapter()
        model.unmerge_adapter()
        return True

    assert all(map(all, together(ask("night", False), ask("harbour", True), switch, disable, merge)))
    model.set_adapter("harbour")
    assert model.config.class_names == OTHER_CLASSES and model.config.thing_class_ids == [1, 3]
    assert same(logits(model), expected["harbour", False].logits)
    assert any(layer.merged for layer in model.base_model.prompt_layers()) == merged
    with model.disable_adapter():
        assert same(logits(model), logits(small_seem())) and model.config.class_names == CLASSES
    assert not any(layer.prompts_of_calls for layer in model.base_model.prompt_layers())


def test_zero_shot_is_of_one_thread(asked):
    model, expected = asked
    inside, done = Event(), Event()

    def look():
        with model.zero_shot():
            inside.set()
            done.wait(60)
            return logits(model)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(look)
        assert inside.wait(60)
        found = answer(model)
        done.set()
        assert found.equals(expected["fog", False]) and same(future.result(), expected["fog", True].logits)


def test_calls_within_calls(asked):
    model, expected = asked
    with model.zero_shot():
        assert answer(model).equals(expected["fog", True])
        assert answer(model, adapter_name="harbour").equals(expected["harbour", True])
        assert answer(model, adapter_name="harbour", zero_shot=False).equals(expected["harbour", False])
        model.set_adapter("night")  # this thread goes on as it began
        assert answer(model).equals(expected["fog", True])
    assert answer(model).equals(expected["night", False])


def test_an_adapter_that_is_not_there(asked):
    with pytest.raises(AdapterError, match="no adapter 'rain'; there are 'fog', 'night', 'harbour'"):
        asked[0].predict(IMAGE, adapter="rain")


def test_a_copy_has_a_lock_of_its_own(asked):
    model, expected = asked
    twin = copy.deepcopy(model)
    with model.base_model.lock, ThreadPoolExecutor(1) as pool:
        found = pool.submit(class_map, twin, adapter="night").result(timeout=60)
    assert np.array_equal(found, expected["night", False].class_map)


def test_a_copy_made_within_a_call_is_not_bound_by_it(asked):
    model, expected = asked
    with model.use_adapter("night"):
        twin = copy.deepcopy(model)
        twin.set_adapter("harbour")
        assert answer(twin).equals(expected["harbour", False])


def test_a_method_that_is_added_meanwhile(folders):
    """It puts a layer around the slot, and makes its prompts the active ones."""
    model = SSPromptModel.from_pretrained(
        folders / "base", folders / "fog", adapter_name="fog", keep_prompt_encoders=True
    )
    config = LOCNConfig().tokenize(CLASSES, word_tokenizer(), "{}")
    model.load_adapter(folders / "night", "night")
    with model.use_adapter("fog"):
        before = answer(model)
        with model.use_adapter("night"):
            inner = answer(model)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(add_active, model, config).result(timeout=60)
            assert answer(model).equals(inner)
        assert answer(model).equals(before)
    assert model.active_adapter == "words" and not any(
        layer.prompts_of_calls for layer in model.base_model.prompt_layers()
    )


def add_active(model, config):
    model.add_adapter("words", config)
    with torch.no_grad():
        for layer in model.base_model.prompt_layers():
            if isinstance(layer, LOCNLayer):
                layer.words["words"].add_(1)
    model.set_adapter("words")


def test_an_exception_leaves_nothing_behind(asked):
    model, expected = asked
    with pytest.raises(ZeroDivisionError), model.use_adapter("night"):
        raise ZeroDivisionError
    assert same(logits(model), expected["fog", False].logits)
