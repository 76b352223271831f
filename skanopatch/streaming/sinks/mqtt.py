"""MQTTSink: publishes results to a broker, ``mqtt://USER@HOST:PORT/TOPIC``."""

from __future__ import annotations

import json
import os
import ssl
from itertools import count
from threading import Condition
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks.outbox import NotDelivered, OutboxSink
from skanopatch.streaming.sinks.secrets import masked

_PASSWORD = "SKANOPATCH_MQTT_PASSWORD"
_QOS = 1  # at least once
_CONFIRMATION = 10  # seconds without one that are an outage


class MQTTSink(OutboxSink):
    """Publishes each result as JSON with QoS 1, until the broker confirms it.

    It publishes to TOPIC each result; to TOPIC/alarm those with which an alarm begins or ends,
    retained; to TOPIC/status "online" or "offline", retained, the latter also if the process dies.

    Parameters
    ----------
    host : str
    topic : str
    port : int, default=1883
    user, password : str, default=None
    tls : bool, default=False
        Whether to encrypt, with the certificates that the system trusts.
    keepalive : int, default=30
        Seconds after which a broker that is silent is asked whether it is there.
    **kwargs
        Of `OutboxSink`.

    Notes
    -----
    A URL without a password takes that of the environment variable ``SKANOPATCH_MQTT_PASSWORD``.
    """

    def __init__(
        self,
        host: str,
        topic: str,
        *,
        port: int = 1883,
        user: str | None = None,
        password: str | None = None,
        tls: bool = False,
        keepalive: int = 30,
        **kwargs: Any,
    ):
        if not topic or set(topic) & set("+#\0"):
            raise ValueError(f"The topic of MQTT must not be empty or hold + or #. Got {topic!r}.")
        try:
            from paho.mqtt import client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise ValueError(
                "MQTT needs paho-mqtt: pip install 'skanopatch[mqtt]', or pip install paho-mqtt."
            ) from error
        self.topic = topic
        self._answered = Condition()
        self._confirmed: set[int] = set()
        self._refusal = ""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        if user is not None:
            self._client.username_pw_set(user, password)
        if tls:
            self._client.tls_set_context(ssl.create_default_context())
        self._client.will_set(f"{topic}/status", "offline", _QOS, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.reconnect_delay_set(1, 60)
        self._client.connect_async(host, port, keepalive)
        self._client.loop_start()
        super().__init__(f"mqtt{'s' * tls}://{host}:{port}/{topic}", **kwargs)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open ``mqtt://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC``; ``mqtts://`` encrypts."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            port, parts = None, urlsplit("")
        if not parts.hostname or set(url) & set("?#"):
            raise ValueError(
                "The URL of MQTT must be mqtt://USER@HOST:PORT/TOPIC, with special characters of "
                f"a password as in %2F. Got {masked(url)!r} instead."
            )
        tls = parts.scheme == "mqtts"
        password = os.environ.get(_PASSWORD) if parts.password is None else unquote(parts.password)
        return cls(
            parts.hostname,
            unquote(parts.path[1:]),
            port=port or (8883 if tls else 1883),
            user=None if parts.username is None else unquote(parts.username),
            password=password,
            tls=tls,
        )

    def close(self) -> None:
        """Deliver what is in the outbox for at most `patience` seconds, and disconnect."""
        super().close()
        if self._client.is_connected():
            status = self._client.publish(f"{self.topic}/status", "offline", _QOS, retain=True)
            status.wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _deliver(self, result: WindowResult) -> None:
        text = json.dumps(result.as_dict())
        self._publish(self.topic, text)
        if result.alarm:
            self._publish(f"{self.topic}/alarm", text, retain=True)

    def _publish(self, topic: str, text: str, retain: bool = False) -> None:
        """Publish a text and wait for its confirmation, over outages too."""
        with self._answered:
            if not self._answered.wait_for(self._client.is_connected, 1.0):
                raise NotDelivered(self._refusal or "the broker does not answer")
            self._confirmed.clear()
        # Without the lock: paho-mqtt has its own, under which it calls _on_publish. It keeps the
        # message, and sends it again after an outage.
        number = self._client.publish(topic, text, _QOS, retain).mid
        for seconds in count(1):
            with self._answered:
                if self._answered.wait_for(lambda: number in self._confirmed, 1.0):
                    return
            if not self._client.is_connected():
                self._hold(self._refusal or "the broker does not answer")
            elif seconds >= _CONFIRMATION:
                self._hold("the broker does not confirm")

    def _on_connect(self, client: Any, _: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._answered:
            self._refusal = f"the broker refuses: {reason}" if reason.is_failure else ""
            self._answered.notify_all()
        if not reason.is_failure:
            client.publish(f"{self.topic}/status", "online", _QOS, retain=True)

    def _on_publish(self, client: Any, _: Any, number: int, *rest: Any) -> None:
        with self._answered:
            self._confirmed.add(number)
            self._answered.notify_all()
