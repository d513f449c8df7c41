"""The commands on the configuration: what is wrong with it, and its schema."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import click

from ddslogd.cli.options import config_option, print_warnings
from ddslogd.cli.standard_streams import complain, say
from ddslogd.config import loader
from ddslogd.doctor import preflight_checks
from ddslogd.huaweicloud.http import trust
from ddslogd.scheduling.backoff import bucket
from ddslogd.scheduling.call_rate import CALLS_PER_CYCLE, calls_a_minute, tenths

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.config.settings import Settings


@click.command()
@config_option
def check(path: Path) -> None:
    """Report all that is wrong with the configuration, and how many calls its schedules need.

    Warns of secrets that are empty or cannot be read and of directories that cannot be written; what only the service's
    user can see is not checked, and named. As root, the directories are judged for their owner.

    Exit status 0: the daemon would run with it (there may be warnings). 78: it would not.
    """
    loaded = loader.load(path)
    print_warnings(loaded, path)
    for cloud in loaded.settings.clouds.values():
        trust(cloud.ca_file)
    for line in asyncio.run(preflight_checks.warnings(loaded.settings, in_service=preflight_checks.of_service(path))):
        complain(f"{path}: {line}", level="warning")
    say(f"{path}: good: {_summary(loaded.settings)}")
    for name in loaded.settings.clouds:
        say(_calls(loaded.settings, name))


@click.command()
def schema() -> None:
    """Print the configuration's JSON schema.

    An editor completes and checks by it.
    """
    say(json.dumps(loader.schema(), indent=2))


def _summary(settings: Settings) -> str:
    named = len(settings.fleet())
    discover = len(settings.instances) - named
    counts = [
        f"{named} instance{'' if named == 1 else 's'}" if named else "",
        f"{discover} entr{'y that discovers' if discover == 1 else 'ies that discover'}" if discover else "",
    ]
    return f"{' and '.join(filter(None, counts))} in {', '.join(sorted(settings.clouds))}"


def _calls(settings: Settings, cloud: str) -> str:
    """Return in words how many calls a minute the schedules of a cloud need, and how many there are."""
    budget = settings.clouds[cloud].calls_per_minute
    named = [one for one in settings.fleet() if one.cloud == cloud]
    discover = len(settings.discover_entries(cloud))
    beside = f"; what {_counted(discover, 'entry discovers', 'entries discover')} comes on top" if discover else ""
    return (
        f"{cloud}: {_counted(len(named), 'instance needs', 'instances need')} {tenths(calls_a_minute(named))}"
        f" calls a minute of {budget} ({bucket(budget)[1]:g} in the long run), at {float(CALLS_PER_CYCLE):g} calls for"
        f" each export{beside}"
    )


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
