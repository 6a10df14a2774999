"""`python -m aibrother_tools` is `aibrother-node`."""

from aibrother_tools.cli import main

main()
