"""`python -m chatcore` is the same as `chatcore`."""

from chatcore.cli import main

main()
