"""The configuration table in words: for docs/reference/configuration.md and `dispatcher run --help`."""

from typing import NamedTuple

from dispatcher.settings.fields import Settings
from dispatcher.settings.setting import Section, flag_of, is_required, setting_of


class Row(NamedTuple):
    """One line of the configuration table."""

    section: Section
    env: str  # "" where there is only a flag
    flag: str
    default: str  # "" where there is none
    wanted: str
    help: str


def describe() -> list[Row]:
    """Every setting, in the table's order."""
    rows = []
    for name, field in Settings.table().items():
        setting = setting_of(field)
        if setting.env or setting.alias is None:
            default, env = default_text(name), next(iter(setting.env), "")
            row = Row(setting.section, env, flag_of(name), default, setting.kind.wanted, setting.help)
        else:  # its flag says the opposite of the attribute: so do the words beside it
            row = Row(setting.section, "", setting.alias.flag, "", setting.kind.wanted, setting.alias.help)
        rows.append(row)
    return rows


def with_unit(attribute: str) -> str:
    """A setting's default with its unit, as `100 ms`; "" where there is none."""
    text, unit = default_text(attribute), setting_of(Settings.table()[attribute]).kind.metavar.lower()
    unit = "process" if (text, unit) == ("1", "processes") else unit
    return f"{text} {unit}" if text.isdigit() and unit != "n" else text


def default_text(attribute: str) -> str:
    """A setting's default as it would be typed; "" where there is none."""
    field = Settings.table()[attribute]
    stated = setting_of(field).default_text
    if stated is not None:
        return stated
    if is_required(field) or field.default is None:
        return ""
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
