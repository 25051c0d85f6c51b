"""CoOp and LOCN: prompts that equal templates, where the tokens come from, and life without the text encoder."""

import pytest
import torch
from method_models import NAMES, TEMPLATE, adapted, base_model, config_of, tokenizer
from peft import PeftConfig, PeftModel, get_peft_model
from prompted_seem import logits, same, train

from ssprompt_hf.errors import AdapterError
from ssprompt_hf.tuners import CoOpConfig, LOCNConfig, PromptLayer

WORDS = [name.replace("_", " ") for name in NAMES]  # what the text encoder reads
METHODS = pytest.mark.parametrize("method", ["CoOp", "LOCN"])


def class_layer(model) -> PromptLayer:
    return model.get_base_model().class_embeddings


def plain_embeddings(base, template: str = TEMPLATE) -> torch.Tensor:
    """Of the sentences, from their tokens, without anything of ours but the text encoder."""
    sentences = [template.replace("{}", words) for words in WORDS]
    ids = tokenizer()(sentences, padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return base.get_text_model().class_embeddings(base.get_text_model()(ids).text_embeds[:, None])


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize(
    ("position", "template"),
    [("end", "a photo of a {} ."), ("front", "{} a photo of a ."), ("middle", "a photo {} of a .")],
)
def test_coop_with_the_words_of_a_template_is_the_template(position, template, per_class):
    for dtype in (torch.float32, torch.float64):
        base = base_model(dtype)
        config = CoOpConfig(context="a photo_of a", class_token_position=position, class_specific_context=per_class)
        model = get_peft_model(base, config.tokenize(NAMES, tokenizer(), TEMPLATE))
        assert config.num_context_tokens == 4
        with torch.no_grad():
            found = class_layer(model)()
            assert torch.equal(found[:-1], plain_embeddings(base, template).to(dtype))
            # the packed ensemble computes the same in another order
            ensemble = base.get_text_model().encode_class_names(WORDS, tokenizer(), (template,))
        torch.testing.assert_close(found[:-1], ensemble, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-14)
        assert torch.equal(found[-1], base_model(dtype).class_embeddings()[-1])  # background


@pytest.mark.parametrize("template", [TEMPLATE, "{}", "the {}"])
def test_locn_at_initialisation_is_its_template(template):
    base = base_model()
    model = get_peft_model(base, LOCNConfig(template=template).tokenize(NAMES, tokenizer()))
    layer = class_layer(model)
    assert layer.words["default"].shape == (5, 16)  # "sky", "traffic light", "the car"
    expected = plain_embeddings(base, template)
    with torch.no_grad():
        assert torch.equal(layer()[:-1], expected)
    assert torch.equal(layer()[:-1], expected)  # with gradient, too
    assert layer()[:-1].requires_grad


def test_locn_with_one_word_a_class():
    config = LOCNConfig(words_per_class="one").tokenize(NAMES, tokenizer(), TEMPLATE)
    base = base_model()
    layer = class_layer(get_peft_model(base, config))
    assert layer.words["default"].shape == (3, 16)
    expected = plain_embeddings(base)
    with torch.no_grad():
        torch.testing.assert_close(layer()[0], expected[0])
        assert (layer()[1] - expected[1]).abs().max() > 0.01
    vocabulary = base.get_text_model().get_input_embeddings().weight
    torch.testing.assert_close(layer.words["default"][1], vocabulary[config.class_token_ids[1]].mean(0))


def test_the_random_context_of_coop():
    torch.manual_seed(0)
    config = CoOpConfig(init_std=0.1, num_context_tokens=64, class_specific_context=True)
    config.tokenize(["sky"] * 1, tokenizer(), "{}")
    words = config.initial_words(None, 256)
    assert words.shape == (1, 64, 256)
    assert abs(words.std() - 0.1) < 2e-3 and abs(words.mean()) < 2e-3
    assert CoOpConfig().num_context_tokens == 16 and CoOpConfig().init_std == 0.02


@METHODS
def test_the_text_encoder_reads_no_further_than_the_longest_prompt(method):
    model = adapted(method)
    lengths = []
    encoder = model.get_base_model().get_text_model().text_encoder.encoder
    encoder.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    class_layer(model)()
    # start, 4 words of context or template, 2 of the name, the full stop, end
    assert lengths == [9]


@METHODS
def test_the_tokenizer_of_the_base_model_is_found(method, tmp_path):
    base_model().save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    base = type(base_model()).from_pretrained(tmp_path / "base")
    model = get_peft_model(base, {"CoOp": CoOpConfig(num_context_tokens=4), "LOCN": LOCNConfig()}[method])
    config = model.peft_config["default"]
    expected = config_of(method)
    for name in ("class_token_ids", "prefix_token_ids", "suffix_token_ids", "start_token_id", "end_token_id"):
        assert getattr(config, name) == getattr(expected, name)
    assert (config.suffix if method == "CoOp" else config.template) == {"CoOp": " .", "LOCN": TEMPLATE}[method]
    logits(model)
    named = {"CoOp": CoOpConfig, "LOCN": LOCNConfig}[method](tokenizer_name=str(tmp_path / "base"))
    logits(get_peft_model(base_model(), named))
    with pytest.raises(AdapterError, match=r"no tokenizer was found at '/nowhere'.*config\.tokenize"):
        get_peft_model(base_model(), type(config)(tokenizer_name="/nowhere"))
    with pytest.raises(AdapterError, match="does not say where its tokenizer is"):
        get_peft_model(base_model(), type(config)())


@METHODS
def test_training_runs_the_text_encoder_and_inference_does_not(method, tmp_path):
    model = adapted(method)
    runs = []
    model.get_base_model().get_text_model().register_forward_hook(lambda *_: runs.append(1))
    train(model, steps=3)
    assert len(runs) == 3
    first = logits(model)
    assert len(runs) == 4  # once for the final words
    assert same(logits(model), first)
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    assert same(logits(model), first) and len(runs) == 4
    with torch.no_grad():
        class_layer(model).words["default"].mul_(1.1)
    model.unmerge_adapter()
    changed = logits(model)
    assert not same(changed, first) and len(runs) == 5


@METHODS
def test_without_the_text_encoder(method, tmp_path):
    model = train(adapted(method))
    model.save_pretrained(tmp_path)
    expected = logits(model)
    lean = base_model()
    lean.drop_text_encoder()
    loaded = PeftModel.from_pretrained(lean, tmp_path, is_trainable=True)
    assert same(logits(loaded), expected)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "adapter_model.safetensors"
    ).read_bytes()
    with pytest.raises(AdapterError, match=r"cannot be trained without the text encoder.*use_text_model=True"):
        train(loaded)
    with pytest.raises(AdapterError, match="was loaded without: load it with use_text_model=True"):
        get_peft_model(lean, {"CoOp": CoOpConfig, "LOCN": LOCNConfig}[method]())
    train(model)
    model.get_base_model().drop_text_encoder()
    with pytest.raises(AdapterError, match=r"save the adapter before drop_text_encoder\(\)"):
        model.save_pretrained(tmp_path / "late")


def test_names_and_what_surrounds_them():
    config = LOCNConfig(template="the {}").tokenize(["Sky-other", "traffic_light"], tokenizer())
    # COCO's suffixes go, as they do in the base model's own class embeddings
    assert [len(ids) for ids in config.class_token_ids] == [1, 2]

    class Merging:
        """As a tokenizer for which "a." is one word."""

        def __call__(self, text, add_special_tokens=True):
            ids = [1000 + sum(map(ord, part)) for part in text.split()]
            return {"input_ids": [0, *ids, 9999] if add_special_tokens else ids}

    with pytest.raises(AdapterError, match=r"'road' has no tokens of its own in 'a road\.'"):
        LOCNConfig(template="a {}.").tokenize(["road"], Merging())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoOpConfig(num_context_tokens=0), "num_context_tokens is 0"),
        (lambda: CoOpConfig(class_token_position="back"), "'end', 'middle', 'front'"),
        (lambda: CoOpConfig(init_std=-1), "must not be negative"),
        (lambda: CoOpConfig(context=" "), "context is empty"),
        (lambda: LOCNConfig(template="a photo"), r"exactly one \{\}"),
        (lambda: LOCNConfig(words_per_class="two"), "'name', 'one'"),
        (lambda: LOCNConfig(class_token_ids=[[1]]), "without class_names"),
        (lambda: LOCNConfig(class_names=["a"], class_token_ids=[[1]]), "without prefix_token_ids"),
        (
            lambda: LOCNConfig(
                class_names=["a", "b"],
                class_token_ids=[[1]],
                prefix_token_ids=[],
                suffix_token_ids=[],
                start_token_id=0,
                end_token_id=49,
            ),
            "1 class_token_ids were given for 2",
        ),
    ],
)
def test_configurations_that_make_no_sense(make, message):
    with pytest.raises(AdapterError, match=message):
        make()


def test_models_that_words_cannot_be_learned_for():
    bare = base_model(use_text_model=False)
    with pytest.raises(AdapterError, match=r"the base model has none: call model\.set_class_names"):
        get_peft_model(bare, LOCNConfig())
    with pytest.raises(AdapterError, match="'traffic_light' has 79 tokens, the text encoder reads at most 77"):
        get_peft_model(base_model(), CoOpConfig(num_context_tokens=74).tokenize(NAMES, tokenizer(), TEMPLATE))
    with pytest.raises(AdapterError, match="holds the embeddings of 3 other ones"):
        get_peft_model(base_model(), LOCNConfig().tokenize(["sky"], tokenizer(), TEMPLATE))


def test_a_configuration_alone_gives_no_class_embeddings(tmp_path):
    train(adapted("LOCN")).save_pretrained(tmp_path)
    lean = base_model()
    lean.drop_text_encoder()
    model = get_peft_model(lean, PeftConfig.from_pretrained(tmp_path))
    with pytest.raises(AdapterError, match="no semantic prompts yet: load them with the adapter's files"):
        logits(model)
