"""Environment variables that look like ours and are not: a misspelt name must not be ignored in silence."""

import difflib
import re
from collections.abc import Mapping

from dispatcher.settings.fields import Settings
from dispatcher.settings.files import SUFFIX
from dispatcher.settings.read import is_service_link
from dispatcher.settings.setting import setting_of

# What Kubernetes sets for a Service that is called dispatch or dispatcher, besides ..._PORT.
_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")


def unknown_variables(env: Mapping[str, str], flags: Mapping[str, object] | None = None) -> list[str]:
    """One warning for each variable that is set, looks like one of ours and is not. Never shows a value.

    `flags`: as for Settings.load. A name without DISPATCH may be another program's: it has to be one slip away from
    that of a setting which is not given.
    """
    known, given = _names(env, flags or {})
    warnings = []
    for name in sorted(env):
        link = is_service_link(name, env[name])
        if name in known and link:
            warnings.append(
                f"{name} was set by Kubernetes for a Service and is not obeyed: set enableServiceLinks: false"
            )
        if not env[name].strip() or name in known or link or _KUBERNETES.search(name):
            continue
        close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85)
        slip = next((each for each in sorted(known - given) if _one_slip(name, each)), None)
        if name.startswith("DISPATCH_") or slip or (close and name.startswith("DISPATCHER_")):
            meant = slip or next(iter(close), None)
            hint = f"; did you mean {meant}?" if meant else ""
            warnings.append(f"{name} is set, but this version has no such setting{hint}")
    return warnings


def _names(env: Mapping[str, str], flags: Mapping[str, object]) -> tuple[set[str], set[str]]:
    """All variables that are ours, and those of the settings that have a value already."""
    known, given = set[str](), set[str]()
    for attribute, field in Settings.table().items():
        setting = setting_of(field)
        names = set(setting.env)
        if setting.kind.secret:
            names |= {variable + SUFFIX for variable in setting.env}
        known |= names
        alias = setting.alias.flag.removeprefix("--").replace("-", "_") if setting.alias else attribute
        if flags.get(attribute) is not None or flags.get(alias) or any(env.get(name, "").strip() for name in names):
            given |= names
    return known, given


def _one_slip(name: str, ours: str) -> bool:
    """Whether they differ by one letter, by two that changed places, or only by where the underscores are."""
    left, right = name.replace("_", ""), ours.replace("_", "")
    begin = _shared(left, right)
    left, right = left[begin:], right[begin:]
    end = _shared(left[::-1], right[::-1])
    left, right = left[: len(left) - end], right[: len(right) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])


def _shared(left: str, right: str) -> int:
    """How many characters at their beginning are the same in both."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)))
