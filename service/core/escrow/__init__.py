"""Answers that wait for the database, and how they are found again."""
