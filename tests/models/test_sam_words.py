"""Words on SAM and SAM 2: the projection, methods that learn words, and classes that start from them."""

import hashlib
import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_clip import LENGTH, PROJECTION, WIDTH, byte_tokenizer, save_tiny_clip, tiny_clip
from tiny_sam import NAMES, SIDE, images, tiny_sam
from tiny_sam2 import tiny_sam2

from ssprompt_hf import CoOpConfig, LOCNConfig, SSPromptConfig, SSPromptModel
from ssprompt_hf.errors import AdapterError, DownloadError, SSPromptError
from ssprompt_hf.loading import base_model_facts, load_base_model
from ssprompt_hf.models.fingerprint import model_fingerprint
from ssprompt_hf.models.sam.words import DEFAULT_TEXT_ENCODER, hadamard_signs, project_text
from ssprompt_hf.tuners import PromptLayer

MAKERS = {"sam": tiny_sam, "sam2": tiny_sam2}
METHODS = {"coop": CoOpConfig, "locn": LOCNConfig}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, str]:
    """Folders without classes."""
    folders = {name: str(tmp_path_factory.mktemp(name)) for name in MAKERS}
    for name, folder in folders.items():
        MAKERS[name](class_names=None, num_class_tokens=2).save_pretrained(folder)
    return folders


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


def lent(kind: str, **settings):
    """A model with classes and a text encoder."""
    model = MAKERS[kind](**settings)
    model.lend_text_encoder(tiny_clip())
    return model


def tokenized(config):
    return config.tokenize(NAMES, byte_tokenizer(LENGTH))


@torch.no_grad()
def answers(model) -> torch.Tensor:
    return model(images(1), image_sizes=torch.tensor([[SIDE, SIDE]])).class_maps


def learn(model, steps: int = 2) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        maps = model(images(1), image_sizes=torch.tensor([[SIDE, SIDE]])).class_maps
        (maps[0] - maps[1]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_matrix_is_hadamards_and_the_same_everywhere():
    whole = hadamard_signs(32, 32)
    assert torch.equal(whole @ whole.T, 32 * torch.eye(32)) and set(whole.unique().tolist()) == {-1.0, 1.0}
    by_hand = [
        [(-1.0) ** (bin(i & j).count("1") + bin(j & (j >> 1)).count("1")) for j in range(12)] for i in range(32)
    ]
    assert hadamard_signs(32, 12).tolist() == by_hand
    big = hadamard_signs(256, 512)
    assert hashlib.sha256(big.to(torch.int8).numpy().tobytes()).hexdigest().startswith("f8819cf18257ca90")
    # what all numbers of an embedding have in common is spread over a token
    assert (hadamard_signs(1024, 1024) @ torch.ones(1024)).abs().unique().tolist() == [32.0]


def test_angles_are_kept():
    torch.manual_seed(0)
    embeddings = torch.randn(5, 512) + 0.5  # as in CLIP, they have much in common
    angles = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings, dim=-1)
    for num_tokens, error in ((1, 0.15), (2, 1e-5), (4, 1e-5)):
        tokens = project_text(embeddings, num_tokens, 256, 0.7)
        assert tokens.shape == (5, num_tokens, 256)
        torch.testing.assert_close(tokens.square().mean((1, 2)).sqrt(), torch.full((5,), 0.7))
        flat = tokens.flatten(1)
        found = torch.nn.functional.cosine_similarity(flat[:, None], flat, dim=-1)
        assert (found - angles).abs().max() < error
    assert torch.equal(tokens[:, 2:], tokens[:, :2])  # there is no more to say
    torch.testing.assert_close(project_text(9 * embeddings, 1, 256, 0.7), project_text(embeddings, 1, 256, 0.7))
    assert project_text(torch.zeros(1, 512), 1, 256, 1.0).abs().max() == 0


def test_words_are_projected_text_embeddings_of_the_size_of_points(kind):
    model, clip = lent(kind, num_class_tokens=2), tiny_clip()
    tokens = model.encode_sentences(["traffic_light", "sky"], byte_tokenizer(LENGTH))
    sentences = ["a photo of a traffic light.", "a photo of a sky."]
    for found, sentence in zip(tokens, sentences):
        inputs = byte_tokenizer(LENGTH)(sentence, return_tensors="pt")
        with torch.no_grad():
            embedding = clip(**inputs).text_embeds
            rows = hadamard_signs(2 * model.width, PROJECTION).double() @ embedding[0].double()
            ends = torch.tensor([inputs.input_ids.shape[1] - 1])
            words = model.encode_words(clip.get_input_embeddings()(inputs.input_ids), ends)
        size = model.embed_points(torch.rand(50, 2))[:-1].square().mean().sqrt()
        assert 0.5 < found.square().mean().sqrt() / size < 2
        expected = rows * (found.double().square().mean() / rows.square().mean()).sqrt()
        torch.testing.assert_close(found.flatten().double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(words[0], found)


@pytest.mark.parametrize("method", METHODS)
def test_words_are_learned_and_then_need_no_text_encoder(kind, method, tmp_path):
    plain = MAKERS[kind]()
    before, mark = answers(plain), model_fingerprint(plain)
    base = lent(kind)
    assert model_fingerprint(base) == mark and torch.equal(answers(base), before)
    torch.manual_seed(0)
    model = get_peft_model(base, tokenized(METHODS[method]()))
    config = model.peft_config["default"]
    assert config.text_encoder == DEFAULT_TEXT_ENCODER  # the tiny one has no name
    layer = next(module for module in model.modules() if isinstance(module, PromptLayer))
    assert layer.weight.requires_grad and layer.weight.shape == (3, 1, 32)
    words = layer.words["default"]
    start = words.detach().clone()
    learn(model)
    assert (words != start).all(dim=-1).all() if method == "coop" else (words != start).any()
    learned = answers(model)
    with model.disable_adapter():
        assert torch.equal(answers(model), before)
    with model.base_model.zero_shot():
        assert torch.equal(answers(model), before)
    model.save_pretrained(tmp_path)
    for names in (None, NAMES):
        lean = MAKERS[kind](class_names=names)
        again = PeftModel.from_pretrained(lean, tmp_path)
        assert torch.equal(answers(again), learned) and lean.config.class_names == NAMES
        assert lean.word_embeddings() is None
        again.save_pretrained(tmp_path / "again")
        files = [folder / "adapter_model.safetensors" for folder in (tmp_path, tmp_path / "again")]
        assert files[0].read_bytes() == files[1].read_bytes()
    on = PeftModel.from_pretrained(lent(kind), tmp_path, is_trainable=True)
    for one in (model, on):
        learn(one, steps=1)
    assert torch.equal(answers(on), answers(model))
    model.get_base_model().save_pretrained(tmp_path / "base")
    assert not any("text" in name for name in MAKERS[kind](None).from_pretrained(tmp_path / "base").state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_from_a_folder_and_back(bases, clip, method, tmp_path):
    config = METHODS[method](text_encoder=clip)
    model = SSPromptModel.from_pretrained(bases["sam"], config=config, class_names=NAMES, is_trainable=True)
    base = model.get_base_model()
    assert base.word_embeddings().weight.shape == (514, WIDTH) and base.tokenizer_name == clip
    assert torch.equal(base.class_tokens.base_prompt[0], base.class_tokens.base_prompt[1]), "zero-shot has no words"
    learn(model)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["text_encoder"] == clip
    lean = SSPromptModel.from_pretrained(bases["sam"], adapter=tmp_path)
    assert lean.get_base_model().word_embeddings() is None
    # merged, and the words run through the text encoder again: equal up to rounding
    torch.testing.assert_close(answers(lean), answers(model))
    more = SSPromptModel.from_pretrained(bases["sam"], adapter=tmp_path, is_trainable=True)
    learn(more, steps=1)
    # the tokens are two, as the base model's configuration says
    other = SSPromptModel.from_pretrained(bases["sam"], adapter=tmp_path, is_trainable=True, num_class_tokens=1)
    with pytest.raises(AdapterError, match=r"\(3, 1, 32\).*made with \(3, 2, 32\).*num_class_tokens=2"):
        learn(other, steps=1)
    moved = PeftModel.from_pretrained(load_base_model(bases["sam"], ("text",), text_encoder=clip)[0], tmp_path)
    torch.testing.assert_close(answers(moved), answers(model))


def test_classes_may_start_as_their_names(kind, bases, clip, tmp_path):
    config = SSPromptConfig(semantic_source="words", text_encoder=clip)
    model = SSPromptModel.from_pretrained(bases[kind], config=config, class_names=NAMES, is_trainable=True)
    base = model.get_base_model()
    assert base.word_embeddings() is None, "nothing needs it any more"
    other, _ = load_base_model(bases[kind], ("text",), text_encoder=clip)
    expected = other.encode_sentences(NAMES, byte_tokenizer(LENGTH))
    assert torch.equal(base.class_tokens.weight, expected) and expected.shape == (3, 2, 32)
    before = answers(model)
    with model.disable_adapter():
        assert torch.equal(answers(model), before)
    assert not torch.allclose(before[0], before[1])
    learn(model)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(answers(SSPromptModel.from_pretrained(bases[kind], adapter=tmp_path)), answers(model))
    plain = SSPromptModel.from_pretrained(bases[kind], class_names=NAMES)
    assert torch.equal(plain.get_base_model().class_tokens.weight[0], plain.get_base_model().class_tokens.weight[1])
    assert torch.equal(other.encode_class_names(NAMES, byte_tokenizer(LENGTH)), expected.mean(dim=1))


def test_what_is_told_of_a_borrowed_text_encoder():
    parts = base_model_facts("sam-vit-b")["parameters"]
    assert "text_encoder" not in parts
    parts = base_model_facts("sam-vit-b", prompt_encoders=("text",))["parameters"]
    assert round(parts["text_encoder"] / 1e6, 1) == 63.4  # that of clip-vit-base-patch32


def test_errors(bases, clip, tmp_path, monkeypatch):
    bare, with_words = tiny_sam(), lent("sam")
    for config in (CoOpConfig(), tokenized(CoOpConfig()), tokenized(LOCNConfig())):
        with pytest.raises(AdapterError, match=r"was loaded without.*load_base_model\(name, \('text',\)\)"):
            get_peft_model(bare, config)
    for ask in (
        lambda: bare.encode_words(torch.zeros(1, 2, WIDTH), torch.tensor([1])),
        lambda: bare.encode_class_names(["a"], byte_tokenizer()),
    ):
        with pytest.raises(AdapterError, match=r"SAM knows no words.*clip-vit-base-patch32"):
            ask()
    assert bare.max_text_tokens is None and bare.text_width is None and bare.word_embeddings() is None
    with pytest.raises(SSPromptError, match="41 tokens were given; the text encoder reads 40"):
        with_words.encode_words(torch.zeros(1, 41, WIDTH), torch.tensor([1]))
    with pytest.raises(SSPromptError, match="has 52 tokens, but the text encoder reads at most 40"):
        with_words.set_class_names(["x" * 40], byte_tokenizer(80))
    with pytest.raises(AdapterError, match="'road' has 77 tokens, the text encoder reads at most 40"):
        get_peft_model(with_words, tokenized(CoOpConfig(num_context_tokens=70)))
    with pytest.raises(AdapterError, match="are for the text encoder 'other', but the base model has borrowed"):
        get_peft_model(with_words, tokenized(CoOpConfig(text_encoder="other")))
    with pytest.raises(AdapterError, match="semantic_source is 'names'"):
        SSPromptConfig(semantic_source="names")
    with pytest.raises(AdapterError, match="to start from words, but the base model was loaded without"):
        SSPromptModel.from_pretrained(bare, config=SSPromptConfig(semantic_source="words"), class_names=NAMES)
    with pytest.raises(AdapterError, match="a model of the type 'sam'; SAM borrows that of a CLIP"):
        load_base_model(bases["sam"], ("text",), text_encoder=bases["sam"])
    with pytest.raises(DownloadError, match="text encoder '/nowhere', which SAM borrows"):
        load_base_model(bases["sam"], ("text",), text_encoder="/nowhere")
    with pytest.raises(AdapterError, match="'seem-nano' has a text encoder of its own: leave it out"):
        load_base_model("seem-nano", text_encoder=clip)


def test_the_projection_is_the_same_whoever_asks_first():
    hadamard_signs.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        hadamard_signs(8, 8)
    embeddings = torch.ones(1, 8, requires_grad=True)
    project_text(embeddings, 1, 8, 1.0)[0, 0, 0].backward()
    assert embeddings.grad.abs().sum() > 0
