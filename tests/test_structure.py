"""The house rules that a machine can hold: imports go down, files and functions stay small, nothing global is touched.

They read the source, not the running package, so they see every branch.
"""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import equipot

PACKAGE = Path(equipot.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [
    {"design", "design_rules", "points", "statistics", "units", "errors", "files"},
    {"o3", "geometry"},
    {"basis", "kernels"},
    {"interactions"},
    {"models"},
    {"convert", "data", "fit"},
    {"study", "deploy"},
    {
        "baseline_model", "baseline_options", "config", "config_paths", "linear_config", "linear_pipeline",
        "linear_report",
        "start_options", "starting_model", "yaml_file", "pipeline", "run_record", "run_report", "run_stages",
        "cli", "__init__", "__main__",
    },
]  # fmt: skip
"""Which rooms may be seen from where: a file imports from its own room and from lower floors."""
ONE_ROOM = [FLOORS[0], FLOORS[7]]
"""The files of the ground floor are one room, so are those of the top floor."""
ALLOWED = {("fit", "data")}
MAX_LINES, MAX_STATEMENTS, MAX_ARGUMENTS = 400, 40, 8
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> tuple[str, ...]:
    """("models", "potential") of equipot/models/potential.py; a package is named by its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def floor_of(room: str) -> int:
    floors = [n for n, rooms in enumerate(FLOORS) if room in rooms]
    assert floors, f"equipot/{room} is on no floor: add it to FLOORS here and to the architecture's table"
    return floors[0]


def imported(path: Path) -> list[tuple[str, ...]]:
    """Every module of the package that a file imports, wherever in the file."""
    found = []
    here = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found += [(*module, alias.name) for alias in node.names]
    return [name[1:] for name in found if name[0] == "equipot"]


@every_file
def test_imports_go_down(path):
    room = room_of(path)
    for target in imported(path):
        below = target[0] if target else "__init__"
        below = below if any(below in rooms for rooms in FLOORS) or (PACKAGE / below).is_dir() else "__init__"
        same_room = room == below or any({room, below} <= rooms for rooms in ONE_ROOM)
        allowed = same_room or (room, below) in ALLOWED or floor_of(below) < floor_of(room)
        assert allowed, f"{room} (floor {floor_of(room)}) imports {'.'.join(target)} (floor {floor_of(below)})"


def test_no_two_files_import_each_other_round_a_circle():
    modules = {module_of(path): path for path in FILES}
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for module, path in modules.items():
        targets = {target if target in modules else target[:-1] for target in imported(path)}
        graph[module] = {t for t in targets if t in modules and t not in ((), module)}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index(("errors",)) < order.index(("models", "potential")) < order.index(("pipeline",))


@every_file
def test_files_are_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def statements(function: ast.AST) -> int:
    """Statements inside a function, the docstring not counted."""
    inside = [n for n in ast.walk(function) if isinstance(n, ast.stmt) and n is not function]
    return len(inside) - (1 if ast.get_docstring(function) else 0)


@every_file
def test_functions_are_short_with_few_arguments(path):
    """Commands may have more arguments, one for each flag, and operators those of their schema."""
    for function in functions(path):
        where = f"{function.name} (line {function.lineno})"
        assert statements(function) <= MAX_STATEMENTS, f"{where} has {statements(function)} statements"
        a = function.args
        names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")]
        flags = room_of(path) == "cli" and any(dotted(d) == "command" for d in function.decorator_list)
        calls = [dotted(d.func) for d in function.decorator_list if isinstance(d, ast.Call)]
        schema = any(name in ("torch.library.impl", "torch.library.register_fake", "implements") for name in calls)
        assert flags or schema or len(names) <= MAX_ARGUMENTS, f"{where} has {len(names)} arguments"


def test_the_layer_is_its_equation():
    """`Interaction.forward` is a straight line: at most nine statements, no branch, no string key."""
    layer = next(
        n
        for n in ast.walk(tree(PACKAGE / "interactions" / "layer.py"))
        if isinstance(n, ast.ClassDef) and n.name == "Interaction"
    )
    forward = next(n for n in layer.body if isinstance(n, ast.FunctionDef) and n.name == "forward")
    assert statements(forward) <= 9
    assert not any(isinstance(n, ast.If | ast.IfExp | ast.For | ast.While | ast.Try) for n in ast.walk(forward))
    body = forward.body[1:] if ast.get_docstring(forward) else forward.body
    constants = [n.value for statement in body for n in ast.walk(statement) if isinstance(n, ast.Constant)]
    assert not any(isinstance(value, str) for value in constants)


def dotted(node: ast.expr) -> str:
    """`torch.load` of the expression torch.load; empty where it is not a plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


FORBIDDEN_CALLS = {
    "hasattr": "where something may be absent, the absence is a class that does nothing",
    "set_default_dtype": "torch's global dtype belongs to the user",
    "set_default_tensor_type": "torch's global dtype belongs to the user",
    "set_default_device": "torch's global device belongs to the user",
    "eval": "nothing in a file is ever executed",
    "exec": "nothing in a file is ever executed",
}
FORBIDDEN_MODULES = {"cPickle", "dill", "cloudpickle", "joblib", "e3nn"}


def may_unpickle(path: Path) -> bool:
    """Other codes' pickles are opened in one place, after the user's consent; exporters run in those codes' homes."""
    inside = str(path.relative_to(PACKAGE).as_posix())
    return inside == "convert/unpickle.py" or inside.startswith("convert/export/export_")


@every_file
def test_nothing_global_is_changed_and_nothing_is_unpickled(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.split(".")[0] for name in names} & FORBIDDEN_MODULES, f"line {node.lineno}: {names}"
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            method = isinstance(node.func, ast.Attribute) and called.split(".")[-1] in ("eval", "exec")
            reason = None if method else FORBIDDEN_CALLS.get(called.split(".")[-1])
            assert reason is None, f"line {node.lineno}: {called}: {reason}"
            if called == "torch.load" and not may_unpickle(path):
                safe = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg == "weights_only"}
                assert safe == {"weights_only": True}, f"line {node.lineno}: torch.load without weights_only=True"
            pickled = [k.value for k in node.keywords if k.arg == "allow_pickle"]
            assert not any(ast.literal_eval(value) for value in pickled), f"line {node.lineno}: allow_pickle"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "pickle", f"line {node.lineno}: of pickle only the name of its error is of use"
        if isinstance(node, ast.Attribute) and dotted(node.value) == "pickle":
            assert node.attr == "UnpicklingError", f"line {node.lineno}: pickle.{node.attr} executes what it reads"


@every_file
def test_errors_reach_the_user(path):
    """No bare except, no assert for what a user may do wrong."""
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), (
            f"line {node.lineno}: an assert vanishes under -O; raise an EquipotError"
        )
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"line {node.lineno}: a bare except"


@every_file
def test_files_with_shapes_have_live_annotations(path):
    """jaxtyping reads annotations at run time; a file that postpones them is never checked."""
    imports = {n.module for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom)}
    assert not {"jaxtyping", "__future__"} <= imports


def undocumented(path: Path) -> list[str]:
    """Public classes, functions and methods without a docstring."""
    missing = [] if ast.get_docstring(tree(path)) or path.name == "__init__.py" else ["the module"]
    scopes: list[tuple[str, list[ast.stmt]]] = [("", tree(path).body)]
    while scopes:
        prefix, body = scopes.pop()
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            overload = any(dotted(d) in ("overload", "typing.overload") for d in node.decorator_list)
            if not overload and not ast.get_docstring(node):
                missing.append(f"{prefix}{node.name} (line {node.lineno})")
            if isinstance(node, ast.ClassDef):
                scopes.append((f"{prefix}{node.name}.", node.body))
    return missing


@every_file
def test_everything_public_has_a_docstring(path):
    assert undocumented(path) == []
