"""WebhookSink: a POST for each result, or for each alarm, ``https://...``."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
from email.message import Message
from typing import Any, Self
from urllib.parse import unquote, urldefrag, urlsplit

import skanopatch
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks.outbox import NotDelivered, OutboxSink, Refused
from skanopatch.streaming.sinks.secrets import masked

_TOKEN = "SKANOPATCH_WEBHOOK_TOKEN"
_ALARMS = "alarms"  # the fragment of a URL that asks for alarms alone
_REFUSALS = {400, 413, 422}  # of this content: to send it again is of no use
_LONGEST_WAIT = 3600.0  # seconds that a server may ask for


class WebhookSink(OutboxSink):
    """Posts each result as JSON to a web server, until the server answers with a 2xx.

    Other answers and a server that does not answer are tried again; 400, 413 and 422 refuse the
    result itself, which is then dropped with a warning. Redirects are not followed.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``; a user and password in it go into the header Authorization.
    alarms_only : bool, default=False
        Whether to post only results with which an alarm begins or ends.
    timeout : float, default=10.0
        Seconds to wait for an answer.
    **kwargs
        Of `OutboxSink`.

    Notes
    -----
    The environment variable ``SKANOPATCH_WEBHOOK_TOKEN``, if there is one, is sent as a bearer
    token. Warnings hold no user, password, path and query of the URL.
    """

    def __init__(
        self, url: str, *, alarms_only: bool = False, timeout: float = 10.0, **kwargs: Any
    ):
        self.alarms_only, self.timeout = alarms_only, timeout
        name = masked(url, path=False)
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname, parts.port
        except ValueError:
            self._host = None
        if not self._host or parts.scheme not in ("http", "https"):
            raise ValueError(f"A webhook must be http(s)://HOST[:PORT]/... Got {name!r} instead.")
        self._is_secure = parts.scheme == "https"
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": f"skanopatch/{skanopatch.__version__}",
            **_authorization(parts.username, parts.password),
        }
        super().__init__(name, **kwargs)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open ``https://...``; one that ends in ``#alarms`` gets alarms alone."""
        address, fragment = urldefrag(url)
        if fragment not in ("", _ALARMS):
            raise ValueError(
                f"A webhook may end in #{_ALARMS}. Got another #... of {masked(url, path=False)!r}."
            )
        return cls(address, alarms_only=fragment == _ALARMS)

    def write(self, result: WindowResult) -> None:
        """Put a result into the outbox."""
        if result.alarm or not self.alarms_only:
            super().write(result)
        else:
            self.flush()

    def _deliver(self, result: WindowResult) -> None:
        body = json.dumps(result.as_dict()).encode()
        try:
            status, headers = self._post(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The words of other errors may hold the URL.
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise NotDelivered(f"no answer ({reason})") from None
        if status in _REFUSALS:
            raise Refused(
                f"status {status} refused the result of '{result.source}' at {result.start:g} s"
            )
        if not 200 <= status < 300:
            raise NotDelivered(f"status {status}", pause=_retry_after(headers))

    def _post(self, body: bytes) -> tuple[int, Message]:
        """Post a body on a connection of its own; return the status and the headers."""
        connection: http.client.HTTPConnection
        if self._is_secure:
            connection = http.client.HTTPSConnection(
                self._host or "",
                self._port,
                timeout=self.timeout,
                context=ssl.create_default_context(),
            )
        else:
            connection = http.client.HTTPConnection(
                self._host or "", self._port, timeout=self.timeout
            )
        try:
            connection.request("POST", self._target, body, self._headers)
            response = connection.getresponse()
            return response.status, response.headers
        finally:
            connection.close()


def _authorization(user: str | None, password: str | None) -> dict[str, str]:
    """Return the header that a URL or the environment asks for, or none."""
    if user is not None:
        pair = f"{unquote(user)}:{unquote(password or '')}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    token = os.environ.get(_TOKEN)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _retry_after(headers: Message) -> float:
    """Return the seconds that a server asks to wait; dates are left to the usual pauses."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), _LONGEST_WAIT) if text.isdigit() else 0.0
