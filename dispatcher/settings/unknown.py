"""Environment variables that look like ours and are not: a misspelt name must not be ignored in silence."""

import difflib
import re
from collections.abc import Mapping

from dispatcher.settings.describe import describe
from dispatcher.settings.fields import Settings
from dispatcher.settings.files import SUFFIX
from dispatcher.settings.read import is_service_link
from dispatcher.settings.setting import setting_of

# What Kubernetes sets for a Service that is called dispatch or dispatcher.
_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")


def unknown_variables(env: Mapping[str, str]) -> list[str]:
    """One warning for each variable that is set, looks like one of ours and is not. Never shows a value."""
    known = {row.env for row in describe() if row.env}
    secrets = [setting for field in Settings.table().values() if (setting := setting_of(field)).kind.secret]
    known |= {variable + SUFFIX for setting in secrets for variable in setting.env}
    warnings = []
    for name in sorted(env):
        if name in known and is_service_link(name, env[name]):
            warnings.append(
                f"{name} was set by Kubernetes for a Service and is not obeyed: set enableServiceLinks: false"
            )
        if not env[name].strip() or name in known or _KUBERNETES.search(name):
            continue
        close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85)
        if name.startswith("DISPATCH_") or (close and name.startswith("DISPATCHER_")):
            hint = f"; did you mean {close[0]}?" if close else ""
            warnings.append(f"{name} is set, but this version has no such setting{hint}")
    return warnings
