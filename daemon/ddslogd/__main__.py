"""python -m ddslogd."""

from ddslogd.cli.main import main

main()
