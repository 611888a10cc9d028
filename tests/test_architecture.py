"""The house keeps its shape: import order and size limits, read from the source."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ltx_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lowest first; a module imports only from lower layers, from its own package, or from the foundations.
LAYERS = [
    {"streams", "config", "errors", "rng", "files", "lock", "splits"},
    {"parallel"},
    {"kernels"},
    {"models", "diffusion"},
    {"names"},
    {"parts"},
    {"releases"},
    {"bundle"},
    {"codec"},
    {"checkpoints", "data", "media"},
    {"training", "pipelines"},
    {"experiment"},
    {"planning", "evaluation", "conformance"},
    {"tools", "cli"},
]
LEVEL = {name: i for i, layer in enumerate(LAYERS) for name in layer}
APART = {frozenset({"models", "diffusion"}), frozenset({"training", "pipelines"})}
FORBIDDEN = {"torch", "diffusers", "transformers"}
MAX_FILE, MAX_FUNCTION, MAX_ARGUMENTS = 450, 60, 12


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST) -> set[str]:
    """Every module a file imports, at any depth of the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "ltx_jax")
    return found


def test_imports_go_downwards():
    for path in FILES:
        check_imports(path)


def check_imports(path):
    own = top(path)
    if own == "__init__":  # the public API gathers from everywhere
        return
    assert own in LEVEL, f"{own} has no place in the import order"
    for module in imports(ast.parse(path.read_text())):
        root, _, rest = module.partition(".")
        assert root not in FORBIDDEN, f"{path} imports {module}"
        if root != "ltx_jax" or not rest:
            continue
        other = rest.split(".")[0]
        assert other in LEVEL, f"{path} imports {module}, which has no place in the import order"
        assert other == own or LEVEL[other] <= LEVEL[own], f"{own} may not import {module}"
        assert frozenset({own, other}) not in APART, f"{own} may not import {module}"
        assert own == "conformance" or other != "conformance" or own == "tools", "nothing imports conformance but tools"


def test_files_and_functions_are_small():
    for path in FILES:
        check_sizes(path)


def check_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE, f"{path} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = len(node.args.args) + len(node.args.kwonlyargs) + len(node.args.posonlyargs)
            assert arguments <= MAX_ARGUMENTS, f"{path}: {node.name} takes {arguments} arguments"
            if "kernels" not in path.parts:
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MAX_FUNCTION, f"{path}: {node.name} has {lines} lines"


def test_public_things_are_documented():
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} has no docstring"
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_entry_points_are_thin():
    for name in ("train.py", "sample.py"):
        assert (ROOT / name).read_text().count("\n") < 80
