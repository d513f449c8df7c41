"""Writes what bash, zsh and fish need to complete ddslogd, below a directory. Called by build."""

from __future__ import annotations

import sys
from pathlib import Path

from click.shell_completion import BashComplete, FishComplete, ZshComplete

from ddslogd.cli.main import commands

FILES = {
    BashComplete: "usr/share/bash-completion/completions/ddslogd",
    ZshComplete: "usr/share/zsh/vendor-completions/_ddslogd",
    FishComplete: "usr/share/fish/vendor_completions.d/ddslogd.fish",
}


def main(root: Path) -> None:
    """Write them as click generates them."""
    for kind, file in FILES.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(kind(commands, {}, "ddslogd", "_DDSLOGD_COMPLETE").source())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
