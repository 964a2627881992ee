"""`python -m clearloop` is the command line."""

from clearloop.cli import main

main()
