"""Reads settings from flags, environment and defaults, and reports everything that is wrong with them at once."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field
from typing import Any, NamedTuple

from dispatcher.core.counted import counted
from dispatcher.core.environment import in_utf8
from dispatcher.core.errors import Misconfigured
from dispatcher.core.layout import MOST_KEYS, Layout
from dispatcher.settings.files import SUFFIX, SecretFile
from dispatcher.settings.setting import Setting, flag_of, is_required, setting_of, unchanged

LEASE_MARGIN_MS = 5000
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:\d+")

# Where it was set, the value, what makes the setting's value of it.
Given = tuple[str, object, Callable[[object], object]]


class SettingValues(NamedTuple):
    """Values by attribute, and of those that came from a file, the file."""

    values: dict[str, Any]
    files: dict[str, SecretFile]


def read(fields: Mapping[str, Field[Any]], env: Mapping[str, str], flags: Mapping[str, object]) -> SettingValues:
    """The values of these fields. A flag beats the environment beats the default.

    Raises Misconfigured with a line for each problem: what was set, its value (secrets masked), what would be right.
    """
    values: dict[str, Any] = {}
    files: dict[str, SecretFile] = {}
    problems: list[str] = []
    for name, field in fields.items():
        setting = setting_of(field)
        given = list(_given(name, setting, env, flags))
        if len(given) > 1 and given[1][0].startswith("--"):
            problems.append(f"{given[0][0]} and {given[1][0]} are the same setting: give one of them")
        elif len(given) > 1 and given[1][0] == given[0][0] + SUFFIX:
            problems.append(f"{given[0][0]} and {given[1][0]} are both set: unset one of them")
        elif given and given[0][0].endswith(SUFFIX):
            files[name] = SecretFile(given[0][0], str(given[0][1]), setting.kind)
            try:
                values[name] = files[name].read()
            except Misconfigured as error:
                problems.append(str(error))
        elif given:
            source, value, convert = given[0]
            try:
                values[name] = setting.kind.parse(convert(value))
            except ValueError as error:
                problems.append(f"{source} is {setting.kind.mask(value)}: it must be {error}")
        elif is_required(field) or (name == "redis_url" and not _without_redis(fields, env, flags)):
            problems.append(f"{' or '.join(setting.env)} is not set: it must be {setting.kind.wanted}")
        elif field.default != "":  # "": another setting stands in
            values[name] = field.default if field.default_factory is MISSING else field.default_factory()
    problems += _cross_problems(values)
    if problems:
        intro = "" if len(problems) == 1 else f"{len(problems)} settings are wrong:\n  "
        raise Misconfigured(intro + "\n  ".join(problems))
    return SettingValues(values, files)


def _given(name: str, setting: Setting, env: Mapping[str, str], flags: Mapping[str, object]) -> Iterator[Given]:
    """What was set, strongest first."""
    if setting.env and flags.get(name) is not None:
        yield flag_of(name), _in_utf8(flags[name]), unchanged
    if alias := setting.alias:
        value = flags.get(alias.flag.removeprefix("--").replace("-", "_"))
        if value is not None and value is not False:  # False: click's word for a switch that is not there
            yield alias.flag, _in_utf8(value), alias.convert
    for variable in setting.env:
        names = (variable, variable + SUFFIX) if setting.kind.secret else (variable,)
        for each in names:
            if env.get(each, "").strip() and not is_service_link(each, env[each]):
                yield each, _in_utf8(env[each]), unchanged


def is_service_link(variable: str, value: str) -> bool:
    """Whether Kubernetes has set a variable of ours, for a Service that is called dispatch-http: tcp://10.0.0.1:8080."""
    return variable.endswith("_PORT") and _SERVICE_LINK.fullmatch(value.strip()) is not None


def _in_utf8(value: object) -> object:
    return in_utf8(value) if isinstance(value, str) else value


def _without_redis(fields: Mapping[str, Field[Any]], env: Mapping[str, str], flags: Mapping[str, object]) -> bool:
    """Whether no event goes to the stream: one without a handler becomes a dead letter."""
    given = list(_given("unrouted", setting_of(fields["unrouted"]), env, flags)) if "unrouted" in fields else []
    return bool(given) and str(given[0][1]).strip().lower() == "dead"


def _cross_problems(values: Mapping[str, Any]) -> list[str]:
    """What does not fit together, of the values that are there."""
    problems = []
    lease, publish = values.get("lease_ms"), values.get("publish_timeout_ms")
    if lease is not None and publish is not None and lease < publish + LEASE_MARGIN_MS:
        problems.append(
            f"DISPATCH_LEASE_MS is {lease} and DISPATCH_PUBLISH_TIMEOUT_MS is {publish}: the lease must be at least "
            f"{LEASE_MARGIN_MS} longer, or another dispatcher takes rows that are still being published"
        )
    base, cap = values.get("backoff_base_ms"), values.get("backoff_max_ms")
    if base is not None and cap is not None and cap < base:
        problems.append(
            f"DISPATCH_BACKOFF_MAX_MS is {cap} and DISPATCH_BACKOFF_BASE_MS is {base}: the maximum must not be less"
        )
    if values.get("unrouted") == "dead" and values.get("handlers") is None:
        problems.append(
            "DISPATCH_UNROUTED is dead and DISPATCH_HANDLERS is not set: every event would be buried; name the module "
            "that has the handlers, or leave DISPATCH_UNROUTED at stream"
        )
    return [*problems, *_layout_problems(values)]


def _layout_problems(values: Mapping[str, Any]) -> Iterator[str]:
    name, shards, routes = (values.get(each) for each in ("stream_name", "stream_shards", "routes"))
    if name is None or shards is None or routes is None:
        return
    if shards > 1 and {"{", "}"} & set(name):
        yield (
            f"DISPATCH_STREAM_NAME is {name!r} and DISPATCH_STREAM_SHARDS is {shards}: a name with braces cannot have "
            "shards, because braces mark the number of a shard; choose a name without them"
        )
    elif (keys := len(Layout(name, shards, routes).keys)) > MOST_KEYS:
        others = counted(keys // shards - 1, "other stream")
        yield (
            f"DISPATCH_STREAM_SHARDS is {shards} and DISPATCH_ROUTES names {others}: that is "
            f"{keys} keys, and at most {MOST_KEYS} are allowed"
        )
