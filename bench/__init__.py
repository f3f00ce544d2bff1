"""The performance numbers, in one command: `make bench`."""
