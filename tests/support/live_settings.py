"""The settings of parts that a test builds one by one."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ddslogd.config import loader
from ddslogd.config.live_settings import LiveSettings

if TYPE_CHECKING:
    from ddslogd.config.settings import Settings

TEXT = """\
clouds:
  sandbox:
    endpoint: https://dds.x.eu
    project_id: p
    auth: {method: token, token: {env: DDSLOGD_TOKEN}}
storage: {keep_free: 0, snapshots: all}
instances:
  - {id: 00000000000000000000000000000001in02, name: orders}
"""


@cache
def _settings() -> Settings:
    return loader.parse(TEXT, "test").settings


def live_settings(**sections: dict[str, Any]) -> LiveSettings:
    """Return settings that keep nothing free, and all snapshots, but with other values in some sections."""
    base = _settings()
    given = {name: getattr(base, name).model_copy(update=values) for name, values in sections.items()}
    return LiveSettings(base.model_copy(update=given))
