"""`dispatcher run`: the service. A flag for every setting, made from the table of settings."""

import os
from collections.abc import Callable

import anyio
import click

from dispatcher.commands.options import warn_of_unknown_variables
from dispatcher.core.environment import take_away
from dispatcher.infra import early_stop
from dispatcher.infra.output import never_wait_for_output
from dispatcher.settings import Settings
from dispatcher.settings.describe import with_unit
from dispatcher.settings.setting import Section, flag_of, setting_of

# With them prometheus_client would keep each figure in a file, and add up what others left in that folder.
PROMETHEUS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def setting_flags(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command a flag for each setting. Values stay text: they are checked all at once, with the environment."""
    options = []
    for name, field in Settings.table().items():
        setting = setting_of(field)
        default = with_unit(name)
        notes = "; ".join(filter(None, (default and f"default: {default}", *setting.env)))
        if field.type is bool and setting.env:
            flags = f"{flag_of(name)}/--not-{name}"
            options.append(click.option(flags, name, default=None, help=f"{setting.help}  [{notes}]"))
        elif setting.env:
            metavar = setting.kind.metavar
            options.append(click.option(flag_of(name), name, metavar=metavar, help=f"{setting.help}  [{notes}]"))
        if alias := setting.alias:
            is_flag = alias.metavar is None
            options.append(click.option(alias.flag, is_flag=is_flag, metavar=alias.metavar, help=alias.help))
    for option in reversed(options):
        command = option(command)
    return command


class GroupedHelp(click.Command):
    """Lists the flags by what they are about."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        titles = _titles()
        listed: dict[str, list[tuple[str, str]]] = {
            title: [] for title in (*(section.value for section in Section), "Others")
        }
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                listed[titles.get(param.name or "", "Others")].append(record)
        for title, records in listed.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _titles() -> dict[str, str]:
    """The title of the section of each flag, by the name that click has for it."""
    found = {}
    for name, field in Settings.table().items():
        setting = setting_of(field)
        found[name] = setting.section.value
        if setting.alias:
            found[setting.alias.flag.removeprefix("--").replace("-", "_")] = setting.section.value
    return found


@click.command(cls=GroupedHelp)
@setting_flags
def run(**flags: object) -> int:
    """Relay committed rows from Postgres to the Redis Stream, until SIGTERM or SIGINT.

    Every flag has an environment variable, in brackets; a flag counts more than its variable. Takes no row unless
    DISPATCHER_ENABLED is true or --enabled is given.

    A secret may come from a file: DATABASE_URL_FILE, REDIS_URL_FILE, DISPATCH_LISTEN_URL_FILE, DISPATCH_API_TOKEN_FILE
    name one. It is read again for every connection, so that a rotated secret is used without a restart.
    """
    never_wait_for_output()
    warn_of_unknown_variables(flags)
    settings = Settings.load(os.environ, flags)
    for name in take_away(*PROMETHEUS):
        click.echo(f"dispatcher: warning: {name} is set and not obeyed: the metrics are at /metrics only", err=True)
    from dispatcher.service.process import LOOP_OPTIONS

    return anyio.run(_serve, settings, flags, backend_options=LOOP_OPTIONS)


async def _serve(settings: Settings, flags: dict[str, object]) -> int:
    from dispatcher import service
    from dispatcher.service.process import freeze, leave_if_held_up

    if settings.processes > 1:
        code = await service.supervise(settings, flags)
        early_stop.ignore()
        return code
    freeze()
    code = await service.run(settings)
    early_stop.ignore()
    leave_if_held_up(code)
    return code
