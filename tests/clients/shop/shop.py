"""Sells things: orders are rows of PostgreSQL, and their number is remembered in redis."""

import http.server
import os
import signal
import socket

import psycopg2


def redis(*words):
    """Asks the cache and returns its answer, without the mark of its kind."""
    request = b"*%d\r\n" % len(words)
    for word in words:
        data = str(word).encode()
        request += b"$%d\r\n%s\r\n" % (len(data), data)
    with socket.create_connection(("redis", 6379), 10) as connection:
        connection.sendall(request)
        stream = connection.makefile("rb")
        line = stream.readline().rstrip().decode()
        if line.startswith("-"):
            raise OSError(line)
        if line.startswith("$") and line != "$-1":
            return stream.read(int(line[1:])).decode()
        return None if line == "$-1" else line[1:]


def database():
    """A new connection: the database may have been restarted."""
    return psycopg2.connect(os.environ["DATABASE"], password=os.environ["POSTGRES_PASSWORD"], connect_timeout=10)


class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            answer = self.answer(self.path.strip("/").split("/"))
            self.send_response(200)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
            self.send_response(500)
        self.end_headers()
        self.wfile.write(f"{answer}\n".encode())

    def answer(self, path):
        match path:
            case ["health"]:
                return redis("PING")
            case ["host"]:
                return socket.gethostname()
            case ["order", thing]:
                with database() as connection, connection.cursor() as cursor:
                    cursor.execute("INSERT INTO orders (thing) VALUES (%s)", (thing,))
                redis("DEL", "count")
                return "ordered"
            case ["count"]:
                known = redis("GET", "count")
                if known is not None:
                    return f"{known} from the cache"
                with database() as connection, connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM orders")
                    (count,) = cursor.fetchone()
                redis("SET", "count", count)
                return f"{count} from the database"
        raise ValueError(f"there is no {self.path}")


# Replicas may start at once, and CREATE TABLE IF NOT EXISTS alone is no protection against that.
with database() as connection, connection.cursor() as cursor:
    cursor.execute("SELECT pg_advisory_xact_lock(1)")
    cursor.execute("CREATE TABLE IF NOT EXISTS orders (thing text)")
signal.signal(signal.SIGINT, lambda *_: exit(0))
print("serving")
http.server.ThreadingHTTPServer(("", 8000), Shop).serve_forever()
