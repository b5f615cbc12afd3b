"""Writes the generated parts of docs/reference from the code. `python -m tests.reference_pages` (make reference).

A page is prose with parts between `<!-- generated: name -->` and `<!-- end -->`. Some tables have a last column that a
person writes: it is kept, row by row, when the part is written again; a row that is new gets MISSING there, which
fails a test until somebody says what it means.
"""

import ast
import dataclasses
import importlib
import inspect
import io
import itertools
import json
import re
import tokenize
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import click
import yaml

from dispatcher.cli import COMMANDS, cli
from dispatcher.core import events
from dispatcher.core.findings.redis_refusals import REFUSALS
from dispatcher.settings.describe import describe
from dispatcher.settings.setting import Section
from dispatcher.sidecar.openapi import DOCUMENT
from dispatcher.sidecar.openapi_parts import ALWAYS, ERRORS
from dispatcher.telemetry import logs, loguru_setup
from dispatcher.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent
RUNBOOK = ROOT / "docs" / "runbook"
PAGES = [*sorted((ROOT / "docs" / "reference").glob("*.md")), RUNBOOK / "index.md", RUNBOOK / "breaker-open.md"]
PART = re.compile(r"(<!-- generated: ([\w ]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
MISSING = "TODO: say what it means"

Kept = dict[tuple[str, str], str]  # heading and first cell of a row -> its last cell


def line(text: object) -> str:
    """On one line, and without what would end the cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def prose(text: str) -> str:
    """Text of the code as a page shows it: `<stream>` is no tag, and `a.*` begins no emphasis."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if at % 2 else part.replace("<", "&lt;").replace("*", "\\*") for at, part in enumerate(parts))


def cell(text: object) -> str:
    """Text of the code in a table."""
    return prose(line(text))


def code(text: object) -> str:
    """Between backticks; nothing for nothing."""
    return f"`{line(text)}`" if str(text) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [re.sub(" +", " ", f"| {' | '.join(row)} |") for row in rows]
    return "\n".join(lines)


def kept(part: str) -> Kept:
    """What a person wrote in the last column of the tables of a part."""
    found: Kept = {}
    above = heading = ""
    for line in part.splitlines():
        if line.startswith("## "):
            above = heading = line[3:]
        elif line.startswith("### "):
            heading = f"{above}.{line[4:]}".lstrip(".")
        elif line.startswith("| "):
            cells = [each.strip() for each in re.split(r"(?<!\\)\|", line)[1:-1]]
            found[heading, cells[0]] = cells[-1]
    return found


# Settings


def settings(_: Kept) -> str:
    parts = []
    for section in Section:
        rows = []
        for row in (each for each in describe() if each.section is section):
            default = row.default if " " in row.default else code(row.default)
            takes = re.sub("^a whole number from ", "", row.wanted) if row.env else "no value"
            rows.append([code(row.env), code(row.flag), default, cell(takes), cell(row.help)])
        parts.append(f"### {section.value}\n\n" + table(["Variable", "Flag", "Default", "It takes", "Meaning"], rows))
    return "\n\n".join(parts)


# Commands


def commands(_: Kept) -> str:
    return "\n\n".join(part for name in COMMANDS for part in command("dispatcher", name))


def command(parent: str, name: str, found: click.Command | None = None) -> Iterator[str]:
    """A command and its subcommands."""
    context = click.Context(found or typing.cast(click.Command, cli.get_command(click.Context(cli), name)))
    one = context.command
    alone = not isinstance(one, click.Group) or one.invoke_without_command
    if isinstance(one, click.Group):
        usage = "[OPTIONS] [COMMAND ...]" if alone else "COMMAND ..."
    else:
        arguments = [each.make_metavar(context) for each in one.params if isinstance(each, click.Argument)]
        usage = " ".join(["[OPTIONS]", *arguments])
    yield f"{'##' if parent == 'dispatcher' else '###'} {parent} {name}"
    yield f"```text\n{parent} {name} {usage}\n```"
    yield from words(one.help or "")
    if name == "run":
        yield "Every setting is a flag of this command: [configuration](configuration.md)."
    elif alone:
        rows = [option(each, context) for each in one.params if isinstance(each, click.Option)]
        yield table(["Option", "Default", "Meaning"], rows)
    if isinstance(one, click.Group):
        for below in one.commands.values():
            yield from command(f"{parent} {name}", below.name or "", below)


def option(one: click.Option, context: click.Context) -> list[str]:
    flags = ", ".join([*one.opts, *one.secondary_opts])
    if not one.is_flag:
        flags += f" {one.make_metavar(context)}"
    default = ""
    if one.show_default and one.default is not None:
        default = str(one.default)
    return [code(flags), code(default), cell(one.help or "")]


def words(text: str) -> Iterator[str]:
    """The paragraphs of a help text: one that click must not fill (it begins with \\b) is shown as it stands."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b"):
            yield f"```text\n{paragraph[1:].strip()}\n```"
        else:
            yield prose(paragraph.strip())


# HTTP


def endpoints(_: Kept) -> str:
    parts: list[str] = []
    for path, methods in DOCUMENT["paths"].items():
        for method, one in methods.items():
            parts += endpoint(method.upper(), path, one)
    return "\n\n".join(parts)


def endpoint(method: str, path: str, one: dict[str, Any]) -> Iterator[str]:
    yield f"### {method} {path}"
    yield one["summary"]
    asked = [
        [code(each["name"]), each["in"], shape(each["schema"]), code(each["schema"].get("default", "")),
         cell(each["description"])]
        for each in one.get("parameters", ())
    ]  # fmt: skip
    for body in one.get("requestBody", {}).get("content", {}).values():
        for name, schema in body["schema"]["properties"].items():
            asked.append([code(name), "body (JSON)", shape(schema), "", cell(schema.get("description", ""))])
    if asked:
        yield table(["Parameter", "In", "Type", "Default", "Meaning"], asked)
    answer = resolved(one["responses"]["200"]["content"]["application/json"]["schema"])
    if "properties" in answer:
        rows = [[code(name), shape(schema), cell(schema.get("description", ""))]
                for name, schema in answer["properties"].items()]  # fmt: skip
        yield table(["Field of the answer", "Type", "Meaning"], rows)
    codes = [each for each in one["responses"] if each not in ("200", *ALWAYS)]
    yield f"200: {one['responses']['200']['description']} Errors: {', '.join(sorted([*codes, *ALWAYS]))}."


def errors(_: Kept) -> str:
    return table(["Code", "When"], [[number, cell(meaning)] for number, meaning in ERRORS.items()])


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return DOCUMENT["components"]["schemas"][name] if name else schema


def shape(schema: dict[str, Any]) -> str:
    """A JSON schema in few words."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return " or ".join(shape(each) for each in schema["anyOf"])
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(code(each) for each in schema["enum"])
    kinds = schema.get("type", "any JSON")
    text = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if text == "array":
        limit = f"{schema['minItems']} to {schema['maxItems']} of: " if "maxItems" in schema else ""
        return f"array of {limit}{shape(schema['items'])}"
    if text == "object":
        return f"object: {', '.join(map(code, schema['properties']))}" if "properties" in schema else text
    if schema.get("maximum", 2**63) < 2**63 - 1:
        text += f", {schema.get('minimum', '')} to {schema['maximum']}"
    return f"{text} ({schema['format']})" if "format" in schema else text


# Metrics


ACROSS = {
    "sum": "sum",
    "min": "least",
    "max": "greatest",
    "newest": "newest",
    "supervisor": "the supervisor's own",
}


def labels_of(exported: Metrics, name: str) -> tuple[str, ...]:
    """The label names that a metric was made with; those of a collector of our own are known by its samples only."""
    return getattr(exported.registry._names_to_collectors[name], "_labelnames", ())


def metrics(_: Kept) -> str:
    exported = Metrics()
    rows = []
    for one in exported.registry.collect():
        name = one.name + ("_total" if one.type == "counter" else "")
        values: dict[str, list[str]] = {}
        for sample in one.samples:
            for label, value in sample.labels.items():
                if label != "le" and value not in values.setdefault(label, []):
                    values[label].append(value)
        labels = [f"{code(label)} {', '.join(found)}" if one.type == "counter" else code(label)
                  for label, found in values.items()]  # fmt: skip
        if not one.samples:  # its series come later
            labels = [code(label) for label in labels_of(exported, name)]
        rows.append(
            [
                code(name),
                one.type,
                "; ".join(labels),
                ACROSS[exported.across[one.name]] if one.type == "gauge" else "sum",
                cell(one.documentation),
            ]
        )
    return table(["Metric", "Type", "Labels", "Over several processes", "Meaning"], rows)


# Log events


def log_events(written: Kept) -> str:
    found: dict[str, tuple[list[str], list[str]]] = {}  # levels, fields
    for line in lines():
        levels, fields = found.setdefault(line["event"], ([], []))
        levels += [line["level"]] * (line["level"] not in levels)
        fields += [name for name in line if name not in ("time", "level", "event", "message", *fields)]
    rows = [
        [code(name), ", ".join(levels), ", ".join(map(code, fields)), written.get(("", code(name)), MISSING)]
        for name, (levels, fields) in sorted(found.items())
    ]
    return table(["Event", "Level", "Fields", "Meaning, and what to do"], rows)


def lines() -> list[dict[str, Any]]:
    """Every line that the log can write at INFO: each event in each of its variants."""
    out = io.StringIO()
    logs.configure("INFO", "json", stream=out)
    for event in every_event():
        moments = itertools.chain((0.0, 0.0), itertools.repeat(1e9))
        observe = logs.Logs(debug=False, clock=moments.__next__)
        for _ in range(3):  # what is left out once is counted in the next line
            observe(event)
    loguru_setup.tell_dropped(1)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def every_event() -> Iterator[Any]:
    """An instance of each telemetry event for each choice of its flags, words and absent values."""
    for kind in vars(events).values():
        if isinstance(kind, type) and events.TelemetryEvent in kind.__mro__[1:]:
            hints = typing.get_type_hints(kind)
            choices = [choices_of(hints[each.name]) for each in dataclasses.fields(kind)]
            for values in itertools.product(*choices):
                yield kind(*values)


def choices_of(hint: Any) -> list[Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return list(inner)
    if origin in (typing.Union, types.UnionType):
        return [value for each in inner for value in choices_of(each)]
    if hint is types.NoneType:
        return [None]
    if hint is bool:
        return [True, False]
    if hint is str:
        return ["a"]
    if hint is int:
        return [1, 0]
    if hint is float:
        return [1.0]
    if origin is dict:
        return [{}]
    if origin is tuple:
        return [tuple(choices_of(each)[0] for each in inner)]
    return [[choices_of(inner[0])[0]]] if inner and not dataclasses.is_dataclass(inner[0]) else [[]]


# Alerts


def alerts(written: Kept) -> str:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    rows = []
    for rule in (rule for group in groups for rule in group["rules"]):
        link = f"[{rule['alert']}]({alert_page(rule['alert'])})"
        rows.append([link, rule["labels"]["severity"], rule.get("for", "at once"), written.get(("", link), MISSING)])
    return table(["Alert", "Severity", "After", "Fires when"], rows)


def alert_page(alert: str) -> str:
    """DispatcherListenerDeaf -> listener-deaf.md"""
    words_of_it = re.findall(r"DLQ|[A-Z][a-z]+", alert.removeprefix("Dispatcher"))
    return "-".join(words_of_it).lower() + ".md"


# Tables, functions and procedures


def schema() -> str:
    return (ROOT / "sql" / "schema.sql").read_text(encoding="utf-8")


def said(kind: str, name: str) -> str:
    """What the database itself says of a table, a column ...: a comment."""
    found = re.search(rf"^COMMENT ON {kind} {re.escape(name)} IS '((?:[^']|'')*)';$", schema(), re.M)
    return cell(found[1].replace("''", "'")) if found else ""


def tables(written: Kept) -> str:
    parts: list[str] = []
    found = re.findall(r"^CREATE (?:UNLOGGED )?TABLE messaging\.(\w+) \(\n(.*?)^\)", schema(), re.M | re.S)
    for name, body in sorted(found, key=lambda one: (one[0] != "message_outbox", one[0])):
        rows = []
        for column in body.splitlines():
            if one := re.fullmatch(r"    (?!CONSTRAINT)(\w+) (.+?),?", column):
                key = (f"messaging.{name}", code(one[1]))
                meaning = said("COLUMN", f"messaging.{name}.{one[1]}") or written.get(key, MISSING)
                rows.append([key[1], *type_of(one[2]), meaning])
        parts.append(f"### messaging.{name}")
        parts += filter(None, [said("TABLE", f"messaging.{name}")])
        parts.append(table(["Column", "Type", "Null", "Default", "Meaning"], rows))
    return "\n\n".join(parts)


def type_of(definition: str) -> tuple[str, str, str]:
    """Type, null or not, default."""
    if found := re.fullmatch(r"(\w+) GENERATED ALWAYS AS \((.*)\) STORED", definition):
        return found[1], "", f"computed: {code(found[2])}"
    found = re.fullmatch(r"(.+?)(?: DEFAULT (.+?))?( NOT NULL)?", definition)
    assert found is not None
    kind = found[1].replace("timestamp with time zone", "timestamptz")
    return kind, "no" if found[3] else "yes", code((found[2] or "").replace("::text", ""))


def routines(written: Kept) -> str:
    rows = []
    for kind, name, arguments, out in re.findall(
        r"^CREATE (FUNCTION|PROCEDURE) messaging\.(\w+)\((.*?)\)(?: RETURNS ([\w\[\]]+))?$", schema(), re.M
    ):
        key = code(f"messaging.{name}({arguments})")
        rows.append([key, kind.lower(), code(out), written.get(("", key), MISSING)])
    return table(["Name", "Kind", "Returns", "Meaning"], rows)


def indexes(written: Kept) -> str:
    rows = []
    for unique, name, rest in re.findall(r"^CREATE (UNIQUE )?INDEX (\w+) ON messaging\.(.+);$", schema(), re.M):
        on = ("unique: " if unique else "") + code(rest.replace(" USING btree", ""))
        rows.append([code(name), on, written.get(("", code(name)), MISSING)])
    return table(["Index", "On", "For"], rows)


# The client library


CLIENT = {
    "dispatcher.client": (
        "Event",
        "NoTransaction",
        "add_event",
        "add_event_async",
        "add_events",
        "add_events_async",
        "is_outage",
    ),
    "dispatcher.client.asyncpg": ("add_event", "add_events", "create_table", "first_time", "forget"),
    "dispatcher.client.sqlalchemy": (
        "add_event",
        "add_event_async",
        "add_events",
        "add_events_async",
        "create_table",
        "create_table_async",
        "first_time",
        "first_time_async",
        "forget",
        "forget_async",
    ),
    "dispatcher.client.django": ("add_event", "add_events", "create_table", "first_time", "forget"),
    "dispatcher.testing": (
        "published", "published_async", "relay_once", "run_one", "run_one_async", "received", "Servers", "NotPublished",
    ),
    "dispatcher.client.alembic": (
        "include_name", "upgrade", "downgrade", "create_handled_event", "drop_handled_event",
    ),
    "dispatcher.client.consumer": ("Consumer", "AsyncConsumer", "Group", "Received"),
    "dispatcher.client.tail": ("Tail", "AsyncTail"),
    "dispatcher.client.inbox": (
        "create_table",
        "create_table_async",
        "first_time",
        "first_time_async",
        "forget",
        "forget_async",
    ),
    "dispatcher.client.dedup": ("DedupStore", "AsyncDedupStore", "RedisDedupStore", "AsyncRedisDedupStore"),
    "dispatcher.handlers": ("handler", "Event", "Wait", "Retry", "Dead"),
}  # fmt: skip


INTERNAL = ("parameters", "delay_ms", "dead_stream_of")


def client(written: Kept) -> str:
    parts = []
    for name, members in CLIENT.items():
        module = importlib.import_module(name)
        if set(members) != set(getattr(module, "__all__", members)) - {"Handler", "Outages"}:
            raise LookupError(f"CLIENT does not say what {name} has now")
        parts += [f"## {name}", docstring(module)]
        for member in members:
            parts += documented(name, member, getattr(module, member), written)
    return "\n\n".join(filter(None, parts))


def docstring(found: object) -> str:
    """Its paragraphs; what is indented is code."""
    text = inspect.cleandoc(getattr(found, "__doc__", None) or "")
    return "\n\n".join(
        f"```text\n{inspect.cleandoc(chr(10) + block)}\n```" if block.startswith("    ") else prose(block)
        for block in re.split(r"\n\n+(?=\S)|(?<=\S)\n\n+(?=    )", text)
    )


def documented(module: str, name: str, found: Any, written: Kept) -> Iterator[str]:
    yield f"### {name}"
    if not inspect.isclass(found):
        yield f"```py\n{signature(name, found)}\n```"
        yield docstring(found)
        return
    if "__init__" in vars(found) and not dataclasses.is_dataclass(found) and Protocol not in found.__bases__:
        yield f"```py\n{signature(name, found.__init__)}\n```"
    yield docstring(found)
    if dataclasses.is_dataclass(found):
        notes = comments(found)
        rows = []
        for each in dataclasses.fields(found):
            meaning = (
                cell(notes.get(each.name, "")) or written.get((f"{module}.{name}", code(each.name)), "") or MISSING
            )
            rows.append([code(each.name), code(named(each.type)), code(default_of(each)), meaning])
        yield table(["Field", "Type", "Default", "Meaning"], rows)
    for method, function in vars(found).items():
        if not method.startswith("_") and method not in INTERNAL and inspect.isfunction(function):
            yield f"```py\n{signature(method, function)}\n```"
            yield docstring(function)


def signature(name: str, function: Callable[..., Any]) -> str:
    found = inspect.signature(function)
    plain = [each.replace(annotation=Bare(named(each.annotation))) if each.annotation is not each.empty else each
             for each in found.parameters.values() if each.name != "self"]  # fmt: skip
    returned = "" if found.return_annotation in (found.empty, None) else f" -> {named(found.return_annotation)}"
    text = f"{name}{found.replace(parameters=plain, return_annotation=found.empty)}{returned}"
    if len(text) > 100:
        listed = [str(each) for each in plain]
        for position in [at for at, each in enumerate(plain) if each.kind is each.KEYWORD_ONLY][:1]:
            listed.insert(position, "*")
        text = f"{name}(\n    {f',{chr(10)}    '.join(listed)},\n){returned}"
    return f"await {text}" if inspect.iscoroutinefunction(function) else text


class Bare(str):
    """Written as it is, where a signature would quote it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def named(annotation: Any) -> str:
    """A type as the code has it, without the modules before names."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(named(each) for each in typing.get_args(annotation))
    if annotation is types.NoneType or annotation is None:
        return "None"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        asynchronous = "asyncio." if annotation.__module__.startswith("redis.asyncio") else ""
        prefix = annotation.__module__.partition(".")[0] + "." if annotation.__module__.startswith("redis") else ""
        return f"{prefix}{asynchronous}{annotation.__name__}"
    text = re.sub(
        r"\b(?:typing|collections\.abc|uuid|datetime|dispatcher(?:\.\w+)+|sqlalchemy(?:\.\w+)+)\.", "", str(annotation)
    )
    return text.replace("~", "")


def default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "a new one" if field.default_factory is not dataclasses.MISSING else ""


def comments(found: type) -> dict[str, str]:
    """What a comment beside a field says of it."""
    source = inspect.getsource(found)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = {each.start[0]: each.string.lstrip("# ") for each in tokens if each.type == tokenize.COMMENT}
    notes = {}
    [definition] = ast.parse(source).body
    for node in typing.cast(ast.ClassDef, definition).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = " ".join(said[n] for n in range(node.lineno, (node.end_lineno or 0) + 1) if n in said)
            notes[node.target.id] = text if not text.startswith("type:") else ""
    return notes


# Replies of Redis


def redis_refusals(_: Kept) -> str:
    rows = []
    for each in REFUSALS:
        do = f"{each.do}. More: {each.pages}" if each.pages else each.do
        rows.append([", ".join(code(name) for name in each.names), cell(do)])
    return table(["The reply begins with, or has in it", "What to do"], rows)


# Pages


PARTS: dict[str, Callable[[Kept], str]] = {
    "settings": settings,
    "commands": commands,
    "endpoints": endpoints,
    "errors": errors,
    "metrics": metrics,
    "log events": log_events,
    "alerts": alerts,
    "tables": tables,
    "routines": routines,
    "indexes": indexes,
    "client": client,
    "redis refusals": redis_refusals,
}


def generated(page: str) -> str:
    """The page as it has to be."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]](kept(part[3]))}\n\n{part[4]}", page)


def main() -> None:
    """Write every page anew."""
    for path in PAGES:
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
