"""HTTP in: routes translate, nothing more."""
