"""Official checkpoints become models of this package, or an error that says why not, and nothing is left behind."""

import json
import os
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import REFERENCE, reference_models
from faults import flip_bit, full_disk, killed_in
from filelock import FileLock
from official_layout import official_shapes, official_state_dict, tiny_config
from safetensors import safe_open
from safetensors.torch import load_file

from ssprompt_hf.cli.main import main
from ssprompt_hf.errors import CheckpointError, UnknownNameError
from ssprompt_hf.models import registry
from ssprompt_hf.models.seem import architectures, conversion
from ssprompt_hf.models.seem.architectures import base_model_config
from ssprompt_hf.models.seem.conversion import (
    config_from_official,
    convert_seem_checkpoint,
    detect_name,
    match_tensors,
)
from ssprompt_hf.models.seem.modeling_seem import SeemForUniversalSegmentation
from ssprompt_hf.models.seem.official_checkpoint import read_official_checkpoint
from ssprompt_hf.utils.temporary_folders import remove_abandoned

PUBLISHED_LAYOUTS = {
    "layouts/focall_unicl_lang_v0.json": "seem-focal-l",
    "layouts/focalt_unicl_lang_v1.json": "seem-t-v1",
    "layouts/samvitl_unicl_lang_v1.json": "seem-sam-vit-l",
    "full-seem-v0-focal-t/layout.json": "seem-t",
    "full-seem-v1-davit-d3/layout.json": "seem-l",
}


def meta_tensors(layout: dict) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in layout.items()}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A small official checkpoint, alone in its folder."""
    path = tmp_path / "in" / "tiny_v0.pt"
    path.parent.mkdir()
    torch.save(official_state_dict(tiny_config()), path)
    return path


@pytest.fixture
def output(tmp_path):
    """Where to convert to; in the end nothing else must be there."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model"


def add_architecture(monkeypatch, name: str, config: dict):
    monkeypatch.setitem(architectures.ARCHITECTURES, name, config)
    monkeypatch.setitem(registry.BASE_MODELS, name, registry.BaseModel(name, "seem", name))


def assert_nothing_left(output: Path):
    assert not output.exists()
    assert not output.parent.exists() or not list(output.parent.iterdir())


class TestLayouts:
    def test_own_layout_is_the_official_one(self, reference_dir):
        layout = json.loads((reference_dir / "full-seem-v0-focal-t" / "layout.json").read_text())
        assert official_shapes(base_model_config("seem-t")) == {name: tuple(shape) for name, shape in layout.items()}

    @pytest.mark.parametrize("file, name", PUBLISHED_LAYOUTS.items(), ids=PUBLISHED_LAYOUTS.values())
    def test_published_layouts_fit_their_names(self, reference_dir, file, name):
        if not (reference_dir / file).is_file():
            pytest.skip(f"{reference_dir / file} is not there")
        tensors = meta_tensors(json.loads((reference_dir / file).read_text()))
        version = base_model_config(name).decoder_version
        assert detect_name(tensors, Path(f"seem_{version}.pt")) == name
        assert set(match_tensors(tensors, base_model_config(name), Path(file), name)) == set(tensors)

    @pytest.mark.parametrize(
        "folder", [*reference_models(), *reference_models(full_size=True)] or [None], ids=lambda p: p and p.name
    )
    def test_reference_layouts_fit_their_hyperparameters(self, reference_dir, folder):
        spec = json.loads((folder / "spec.json").read_text())
        tensors = meta_tensors(json.loads((folder / "layout.json").read_text()))
        vocabulary = tensors["sem_seg_head.predictor.lang_encoder.lang_encoder.token_embedding.weight"].shape[0]
        config = config_from_official(spec["hyperparameters"], vocab_size=vocabulary)
        match_tensors(tensors, config, folder)

    @pytest.mark.parametrize("folder", reference_models(full_size=True) or [None], ids=lambda p: p and p.name)
    def test_names_have_the_official_hyperparameters(self, reference_dir, folder):
        spec = json.loads((folder / "spec.json").read_text())
        config = config_from_official(spec["hyperparameters"]).to_dict()
        assert any(base_model_config(name).to_dict() == config for name in architectures.convertible_names())

    def test_every_name_can_be_built(self):
        for name in architectures.convertible_names():
            assert conversion.expected_shapes(base_model_config(name))

    def test_constants_and_captioning_are_dropped(self):
        tensors = official_state_dict(tiny_config())
        tensors |= {"pixel_mean": torch.ones(3, 1, 1), "sem_seg_head.predictor.caping_embed": torch.ones(2, 2)}
        mappings = match_tensors(tensors, tiny_config(), Path("x.pt"))
        dropped = {name for name, mapping in mappings.items() if not mapping.names}
        assert dropped == {
            "pixel_mean",
            "sem_seg_head.predictor.caping_embed",
            "dilation_kernel",
            "criterion.empty_weight",
        }


class TestConversion:
    def test_weights_arrive(self, checkpoint, output):
        assert convert_seem_checkpoint(checkpoint, output_dir=output, config=tiny_config()) == output
        assert {file.name for file in output.iterdir()} == {
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        }
        official, ours = official_state_dict(tiny_config()), load_file(output / "model.safetensors")
        head, layer = "sem_seg_head.predictor.", "transformer_cross_attention_layers.1.multihead_attn.in_proj_weight"
        assert torch.equal(ours["model.object_queries.weight"], official[head + "query_feat.weight"])
        packed = [ours[f"model.mask_decoder.layers.1.cross_attention.{part}_proj.weight"] for part in "qkv"]
        assert torch.equal(torch.cat(packed), official[head + layer])
        assert torch.equal(ours["model.mask_decoder.class_projection.weight"], official[head + "class_embed"].T)
        assert torch.equal(ours["model.logit_scale"], official[head + "lang_encoder.logit_scale"])
        dropped = {"dilation_kernel", "criterion.empty_weight"}
        assert sum(tensor.numel() for tensor in ours.values()) == sum(
            tensor.numel() for name, tensor in official.items() if name not in dropped
        )

    def test_loads_without_missing_or_unexpected(self, checkpoint, output):
        convert_seem_checkpoint(checkpoint, output_dir=output, config=tiny_config("v1"))
        model, info = SeemForUniversalSegmentation.from_pretrained(output, output_loading_info=True)
        assert not any(info.values()), info
        assert model.config.decoder_version == "v1"
        assert model.config.architectures == ["SeemForUniversalSegmentation"]
        with safe_open(output / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert set(file.keys()) == set(model.state_dict())

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {"model": state, "optimizer": {"lr": 0.1}, "epoch": 3},
            lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
            lambda state: {f"module.model.{name}": tensor for name, tensor in state.items()},
        ],
        ids=["training checkpoint", "nested and prefixed", "two prefixes"],
    )
    def test_wrapped_state_dicts(self, tmp_path, wrap):
        state = official_state_dict(tiny_config())
        torch.save(wrap(state), tmp_path / "wrapped.pt")
        read = read_official_checkpoint(tmp_path / "wrapped.pt")
        assert set(read) == set(state)
        assert all(torch.equal(read[name], state[name]) for name in state)

    def test_file_of_old_torch(self, tmp_path, output):
        path = tmp_path / "old.pt"
        torch.save(official_state_dict(tiny_config()), path, _use_new_zipfile_serialization=False)
        convert_seem_checkpoint(path, output_dir=output, config=tiny_config())
        assert (output / "model.safetensors").is_file()

    def test_file_that_was_packed_again(self, tmp_path, output):
        torch.save(official_state_dict(tiny_config()), tmp_path / "stored.pt")
        path = tmp_path / "packed.pt"
        with zipfile.ZipFile(tmp_path / "stored.pt") as stored, zipfile.ZipFile(path, "w") as new:
            for name in stored.namelist():
                new.writestr(name, stored.read(name), zipfile.ZIP_DEFLATED)
        with pytest.raises(CheckpointError, match=r"packed\.pt has been packed again \(stored/.* is compressed"):
            convert_seem_checkpoint(path, output_dir=output, config=tiny_config())
        assert_nothing_left(output)

    def test_half_precision_is_kept(self, tmp_path, output):
        state = {name: tensor.half() for name, tensor in official_state_dict(tiny_config()).items()}
        torch.save(state, tmp_path / "half.pt")
        convert_seem_checkpoint(tmp_path / "half.pt", output_dir=output, config=tiny_config())
        assert SeemForUniversalSegmentation.from_pretrained(output, dtype="auto").dtype == torch.float16

    def test_tokenizer_is_saved_with_the_image_processor(self, checkpoint, output, reference_dir):
        convert_seem_checkpoint(
            checkpoint, output_dir=output, config=tiny_config(), tokenizer=reference_dir / "tokenizer"
        )
        assert json.loads((output / "processor_config.json").read_text())["processor_class"] == "SeemProcessor"
        assert (output / "tokenizer.json").is_file()

    def test_empty_folder_and_new_parents(self, checkpoint, tmp_path):
        (tmp_path / "empty").mkdir()
        for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
            convert_seem_checkpoint(checkpoint, output_dir=folder, config=tiny_config())
            assert (folder / "config.json").is_file()
        assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b"]

    @pytest.mark.slow
    def test_peak_memory(self, tmp_path):
        """A checkpoint of the size of seem-t: 659 MB."""
        if sys.platform != "linux":
            pytest.skip("Linux alone tells it in /proc")
        shapes = official_shapes(base_model_config("seem-t"))
        torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "seem_focalt_v0.pt")
        # not ru_maxrss, which begins at what the process that starts this one has in use
        code = (
            "import sys; from ssprompt_hf.models.seem.conversion import convert_seem_checkpoint as convert\n"
            "convert(sys.argv[1], 'seem-t', sys.argv[2])\n"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        files = [str(tmp_path / "seem_focalt_v0.pt"), str(tmp_path / "out")]
        done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
        assert 0 < int(done.stdout.splitlines()[-1]) * 1024 < 2.5 * os.path.getsize(files[0])


class TestArchitecture:
    @pytest.fixture(autouse=True)
    def tiny_names(self, monkeypatch):
        """A family of two tiny models that differ in the decoder version, and a larger one."""
        tiny = {key: getattr(tiny_config(), key) for key in ("num_queries", "num_spatial_memories", "decoder_layers")}
        for name, embed_dim, version in (("tiny", 8, "v0"), ("tiny-v1", 8, "v1"), ("larger", 16, "v0")):
            config = tiny_config(version).to_dict()
            config["backbone_config"] = {"model_type": "seem_focalnet", "embed_dim": embed_dim, "depths": [1] * 4}
            keep = {k: v for k, v in config.items() if k in _CONFIG_KEYS}
            add_architecture(monkeypatch, name, keep | tiny)

    def test_found_from_tensors_and_file_name(self, checkpoint, output):
        convert_seem_checkpoint(checkpoint, output_dir=output)
        assert SeemForUniversalSegmentation.from_pretrained(output).config.decoder_version == "v0"

    def test_version_must_be_given_if_the_file_does_not_tell(self, checkpoint, output):
        path = checkpoint.rename(checkpoint.with_name("model.pt"))
        with pytest.raises(CheckpointError, match="--name tiny or --name tiny-v1"):
            convert_seem_checkpoint(path, output_dir=output)
        assert_nothing_left(output)

    def test_other_version_than_the_file_name_warns(self, checkpoint, output, caplog):
        from transformers.utils import logging

        logging.enable_propagation()
        convert_seem_checkpoint(checkpoint, "tiny-v1", output)
        logging.disable_propagation()
        assert "seems to be of decoder v0 but is converted with decoder v1" in caplog.text

    def test_wrong_name_suggests_the_right_one(self, checkpoint, output):
        with pytest.raises(CheckpointError, match="backbone is that of tiny and tiny-v1: pass --name tiny") as error:
            convert_seem_checkpoint(checkpoint, "larger", output)
        assert "of another shape" in str(error.value) and "more" in str(error.value)
        assert_nothing_left(output)

    def test_unknown_name_lists_names(self, checkpoint, output):
        with pytest.raises(UnknownNameError, match=r"'seem-x' is not .* seem-t, seem-t-v1, seem-l"):
            convert_seem_checkpoint(checkpoint, "seem-x", output)
        assert_nothing_left(output)

    def test_unknown_architecture(self, tmp_path, output):
        torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match=r"not one of seem-t.* it holds layer\.weight.*pass its config"):
            convert_seem_checkpoint(tmp_path / "other.pt", output_dir=output)
        assert_nothing_left(output)


_CONFIG_KEYS = {
    "backbone_config",
    "text_config",
    "projection_dim",
    "encoder_layers",
    "encoder_feedforward_dim",
    "num_attention_heads",
    "decoder_version",
    "feature_size",
    "mask_feature_size",
    "hidden_dim",
    "dim_feedforward",
}


class Malicious:
    def __reduce__(self):
        return os.system, ("touch EXECUTED",)


class TestErrors:
    def convert(self, path, output, match):
        with pytest.raises(CheckpointError, match=match) as error:
            convert_seem_checkpoint(path, output_dir=output, config=tiny_config())
        assert_nothing_left(output)
        return str(error.value)

    def change(self, checkpoint, **changes):
        state = official_state_dict(tiny_config())
        for name, tensor in changes.items():
            state.pop(name) if tensor is None else state.update({name: tensor})
        torch.save(state, checkpoint)

    def test_missing(self, checkpoint, output):
        self.change(checkpoint, **{"sem_seg_head.predictor.query_embed.weight": None})
        self.convert(checkpoint, output, r"1 missing .*: model\.mask_decoder\.query_positions")

    def test_unexpected(self, checkpoint, output):
        extra = {f"teacher.{i}": torch.zeros(1) for i in range(20)}
        self.change(checkpoint, **extra)
        message = self.convert(checkpoint, output, r"20 unexpected: teacher\.0, ")
        assert "and 15 more" in message and "teacher.5" not in message

    def test_shapes_and_types(self, checkpoint, output):
        name = "sem_seg_head.predictor.query_embed.weight"
        self.change(checkpoint, **{name: torch.zeros(7, 32)})
        self.convert(checkpoint, output, r"query_embed\.weight \(7, 32\) .* for .*query_positions \(5, 32\)")
        self.change(checkpoint, **{name: torch.zeros(5, 32, dtype=torch.int8)})
        self.convert(checkpoint, output, r"query_embed\.weight \(5, 32\) torch\.int8")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
    def test_truncated(self, checkpoint, output, part, zipped):
        torch.save(official_state_dict(tiny_config()), checkpoint, _use_new_zipfile_serialization=zipped)
        content = checkpoint.read_bytes()
        checkpoint.write_bytes(content[: int(len(content) * part)])
        self.convert(checkpoint, output, "truncated.*Download it again")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_malicious(self, checkpoint, output, monkeypatch, zipped):
        monkeypatch.chdir(checkpoint.parent)
        content = {"model": official_state_dict(tiny_config()), "extra": Malicious()}
        torch.save(content, checkpoint, _use_new_zipfile_serialization=zipped)
        self.convert(checkpoint, output, "was refused: it refers to .*system.*could run code")
        assert not Path("EXECUTED").exists()

    @pytest.mark.parametrize(
        "content, match",
        [
            (b"", "is empty"),
            (b"<html>not found</html>", "not a file written by torch.save"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
            (b"\x80\x04garbage", "damaged or truncated"),
            (b"PK\x03\x04garbage", "truncated"),
        ],
    )
    def test_no_checkpoint(self, checkpoint, output, content, match):
        checkpoint.write_bytes(content)
        self.convert(checkpoint, output, match)

    def test_no_state_dict(self, checkpoint, output):
        torch.save([torch.zeros(1)], checkpoint)
        self.convert(checkpoint, output, "holds no state dict.* but list")
        torch.save({"epoch": 1, "loss": 0.5}, checkpoint)
        self.convert(checkpoint, output, "a dictionary with epoch, loss")

    def test_no_file(self, tmp_path, output):
        self.convert(tmp_path / "absent.pt", output, "there is no file")
        self.convert(tmp_path, output, "is a folder")

    def test_output_exists(self, checkpoint, output):
        output.mkdir()
        (output / "notes.txt").write_text("mine")
        with pytest.raises(CheckpointError, match="already exists"):
            convert_seem_checkpoint(checkpoint, output_dir=output, config=tiny_config())
        assert [path.name for path in output.iterdir()] == ["notes.txt"]

    def test_output_cannot_be_written(self, checkpoint, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="could not be written"):
            convert_seem_checkpoint(checkpoint, output_dir=tmp_path / "file" / "model", config=tiny_config())

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
    def test_interrupted_while_writing(self, checkpoint, tmp_path, monkeypatch, error):
        def fail(tensors, path, metadata):
            path.write_bytes(b"half")
            raise error

        monkeypatch.setattr(conversion, "save_file", fail)
        output = tmp_path / "new" / "folders" / "model"
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else CheckpointError):
            convert_seem_checkpoint(checkpoint, output_dir=output, config=tiny_config())
        assert not (tmp_path / "new").exists()

    def test_name_and_config(self, checkpoint, output):
        with pytest.raises(ValueError, match="pass one of them"):
            convert_seem_checkpoint(checkpoint, "seem-t", output, config=tiny_config())


class TestCommand:
    def test_errors_are_one_line_and_exit_code_2(self, checkpoint, output, capsys):
        for arguments, part in (
            ([str(checkpoint), "--name", "seem-x"], "'seem-x' is not the name of an official SEEM model"),
            ([str(checkpoint), "--name", "seem-t"], "missing"),
            (["absent.pt"], "there is no file absent.pt"),
        ):
            assert main(["convert", *arguments, "--output", str(output), "--tokenizer", "none"]) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 1 and lines[0].startswith("ssprompt-hf convert: error: ") and part in lines[0]
            assert_nothing_left(output)

    def test_help_needs_no_torch(self):
        code = (
            "import sys; from ssprompt_hf.cli.main import build_parser; build_parser(); "
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    @pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference models at {REFERENCE}")
    def test_reference_checkpoint_from_the_command_line(self, tmp_path, monkeypatch, capsys):
        folder = REFERENCE / "seem-v0-focal"
        path = tmp_path / "seem_small_v0.pt"
        subprocess.run([sys.executable, REFERENCE / "random_checkpoint.py", folder.name, path], check=True)
        config = config_from_official(json.loads((folder / "spec.json").read_text())["hyperparameters"], 514).to_dict()
        keep = {k: v for k, v in config.items() if k in _CONFIG_KEYS | {"num_queries"}}
        add_architecture(monkeypatch, "small", keep)
        arguments = ["convert", str(path), "--output", str(tmp_path / "out"), "--tokenizer", "none"]
        assert main([*arguments]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "out")
        assert SeemForUniversalSegmentation.from_pretrained(tmp_path / "out").config.num_queries == 21


class TestFaults:
    def test_packed_again(self, checkpoint, output, tmp_path):
        """Tensors are mapped from the file, where a packed one would be garbage."""
        packed = tmp_path / "packed_v0.pt"
        with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        with pytest.raises(CheckpointError, match="packed again"):
            convert_seem_checkpoint(packed, output_dir=output, config=tiny_config())
        assert_nothing_left(output)

    def test_a_flipped_bit(self, checkpoint, output):
        flip_bit(checkpoint, 4 * checkpoint.stat().st_size)
        with pytest.raises(CheckpointError, match="is damaged"):
            convert_seem_checkpoint(checkpoint, output_dir=output, config=tiny_config())
        assert_nothing_left(output)

    def test_values_that_are_none(self, checkpoint, output):
        state = torch.load(checkpoint, weights_only=True)
        kept = (name for name in state if conversion.map_official_name(name, tiny_config()).names)
        name = next(name for name in kept if state[name].ndim > 1)
        state[name].view(-1)[5] = float("nan")
        torch.save(state, checkpoint)
        with pytest.raises(CheckpointError, match="not finite"):
            convert_seem_checkpoint(checkpoint, output_dir=output, config=tiny_config())
        torch.save(state | {name: state[name].nan_to_num().to(torch.float8_e4m3fn)}, checkpoint)
        with pytest.raises(CheckpointError, match="of another shape or type"):
            convert_seem_checkpoint(checkpoint, output_dir=output, config=tiny_config())

    def test_killed_while_writing(self, checkpoint, output, tmp_path):
        """What is left disappears with the next conversion, unless somebody is still at it."""
        convert = partial(convert_seem_checkpoint, checkpoint, output_dir=output, config=tiny_config())
        assert killed_in(conversion, "place", 1, convert)
        (left,) = output.parent.glob(f".{output.name}.*.tmp")
        assert (left / "model.safetensors").is_file() and not output.exists()
        with FileLock(left.with_suffix(".lock")):
            remove_abandoned(output, output.parent)
            assert left.is_dir()
        convert()
        names = {path.name for path in output.parent.iterdir() if path.name.startswith(f".{output.name}")}
        assert not names and len({path.stat().st_mode for path in output.iterdir()}) == 1
        assert (output / "config.json").stat().st_mode & 0o044

    def test_a_full_disk(self, checkpoint, output):
        with full_disk(2000), pytest.raises(CheckpointError, match=r"no room for it .* bytes are needed"):
            convert_seem_checkpoint(checkpoint, output_dir=output, config=tiny_config())
        assert_nothing_left(output)
