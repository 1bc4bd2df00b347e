"""A reaper for Testcontainers, whose own image cannot be pulled: as its program does, it takes filters over a connection,
and when all connections have been gone for a while it removes the containers, networks and volumes that they choose."""

import http.client
import json
import os
import socket
import socketserver
import threading
import urllib.parse

SOCKET = "/var/run/docker.sock"
WAIT_S = int(os.environ.get("RYUK_RECONNECTION_TIMEOUT", "10s").rstrip("s"))

filters = []
connected = 0
changed = threading.Condition()


class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def ask(method, path, **query):
    connection = Engine("localhost")
    connection.request(method, f"/v1.41{path}?{urllib.parse.urlencode(query)}")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return json.loads(body) if body.startswith((b"[", b"{")) else None


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        global connected
        with changed:
            connected += 1
            changed.notify()
        try:
            for line in self.rfile:
                chosen = urllib.parse.parse_qs(line.strip().decode())
                if chosen and chosen not in filters:
                    filters.append(chosen)
                self.wfile.write(b"ACK\n")
        except OSError:
            pass
        with changed:
            connected -= 1
            changed.notify()


def reap():
    for chosen in filters:
        query = {"filters": json.dumps(chosen)}
        for container in ask("GET", "/containers/json", all=1, **query):
            # It removes itself last, by ending.
            if not container["Id"].startswith(socket.gethostname()):
                ask("DELETE", f"/containers/{container['Id']}", force=1, v=1)
        ask("POST", "/networks/prune", **query)
        ask("POST", "/volumes/prune", **query)


server = socketserver.ThreadingTCPServer(("", 8080), Session)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ryuk Started!", flush=True)
with changed:
    # A session that does not come within a minute never will.
    changed.wait_for(lambda: connected, 60)
    while True:
        changed.wait_for(lambda: not connected)
        if not changed.wait_for(lambda: connected, WAIT_S):
            break
reap()
