"""The folder of the studio: nothing is lost, nothing leaves it, and `train` reads it."""

import numpy as np
import pytest
from PIL import Image
from studio_folders import HEIGHT, WIDTH, annotation, disc, photographs, project

from ssprompt_hf.data.loading import load_segmentation_dataset
from ssprompt_hf.errors import ClassListError, DatasetError, NoImagesError, UnreadableFileError
from ssprompt_hf.studio.locks import LockedError, Locks
from ssprompt_hf.studio.project import NONE, Labels, Project


def test_photographs_of_the_folder_itself_get_a_second_name(tmp_path):
    folder = photographs(tmp_path / "photos", ("a.jpg", "a.webp", "b.JPG"))
    made = Project(folder)
    assert made.images == ["a.jpg", "a_webp.webp", "b.JPG"]
    assert (folder / "a.webp").samefile(folder / "images" / "a_webp.webp") and (folder / "a.jpg").is_file()
    assert Project(folder).images == made.images  # opened again, nothing is added


def test_classes_are_those_of_the_class_file(tmp_path):
    made = Project(photographs(tmp_path))
    assert made.classes == []
    car = made.add_class(" car ", thing=True)
    road = made.add_class("road", color=(1, 2, 3))
    assert (car.id, road.id, car.name, road.color) == (0, 1, "car", (1, 2, 3)) and car.color != road.color
    assert Project(tmp_path).classes == [car, road]
    made.change_class(1, name="street", thing=True)
    assert Project(tmp_path).classes[1].name == "street"
    with pytest.raises(ClassListError, match="named 'car'"):
        made.add_class("car")
    with pytest.raises(ClassListError, match="no class with the id 7"):
        made.change_class(7, name="x")
    annotation(made).choose_class(0)
    labels = Labels.empty(HEIGHT, WIDTH)
    labels.classes[:5] = 0
    made.write_labels("b.jpg", labels)
    with pytest.raises(ClassListError, match=r"'car' is in the labels of 1 images \(b.jpg\)"):
        made.remove_class(0)
    made.remove_class(1)
    assert [info.id for info in made.classes] == [0] and made.add_class("sky").id == 1


def test_what_is_labelled_is_what_train_reads(tmp_path):
    photographs(tmp_path / "images" / "day", ("c.png",))
    made = project(tmp_path, names=("a.jpg", "b.jpg"))
    labels = Labels.empty(HEIGHT, WIDTH)
    labels.classes[disc(20, 20, 6)], labels.objects[disc(20, 20, 6)] = 0, 1
    labels.classes[40:] = 1
    made.write_labels("day/c.png", labels)
    assert made.labelled == ["day/c.png"] and made.labelled_share("a.jpg") == 0
    images = load_segmentation_dataset(data_dir=str(tmp_path), split="train", task="instance")
    assert images.file_names == ["images/day/c.png"] and images.classes.names == ["car", "road"]
    assert images.classes.thing_indices == [0]
    example = images[0]
    assert np.array_equal(example["label"], labels.classes)  # NONE is ignored
    assert np.array_equal(example["instance"], labels.objects)
    # another server, and after a kill
    again = Project(tmp_path)
    assert np.array_equal(again.read_labels("day/c.png").classes, labels.classes)
    assert again.labelled == ["day/c.png"] and again.pixels_of_classes("day/c.png")[1] == 8 * WIDTH
    made.write_labels("day/c.png", Labels.empty(HEIGHT, WIDTH))
    assert made.labelled == [] and not (tmp_path / "train.txt").exists()


def test_lists_of_other_splits_stay_as_they_are(tmp_path):
    made = project(tmp_path)
    (tmp_path / "val.txt").write_text("b.jpg\n")
    labels = Labels.empty(HEIGHT, WIDTH)
    labels.classes[:] = 1
    for name in ("a.jpg", "b.jpg"):
        made.write_labels(name, labels)
    assert (tmp_path / "train.txt").read_text() == "a.jpg\n"
    assert load_segmentation_dataset(data_dir=str(tmp_path), split="val").file_names == ["images/b.jpg"]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "images/a.jpg", "d.jpg", "", "leads_out.jpg"])
def test_names_lead_nowhere_else(tmp_path, name):
    (tmp_path / "outside").mkdir()
    photographs(tmp_path / "outside", ("secret.jpg",))
    folder = photographs(tmp_path / "photos")
    (folder / "images").mkdir()
    (folder / "images" / "leads_out.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (folder / "linked.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    made = Project(folder)
    assert made.images == ["a.jpg", "b.jpg", "c.png"]
    for read in (made.path, made.read_image, made.read_labels, made.pixels_of_classes):
        with pytest.raises(NoImagesError, match="no photograph"):
            read(name)


@pytest.mark.parametrize("name", ["images", "annotations", ".studio"])
def test_own_folders_that_lead_out_are_refused(tmp_path, name):
    (tmp_path / "outside").mkdir()
    folder = photographs(tmp_path / "photos")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetError, match="leads out of"):
        Project(folder)


def test_uploads_stay_in_the_folder_and_write_over_nothing(tmp_path):
    made = project(tmp_path / "photos")
    uploads = photographs(tmp_path / "uploads", ("a.PNG", "new.jpg"))
    (uploads / "not.jpg").write_text("no image")
    before = (tmp_path / "photos/images/a.jpg").read_bytes()
    assert made.add_images([uploads / "a.PNG", uploads / "new.jpg"]) == ["a_2.png", "new.jpg"]
    assert (tmp_path / "photos/images/a.jpg").read_bytes() == before and "a_2.png" in made.images
    with pytest.raises(UnreadableFileError, match=r"not\.jpg"):
        made.add_images([uploads / "not.jpg"])
    with pytest.raises(UnreadableFileError, match="no image; give files ending in"):
        made.add_images([tmp_path / "photos/classes.json"])
    assert not [path for path in (tmp_path / "photos/images").iterdir() if path.name.startswith((".", "not"))]


def test_other_forms_of_labels_are_refused(tmp_path):
    with pytest.raises(NoImagesError, match="no such folder"):
        Project(tmp_path / "none")
    flat = photographs(tmp_path / "flat", ("a.jpg",))
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(flat / "a_mask.png")
    with pytest.raises(DatasetError, match="--convert NEW"):
        Project(flat)
    photographs(tmp_path / "other" / "images")
    (tmp_path / "other" / "masks").mkdir()
    with pytest.raises(DatasetError, match="in masks/: convert it"):
        Project(tmp_path / "other")
    photographs(tmp_path / "split" / "images" / "train")
    with pytest.raises(DatasetError, match="folders of splits"):
        Project(tmp_path / "split")


def test_labels_that_were_there_before_are_taken_over(tmp_path):
    """A plain folder of semantic labels, in which one more photograph is labelled."""
    made = project(tmp_path)
    label = np.full((HEIGHT, WIDTH), 1, np.uint8)
    (tmp_path / "annotations").mkdir()
    Image.fromarray(label).save(tmp_path / "annotations/a.png")
    made = Project(tmp_path)
    assert made.labelled == ["a.jpg"]
    labels = Labels.empty(HEIGHT, WIDTH)
    labels.classes[:9], labels.objects[:9] = 0, 1
    made.write_labels("b.jpg", labels)
    images = load_segmentation_dataset(data_dir=str(tmp_path), split="train", task="instance")
    assert images.file_names == ["images/a.jpg", "images/b.jpg"]
    assert np.array_equal(images[0]["label"], label) and not images[0]["instance"].any()
    written = (tmp_path / "train.txt").stat().st_mtime_ns
    made.refresh()
    assert (tmp_path / "train.txt").stat().st_mtime_ns == written
    Image.fromarray(label).save(tmp_path / "annotations/c_mask.png")
    with pytest.raises(DatasetError, match=r"c_mask\.png is no PNG with the name of a photograph: convert it"):
        Project(tmp_path)


def test_labels_of_another_size_are_told(tmp_path):
    made = project(tmp_path)
    (tmp_path / "annotations").mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH + 1), NONE, np.uint8)).save(tmp_path / "annotations/a.png")
    with pytest.raises(DatasetError, match=r"annotations/a\.png"):
        made.read_labels("a.jpg")


def test_one_person_labels_an_image_at_a_time(tmp_path):
    now = [1000.0]
    made = project(tmp_path)
    made.locks = Locks(tmp_path / ".studio", seconds=60, clock=lambda: now[0])
    mine = annotation(made, who="me")
    theirs = annotation(Project(tmp_path), who="they")  # of another server
    theirs.project.locks = Locks(tmp_path / ".studio", seconds=60, clock=lambda: now[0])
    for one in (mine, theirs):
        one.choose_class(0)
    mine.click(20, 20)
    with pytest.raises(LockedError, match=r"a\.jpg is being labelled by somebody else"):
        theirs.click(40, 20)
    assert np.array_equal(theirs.project.read_labels("a.jpg").classes == 0, disc(20, 20, 8))  # looking is free
    now[0] += 61
    theirs.reload()
    theirs.click(40, 20)
    with pytest.raises(LockedError):
        mine.undo()
    assert theirs.labels.objects.max() == 2
    made.locks.release("a.jpg", "me")  # not one's own
    assert made.locks.holder("a.jpg") == "they"
    made.locks.release("a.jpg", "they")
    mine.reload()
    assert np.array_equal(mine.labels.objects, theirs.labels.objects)
