"""The work that a process does by itself, with nobody waiting."""
