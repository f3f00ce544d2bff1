"""`python -m service` is `token-broker`."""

from service.cli import main

main()
