"""Where a URL leads: what is compared before somebody, or a secret, is sent there."""

from urllib.parse import urlsplit

_OWN_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> str | None:
    """Scheme, host and port (RFC 6454) of an absolute http(s) URL that hides nothing; None for anything else."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in _OWN_PORTS or not parts.hostname or "@" in parts.netloc or "\\" in url:
            return None
        port = "" if parts.port in {None, _OWN_PORTS[parts.scheme]} else f":{parts.port}"
    except ValueError:
        return None
    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in url):
        return None
    host = parts.hostname.lower()
    return f"{parts.scheme}://[{host}]{port}" if ":" in host else f"{parts.scheme}://{host}{port}"
