"""HTTP, SQL, files and crypto out: one library each, never each other."""
