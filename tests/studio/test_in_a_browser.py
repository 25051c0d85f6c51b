"""The page in a real browser: from unlabelled scenes to an adapter, by clicking.

`SSPROMPT_STUDIO_PICTURES=DIR` keeps pictures of the main states.
"""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ssprompt_hf.data.loading import load_segmentation_dataset
from ssprompt_hf.studio.app import SSPromptStudio
from ssprompt_hf.studio.project import NONE

BROWSERS = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
CHROMIUM = os.environ.get("CHROMIUM") or next(BROWSERS, None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PICTURES = os.environ.get("SSPROMPT_STUDIO_PICTURES")
SCENES, STEPS = 4, 5


@pytest.fixture(scope="module")
def scenes():
    return load_segmentation_dataset(dataset="street-scenes/clear", split="test").select([0, 1, 2, 8])


@pytest.fixture
def studio(tmp_path, scenes):
    pytest.importorskip("gradio", reason="the studio needs gradio: pip install -e '.[studio]'")
    folder = tmp_path / "street"
    folder.mkdir()
    for index in range(SCENES):
        Image.fromarray(scenes[index]["image"]).save(folder / f"street_{index}.png")
    return SSPromptStudio(folder)


@pytest.fixture
def page(studio):
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (CHROMIUM=PATH names one)")
    _, address, _ = studio.launch(prevent_thread_lock=True, quiet=True, inbrowser=False)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(300_000)
            page.on("pageerror", lambda error: pytest.fail(f"the page has an error: {error}"))
            page.goto(address)
            page.wait_for_selector('#workspace [data-ready="yes"]')
            yield page
        finally:
            browser.close()
            studio.page.close()


def picture(page, name):
    if PICTURES:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(PICTURES, f"{name}.png"))


def settled(page):
    """Wait until the server has answered everything."""
    page.wait_for_selector('#workspace .ss[data-waiting="0"]')
    assert not page.locator("#workspace .error").count(), page.locator("#workspace .error").inner_text()


def click(page, point, **kwargs):
    x, y = page.evaluate("(point) => window.ssprompt_studio.toScreen(point)", list(point))
    page.mouse.click(x, y, **kwargs)
    settled(page)


def drag(page, *points):
    places = [page.evaluate("(point) => window.ssprompt_studio.toScreen(point)", list(point)) for point in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place)
    page.mouse.up()
    settled(page)


def press(page, key):
    page.keyboard.press(key)
    settled(page)


def largest_car(scene, classes):
    """bool (H, W): the car that covers most, and the x, y in its middle."""
    cars = scene["label"] == classes.names.index("car")
    numbers = np.where(cars, scene["instance"], 0)
    mask = numbers == np.bincount(numbers.ravel())[1:].argmax() + 1
    y, x = np.unravel_index(ndimage.distance_transform_edt(mask).argmax(), mask.shape)
    return mask, (int(x), int(y))


def test_from_photographs_to_an_adapter(page, studio, scenes, tmp_path):
    project = studio.project
    picture(page, "empty")
    for name, thing in (("car", True), ("road", False)):
        page.fill("#workspace [data-part=add] [name=name]", name)
        page.locator("#workspace [data-part=add] [name=thing]").set_checked(thing)
        page.click("#workspace [data-part=add] button")
        settled(page)
    assert [(info.name, info.thing) for info in project.classes] == [("car", True), ("road", False)]

    # click on a car, correct, take back: on disk at once
    page.locator("#workspace canvas").hover(position={"x": 5, "y": 5})
    press(page, "Escape")
    page.locator("#workspace .ss").focus()
    press(page, "1")
    mask, middle = largest_car(scenes[0], scenes.classes)
    click(page, middle)
    found = project.read_labels("street_0.png").classes == 0
    assert (found & mask).sum() > 0.5 * mask.sum() and project.read_labels("street_0.png").objects[middle[::-1]] == 1
    picture(page, "click")
    outside = np.argwhere(found & ~mask)
    beside = tuple(int(value) for value in outside[len(outside) // 2][::-1]) if len(outside) else (5, 5)
    click(page, beside, button="right")
    assert project.read_labels("street_0.png").classes[beside[::-1]] == NONE
    press(page, "p")
    drag(page, beside, (beside[0] + 4, beside[1]))
    assert project.read_labels("street_0.png").classes[beside[::-1]] == 0
    press(page, "z")
    assert project.read_labels("street_0.png").classes[beside[::-1]] == NONE
    assert page.locator("#workspace [data-do=redo]").is_enabled()

    # three scenes with both classes
    for index in range(3):
        if index:
            press(page, "n")
        name = studio.session(next(iter(studio._sessions))).annotation.name
        scene = scenes[int(name.removeprefix("street_").removesuffix(".png"))]
        if index:
            press(page, "1")
            press(page, "c")
            click(page, largest_car(scene, scenes.classes)[1])
        press(page, "2")
        page.click("#workspace [data-do=fill]")
        settled(page)
        picture(page, f"labelled_{index}")
    assert len(project.labelled) == 3 and all(project.labelled_share(name) == 1 for name in project.labelled)
    assert page.locator("#workspace [data-part=count]").inner_text() == "3 of 4 labelled"

    # train and compare
    page.get_by_role("tab", name="Train and compare").click()
    page.fill("#steps input[type=number]", str(STEPS))
    page.keyboard.press("Tab")
    page.click("#train")
    page.wait_for_selector("#progress .done")
    assert studio.job.progress.step == STEPS == studio.job.progress.max_steps
    assert (project.folder / "adapter" / "adapter_model.safetensors").is_file()
    page.click("#compared input")
    page.get_by_role("option").first.click()
    page.wait_for_selector("#slider img")
    picture(page, "compare")

    # what is taken away is what `train` reads
    page.get_by_role("tab", name="Take away").click()
    page.click("#prepare_plain")
    with page.expect_download() as download:
        page.click("#download_plain")
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path / "labels")
    for folder in (tmp_path / "labels", project.folder):
        images = load_segmentation_dataset(data_dir=str(folder), split="train")
        assert len(images) == 3 and images.classes.names == ["car", "road"]
        for example in images:
            name = Path(example["file_name"]).name
            assert np.array_equal(example["label"], project.read_labels(name).classes)
