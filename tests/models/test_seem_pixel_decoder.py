"""Pixel decoders: equal to the official ones, any sizes, gradients and precisions; the fast CPU routes below them."""

import pytest
import torch
from conftest import reference_models
from safetensors.torch import load_file
from seem_reference import assert_close_to_largest, reference_image_encoder, reference_pixels
from torch.nn import functional as F

from ssprompt_hf.models.seem.configuration_seem import SeemConfig
from ssprompt_hf.models.seem.pixel_decoder import add_upsampled, build_pixel_decoder, init_deformable_weights
from ssprompt_hf.utils.cpu_ops import Conv1x1, conv3x3, linear, map_tokens

CHANNELS = [16, 32, 64, 128]


def make(kind, **kwargs):
    torch.manual_seed(0)
    config = SeemConfig(
        pixel_decoder_type=kind, feature_size=64, mask_feature_size=32, encoder_layers=2, encoder_feedforward_dim=96,
        num_attention_heads=4, use_text_model=False, **kwargs,
    )  # fmt: skip
    decoder = build_pixel_decoder(config, CHANNELS).eval()
    decoder.apply(init_deformable_weights)
    return decoder


def feature_maps(batch_size=1, size=(24, 40), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    sizes = [(-(-size[0] // 2**level), -(-size[1] // 2**level)) for level in range(4)]
    return tuple(
        torch.randn(batch_size, channels, *s, generator=generator, dtype=dtype) for channels, s in zip(CHANNELS, sizes)
    )


@pytest.fixture(params=["fpn", "deformable"])
def kind(request):
    return request.param


@pytest.mark.parametrize("folder", reference_models(), ids=lambda folder: folder.name)
def test_equals_the_official_pixel_decoder(folder):
    model, _ = reference_image_encoder(folder)
    with torch.no_grad():
        maps = model["backbone"](reference_pixels(folder)).feature_maps
        mask_features, multi_scale_features = model["pixel_decoder"](maps)
    expected = load_file(folder / "expected.safetensors")
    assert_close_to_largest(mask_features, expected["a.pixel_decoder.mask_features"])
    assert len(multi_scale_features) == 3
    for index, actual in enumerate(multi_scale_features):
        assert_close_to_largest(actual, expected[f"a.pixel_decoder.multi_scale.{index}"])


@pytest.mark.parametrize("size", [(24, 40), (17, 25), (64, 8)])
def test_any_size(kind, size):
    maps = feature_maps(size=size)
    with torch.no_grad():
        mask_features, multi_scale_features = make(kind)(maps)
    assert mask_features.shape == (1, 32, *size)
    assert [f.shape for f in multi_scale_features] == [(1, 64, *m.shape[2:]) for m in maps[:0:-1]]


def test_images_of_a_batch_do_not_touch_each_other(kind):
    decoder = make(kind).double()
    maps = feature_maps(batch_size=3, dtype=torch.float64)
    with torch.no_grad():
        together = decoder(maps)
        alone = decoder(tuple(m[2:] for m in maps))
    for batch, single in zip([together[0], *together[1]], [alone[0], *alone[1]]):
        torch.testing.assert_close(batch[2:], single)


def test_inputs_stay_as_they_are_and_gradients_flow(kind):
    decoder = make(kind, pre_norm=kind == "fpn")
    maps = [m.requires_grad_() for m in feature_maps()]
    before = [m.detach().clone() for m in maps]
    mask_features, multi_scale_features = decoder(tuple(maps))
    (mask_features.square().mean() + sum(f.square().mean() for f in multi_scale_features)).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, maps))
    assert all(m.grad is not None and m.grad.abs().max() > 0 for m in maps)
    assert all(p.grad is not None for p in decoder.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(kind, dtype):
    decoder = make(kind)
    maps = feature_maps()
    with torch.no_grad():
        expected = decoder(maps)
        actual = decoder.to(dtype)(tuple(m.to(dtype) for m in maps))
    for a, b in zip([actual[0], *actual[1]], [expected[0], *expected[1]]):
        assert a.dtype == dtype
        assert_close_to_largest(a, b, tolerance=0.1)


def test_compiles_in_one_graph(kind):
    decoder = make(kind)
    maps = feature_maps()
    with torch.no_grad():
        expected = decoder(maps)
        actual = torch.compile(decoder, fullgraph=True, backend="eager")(maps)
    torch.testing.assert_close(actual[0], expected[0])


def test_unsuitable_width():
    config = SeemConfig(feature_size=40, num_attention_heads=4, use_text_model=False)
    with pytest.raises(ValueError, match="feature_size is 40"):
        build_pixel_decoder(config, CHANNELS)


@pytest.mark.parametrize("size", [(10, 14), (9, 13)])
def test_add_upsampled(size):
    fine, coarse = torch.randn(2, 8, *size), torch.randn(2, 8, 5, 7)
    expected = fine + F.interpolate(coarse, size=size, mode="nearest")
    assert torch.equal(add_upsampled(fine.clone(), coarse), expected)
    channels_last = fine.clone(memory_format=torch.preserve_format).to(memory_format=torch.channels_last)
    assert torch.equal(add_upsampled(channels_last, coarse), expected)


def compare_with_float64(fast, plain, arguments, tolerance):
    """Values and gradients of `fast` in float32 against those of `plain` in float64."""
    arguments = [a.requires_grad_() for a in arguments]
    exact_arguments = [a.detach().double().requires_grad_() for a in arguments]
    actual, expected = fast(*arguments), plain(*exact_arguments)
    assert_close_to_largest(actual, expected, tolerance)
    with torch.no_grad():
        assert torch.equal(fast(*arguments), actual)
    weights = torch.randn_like(actual)
    gradients = torch.autograd.grad(actual, arguments, weights)
    exact_gradients = torch.autograd.grad(expected, exact_arguments, weights.double())
    for gradient, exact in zip(gradients, exact_gradients):
        assert_close_to_largest(gradient, exact, tolerance)


@pytest.mark.parametrize("shape", [(1, 128, 64, 64), (2, 160, 37, 50)])
def test_winograd_convolution(shape):
    torch.manual_seed(0)
    weight = torch.randn(192, shape[1], 3, 3) / (9 * shape[1]) ** 0.5
    compare_with_float64(
        conv3x3,
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        [torch.randn(shape), weight, torch.randn(192)],
        tolerance=1e-5,
    )


def test_fast_linear():
    torch.manual_seed(0)
    arguments = [torch.randn(2, 300, 128), torch.randn(256, 128) / 11, torch.randn(256)]
    compare_with_float64(linear, F.linear, arguments, tolerance=1e-5)


def test_convolution_1x1():
    torch.manual_seed(0)
    layer = Conv1x1(48, 32)
    x = torch.randn(2, 48, 5, 7)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias))


def test_map_tokens_in_chunks(monkeypatch):
    monkeypatch.setattr("ssprompt_hf.utils.cpu_ops.CHUNK_ELEMENTS", 64)
    x = torch.randn(2, 5, 3, 4)
    sizes = []

    def function(tokens):
        sizes.append(len(tokens))
        return 2 * tokens

    assert torch.equal(map_tokens(function, x, width=16), 2 * x)
    assert sizes == [4] * 7 + [2]
