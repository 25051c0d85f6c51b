"""The rule of the floors: a room of the package imports from the rooms below it and from no other."""

import ast
import re
from functools import cache
from pathlib import Path

import ssprompt_hf

ROOT = Path(ssprompt_hf.__file__).parent

FAMILIES = sorted(f"models.{path.parent.name}" for path in (ROOT / "models").glob("*/__init__.py"))
"""Of base models, each a room of its own."""

FLOORS: list[dict[str, tuple[str, ...]]] = [
    {"utils": ("errors", "utils")},
    {"data": ("data",)},
    {"plotting": ("plotting",)},
    {"segmentation": ("segmentation",)},
    {"metrics": ("metrics",)},
    {
        "interface": (
            "models",
            "models.asked_classes",
            "models.clip_text",
            "models.forward",
            "models.image_processing",
            "models.interactive",
            "models.interface",
            "models.matching",
            "models.model_files",
            "models.pixel_embeddings",
            "models.registry",
            "models.fingerprint",
            "models.square_images",
            "models.transformers_compat",
        )
    },
    {"tuners": ("tuners",)},
    # SAM 2 is built on SAM
    {name: (name,) for name in FAMILIES if name != "models.sam2"},
    {"models.sam2": ("models.sam2",)},
    {"adapters": ("adapters",)},
    {"model": ("loading", "model", "prediction")},
    {"training": ("training",), "exporters": ("exporters",)},
    {"explain": ("explain",), "reproduce": ("reproduce",), "studio": ("studio",)},
    {"cli": ("cli",)},
    {"package": ("", "__main__")},
]
"""Lowest first: name of a room -> the modules in it, each with all that is below it; the longest match counts. Rooms
of one floor do not import each other."""

NOT_BY_FAMILIES = {"tuners"}
"""Rooms below the families of base models that these do without."""

MAX_LINES = 450


def name_of(path: Path) -> str:
    """`models.interface` for a file; the package itself is ``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def room_of(name: str) -> tuple[int, str]:
    """The floor and the name of the room that a module is in."""
    found = [
        (len(prefix), floor, room)
        for floor, rooms in enumerate(FLOORS)
        for room, prefixes in rooms.items()
        for prefix in prefixes
        if name == prefix or (prefix and prefix != "models" and name.startswith(f"{prefix}."))
    ]
    assert found, f"{name} is in no room: add it to FLOORS"
    return max(found)[1:]


def absolute(name: str, node: ast.ImportFrom) -> str:
    """What stands behind `from` in a module, without dots in front."""
    if not node.level:
        return node.module
    package = ["ssprompt_hf", *(name.split(".") if name else [])]
    if FILES[name].name != "__init__.py":
        package.pop()
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def walk(node: ast.AST):
    """As `ast.walk`, without what only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if is_for_types(child):
            for other in child.orelse:
                yield from walk(other)
        else:
            yield from walk(child)


def imports(name: str) -> set[tuple[str, str]]:
    """Pairs of a module and a name in it (or ``) that a file imports, wherever in it."""
    found = set()
    for node in walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(absolute(name, node), alias.name) for alias in node.names}
    return found


def own_imports(name: str) -> set[str]:
    """The modules of this package that a file imports."""
    found = set()
    for module, attribute in imports(name):
        if module != "ssprompt_hf" and not module.startswith("ssprompt_hf."):
            continue
        own = module.removeprefix("ssprompt_hf").removeprefix(".")
        deeper = f"{own}.{attribute}".removeprefix(".")
        found.add(deeper if deeper in FILES else own)
    return found - {name}


def test_every_import_leads_downstairs():
    wrong = []
    for name in FILES:
        floor, room = room_of(name)
        for other in sorted(own_imports(name)):
            other_floor, other_room = room_of(other)
            if other_room != room and other_floor >= floor:
                wrong.append(f"{name or 'ssprompt_hf'} ({room}) imports {other or 'ssprompt_hf'} ({other_room})")
    assert not wrong, "\n".join(wrong)


def test_families_of_base_models_know_nothing_of_tuners():
    wrong = [
        f"{name} imports {other}"
        for name in FILES
        if name.startswith("models.")
        for other in own_imports(name)
        if room_of(other)[1] in NOT_BY_FAMILIES
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    graph = {name: own_imports(name) for name in FILES}
    done, path = set(), []

    def visit(name: str):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


def test_all_rooms_are_there():
    names = {prefix for rooms in FLOORS for prefixes in rooms.values() for prefix in prefixes}
    assert not names - set(FILES)


def test_files_are_short():
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in FILES.items()
        if not path.name.startswith("modeling_")
    }
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def test_only_the_registry_knows_the_families():
    pattern = re.compile(r"models\.seem|\bSeem[A-Z]")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for name, path in FILES.items()
        if not name.startswith("models.seem") and name != "models.registry"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_private_parts_of_other_libraries_are_taken_in_one_place_each():
    libraries = {"transformers", "peft", "datasets", "accelerate"}
    wrong = [
        f"{name}: from {module} import {attribute}"
        for name, path in FILES.items()
        if not path.name.endswith("_compat.py")
        for module, attribute in sorted(imports(name))
        if module.split(".")[0] in libraries and any(part.startswith("_") for part in (*module.split("."), attribute))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_object_changes_its_class():
    wrong = [
        f"{name}:{node.lineno}"
        for name in FILES
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for part in ast.walk(target)
        if isinstance(part, ast.Attribute) and part.attr == "__class__"
    ]
    assert not wrong, "\n".join(wrong)


def test_public_signatures_are_annotated():
    wrong = []

    def look(name: str, node: ast.AST, is_class: bool = False):
        for child in ast.iter_child_nodes(node):
            if getattr(child, "name", "_").startswith("_"):
                continue
            if isinstance(child, ast.ClassDef):
                look(name, child, is_class=True)
            elif isinstance(child, ast.FunctionDef):
                taken = child.args
                arguments = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
                is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in child.decorator_list)
                arguments = [argument for argument in arguments[is_class and not is_static :] if argument is not None]
                if child.returns is None or any(argument.annotation is None for argument in arguments):
                    wrong.append(f"{name}:{child.lineno} {child.name}")

    for name in FILES:
        look(name, tree(name))
    assert not wrong, "\n".join(wrong)
