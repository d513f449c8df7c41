"""The project that calls are for: configured, or looked up once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddslogd.huaweicloud.single_flight import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Project:
    """A project's id, which the identity service is asked for where it is not configured; once for all who ask."""

    def __init__(self, configured: str, *, look_up: Callable[[], Coroutine[Any, Any, str]]) -> None:
        """Prepare; ``look_up`` gives the id where ``configured`` is empty."""
        self._id = configured
        self._look_up = Shared(look_up, name="look-up of a project")

    async def id(self) -> str:
        """Return the id.

        Raises:
            CloudError: It could not be looked up.
        """
        if not self._id:
            self._id = await self._look_up()
        return self._id
