"""What messages may show of a URL."""

from __future__ import annotations

import re

_MASK = "***"
_HOST = re.compile(r"([\w.-]*|\[[\w:.%]*\])(:\d*)?")  # with a port
_URL = re.compile(r"([a-zA-Z][\w+.-]*:)//([^/?#]*)([^?#]*)(.*)", re.DOTALL)


def masked(url: str, *, path: bool = True) -> str:
    """Return a URL without its user, password and query, for messages.

    Parameters
    ----------
    url : str
    path : bool, default=True
        False leaves the path out too, which is a secret of many webhooks.

    Examples
    --------
    >>> from skanopatch.streaming.sinks.secrets import masked
    >>> masked("mqtt://me:secret@broker:1883/hall/fan")
    'mqtt://***@broker:1883/hall/fan'
    >>> masked("https://hooks.example.org/T0/B1?token=secret", path=False)
    'https://hooks.example.org/***?***'
    """
    found = _URL.fullmatch(url)
    if found is None:  # a file, or no URL
        return _MASK if "@" in url or "?" in url else url
    scheme, network, own_path, query = found.groups()
    _, at, host = network.rpartition("@")
    if ("@" in own_path + query and not at) or not _HOST.fullmatch(host):
        return f"{scheme}//{_MASK}"  # perhaps a password with one of /?#
    if own_path.strip("/") and not path:
        own_path = f"/{_MASK}"
    return (
        scheme
        + "//"
        + (f"{_MASK}@" if at else "")
        + host
        + own_path
        + (f"?{_MASK}" if query.startswith("?") else "")
    )
