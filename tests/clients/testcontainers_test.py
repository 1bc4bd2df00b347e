"""What people do with Testcontainers for Python: databases of a test, generic containers, waiting, networks, the reaper."""

import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import docker
import sqlalchemy
from testcontainers.core.container import DockerContainer, Reaper
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import (
    CompositeWaitStrategy,
    ContainerStatusWaitStrategy,
    ExecWaitStrategy,
    HealthcheckWaitStrategy,
    HttpWaitStrategy,
    LogMessageWaitStrategy,
    PortWaitStrategy,
)
from testcontainers.postgres import PostgresContainer
from testcontainers.redis import RedisContainer

PYTHON = "python:debian"
# What a program in a container gets from an address.
ASK = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=20).read().decode(), end='')"
# A web server that is slow to begin, so that there is something to wait for.
SLOW = "echo beginning; sleep 1; mkdir /www; echo page > /www/page; touch /ready; echo begun; exec httpd -f -v -p 8000 -h /www"


def listed():
    """Ids of all containers."""
    # The other list asks for each of them, and fails when one goes meanwhile.
    return {container["Id"] for container in docker.from_env().api.containers(all=True)}


class Modules(unittest.TestCase):
    def test_postgres(self):
        with PostgresContainer("postgres:debian", password="it's") as postgres:
            engine = sqlalchemy.create_engine(postgres.get_connection_url())
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text("create table things (name text)"))
                connection.execute(sqlalchemy.text("insert into things select 'thing ' || n from generate_series(1, 1000) n"))
            with engine.begin() as connection:
                count, version = connection.execute(sqlalchemy.text("select count(*), version() from things")).one()
            self.assertEqual(count, 1000)
            self.assertTrue(version.startswith("PostgreSQL "), version)
            id = postgres.get_wrapped_container().id
        self.assertNotIn(id, listed())

    def test_redis(self):
        with RedisContainer("redis:debian") as redis:
            client = redis.get_client(decode_responses=True)
            client.hset("thing", mapping={"colour": "red"})
            self.assertEqual(client.hgetall("thing"), {"colour": "red"})
            with client.pubsub() as channel:
                channel.subscribe("news")
                self.assertEqual(channel.get_message(timeout=10)["type"], "subscribe")
                client.publish("news", "none")
                self.assertEqual(channel.get_message(timeout=10)["data"], "none")

    def test_redis_with_a_password(self):
        with RedisContainer("redis:debian", password="secret") as redis:
            self.assertTrue(redis.get_client().ping())
            self.assertIn("NOAUTH", redis.exec(["redis-cli", "ping"]).output.decode())


class Generic(unittest.TestCase):
    def server(self, strategy):
        container = DockerContainer(PYTHON).with_command(["sh", "-c", SLOW]).with_exposed_ports(8000)
        return container.waiting_for(strategy.with_startup_timeout(60))

    def page(self, container):
        host, port = container.get_container_host_ip(), container.get_exposed_port(8000)
        with urllib.request.urlopen(f"http://{host}:{port}/page", timeout=20) as answer:
            return answer.read().decode()

    def test_strategies_wait_until_it_serves(self):
        for strategy in (
            LogMessageWaitStrategy("begun"),
            HttpWaitStrategy(8000, "/page").for_status_code(200),
            ExecWaitStrategy(["test", "-e", "/ready"]),
            CompositeWaitStrategy(ContainerStatusWaitStrategy(), LogMessageWaitStrategy("begun"), PortWaitStrategy(8000)),
        ):
            with self.subTest(type(strategy).__name__), self.server(strategy) as container:
                self.assertEqual(self.page(container), "page\n")

    def test_health_is_waited_for(self):
        check = {"test": ["CMD", "test", "-e", "/ready"], "interval": 500_000_000, "retries": 100}
        with self.server(HealthcheckWaitStrategy()).with_kwargs(healthcheck=check) as container:
            self.assertEqual(self.page(container), "page\n")

    def test_one_that_ends_is_not_waited_for(self):
        container = DockerContainer(PYTHON).with_command("false")
        container.waiting_for(LogMessageWaitStrategy("never").with_startup_timeout(60))
        began = time.monotonic()
        with self.assertRaises(RuntimeError):
            container.start()
        self.assertLess(time.monotonic() - began, 30)
        container.stop()

    def test_environment_volumes_logs_and_exec(self):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "file").write_text("from the host\n")
            container = DockerContainer(PYTHON).with_env("NAME", "a value").with_volume_mapping(directory, "/mnt", "rw")
            container.with_command(["sh", "-c", "cat /mnt/file; echo wrong >&2; exec sleep 100000"]).with_kwargs(init=True)
            container.waiting_for(LogMessageWaitStrategy("wrong"))
            with container:
                self.assertEqual(container.get_logs(), (b"from the host\n", b"wrong\n"))
                code, output = container.exec(["sh", "-c", 'echo "$NAME" | tee /mnt/answer; exit 3'])
                self.assertEqual((code, output), (3, b"a value\n"))
                self.assertEqual(pathlib.Path(directory, "answer").read_text(), "a value\n")

    def test_networks_have_names(self):
        with Network() as network:
            server = self.server(LogMessageWaitStrategy("begun")).with_network(network).with_network_aliases("server", "www")
            client = DockerContainer(PYTHON).with_network(network).with_command("sleep 100000").with_kwargs(init=True)
            with server, client:
                for name in ("server", "www"):
                    code, output = client.exec(["python3", "-c", ASK, f"http://{name}:8000/page"])
                    self.assertEqual((code, output), (0, b"page\n"))
            id = network.id
        self.assertNotIn(id, {found.id for found in docker.from_env().networks.list()})


class Reaping(unittest.TestCase):
    def test_what_a_killed_session_leaves_is_removed(self):
        script = (
            "from testcontainers.core.container import DockerContainer as C\n"
            f"c = C({PYTHON!r}).with_command('sleep 100000').with_kwargs(init=True).start()\n"
            "print(c.get_wrapped_container().id, flush=True)\n"
            "import os, signal\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        session = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=120)
        self.assertEqual(session.returncode, -9)
        left = session.stdout.strip()
        self.assertEqual(len(left), 64)
        deadline = time.monotonic() + 60
        while left in listed():
            self.assertLess(time.monotonic(), deadline, "the reaper did not come")
            time.sleep(0.1)


if __name__ == "__main__":
    try:
        unittest.main(exit=False).result.wasSuccessful() or sys.exit(1)
    finally:
        Reaper.delete_instance()
