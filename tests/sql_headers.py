"""Writes the line `-- Loaded by:` of each file of sql/statements. `python -m tests.sql_headers` (make schema)."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATEMENTS = {path.stem: path for path in sorted((ROOT / "sql" / "statements").glob("*.sql"))}


def loaded_by() -> dict[str, str]:
    """The right line for each statement: the modules that use sqlfiles and have its name as a string."""
    modules: dict[str, list[str]] = {name: [] for name in STATEMENTS}
    for path in sorted((ROOT / "dispatcher").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "sqlfiles import" in text or "import sqlfiles" in text:
            strings = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            for name in STATEMENTS.keys() & strings:
                modules[name].append(path.relative_to(ROOT).as_posix())
    return {name: f"-- Loaded by: {', '.join(paths) or 'nothing'}" for name, paths in modules.items()}


def main() -> None:
    """Write the lines."""
    for name, line in loaded_by().items():
        text = STATEMENTS[name].read_text(encoding="utf-8")
        STATEMENTS[name].write_text(re.sub(r"^-- Loaded by:.*$", line, text, count=1, flags=re.M), encoding="utf-8")


if __name__ == "__main__":
    main()
