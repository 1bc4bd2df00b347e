"""A client of the Engine API over a unix socket. It keeps its connection, so that a command line's start-up is not measured."""

import http.client
import json
import socket
import urllib.parse

VERSION = "/v1.41"
ACCEPTED = (200, 201, 204, 304)


class Refused(Exception):
    """The engine answered with an error."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Engine:
    """One engine. Not for several threads at once."""

    def __init__(self, path, timeout=120):
        self.path = str(path)
        self.timeout = timeout
        self.connection = UnixConnection(self.path, timeout)

    def call(self, method, path, body=None):
        """Sends a request and returns the decoded answer; an idle connection that was closed is opened again."""
        data = None if body is None else json.dumps(body)
        return self._decoded(method, path, data, "application/json")

    def load(self, archive):
        """Loads an image archive."""
        with open(archive, "rb") as file:
            self._decoded("POST", "/images/load?quiet=1", file.read(), "application/x-tar", decode=False)

    def build(self, context, name):
        """Builds an image of a context, an archive in memory, as the classic builder does."""
        status, answer = self._exchange("POST", f"/build?t={name}&rm=1&forcerm=1", context, "application/x-tar")
        if status != 200 or b'"error"' in answer:
            raise Refused(f"build: {status} {answer[-300:].decode(errors='replace')}")

    def _decoded(self, method, path, data, content_type, decode=True):
        status, answer = self._exchange(method, path, data, content_type)
        if status not in ACCEPTED:
            raise Refused(f"{method} {path}: {status} {answer[:300].decode(errors='replace')}")
        return json.loads(answer) if decode and answer else None

    def _exchange(self, method, path, data, content_type):
        for last in (False, True):
            try:
                self.connection.request(method, VERSION + path, data, {"Content-Type": content_type})
                response = self.connection.getresponse()
                return response.status, response.read()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.connection.close()
                self.connection = UnixConnection(self.path, self.timeout)
                if last:
                    raise
        raise AssertionError("the loop above returns or raises")


def query(filters):
    """Filters as the API takes them."""
    return urllib.parse.quote(json.dumps(filters))


def service(name, image, replicas, constraints=()):
    """A service of sleeping containers that end at once when they are stopped."""
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": image, "Command": ["sleep", "1d"], "StopSignal": "SIGKILL"},
            "Placement": {"Constraints": list(constraints)},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def tasks(engine, service_id):
    """Tasks of a service that should run."""
    return engine.call("GET", "/tasks?filters=" + query({"service": [service_id], "desired-state": ["running"]}))


def running(engine, service_id):
    """How many tasks of a service run."""
    return sum(task["Status"]["State"] == "running" for task in tasks(engine, service_id))
