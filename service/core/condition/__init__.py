"""How the process and the parts it leans on are."""
