"""What makes secrets fit to be stored, shown or compared."""
