"""From clicks, boxes, scribbles, phrases and the brush to labels on disk, and back."""

import numpy as np
import pytest
from studio_folders import HEIGHT, WIDTH, annotation, disc, photograph, project

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.segmentation.prompted import PromptedResult, PromptedSegment, parts_at
from ssprompt_hf.segmentation.results import Segment, SegmentationResult
from ssprompt_hf.studio.annotation import Annotation
from ssprompt_hf.studio.masks import whole_objects
from ssprompt_hf.studio.project import NONE, Project

CAR, ROAD = 0, 1


@pytest.fixture
def made(tmp_path):
    return project(tmp_path)


@pytest.fixture
def one(made):
    started = annotation(made)
    started.choose_class(CAR)
    return started


def on_disk(one: Annotation):
    """As another process reads it."""
    return Project(one.project.folder).read_labels(one.name)


def is_car(one: Annotation) -> np.ndarray:
    labels = on_disk(one)
    assert np.array_equal(labels.classes, one.labels.classes) and np.array_equal(labels.objects, one.labels.objects)
    return labels.classes == CAR


def test_every_click_is_on_disk(one):
    one.click(20, 20)
    assert np.array_equal(is_car(one), disc(20, 20, 8))
    one.click(24, 20, on_it=False)
    assert np.array_equal(is_car(one), disc(20, 20, 8) & ~disc(24, 20, 4))
    one.finish_object()
    one.click(45, 20)
    assert on_disk(one).objects[20, 45] == 2 and on_disk(one).objects[20, 15] == 1


def test_undo_and_redo_go_stroke_by_stroke_through_objects(one):
    one.click(20, 20)
    one.click(24, 20, on_it=False)
    one.finish_object()
    one.click(45, 20)
    states = [is_car(one)]
    for _ in range(3):
        one.undo()
        states.append(is_car(one))
    assert [state.sum() for state in states[1:]] == [
        (disc(20, 20, 8) & ~disc(24, 20, 4)).sum(),
        disc(20, 20, 8).sum(),
        0,
    ]
    with pytest.raises(SSPromptError, match="nothing to undo"):
        one.undo()
    one.redo()
    one.click(24, 20, on_it=False)  # goes on with the object that came back
    assert np.array_equal(is_car(one), states[1]) and one.labels.objects.max() == 1
    with pytest.raises(SSPromptError, match="nothing to redo"):
        one.redo()


def test_the_brush_corrects_what_the_model_says(one):
    one.click(20, 20)
    one.brush([(30, 20), (34, 20)], 2)
    one.brush([(20, 14)], 3, erase=True)
    corrected = is_car(one)
    assert corrected[20, 32] and not corrected[14, 20] and one.labels.objects.max() == 1
    one.click(24, 26)  # asks again, and keeps the corrections
    assert is_car(one)[20, 32] and not is_car(one)[14, 20] and is_car(one)[28, 26]


def test_the_brush_paints_and_erases_without_the_model(one):
    one.takes = ()
    one.brush([(10, 10)], 3)
    painted = is_car(one)
    assert painted[disc(10, 10, 2)].all() and not painted[~disc(10, 10, 4)].any()
    assert on_disk(one).objects[10, 10] == 1
    one.finish_object()
    one.brush([(12, 10)], 1, erase=True)
    assert painted[10, 12] and not is_car(one)[10, 12] and is_car(one)[10, 8]


def test_what_was_under_an_object_comes_back(one):
    one.choose_class(ROAD)
    one.fill_rest()
    one.choose_class(CAR)
    one.click(20, 20)
    assert (on_disk(one).classes == ROAD).sum() == HEIGHT * WIDTH - disc(20, 20, 8).sum()
    one.delete_object()
    assert (on_disk(one).classes == ROAD).all() and not on_disk(one).objects.any()


def test_objects_are_picked_and_corrected(one):
    one.click(20, 20)
    one.finish_object()
    one.click(45, 20)
    one.pick(20, 20)
    one.brush([(20, 30)], 2)
    assert on_disk(one).objects[31, 20] == 1
    one.delete_object()
    assert np.array_equal(is_car(one), disc(45, 20, 8))
    with pytest.raises(SSPromptError, match="no label here"):
        one.pick(3, 3)


def test_boxes_and_phrases(one):
    one.box(30, 30, 10, 20)  # drawn from the lower right
    assert is_car(one)[20:31, 10:31].all() and is_car(one).sum() == 11 * 21
    one.phrase("two")
    assert len(np.unique(on_disk(one).objects)) == 4 and one.note == "2 found"
    before = on_disk(one)
    one.phrase("a boat")
    assert "no 'a boat' in this image" in one.note and np.array_equal(on_disk(one).classes, before.classes)


def test_scribbles_are_clicks_where_the_model_takes_none(one):
    line = [(float(x), 20.0) for x in range(10, 31)]
    one.scribble(line)
    assert one.current.points == ((12.0, 20.0), (20.0, 20.0), (28.0, 20.0))
    one.takes = ("points", "scribbles")
    one.finish_object()
    one.scribble([(40, 40), (50, 40)])
    assert one.current.scribbles == (((40.0, 40.0), (50.0, 40.0)),) and is_car(one)[40, 50]


def test_boxes_that_are_examples_give_an_object_each(made):
    def alike(**_):
        found = [PromptedSegment(disc(x, 20, 4), 0.9, None, None) for x in (10, 30, 50)]
        return PromptedResult(found, photograph())

    one = Annotation(made, "a.jpg", "me", alike, ("boxes",))
    one.choose_class(CAR)
    one.box(6, 16, 14, 24)
    assert sorted(np.unique(on_disk(one).objects)) == [0, 1, 2, 3]
    with pytest.raises(SSPromptError, match=r"takes no clicks \(it takes: boxes\): use the brush"):
        one.click(1, 1)


def test_a_prediction_is_a_start(one):
    one.click(20, 20)
    classes = np.full((HEIGHT, WIDTH), 1, np.uint8)
    classes[:10] = 0
    segments = np.where(classes == 0, 1, 0).astype(np.int32)
    segments[:, 32:] *= 2
    result = SegmentationResult(
        "panoptic", classes, segments, [Segment(1, 0, "car", 1), Segment(2, 0, "car", 1)], ["car", "street"], [], None
    )
    one.take_prediction(result, {0: CAR})  # "street" is no class of the project
    labels = on_disk(one)
    assert labels.objects[20, 20] == 1 and labels.objects[0, 0] == 2 and labels.objects[0, 63] == 3
    assert labels.classes[40, 5] == NONE and labels.classes[20, 20] == CAR
    one.undo()
    assert np.array_equal(is_car(one), disc(20, 20, 8))


def test_objects_of_a_prediction_leave_nothing_over():
    classes, segments = np.full((6, 12), ROAD), np.zeros((6, 12), int)
    classes[:3, :8], classes[5, 9:] = CAR, CAR  # two cars side by side, and one that the model did not tell apart
    segments[0, :3], segments[0, 5:8], segments[5, 0] = 4, 9, 3
    objects = whole_objects(classes, segments, [CAR])
    assert (objects[:3, :4] == objects[0, 0]).all() and (objects[:3, 4:8] == objects[0, 7]).all()
    assert len({objects[0, 0], objects[0, 7], objects[5, 10], 0}) == 4 and (objects[5, 9:] > 0).all()
    assert not objects[classes == ROAD].any()


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda one: one.click(99, 5), r"\(99, 5\) is outside the image of 64x48"),
        (lambda one: one.click(9, 5, on_it=False), "click on the object first"),
        (lambda one: one.brush([], 3), "no points"),
        (lambda one: one.delete_object(), "no object is chosen"),
        (lambda one: one.choose_class(9), "no class with the id 9"),
    ],
)
def test_wrong_strokes_change_nothing(one, do, words):
    with pytest.raises(SSPromptError, match=words):
        do(one)
    assert not is_car(one).any()


def test_a_class_must_be_chosen(made):
    with pytest.raises(SSPromptError, match="choose a class first"):
        annotation(made).click(20, 20)


def test_an_object_is_in_one_piece_around_its_clicks(made):
    def two_cars(points, labels, connected=False):
        mask = disc(15, 20, 6) | disc(45, 20, 6)
        mask = parts_at(mask, points[0]) if connected else mask
        return PromptedResult([PromptedSegment(mask, 0.9, None, 0)], photograph())

    one = Annotation(made, "a.jpg", "me", two_cars, ("points",))
    one.choose_class(CAR)
    one.click(15, 20)
    assert np.array_equal(is_car(one), disc(15, 20, 6))
    one.click(45, 20)  # a part behind a pole, say
    assert np.array_equal(is_car(one), disc(15, 20, 6) | disc(45, 20, 6))
    one.choose_class(ROAD)  # stuff is wherever it is
    one.click(15, 20)
    assert (on_disk(one).classes == ROAD).sum() == 2 * disc(15, 20, 6).sum()
