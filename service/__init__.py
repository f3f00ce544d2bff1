"""The token broker: the only place that knows client secrets and refresh tokens."""

from importlib.metadata import version

__version__ = version("token-broker")
