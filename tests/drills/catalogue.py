"""All drills: importing this registers them."""

from tests.drills import of_providers, of_servers, of_settings
from tests.drills.drill import DRILLS

__all__ = ["DRILLS", "of_providers", "of_servers", "of_settings"]
