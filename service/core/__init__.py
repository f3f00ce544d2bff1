"""The work itself: no I/O library, no framework, nothing but the standard library."""
