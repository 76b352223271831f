"""Sinks: what reaches files, brokers and servers, also when they are down for a while."""

import csv
import http.server
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import tomllib
import urllib.request
import warnings
from collections import deque
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks import Sink, open_sink, opening
from skanopatch.streaming.sinks.mqtt import MQTTSink
from skanopatch.streaming.sinks.outbox import NotDelivered, OutboxSink
from skanopatch.streaming.sinks.prometheus import PrometheusSink
from skanopatch.streaming.sinks.secrets import masked
from skanopatch.streaming.sinks.webhook import WebhookSink

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
PATIENCE = 30  # seconds for what takes a moment on a machine that is not busy


def result(i, *, source="fan 3", distance=0.5, alarm="", in_alarm=False, note=""):
    score = -2 * distance
    return WindowResult(
        source, 1e9 + i, float(i), i + 10.0, score, distance, 0.25, alarm, in_alarm, note
    )


UNSCORED = result(1, distance=math.nan, note='silent; "cut", twice')


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- Opening ---------------------------------------------------------------------------------


def test_pyproject_names_the_sinks_that_are_built_in():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    prefix = "skanopatch.streaming.sinks."
    declared = tomllib.loads(text)["project"]["entry-points"][opening.ENTRY_POINTS]
    assert declared == {name: prefix + kind for name, kind in opening._BUILT_IN.items()}


class ListSink(Sink):
    def __init__(self, url):
        self.url, self.results = url, []

    @classmethod
    def from_url(cls, url):
        return cls(url)

    def write(self, result):
        self.results.append(result)


def test_an_entry_point_of_another_package_is_opened_by_its_scheme(monkeypatch):
    point = EntryPoint("list", "test_sinks:ListSink", opening.ENTRY_POINTS)
    monkeypatch.setattr(opening, "entry_points", lambda group: [point])
    with open_sink("list:all/of?it") as sink:
        assert (type(sink).__name__, sink.url) == ("ListSink", "list:all/of?it")
    assert open_sink("jsonl:-").close() is None  # the built-in ones are there too


@pytest.mark.parametrize("url", ["scores.csv", "csv:", "xmpp://me:hush@host/?token=hush"])
def test_a_url_without_a_sink_is_refused_with_the_schemes_and_no_secret(url):
    with pytest.raises(ValueError, match=r"one of csv:, http:, .*sqlite:.* Got ") as caught:
        open_sink(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mqtt://me:hush@broker:1883/hall/fan", "mqtt://***@broker:1883/hall/fan"),
        ("https://host/a/b?token=hush&x=1", "https://host/a/b?***"),
        ("mqtt://me:hu/sh@broker/fan", "mqtt://***"),
        ("mqtt://me:hu?sh@broker/fan", "mqtt://***"),
        ("https://host/?to=me@hush.org", "https://***"),
        ("https://a@b:hush@host/x", "https://***@host/x"),
        ("me:hush@host", "***"),
        ("scores.csv", "scores.csv"),
    ],
)
def test_users_passwords_and_queries_are_masked(url, shown):
    assert masked(url) == shown


# --- JSON lines and CSV ----------------------------------------------------------------------


def test_json_lines_hold_all_fields_and_nan_is_null(tmp_path):
    path = tmp_path / "scores.jsonl"
    with open_sink(f"jsonl:{path}") as sink:
        sink.write(result(0, alarm="on", in_alarm=True))
        sink.flush()
        assert path.read_text().count("\n") == 1  # there before the end
        sink.write(UNSCORED)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [result(0, alarm="on", in_alarm=True).as_dict(), UNSCORED.as_dict()]
    assert (lines[0]["time_utc"], lines[1]["score"]) == ("2001-09-09T01:46:40.000+00:00", None)


def test_csv_has_one_header_over_two_runs_and_empty_cells_for_nan(tmp_path):
    path = tmp_path / "scores.csv"
    for one in (result(0, source="fan, hall\n2"), UNSCORED):
        with open_sink(f"csv:{path}") as sink:
            sink.write(one)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["source"], r["score"], r["note"]) for r in rows] == [
        ("fan, hall\n2", "-1.0", ""),
        ("fan 3", "", 'silent; "cut", twice'),
    ]
    assert rows[1]["time_utc"] == "2001-09-09T01:46:41.000+00:00"


def test_standard_output_stays_open(capsysbinary):
    with open_sink("jsonl:-") as sink:
        sink.write(result(0))
    with open_sink("csv:-") as sink:
        sink.write(result(0))
    lines = capsysbinary.readouterr().out.decode().splitlines()
    assert json.loads(lines[0])["start"] == 0.0
    assert lines[1].startswith("source,time,start,")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "sqlite"])
def test_a_file_of_another_kind_is_left_alone(kind, tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("Roses are red\n" * 200)
    with pytest.raises(ValueError, match=r"poem\.txt' is no "):
        open_sink(f"{kind}:{path}")
    assert path.read_text() == "Roses are red\n" * 200


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_line_that_a_killed_process_left_unfinished_is_removed(kind, tmp_path):
    path = tmp_path / "scores"
    with open_sink(f"{kind}:{path}") as sink:
        sink.write(result(0))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"source": "fan')
    with (
        pytest.warns(UserWarning, match=r"ended within a line, whose 15 bytes were removed"),
        open_sink(f"{kind}:{path}") as sink,
    ):
        sink.write(result(1))
    assert path.read_bytes().startswith(whole)
    assert path.read_bytes().count(b"\n") == whole.count(b"\n") + 1


def test_results_wait_for_space_on_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "scores.jsonl"
    sink = open_sink(f"jsonl:{path}")
    sink.write(result(0))
    sink.flush()
    file = sink._file._file

    class Full(io.RawIOBase):
        """Takes five bytes, and then none."""

        def write(self, data):
            if len(data) < 150:
                raise OSError(28, "No space left on device")
            return file.write(bytes(data[: len(data) - 100]))

        fileno, truncate = file.fileno, file.truncate

    with monkeypatch.context() as patch:
        patch.setattr(sink._file, "_file", Full())
        sink.write(result(1))
        with pytest.warns(UserWarning, match=r"No space left on device.*kept in memory, at most"):
            sink.flush()
        sink.write(result(2))
        sink.flush()  # said once
        assert path.read_text().count("\n") == 1
        assert path.read_text().endswith("\n")  # nothing of a line
    with pytest.warns(UserWarning, match="delivered again"):
        sink.close()
    assert sink.n_lost == 0
    assert [json.loads(line)["start"] for line in path.read_text().splitlines()] == [0, 1, 2]


# --- Outbox ----------------------------------------------------------------------------------


class Flaky(OutboxSink):
    """Delivers to a list what `works` lets through."""

    def __init__(self, works=True, **kwargs):
        self.works, self.delivered, self.tries = works, [], 0
        super().__init__("flaky", first_pause=0.01, **kwargs)

    from_url = None

    def _deliver(self, result):
        self.tries += 1
        if not self.works:
            raise NotDelivered("down")
        self.delivered.append(result)


Flaky.__abstractmethods__ = frozenset()


def test_what_was_written_during_an_outage_is_delivered_after_it_in_order():
    sink = Flaky(works=False)
    sink.write(result(0))
    wait_until(lambda: sink.tries > 2)
    with pytest.warns(UserWarning, match="flaky: down. Results are kept in memory, at most 100000"):
        sink.write(result(1))
    sink.works = True
    wait_until(lambda: sink.n_waiting == 0)
    with pytest.warns(UserWarning, match="delivered again"):
        sink.close()
    assert sink.delivered == [result(0), result(1)]


def test_a_full_outbox_drops_the_oldest_and_counts():
    sink = Flaky(works=False, most_waiting=3, patience=5)
    sink.write(result(0))
    wait_until(lambda: sink.tries)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(1, 5):
            sink.write(result(i))
    said = [str(w.message) for w in caught]
    assert "flaky: more than 3 results wait. The oldest were dropped, 1 so far." in said
    sink.works = True
    with pytest.warns(UserWarning, match="2 results were lost"):
        sink.close()
    assert [r.start for r in sink.delivered] == [2, 3, 4]
    assert sink.n_lost == 2


def test_a_close_gives_up_after_its_patience_and_says_what_is_lost():
    sink = Flaky(works=False, patience=0.3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(4):
            sink.write(result(i))
        start = time.monotonic()
        sink.close()
    assert time.monotonic() - start < 5
    assert "flaky: 4 results could not be delivered and are lost." in [
        str(w.message) for w in caught
    ]
    assert sink.n_lost == 4


# --- Webhook ---------------------------------------------------------------------------------


class Server:
    """A web server on loopback that gives prepared answers, and then 204."""

    def __init__(self, port=0):
        self.bodies, self.headers, self.targets = [], [], []
        self.answers = deque()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = server.answers.popleft() if server.answers else (204, {})
                server.targets.append(self.path)
                server.headers.append(dict(self.headers))
                if status == 204:
                    server.bodies.append(json.loads(body))
                self.send_response(status)
                for pair in headers.items():
                    self.send_header(*pair)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_webhook_posts_json_with_what_the_url_says(server):
    with open_sink(f"http://me:a%40b@127.0.0.1:{server.port}/hook?token=abc") as sink:
        sink.write(result(0))
        sink.write(UNSCORED)
    assert server.bodies == [result(0).as_dict(), UNSCORED.as_dict()]
    assert server.targets[0] == "/hook?token=abc"
    assert server.headers[0]["Authorization"] == "Basic bWU6YUBi"  # base64 of me:a@b
    assert server.headers[0]["Content-Type"] == "application/json"


def test_a_token_of_the_environment_is_sent_as_a_bearer(server, monkeypatch):
    monkeypatch.setenv("SKANOPATCH_WEBHOOK_TOKEN", "hush")
    with open_sink(f"http://127.0.0.1:{server.port}/") as sink:
        sink.write(result(0))
    assert server.headers[0]["Authorization"] == "Bearer hush"


def test_a_webhook_for_alarms_gets_their_beginnings_and_ends_alone(server):
    with open_sink(f"http://127.0.0.1:{server.port}/#alarms") as sink:
        for i, alarm in enumerate(["", "on", "", "off", ""]):
            sink.write(result(i, alarm=alarm))
    assert [(body["start"], body["alarm"]) for body in server.bodies] == [(1, "on"), (3, "off")]


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302])
def test_an_answer_that_may_change_is_asked_for_again(server, status):
    server.answers.extend([(status, {"Location": "/elsewhere"})] * 2)
    sink = WebhookSink(f"http://127.0.0.1:{server.port}/", first_pause=0.05)
    sink.write(result(0))
    wait_until(lambda: server.bodies)
    with warnings.catch_warnings(action="ignore"):
        sink.close()
    assert (server.bodies, server.targets) == ([result(0).as_dict()], ["/"] * 3)


def test_a_server_that_asks_for_time_gets_it(server):
    server.answers.append((503, {"Retry-After": "1"}))
    start = time.monotonic()
    sink = WebhookSink(f"http://127.0.0.1:{server.port}/", first_pause=0.01)
    sink.write(result(0))
    wait_until(lambda: server.bodies)
    assert time.monotonic() - start >= 1
    with warnings.catch_warnings(action="ignore"):
        sink.close()


def test_a_refused_result_is_dropped_with_a_warning_and_the_next_one_is_sent(server):
    server.answers.append((422, {}))
    sink = WebhookSink(f"http://127.0.0.1:{server.port}/")
    sink.write(result(7))
    wait_until(lambda: sink.n_waiting == 0)
    with pytest.warns(UserWarning, match="status 422 refused the result of 'fan 3' at 7 s. It is"):
        sink.write(result(8))
    sink.close()
    assert [body["start"] for body in server.bodies] == [8]
    assert sink.n_lost == 1


def test_no_result_is_lost_while_the_server_is_down_and_no_secret_is_said():
    port = free_port()
    url = f"http://me:hush1@127.0.0.1:{port}/hush2?token=hush3"
    sink = WebhookSink(url, first_pause=0.05)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(20):
            sink.write(result(i))
            time.sleep(0.02)
        server = Server(port)
        wait_until(lambda: sink.n_waiting == 0)
        server.answers.extend([(500, {})] * 2)
        for i in range(20, 40):
            sink.write(result(i))
            time.sleep(0.02)
        sink.close()
        server.stop()
    assert [body["start"] for body in server.bodies] == list(range(40))
    said = " ".join(str(w.message) for w in caught) + repr(sink)
    assert f"http://***@127.0.0.1:{port}/***?***: no answer (Connection refused)" in said
    assert "hush" not in said


def test_https_does_not_speak_to_a_server_without_tls(server):
    sink = WebhookSink(f"https://127.0.0.1:{server.port}/", patience=0.5)
    sink.write(result(0))
    wait_until(lambda: sink._problem)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sink.close()
    said = [str(w.message) for w in caught]
    assert "no answer" in said[0]
    assert said[1].endswith("1 results could not be delivered and are lost.")
    assert server.bodies == []


@pytest.mark.parametrize(
    "url", ["https://", "http://me:hush@:80/", "http://h:hush/", "http://h/#x"]
)
def test_a_wrong_url_of_a_webhook_is_refused_without_its_secrets(url):
    with pytest.raises(ValueError, match="webhook m") as caught:
        open_sink(url)
    assert "hush" not in str(caught.value)


# --- MQTT ------------------------------------------------------------------------------------


class Broker:
    """A mosquitto on loopback."""

    def __init__(self, folder, port, *, password_file=None):
        lines = [f"listener {port} 127.0.0.1", "max_queued_messages 0"]
        lines.append("allow_anonymous " + ("false" if password_file else "true"))
        lines += [f"password_file {password_file}"] * (password_file is not None)
        lines += ["persistence true", f"persistence_location {folder}/", "user root"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self.folder, self.port = folder, port
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers)

    def _answers(self):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path):
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not on the PATH")
    pytest.importorskip("paho.mqtt.client")
    broker = Broker(tmp_path, free_port())
    yield broker
    broker.kill()


class Subscriber:
    """Collects what is published."""

    def __init__(self, port, topic="#"):
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages, self.ready = [], threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "reader", clean_session=False)
        self.client.on_message = lambda c, _, m: self.messages.append(
            (m.topic, m.payload.decode(), m.retain)
        )
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_connect = lambda c, *_: c.subscribe(topic, 1)
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(PATIENCE)

    def starts(self, topic):
        return [json.loads(text)["start"] for t, text, _ in list(self.messages) if t == topic]

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


def test_mqtt_publishes_results_alarms_and_a_status(broker):
    reader = Subscriber(broker.port)
    with open_sink(f"mqtt://127.0.0.1:{broker.port}/hall/fan") as sink:
        sink.write(result(0))
        sink.write(result(1, alarm="on", in_alarm=True))
        wait_until(lambda: len(reader.messages) == 4)
    wait_until(lambda: len(reader.messages) == 5)
    reader.stop()
    assert reader.starts("hall/fan") == [0, 1]
    assert json.loads(next(m[1] for m in reader.messages if m[0] == "hall/fan")) == (
        result(0).as_dict()
    )
    assert [m[1] for m in reader.messages if m[0] == "hall/fan/status"] == ["online", "offline"]
    late = Subscriber(broker.port, "hall/fan/alarm")
    wait_until(lambda: late.messages)
    late.stop()
    (_, text, is_retained), *rest = late.messages
    assert (json.loads(text)["alarm"], is_retained, rest) == ("on", True, [])


def test_mqtt_loses_no_result_while_the_broker_is_killed_and_comes_back(broker):
    sink = open_sink(f"mqtt://127.0.0.1:{broker.port}/fan")
    reader = Subscriber(broker.port, "fan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(60):
            if i == 20:
                wait_until(lambda: len(set(reader.starts("fan"))) == 20)
                broker.kill()
            if i == 40:
                wait_until(lambda: sink._problem)
                sink.write(result(1000))
                reader.stop()
                broker.start()
                reader_again = Subscriber(broker.port, "fan")
            sink.write(result(i))
            time.sleep(0.01)
        sink.close()
    wait_until(lambda: 59 in reader_again.starts("fan"))
    reader_again.stop()
    starts = reader.starts("fan") + reader_again.starts("fan")
    assert set(starts) == {*range(60), 1000}  # some may come twice
    assert list(dict.fromkeys(starts)) == [*range(40), 1000, *range(40, 60)]
    said = [str(w.message) for w in caught]
    assert any("the broker does not answer. Results are kept in memory" in text for text in said)
    assert not any("lost" in text for text in said)


def test_mqtt_counts_a_result_as_delivered_when_the_broker_confirms_it(broker):
    with open_sink(f"mqtt://127.0.0.1:{broker.port}/fan") as sink:
        sink.write(result(0))
        wait_until(lambda: sink.n_waiting == 0)
        broker.process.send_signal(signal.SIGSTOP)  # connected, but silent
        sink.write(result(1))
        time.sleep(0.3)
        assert sink.n_waiting == 1
        broker.process.send_signal(signal.SIGCONT)
        wait_until(lambda: sink.n_waiting == 0)


def test_mqtts_does_not_speak_to_a_broker_without_tls(broker):
    sink = open_sink(f"mqtts://127.0.0.1:{broker.port}/fan")
    sink.patience = 0.5
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sink.write(result(0))
        wait_until(lambda: sink._problem)
        sink.close()
    assert "1 results could not be delivered and are lost" in str(caught[-1].message)


@pytest.mark.slow
def test_mqtt_starts_before_its_broker(tmp_path, broker):
    broker.kill()
    sink = open_sink(f"mqtt://127.0.0.1:{broker.port}/fan")
    with warnings.catch_warnings(action="ignore"):
        sink.write(result(0))
        broker.start()
        reader = Subscriber(broker.port, "fan")
        wait_until(lambda: reader.starts("fan") == [0])
        sink.close()
    reader.stop()


def test_mqtt_takes_its_password_from_the_environment_and_says_when_it_is_wrong(
    tmp_path, monkeypatch, broker
):
    broker.kill()
    (tmp_path / "users").write_text("me:hush\n")
    (tmp_path / "users").chmod(0o600)
    tool = shutil.which("mosquitto_passwd", path=f"{os.environ['PATH']}:/usr/sbin")
    if tool is None:
        pytest.skip("mosquitto_passwd is not on the PATH")
    subprocess.run([tool, "-U", str(tmp_path / "users")], check=True)
    guarded = Broker(tmp_path, broker.port, password_file=tmp_path / "users")
    url = f"mqtt://me@127.0.0.1:{guarded.port}/fan"
    try:
        monkeypatch.setenv("SKANOPATCH_MQTT_PASSWORD", "hush")
        with open_sink(url) as sink:
            sink.write(result(0))
            wait_until(lambda: sink.n_waiting == 0)
        sink = MQTTSink.from_url(url.replace("me@", "me:hush5@"))
        sink.patience = 0.5
        sink.write(result(0))
        wait_until(lambda: sink._problem)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sink.close()
        said = " ".join(str(w.message) for w in caught)
        assert f"mqtt://127.0.0.1:{guarded.port}/fan: the broker refuses: Not authorized" in said
        assert "1 results could not be delivered and are lost" in said
        assert "hush" not in said
    finally:
        guarded.kill()


@pytest.mark.parametrize(
    "url", ["mqtt://me:hush@/fan", "mqtt://h:hush/fan", "mqtt://me:hush@h/", "mqtt://h/fan/#"]
)
def test_a_wrong_url_of_mqtt_is_refused_without_its_secrets(url):
    with pytest.raises(ValueError, match="MQTT must") as caught:
        open_sink(url)
    assert "hush" not in str(caught.value)


def test_mqtt_without_paho_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "paho.mqtt", None)
    with pytest.raises(ValueError, match=r"pip install 'skanopatch\[mqtt\]'"):
        open_sink("mqtt://127.0.0.1/fan")


# --- Prometheus ------------------------------------------------------------------------------


def fetch(port, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def samples(text):
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {s.name: s.value for family in families for s in family.samples}


def test_prometheus_serves_the_newest_window_and_counts_all():
    with PrometheusSink(0) as sink:
        kind, text = fetch(sink.port)
        assert kind.startswith("text/plain; version=0.0.4")
        assert samples(text) == {
            f"skanopatch_{name}_total": 0
            for name in ("windows", "anomalous_windows", "unscored_windows", "alarms")
        }
        sink.write(result(0, distance=1.5, alarm="on", in_alarm=True))
        sink.write(result(1, distance=1.25, in_alarm=True))
        sink.write(result(2, distance=0.5, alarm="off"))
        assert samples(fetch(sink.port)[1]) == {
            "skanopatch_distance": 0.5,
            "skanopatch_p_value": 0.25,
            "skanopatch_in_alarm": 0,
            "skanopatch_last_window_timestamp_seconds": 1e9 + 12,
            "skanopatch_windows_total": 3,
            "skanopatch_anomalous_windows_total": 2,
            "skanopatch_unscored_windows_total": 0,
            "skanopatch_alarms_total": 1,
        }
        sink.write(UNSCORED)
        found = samples(fetch(sink.port)[1])
        assert math.isnan(found["skanopatch_distance"])
        assert found["skanopatch_unscored_windows_total"] == 1
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(sink.port, "/secret")


def test_prometheus_listens_on_loopback_unless_a_host_is_named():
    port = free_port()
    with open_sink(f"prometheus:{port}") as sink:
        assert sink._server.server_address == ("127.0.0.1", port)
        with pytest.raises(ValueError, match=rf"prometheus:127.0.0.1:{port} cannot be listened on"):
            open_sink(f"prometheus:{port}")
    with open_sink(f"prometheus:127.0.0.2:{port}") as sink:  # and the port is free again
        assert sink._server.server_address[0] == "127.0.0.2"


@pytest.mark.parametrize("url", ["prometheus:http", "prometheus:host:", "prometheus:70000"])
def test_a_wrong_port_of_prometheus_is_refused(url):
    with pytest.raises(ValueError, match=r"must be prometheus:PORT or prometheus:HOST:PORT. Got"):
        open_sink(url)
