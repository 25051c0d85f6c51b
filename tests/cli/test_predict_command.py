"""`ssprompt-hf predict`, and what `SSPromptModel.predict` takes: no input is lost, clipped or written over."""

import contextlib
import http.server
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prompted_seem import small_seem, word_tokenizer

from ssprompt_hf import SSPromptModel
from ssprompt_hf.cli.main import main
from ssprompt_hf.data.image_inputs import open_image
from ssprompt_hf.errors import SSPromptError, UnreadableFileError
from ssprompt_hf.models.interface import BaseModelInfo
from ssprompt_hf.models.registry import ADAPTER_CONFIG, DEFAULT_BASE_MODEL
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor
from ssprompt_hf.segmentation.results import SegmentationResult


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model with classes of its own, of which its image processor knows the things, as seem-lite has them."""
    folder = tmp_path_factory.mktemp("base")
    small_seem().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    size = {"shortest_edge": 32, "longest_edge": 128}
    SeemImageProcessor(size=size, thing_class_ids=[6, 8, 9, 10]).save_pretrained(folder)
    return folder


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (32, 48, 3), dtype=np.uint8)


def save(path, seed: int = 0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path, **options)
    return str(path)


def predict(base, images, output, *options) -> int:
    return main(["predict", *map(str, images), "--base_model", str(base), "--output_dir", str(output), *options])


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Names of the files


@pytest.mark.parametrize("photo", ["x.png", "x-overlay.png"])
@pytest.mark.parametrize("where", ["the folder", "a link to it"])
def test_images_are_not_written_over(base, photo, where, tmp_path, capsys, monkeypatch):
    photos = tmp_path / "photos"
    for path in (photos / "a.png", photos / photo, tmp_path / "x.jpg"):
        save(path)
    before, output = files(photos), photos
    if where != "the folder":
        output = tmp_path / "link"
        output.symlink_to(photos)
    monkeypatch.setattr(SSPromptModel, "from_pretrained", lambda *_, **__: pytest.fail("predicted all the same"))
    assert predict(base, [tmp_path / "x.jpg", photos / photo], output) == 2
    error = capsys.readouterr().err
    assert f"error: {output / photo} is one of the images" in error and "choose another --output_dir" in error
    assert files(photos) == before


def test_every_image_gets_files_of_its_own(base, tmp_path, capsys):
    folders = ("one", "two", "three")
    images = [save(tmp_path / folder / "IMG-1.jpg", seed) for seed, folder in enumerate(folders)]
    images += [save(tmp_path / name, seed) for seed, name in enumerate(("IMG-1-1.jpg", "a.jpg", "a-overlay.jpg"), 3)]
    images += [save(tmp_path / "img-1.png", 6)]
    assert predict(base, images, tmp_path / "out") == 0
    names = ["IMG-1", "IMG-1-1", "IMG-1-2", "IMG-1-1-1", "a", "a-overlay-1", "img-1-3"]
    assert list(json.loads((tmp_path / "out" / "segments.json").read_text())) == names
    assert set(files(tmp_path / "out")) == {
        "segments.json",
        *(f"{name}{ending}.png" for name in names for ending in ("", "-overlay")),
    }
    assert f"{images[2]} (as IMG-1-2.png): " in capsys.readouterr().out
    model = SSPromptModel.from_pretrained(base)
    for image, name in zip(images, names):
        result = model.predict(image)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), result.class_map)
        overlay = np.asarray(Image.open(tmp_path / "out" / f"{name}-overlay.png"))
        assert np.array_equal(overlay, np.asarray(result.overlay(legend=True)))


def test_files_appear_whole_or_not_at_all(base, tmp_path, monkeypatch):
    def fail(self, path):
        with open(path, "wb") as file:
            file.write(b"half a file")
        raise OSError("no space left on device")

    image = save(tmp_path / "a.jpg")
    monkeypatch.setattr(SegmentationResult, "save", fail)
    with pytest.raises(OSError, match="no space"):
        predict(base, [image], tmp_path / "out")
    assert files(tmp_path / "out") == {}


# One image at a time


def test_images_of_a_folder_are_written_one_by_one(base, tmp_path, monkeypatch):
    for seed, name in enumerate("abc"):
        save(tmp_path / "photos" / f"{name}.jpg", seed)
    written, original = [], SSPromptModel.predict

    def observed(self, image, *arguments, **options):
        written.append(sorted(path.name for path in (tmp_path / "out").glob("?.png")))
        return original(self, image, *arguments, **options)

    monkeypatch.setattr(SSPromptModel, "predict", observed)
    assert predict(base, [tmp_path / "photos"], tmp_path / "out") == 0
    assert written == [[], ["a.png"], ["a.png", "b.png"]]


def test_images_that_cannot_be_read_are_left_out(base, tmp_path, capsys):
    photos = tmp_path / "photos"
    for name in ("a.jpg", "d.jpg"):
        save(photos / name)
    (photos / "b.jpg").write_bytes(b"no image")
    (photos / "c.jpg").symlink_to(photos / "gone.jpg")
    assert predict(base, [photos], tmp_path / "out") == 2
    told = capsys.readouterr()
    first, second, last = told.err.strip().splitlines()[-3:]
    assert first.startswith(f"warning: {photos / 'b.jpg'}: cannot be read as an image")
    assert second.startswith(f"warning: {photos / 'c.jpg'}: no such file")
    assert last.startswith(
        f"ssprompt-hf predict: error: 2 of 4 images cannot be read: {photos / 'b.jpg'}, {photos / 'c.jpg'}"
    )
    assert "wrote 2 label maps" in told.out
    assert set(json.loads((tmp_path / "out" / "segments.json").read_text())) == {"a", "d"}
    assert {"a.png", "a-overlay.png", "d.png", "d-overlay.png"} < set(files(tmp_path / "out"))


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_that_can_be_read(base, count, tmp_path, capsys):
    images = [tmp_path / f"{number}.jpg" for number in range(count)]
    for image in images:
        image.write_bytes(b"no image")
    assert predict(base, images, tmp_path / "out") == 2
    *warnings, error = [line for line in capsys.readouterr().err.splitlines() if "cannot be read" in line]
    assert error.startswith(f"ssprompt-hf predict: error: {images[-1]}: cannot be read as an image")
    assert len(warnings) == count - 1
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")]
)
@pytest.mark.parametrize("where", [(SSPromptModel, "predict"), (SegmentationResult, "overlay")])
def test_images_that_do_not_fit_into_memory_are_left_out(base, error, where, tmp_path, capsys, monkeypatch):
    for name in "abc":
        save(tmp_path / "photos" / f"{name}.jpg")
    original, calls = getattr(*where), iter(range(3))

    def scarce(*arguments, **options):
        if next(calls) == 1:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(*where, scarce)
    assert predict(base, [tmp_path / "photos"], tmp_path / "out") == 2
    warning, last = capsys.readouterr().err.strip().splitlines()[-2:]
    assert warning.startswith(f"warning: {tmp_path / 'photos' / 'b.jpg'} (48x32 pixels) does not fit into memory")
    assert "--tile" in warning and "--image_size" in warning
    assert "1 of 3 images do not fit into memory" in last and "the others are done" in last
    assert set(json.loads((tmp_path / "out" / "segments.json").read_text())) == {"a", "c"}


# What to look for


def test_mistakes_are_found_before_a_model_is_loaded(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(SSPromptModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded all the same"))
    asked = []

    def info(name, **_):
        asked.append(name)
        return BaseModelInfo("seem", class_names=None)

    monkeypatch.setattr("ssprompt_hf.loading.base_model_info", info)
    image = save(tmp_path / "a.jpg")
    assert predict(base, [image], tmp_path / "out") == 2
    assert main(["predict", image, "--output_dir", str(tmp_path / "out")]) == 2
    assert asked == [str(base), DEFAULT_BASE_MODEL]
    nothing, again = capsys.readouterr().err.strip().splitlines()
    options = "--adapter, --class_names, --text, --point or --box"
    assert nothing == again == f"ssprompt-hf predict: error: nothing to look for: give {options}"
    assert predict(base, [image], tmp_path / "out", "--adapter", "x", "--class_names", "sky") == 2
    assert "an adapter brings its own classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_no_base_model(tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / ADAPTER_CONFIG).write_text("{}")
    assert predict(tmp_path / "adapter", [save(tmp_path / "a.jpg")], tmp_path / "out", "--class_names", "sky") == 2
    assert "is an adapter and no base model" in capsys.readouterr().err


# Things


@pytest.mark.parametrize("task", ["instance", "panoptic"])
@pytest.mark.parametrize("count", [2, 11])
def test_all_classes_are_things_where_only_names_are_given(base, task, count, tmp_path):
    names = ["the sky", "car", *(" ".join(["the car"] * number) for number in range(1, 10))][:count]
    model = SSPromptModel.from_pretrained(base, class_names=names)
    found = model.predict(pixels(), task, threshold=0.0)
    model.image_processor.thing_class_ids = list(range(count))
    model.config.thing_class_ids = list(range(count))
    expected = model.predict(pixels(), task, threshold=0.0)
    assert found.segments and found.segments == expected.segments
    assert np.array_equal(found.segments_map, expected.segments_map)
    if task == "instance":  # none was left out for being no thing of the base model
        assert any(segment.class_id not in (6, 8, 9, 10) for segment in found.segments)
    image = save(tmp_path / "x.jpg")
    options = ["--class_names", *names, "--task", task, "--threshold", "0"]
    assert predict(base, [image], tmp_path / "out", *options) == 0


def test_things_of_the_model_itself_are_kept(base):
    model = SSPromptModel.from_pretrained(base)
    segments = model.predict(pixels(), "instance", threshold=0.0).segments
    assert model.config.thing_class_ids == [1] and {segment.class_id for segment in segments} <= {1}


# Images in memory


def test_images_in_memory_are_read_as_their_files(base, tmp_path):
    turned, deep = tmp_path / "turned.jpg", tmp_path / "deep.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    save(turned, exif=exif)
    Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257).save(deep)
    for file in (turned, deep):
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(open_image(image)), np.asarray(open_image(str(file))))
    assert np.array_equal(np.asarray(open_image(Image.open(deep)))[..., 0], pixels()[..., 0])
    model = SSPromptModel.from_pretrained(base)
    result, expected = model.predict(Image.open(turned)), model.predict(turned)
    assert result.class_map.shape == (48, 32) and np.array_equal(result.class_map, expected.class_map)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
def test_arrays_of_integers_from_0_to_255(dtype, shape):
    found = np.asarray(open_image(np.full(shape, 255, dtype)))
    assert found.shape == (4, 5, 3) and (found == 255).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 5, 3), np.float32), r"float32, shape \(4, 5, 3\).*uint8 \(H, W, 3\), 0 to 255; \(255 \* image\)"),
        (np.ones((4, 5)), "float64"),
        (np.full((4, 5, 3), 256), "int64.*from 256 to 256"),
        (np.full((4, 5, 3), -1), "int64.*from -1 to -1"),
        (np.full((4, 5), 65535, np.uint16), "uint16.*16 bits: image >> 8"),
        (np.zeros((4, 5, 3), bool), "bool"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\).*channels come last"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (None, "object"),
    ],
)
def test_arrays_that_are_no_image(array, message):
    with pytest.raises(SSPromptError, match=message):
        open_image(array)


# What is pointed at or named


def test_clicks_boxes_and_phrases(base, tmp_path, capsys):
    photo, out = save(tmp_path / "x.jpg"), tmp_path / "out"
    options = ["--point", "10,12", "--point", "20,12", "--not_point", "40,30", "--text", "the sky", "--threshold", "0"]
    assert predict(base, [photo], out, *options, "--min_area", "0") == 0
    model = SSPromptModel.from_pretrained(base, keep_prompt_encoders=True)
    prompts = {"points": [(10, 12), (20, 12), (40, 30)], "labels": [1, 1, 0], "text": "the sky"}
    expected = model.predict(photo, threshold=0.0, min_area=0, **prompts)
    assert [one.name for one in expected.segments] == ["object 1", "the sky"]
    assert np.array_equal(np.asarray(Image.open(out / "x.png")), expected.segments_map())
    found = json.loads((out / "segments.json").read_text())["x"]
    assert [one["score"] for one in found["segments"]] == [one.score for one in expected.segments]
    assert found["phrases"] == expected.phrases
    coco = json.loads((out / "coco.json").read_text())
    assert [one["name"] for one in coco["categories"]] == ["object", "the sky"]
    assert predict(base, [photo], out, "--connected", *options) == 0
    connected = model.predict(photo, threshold=0.0, connected=True, **prompts).segments_map()
    assert np.array_equal(np.asarray(Image.open(out / "x.png")), connected)
    assert predict(base, [photo], out, "--box", "1,2,30,20") == 0
    assert "object 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--point", "1,2", "--task", "panoptic"], "ask without --task"),
        (["--box", "30,2,1,20"], "left, top, right, bottom"),
        (["--box", "1,2,30,20", "--connected"], "but there are no points"),
        (["--point", "480,2"], "outside the image of 48x32 pixels"),
    ],
)
def test_prompts_that_make_no_sense(base, options, message, tmp_path, capsys):
    assert predict(base, [save(tmp_path / "x.jpg")], tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_prompts_of_several_images(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(SSPromptModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded all the same"))
    images = [save(tmp_path / "x.jpg"), save(tmp_path / "y.jpg")]
    assert predict(base, images, tmp_path / "out", "--point", "1,2") == 2
    assert "belong to one image, but there are 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict(base, images, tmp_path / "out", "--point", "1;2")
    assert "invalid 2 numbers with commas between them value: '1;2'" in capsys.readouterr().err


# Files with strange names, and images from elsewhere


def test_strange_files_do_not_stop_the_others(base, tmp_path, capfd):
    photos, out = tmp_path / "photos", tmp_path / "out"
    long, strange = "n" * 240 + ".jpg", os.fsdecode(b"caf\xe9.jpg")
    for name in (long, strange, "z.jpg"):
        save(photos / name)
    (photos / "again").symlink_to(photos)
    (photos / "damaged.jpg").write_bytes((photos / "z.jpg").read_bytes()[:200])
    os.mkfifo(photos / "pipe.png")
    assert predict(base, [photos], out) == 2
    told = capfd.readouterr()
    assert "1 of 4 images cannot be read" in told.err and "damaged.jpg" in told.err
    names = ["caf\ufffd", "n" * 200, "z"]
    assert sorted(json.loads((out / "segments.json").read_text())) == names
    assert {f"{name}{ending}.png" for name in names for ending in ("", "-overlay")} < set(files(out))


class Photos(http.server.SimpleHTTPRequestHandler):
    """Serves a photograph, and something that has no end."""

    def do_GET(self):
        if "garbled" in self.path:
            self.wfile.write(b"no HTTP\r\n\r\n")
            return
        self.send_response(200 if "photo" in self.path or "endless" in self.path else 404)
        self.end_headers()
        if "photo" in self.path:
            self.wfile.write(self.server.photo)
        with contextlib.suppress(OSError):
            while "endless" in self.path:
                self.wfile.write(b"x" * 4096)

    def log_message(self, *_):
        pass


@pytest.fixture
def photo_server(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Photos)
    server.photo = Path(save(tmp_path / "served.png")).read_bytes()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_images_behind_addresses(base, photo_server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ssprompt_hf.data.downloads.SIZE_LIMIT", 2**16)
    addresses = [f"{photo_server}/{name}" for name in ("photo%20one.png?size=1", "endless", "gone.png")]
    assert np.array_equal(np.asarray(open_image(addresses[0])), pixels())
    assert predict(base, addresses, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "endless: more than 0 MiB" in told and "gone.png: cannot be downloaded" in told
    assert set(files(tmp_path / "out")) == {"photo one.png", "photo one-overlay.png", "segments.json"}
    for address in (f"{photo_server}/a photo.png", f"{photo_server}/garbled.png"):
        with pytest.raises(UnreadableFileError, match=f"{address}: cannot be downloaded"):
            open_image(address)
    monkeypatch.setattr("ssprompt_hf.data.downloads.TIME_LIMIT", 0.0)
    monkeypatch.setattr("ssprompt_hf.data.downloads.SIZE_LIMIT", 2**40)
    with pytest.raises(SSPromptError, match=r"takes over 0 seconds|cannot be downloaded"):
        open_image(addresses[1])
