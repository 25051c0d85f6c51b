"""Backbones: equal to the official ones, any image size, and what users expect of transformers' backbones."""

import json

import pytest
import torch
from conftest import REFERENCE, reference_models
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file
from seem_reference import (
    assert_close_to_largest,
    image_encoder,
    mapped_shapes,
    reference_image_encoder,
    reference_pixels,
)
from transformers import AutoBackbone, AutoConfig, ConvNextV2Config, ResNetConfig

from ssprompt_hf.models.seem.backbones.build import build_backbone
from ssprompt_hf.models.seem.backbones.efficientnet_lite import efficientnet_lite_weights
from ssprompt_hf.models.seem.configuration_seem import (
    SeemConfig,
    SeemDavitConfig,
    SeemEfficientNetLiteConfig,
    SeemFocalNetConfig,
    SeemSamVitConfig,
)
from ssprompt_hf.models.seem.weight_mapping import backbone_config_from_official

SMALL_FOCALNET = {"embed_dim": 16, "depths": [1, 1, 2, 1]}
CONFIGS = {
    "focalnet-t": SeemFocalNetConfig(**SMALL_FOCALNET),
    "focalnet-l": SeemFocalNetConfig(
        **SMALL_FOCALNET, focal_levels=[4] * 4, use_depthwise_conv=False, stem_padding=2
    ),
    "focalnet-plain": SeemFocalNetConfig(
        **SMALL_FOCALNET, use_depthwise_conv=False, use_post_layernorm=False, use_layerscale=False,
        use_post_layernorm_in_modulation=True, use_conv_embed=False, stem_kernel_size=4, stem_padding=0,
    ),
    "davit": SeemDavitConfig(
        embed_dim=[16, 32, 64, 128], depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], num_groups=[1, 2, 4, 8]
    ),
    "sam-vit": SeemSamVitConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, global_attn_indexes=[2], window_size=7,
        image_size=128, feature_pyramid_channels=[16, 32, 64, 128],
    ),
    "efficientnet-lite": SeemEfficientNetLiteConfig(
        stem_channels=8, group_channels=[8, 16, 32, 48, 64, 96, 128], group_depths=[1, 1, 2, 1, 1, 1, 1]
    ),
}  # fmt: skip

# Reference layouts that have no spec.json: the official options of the published models.
FOCAL_L = {
    "embed_dim": 192, "depths": [2, 2, 18, 2], "focal_levels": [4] * 4, "focal_windows": [3] * 4,
    "use_conv_embed": True, "use_postln": True, "use_layerscale": True, "scaling_modulator": True,
}  # fmt: skip
FOCAL_T = {**FOCAL_L, "embed_dim": 96, "depths": [2, 2, 6, 2], "focal_levels": [3] * 4}
LAYOUTS = {
    "focall_unicl_lang_v0": ("focal", FOCAL_L, {}),
    "focalt_unicl_lang_v1": ("focal_dw", FOCAL_T, {}),
    "samvitl_unicl_lang_v1": (
        "vit",
        {"size": "large"},
        {"pixel_decoder_type": "deformable", "encoder_feedforward_dim": 1024},
    ),
}


@pytest.fixture(params=list(CONFIGS))
def config(request):
    return CONFIGS[request.param]


def make(config, **kwargs):
    torch.manual_seed(0)
    backbone = build_backbone(config, **kwargs).eval()
    for parameter in backbone.parameters():  # zeros and tiny layer scales would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    return backbone


@pytest.mark.parametrize("folder", reference_models(), ids=lambda folder: folder.name)
def test_equals_the_official_backbone(folder):
    model, _ = reference_image_encoder(folder)
    with torch.no_grad():
        maps = model["backbone"](reference_pixels(folder)).feature_maps
    expected = load_file(folder / "expected.safetensors")
    assert len(maps) == 4
    for index, actual in enumerate(maps):
        assert_close_to_largest(actual, expected[f"a.backbone.res{index + 2}"])


@pytest.mark.parametrize(
    "name, config",
    [
        ("efficientnet-lite0", SeemEfficientNetLiteConfig()),
        ("efficientnet-lite1", SeemEfficientNetLiteConfig(depth_multiplier=1.1)),
        ("efficientnet-lite2", SeemEfficientNetLiteConfig(width_multiplier=1.1, depth_multiplier=1.2)),
    ],
)
def test_equals_the_reference_of_efficientnet_lite(name, config):
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    torch.manual_seed(0)
    reference = reference.from_name(name, image_size=65)
    images = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        reference.train()(images)  # running statistics other than 0 and 1
        reference.eval()
        features = reference._swish(reference._bn0(reference._conv_stem(images)))
        expected = {}
        for block in reference._blocks:
            features = block(features)
            expected[features.shape[-1]] = features
        backbone = build_backbone(config).eval()
        backbone.load_state_dict(efficientnet_lite_weights(reference.state_dict()))
        maps = backbone(images).feature_maps
    assert [m.shape[-1] for m in maps] == [17, 9, 5, 3]
    for actual in maps:
        assert_close_to_largest(actual, expected[actual.shape[-1]], tolerance=1e-5)


def test_other_weights_are_no_efficientnet_lite():
    with pytest.raises(ValueError, match=r"no weights of an EfficientNet-Lite: layer1\.weight"):
        efficientnet_lite_weights({"layer1.weight": torch.zeros(1)})
    with pytest.raises(StrictDataclassClassValidationError, match=r"group_depths is .* needs 7 values"):
        SeemEfficientNetLiteConfig(group_depths=[1, 2])


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_published_layouts_map_completely(reference_dir, name):
    backbone, options, settings = LAYOUTS[name]
    config = SeemConfig(backbone_config=backbone_config_from_official(backbone, options), **settings)
    with torch.device("meta"):
        model = image_encoder(config)
    layout = json.loads((reference_dir / "layouts" / f"{name}.json").read_text())
    assert mapped_shapes(layout, config) == {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.parametrize("folder", reference_models(full_size=True), ids=lambda folder: folder.name)
def test_full_size_layouts_map_completely(folder):
    from ssprompt_hf.models.seem.weight_mapping import config_from_official

    config = config_from_official(json.loads((folder / "spec.json").read_text())["hyperparameters"])
    with torch.device("meta"):
        model = image_encoder(config)
    layout = json.loads((folder / "layout.json").read_text())
    assert mapped_shapes(layout, config) == {name: tuple(t.shape) for name, t in model.state_dict().items()}


def test_reference_folder_was_found():
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference values at {REFERENCE}")
    assert reference_models()


@pytest.mark.parametrize("size", [(96, 128), (65, 97), (33, 200)])
def test_any_size(config, size):
    backbone = make(config)
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, *size)).feature_maps
    assert [m.shape[1] for m in maps] == backbone.channels
    for coarse, fine in zip(maps[1:], maps):
        assert all(abs(2 * c - f) <= 1 for c, f in zip(coarse.shape[2:], fine.shape[2:]))
    assert all(torch.isfinite(m).all() for m in maps)


def test_images_of_a_batch_do_not_touch_each_other(config):
    backbone = make(config).double()
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        together = backbone(images).feature_maps
        alone = backbone(images[1:2]).feature_maps
    for batch, single in zip(together, alone):
        torch.testing.assert_close(batch[1:2], single)


def test_gradients_do_not_change_the_outputs(config):
    backbone = make(config)
    if isinstance(config, SeemSamVitConfig):
        backbone.requires_grad_(False)  # PyTorch has another attention kernel for masks that need gradients
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = backbone(images).feature_maps
    assert all(torch.equal(a, b) for a, b in zip(backbone(images).feature_maps, expected))


def test_gradient_checkpointing(config):
    backbone = make(config).train()
    images = torch.randn(1, 3, 64, 96)

    def gradients():
        backbone.zero_grad()
        sum(m.square().mean() for m in backbone(images).feature_maps).backward()
        return [p.grad.clone() for p in backbone.parameters() if p.grad is not None]

    expected = gradients()
    backbone.gradient_checkpointing_enable()
    assert backbone.is_gradient_checkpointing
    actual = gradients()
    assert len(actual) == len(expected) == len(list(backbone.parameters()))
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(config, dtype):
    backbone = make(config)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = backbone(images).feature_maps
        actual = backbone.to(dtype)(images).feature_maps
    for a, b in zip(actual, expected):
        # DaViT's trunk can leave the range of float16.
        wide = isinstance(config, SeemDavitConfig) and dtype == torch.float16
        assert a.dtype == (torch.float32 if wide else dtype)
        assert_close_to_largest(a, b, tolerance=0.1)


def test_autocast(config):
    backbone = make(config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = backbone(torch.randn(1, 3, 64, 96)).feature_maps
    assert all(torch.isfinite(m).all() for m in maps)


def test_save_and_load(config, tmp_path):
    backbone = make(config)
    backbone.save_pretrained(tmp_path)
    # Not AutoBackbone: its `from_pretrained` asks the Hub first and takes a local folder for a timm model.
    loaded = type(backbone).from_pretrained(tmp_path).eval()
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(loaded(images).feature_maps, backbone(images).feature_maps):
            assert torch.equal(a, b)


def test_fewer_stages(config):
    config = type(config).from_dict({**config.to_dict(), "out_features": ["stage2", "stage4"], "out_indices": None})
    backbone = AutoBackbone.from_config(config).eval()
    with torch.no_grad():
        outputs = backbone(torch.randn(1, 3, 64, 64), output_hidden_states=True)
    assert [m.shape[1] for m in outputs.feature_maps] == backbone.channels == [32, 128]
    assert outputs.hidden_states is not None
    with pytest.raises(ValueError, match="SEEM needs 4"):
        build_backbone(config)


@pytest.mark.parametrize("name", ["focalnet-t", "focalnet-l", "davit"])
def test_compiles_in_one_graph(name):
    backbone = make(CONFIGS[name])
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = backbone(images).feature_maps
        actual = torch.compile(backbone, fullgraph=True, backend="eager")(images).feature_maps
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a, b)


def test_drop_path_only_in_training():
    backbone = make(SeemFocalNetConfig(**SMALL_FOCALNET, drop_path_rate=0.9))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        first, second = (backbone(images).feature_maps[-1] for _ in range(2))
        assert torch.equal(first, second)
        backbone.train()
        first, second = (backbone(images).feature_maps[-1] for _ in range(2))
        assert not torch.equal(first, second)


def test_stem_of_stride_two():
    backbone = make(
        SeemFocalNetConfig(**SMALL_FOCALNET, patch_size=2, stem_kernel_size=3, stem_stride=2, stem_padding=1)
    )
    maps = backbone(torch.randn(1, 3, 96, 192)).feature_maps
    assert [tuple(m.shape[2:]) for m in maps] == [(48, 96), (24, 48), (12, 24), (6, 12)]


@pytest.mark.parametrize(
    "config",
    [
        ConvNextV2Config(
            hidden_sizes=[16, 32, 64, 128], depths=[1] * 4, patch_size=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1] * 4, layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
    ],
    ids=["convnextv2", "resnet"],
)  # fmt: skip
def test_backbones_of_transformers(config):
    backbone = build_backbone(config)
    maps = backbone(torch.randn(1, 3, 64, 128)).feature_maps
    assert [m.shape[1] for m in maps] == backbone.channels == [16, 32, 64, 128]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("swin", {}, "unknown official backbone 'swin'"),
        ("focal", {**FOCAL_L, "patch_norm": False}, "patch_norm"),
        ("vit", {"size": "gigantic"}, "gigantic"),
    ],
)
def test_unknown_official_backbones(name, options, message):
    with pytest.raises(ValueError, match=message):
        backbone_config_from_official(name, options)
