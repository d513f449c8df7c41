"""What happens while an export is watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddslogd.model.cycle import Silent

if TYPE_CHECKING:
    from ddslogd.model.snapshot import LogFile


class Interfering(Silent):
    """Does something once, when the first bytes of a transfer have come."""

    def __init__(self, deed: Any) -> None:
        self._deed = deed

    def advanced(self, file: LogFile, size: int) -> None:  # noqa: ARG002  # any progress will do
        deed, self._deed = self._deed, None
        if deed is not None:
            deed()
