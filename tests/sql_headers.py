"""Writes the line `-- Loaded by:` of each file of sql/statements. `python -m tests.sql_headers` (make schema)."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATEMENTS = {path.stem: path for path in sorted((ROOT / "sql" / "statements").glob("*.sql"))}


def loaded_by() -> dict[str, str]:
    """The right line for each statement: the modules that load it."""
    modules: dict[str, list[str]] = {name: [] for name in STATEMENTS}
    for path in sorted((ROOT / "dispatcher").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "sqlfiles import" in text or "import sqlfiles" in text:
            for name in STATEMENTS.keys() & names_in(ast.parse(text)):
                modules[name].append(path.relative_to(ROOT).as_posix())
    return {name: f"-- Loaded by: {', '.join(paths) or 'nothing'}" for name, paths in modules.items()}


def names_in(module: ast.AST) -> set[object]:
    """The names that a module loads: strings in load(...); all its strings, where it calls load(variable)."""
    loaded = [
        node.args[0]
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and re.search(r"\bload$", ast.unparse(node.func)) and node.args
    ]
    by_variable = any(isinstance(name, ast.Name) for name in loaded)
    return {
        node.value
        for part in ([module] if by_variable else loaded)
        for node in ast.walk(part)
        if isinstance(node, ast.Constant)
    }


def main() -> None:
    """Write the lines."""
    for name, line in loaded_by().items():
        text = STATEMENTS[name].read_text(encoding="utf-8")
        STATEMENTS[name].write_text(re.sub(r"^-- Loaded by:.*$", line, text, count=1, flags=re.M), encoding="utf-8")


if __name__ == "__main__":
    main()
