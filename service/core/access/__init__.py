"""Callers and applications: how they are entered, changed and kept in bounds."""
