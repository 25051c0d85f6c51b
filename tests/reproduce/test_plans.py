"""What tables consist of, before anything has run, and what their numbers are made of."""

import math

import pytest

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.reproduce.availability import without_base_models
from ssprompt_hf.reproduce.plans import ROWS, Cell, Choices, Plan, Score, StepCost
from ssprompt_hf.reproduce.presets import FULL_FOLDERS, make_preset
from ssprompt_hf.reproduce.rendering import markdown, plot, results
from ssprompt_hf.reproduce.summary import Summary, differences, summarise
from ssprompt_hf.reproduce.tables import ABLATION, SHOTS, TABLES, plan_table

SENSELESS = {
    **{("camvid", table): f"table {table} .* --preset embedded" for table in ("3", "4", "transfer")},
    **{(name, "9"): "table 9 compares methods on SAM, and none comes with the" for name in ("embedded", "camvid")},
}


def preset(name, folder, **changes):
    folders = {"full": [f"{key}={folder}" for key in FULL_FOLDERS], "embedded": [], "camvid": [str(folder)]}[name]
    return make_preset(name, folders, **changes)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", ["full", "embedded", "camvid"])
def test_every_table_of_every_preset_plans_its_cells(name, table, tmp_path):
    where = preset(name, tmp_path)
    if (name, table) in SENSELESS:
        with pytest.raises(SSPromptError, match=SENSELESS[name, table]):
            plan_table(table, where, Choices())
        return
    plan = plan_table(table, where, Choices())
    numbers = [(cell.row, cell.column, cell.seed) for cell in plan.cells]
    assert len(set(numbers)) == len(numbers) > 0
    assert {cell.column for cell in plan.cells} == set(plan.columns)
    if table != "figure-3":
        assert {cell.row for cell in plan.cells} == set(plan.rows)
        assert set(plan.paper) <= {(row, column) for row in plan.rows for column in plan.columns}
    assert set(plan.references.values()) <= set(plan.rows)
    empty = Summary(plan, {})
    facts = {"command": "x", "preset": name, "seeds": [0, 1, 2]}
    assert not results(empty, {}, facts)["complete"]
    assert f"0 of {len(plan.cells)} cells are done" in markdown(empty, {}, facts)
    assert plot(empty).width > 100


def test_rows_and_columns_are_those_of_the_paper(tmp_path):
    full = preset("full", tmp_path)
    assert plan_table("2", full, Choices()).rows == [
        f"{base}, {method}" for base in ("SEEM-T", "SEEM-L") for method in ("zero-shot", "CoOp", "LOCN", "SSPrompt")
    ]
    assert plan_table("2", full, Choices()).columns == [
        "Cityscapes",
        "BDD100K",
        "Mapillary Vistas",
        "ADE20K",
        "PASCAL Context",
    ]
    weather = plan_table("3", full, Choices())
    assert weather.columns == ["ACDC fog", "ACDC night", "ACDC rain", "ACDC snow"] and weather.with_mean
    assert plan_table("4", full, Choices()).columns[:3] == ["Cityscapes mIoU", "Cityscapes AP", "Cityscapes PQ"]
    assert plan_table("5", full, Choices()).rows == list(ABLATION.values())
    assert plan_table("6", full, Choices()).rows == [f"{shots} shots" for shots in SHOTS]
    assert plan_table("8", full, Choices()).rows == ["zero-shot", "VSPL", "SpaPrompt", "SSPrompt"]
    methods = ["zero-shot", "CoOp", "LOCN", "SSPrompt"]
    sam = [f"{base}, {method}" for base in ("SAM ViT-B", "SEEM-T") for method in methods]
    assert plan_table("9", full, Choices()).rows == sam
    cost = plan_table("7", full, Choices())
    assert cost.rows == ["CoOp", "LOCN", "SSPrompt"]
    assert [cost.paper[row, column] for column in ("ms/image", "GB") for row in cost.rows] == [
        87.5,
        89.5,
        56.0,
        8.22,
        8.22,
        3.82,
    ]


def test_cells_share_work_and_zero_shot_has_no_seed(tmp_path):
    embedded = preset("embedded", tmp_path)
    cells = plan_table("5", embedded, Choices()).cells
    assert len([cell for cell in cells if cell.seed is None]) == 3 and len(cells) == 3 + 6 * 3 * 3
    works = {cell.work for cell in cells}
    again = {cell.work for cell in plan_table("8", embedded, Choices()).cells}
    assert len(works & again) == 3 + 2 * 9  # zero-shot, SpaPrompt and SSPrompt
    cost = plan_table("7", embedded, Choices()).cells
    assert all(isinstance(cell.work, StepCost) for cell in cost) and len({cell.work for cell in cost}) * 2 == len(cost)
    transfer = plan_table("transfer", embedded, Choices(seeds=(0,)))
    own = [cell for cell in transfer.cells if cell.work.training and cell.work.training.domain == cell.work.domain]
    assert len(own) == 6 and len(transfer.cells) == 6 + 4 * 4 + 2 * 2


def test_choices(tmp_path):
    choices = Choices(seeds=(5,), shots=4, methods=("vspl", "ssprompt"), columns=("snow",))
    plan = plan_table("3", preset("embedded", tmp_path, base_models=["mine"], max_eval_images=7), choices)
    assert (plan.rows, plan.columns, plan.references) == (["VSPL", "SSPrompt"], ["snow"], {"VSPL": "SSPrompt"})
    work = plan.cells[0].work
    assert isinstance(work, Score) and (work.training.shots, work.training.seed) == (4, 5)
    data = work.domain.arguments(work.base_model)
    assert (data.base_model, data.max_eval_images, data.eval_split) == ("mine", 7, "test")
    assert all(method in ROWS for method in (*ABLATION, "spaprompt_grid", "ssprompt_grid"))


def test_columns_without_a_folder_are_left_out(tmp_path):
    plan = plan_table("2", make_preset("full", [f"cityscapes={tmp_path}"]), Choices())
    assert plan.columns == ["Cityscapes"]
    assert "bdd100k, mapillary_vistas, ade20k, pascal_context" in plan.notes[0]


def test_options_reach_their_data_set(tmp_path):
    options = ['mapillary_vistas={"version": "1.2"}', 'acdc={"labels": "labelIds"}']
    options += ['mapillary_vistas={"class_mapping": "openseg"}']
    full = preset("full", tmp_path, dataset_options=options)
    given = {name: domain.arguments("").dataset_options for name, domain in full.domains.items()}
    assert given.pop("mapillary_vistas") == {"version": "1.2", "class_mapping": "openseg"}
    assert [given.pop(name) for name in ("fog", "night", "rain", "snow")] == [{"labels": "labelIds"}] * 4
    assert set(given.values()) == {None}
    rows = plan_table("transfer", full, Choices()).rows
    assert len(rows) == 8 and "Mapillary Vistas" in rows[3]
    embedded = preset("embedded", tmp_path, dataset_options=['{"seed": 3}'])
    assert embedded.domains["fog"].arguments("").dataset_options == {"num_images": 100, "seed": 3}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("full", ['{"version": "1.2"}'], "takes NAME=JSON, for instance mapillary_vistas="),
        ("full", ['kitti={"version": "1.2"}'], "where NAME is one of cityscapes, bdd100k"),
        ("full", ["acdc=3"], "dataset_options of acdc is '3'; it must be a JSON object"),
        ("full", ['ade20k={"labels": "x"}'], "no folder was given: --data_dir ade20k=FOLDER"),
        ("embedded", ['{"seed": 3}', '{"seed": 4}'], "preset embedded takes one JSON object"),
    ],
)
def test_wrong_options_of_data_sets(name, options, message, tmp_path):
    folders = [f"acdc={tmp_path}"] if name == "full" else []
    with pytest.raises(SSPromptError) as caught:
        make_preset(name, folders, dataset_options=options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "folders", "table", "message"),
    [
        ("full", [], "2", "give --data_dir cityscapes=FOLDER bdd100k=FOLDER"),
        ("full", ["cityscapes=/nowhere"], "2", "'cityscapes=/nowhere', but there is no folder '/nowhere': `ssprompt-"),
        ("full", ["kitti=/"], "2", "data_dir is 'kitti=/'; preset full takes NAME=FOLDER, where NAME is one of city"),
        ("full", ["/"], "2", "data_dir is '/'"),
        ("full", ["cityscapes=/"], "transfer", "two data sets with the same classes, and preset full has Cityscapes"),
        ("camvid", [], "2", "needs one --data_dir"),
        ("camvid", ["/nowhere"], "2", "there is no folder '/nowhere': it must hold images/"),
        ("embedded", ["/"], "2", "draws its own scenes"),
        ("tiny", [], "2", "preset is 'tiny'"),
        ("embedded", [], "1", "table is '1'"),
    ],
)
def test_mistakes_name_the_value_and_the_fix(name, folders, table, message):
    with pytest.raises(SSPromptError) as caught:
        plan_table(table, make_preset(name, folders), Choices())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"seeds": (0, 0)}, r"seeds are \[0, 0\]"),
        ({"seeds": ()}, "seeds are"),
        ({"shots": 0}, "shots is 0"),
        ({"methods": ("lora",)}, "methods holds 'lora'"),
        ({"columns": ("cityscapes",)}, "columns holds 'cityscapes'; preset embedded has fog"),
    ],
)
def test_wrong_choices(choices, message):
    with pytest.raises(SSPromptError, match=message):
        plan_table("5", make_preset("embedded"), Choices(**choices))


def test_means_spread_and_confidence():
    summary = summarise([50.0, 52.0, 54.0])
    assert summary["mean"] == 52 and summary["std"] == 2 and summary["n"] == 3
    half = 4.302652729911275 * 2 / math.sqrt(3)  # the 97.5% point of Student's t with two degrees of freedom
    assert summary["ci95"] == pytest.approx([52 - half, 52 + half])
    assert summarise([7.0]) == {"n": 1, "mean": 7.0, "std": None, "ci95": None}


def test_differences_are_paired_by_seed():
    assert differences({0: 3.0, 1: 5.0, 2: 9.0}, {0: 1.0, 1: 1.0}) == [2.0, 4.0]
    assert differences({None: 3.0}, {0: 1.0, 1: 2.0}) == [2.0, 1.0]
    assert differences({None: 3.0}, {None: 1.0}) == [2.0]
    assert differences({}, {0: 1.0}) == []


def test_summary_of_a_table_with_a_mean_column():
    plan = Plan("3", "t", "%", ["a", "b"], ["x", "y"], with_mean=True, references={"a": "b"}, show_ratios=True)
    numbers = {("a", "x"): (1, 3), ("a", "y"): (3, 5), ("b", "x"): (2, 2), ("b", "y"): (2, None)}
    records = {}
    for (row, column), values in numbers.items():
        for seed, value in enumerate(values):
            cell = Cell(row, column, seed, (row, column, seed), lambda record: record["values"])
            plan.cells.append(cell)
            if value is not None:
                records[cell] = {"values": {row: value}}
    summary = Summary(plan, records)
    assert summary.columns == ["x", "y", "mean"]
    assert summary.values["a", "mean"] == {0: 2, 1: 4} and summary.values["b", "mean"] == {0: 2}
    assert summary.difference("a", "x")["mean"] == 0 and summary.difference("a", "y")["n"] == 1
    assert summary.difference("b", "x") is None and summary.ratio("a", "x") == 1
    assert summary.number("b", "mean")["mean"] == 2 and summary.paper("a", "x") is None


# Base models


@pytest.mark.parametrize(
    "base_model, table, row, reason",
    [
        ("sam3", "8", "VSPL", "VSPL does not apply: SAM 3 has no points as spatial prompts."),
        ("clipseg", "prompts", "4 (grid of 2x2)", "4 (grid of 2x2) does not apply: CLIPSeg has no points"),
    ],
)
def test_rows_that_a_base_model_has_nothing_for_are_left_out_with_the_reason(base_model, table, row, reason):
    plan = plan_table(table, make_preset("embedded", base_models=[base_model]), Choices(seeds=(0,)))
    assert any(note.startswith(reason) for note in plan.notes)
    assert plan.cells and not [cell for cell in plan.cells if cell.row == row]
    usual = plan_table(table, make_preset("embedded"), Choices(seeds=(0,)))
    assert [cell for cell in usual.cells if cell.row == row] and "does not apply" not in " ".join(usual.notes)


def test_presets_without_the_base_models_that_cannot_be_had(tmp_path):
    full = preset("full", tmp_path)
    assert full.base_models == ("seem-t", "seem-l") and full.with_sam == ("sam-vit-b", "seem-t")
    without = without_base_models(full, {"seem-t": SSPromptError("gone")})
    assert without.base_models == ("seem-l",) and without.with_sam == ("sam-vit-b", "seem-l")
    plan = plan_table("9", without, Choices())
    assert {cell.work.base_model for cell in plan.cells} == {"sam-vit-b", "seem-l"}
    assert plan.notes[-1] == "Left out: seem-t, which cannot be had. gone"
    without = without_base_models(full, dict.fromkeys(full.base_models, SSPromptError("gone")))
    assert without.base_models == without.with_sam == ("sam-vit-b",)


def test_sam_is_set_beside_the_presets_seem(tmp_path):
    for asked, expected in (
        (["sam-vit-b"], ("sam-vit-b", "seem-lite")),
        (["seem-nano", "sam2.1-tiny"], ("seem-nano", "sam2.1-tiny")),
    ):
        plan = plan_table("9", make_preset("embedded", base_models=asked), Choices(seeds=(0,)))
        assert tuple(dict.fromkeys(cell.work.base_model for cell in plan.cells)) == expected
        assert len(plan.cells) == 2 * 4 * 3 and any("This is our reading" in note for note in plan.notes)
    with pytest.raises(SSPromptError, match="table 9 compares methods on SAM, and none comes with the package"):
        plan_table("9", make_preset("embedded", base_models=["seem-nano"]), Choices(seeds=(0,)))


def test_columns_of_single_objects_are_left_out_for_models_without_them():
    plan = plan_table("4", make_preset("embedded", base_models=["clipseg"]), Choices(seeds=(0,)))
    assert {cell.work.task for cell in plan.cells} == {"semantic"}
    assert any("PQ does not apply: CLIPSeg has no masks of single objects" in note for note in plan.notes)
