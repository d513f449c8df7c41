"""python -m ddslogd."""

from ddslogd.cli import main

main()
