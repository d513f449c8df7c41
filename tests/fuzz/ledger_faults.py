"""What happens to a ledger while nobody uses it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

NAME = "ledger.sqlite3"


class LedgerFaults:
    """Removes, exchanges and damages the ledger in a directory, which need not be there."""

    def __init__(self, state: Path, copies: Path, random: Random) -> None:
        self._state = state
        self._copies = copies
        self._random = random

    def strike(self) -> str:
        """Do one thing; return what it was, empty for nothing that harms."""
        what, copied = self._random.choice(("removed", "put back", "damaged")), self._random.random() < 0.3
        if not (self._state / NAME).exists():
            return ""
        if copied or not self._copies.exists():
            self._copy()
            return ""
        match what:
            case "removed":
                self._remove()
            case "put back":
                self._remove()
                for path in self._copies.iterdir():
                    shutil.copy(path, self._state)
            case _:
                self._damage()
        return what

    def _files(self) -> list[Path]:
        return sorted(self._state.glob(f"{NAME}*"))

    def _copy(self) -> None:
        shutil.rmtree(self._copies, ignore_errors=True)
        self._copies.mkdir()
        for path in self._files():
            shutil.copy(path, self._copies)

    def _remove(self) -> None:
        for path in self._files():
            path.unlink()

    def _damage(self) -> None:
        """Turn some bytes of the main file."""
        path = self._state / NAME
        data = bytearray(path.read_bytes())
        for _ in range(self._random.randint(1, 40)):
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        path.write_bytes(data)
