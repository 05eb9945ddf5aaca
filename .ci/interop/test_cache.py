# SPDX-License-Identifier: MIT
"""One token for many processes: real ones, which share real caches.

    python -m pytest .ci/interop/test_cache.py

It needs what `pip install redis valkey pymemcache diskcache cachelib Django moto flask-cors boto3` and
`apt-get install redis-server memcached` bring, and skips, visibly, what is missing. Token requests are counted at the
token endpoint, and exact. A table at the end says how long the slowest process waited for its token.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
from peers import readme_blocks

from oauth_session import DemoServer, FileCache, OAuthSession, Token, TokenSource

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0  # seconds; what takes longer fails, whatever the machine
MANY = 50
FETCH = 0.3  # seconds that the token endpoint takes to answer

TABLE: list[tuple[str, str, int, int, str]] = []  # cache, what happened, processes, token requests, slowest wait


class Summary:
    """Prints the table; registered with pytest as a plugin of its own, so that this file needs no conftest."""

    @staticmethod
    def pytest_terminal_summary(terminalreporter):
        if TABLE:
            width, more = max(len(row[0]) for row in TABLE), max(len(row[1]) for row in TABLE)
            terminalreporter.section("one token for many processes")
            terminalreporter.write_line(f"{'cache':<{width}}  {'':<{more}}  processes  token req.  slowest wait")
            for cache, what, processes, requests, slowest in TABLE:
                line = f"{cache:<{width}}  {what:<{more}}  {processes:>9}  {requests:>10}  {slowest:>12}"
                terminalreporter.write_line(line.rstrip())


@pytest.fixture(scope="module", autouse=True)
def summary(pytestconfig):
    if not pytestconfig.pluginmanager.has_plugin("cache-summary"):
        pytestconfig.pluginmanager.register(Summary(), "cache-summary")


def tell(cache, what, waits, requests):
    TABLE.append((cache, what, len(waits), requests, f"{max(waits):.2f} s" if waits else ""))


# --- the token endpoint -----------------------------------------------------------------------------------------------


class Auth(DemoServer):
    """A token endpoint that takes its time. `held`: the request of this number is not answered before `go`."""

    delay, held = FETCH, 0

    def __enter__(self):
        self.come, self.go = threading.Event(), threading.Event()
        return super().__enter__()

    def __exit__(self, *_):
        self.go.set()
        super().__exit__()

    def _issue(self, request, credentials):
        """Take the time, once the answer is decided and before it is sent."""
        answer = super()._issue(request, credentials)
        if self.token_requests == self.held:
            self.come.set()
            self.go.wait(LIMIT)
        time.sleep(self.delay)
        return answer


@pytest.fixture
def auth():
    with Auth() as server:
        yield server


# --- the caches: what makes them, as a line of Python in each process -------------------------------------------------


def need(*modules, program=None):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt-get install redis-server memcached")


@contextlib.contextmanager
def process_of(*command, env=None):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT)


def wait_until(true, what):
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def answers(family, address):
    with socket.socket(family) as sock:
        return sock.connect_ex(address) == 0


@contextlib.contextmanager
def redis_server(folder):
    need("redis", program="redis-server")
    path = str(folder / "redis.sock")
    with process_of("redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(folder)) as process:
        wait_until(lambda: answers(socket.AF_UNIX, path), "redis-server does not start")
        yield process, path


@pytest.fixture(scope="module")
def short():
    """A folder with a short name, as sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="cache-"))
    yield folder
    shutil.rmtree(str(folder), ignore_errors=True)


@pytest.fixture(scope="module")
def redis_path(short):
    with redis_server(short) as (_, path):
        yield path


@pytest.fixture(scope="module")
def memcached_path(short):
    need("pymemcache", program="memcached")
    path = str(short / "memcached.sock")
    with process_of("memcached", "-s", path, "-u", "root" if os.geteuid() == 0 else "nobody"):
        wait_until(lambda: answers(socket.AF_UNIX, path), "memcached does not start")
        yield path


@pytest.fixture(scope="module")
def dynamo(running_moto):
    """The environment in which boto3 finds DynamoDB as moto plays it, with the table of the README."""
    known = {
        "AWS_ENDPOINT_URL": running_moto, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "eu-central-1", "AWS_EC2_METADATA_DISABLED": "true", "no_proxy": "127.0.0.1",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip
    make = """
        import boto3
        boto3.client("dynamodb").create_table(
            TableName="tokens", BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(make)], env={**os.environ, **known}, check=True, timeout=LIMIT)
    return known


def recipes():
    """The classes over boto3 that the README shows, as it shows them."""
    blocks = readme_blocks()["AWS Lambda with DynamoDB"]
    return "\n".join(block for block in blocks if "class " in block)


DJANGO = """
from django.conf import settings
settings.configure(CACHES={{"default": {{"BACKEND": "django.core.cache.backends.{}", "LOCATION": {!r}}}}})
import {}
from django.core.cache import cache
"""


def source_of(kind, request, folder):
    """Python text that imports what a cache needs, an expression that makes it, and the environment for both."""
    if kind == "path":
        return "", repr(str(folder / "c")), {}
    if kind in ("redis", "valkey", "Django on Redis"):
        path = request.getfixturevalue("redis_path")
        need({"valkey": "valkey", "Django on Redis": "django"}.get(kind, "redis"))
        if kind == "Django on Redis":
            modules = "django.core.cache.backends.redis, redis"
            return DJANGO.format("redis.RedisCache", f"unix://{path}?db=1", modules), "cache", {}
        number = {"redis": 2, "valkey": 3}[kind]
        return f"import {kind}", f"{kind}.{kind.title()}(unix_socket_path={path!r}, db={number})", {}
    if kind == "pymemcache":
        path = request.getfixturevalue("memcached_path")
        return "import pymemcache", f"pymemcache.Client({path!r}, timeout={LIMIT}, connect_timeout={LIMIT})", {}
    if kind in ("diskcache", "diskcache.FanoutCache"):
        need("diskcache")
        return "import diskcache", f"diskcache.{kind.partition('.')[2] or 'Cache'}({str(folder / 'c')!r})", {}
    if kind == "cachelib on files":
        need("cachelib")
        return "import cachelib", f"cachelib.FileSystemCache({str(folder / 'c')!r})", {}
    if kind == "Django on files":
        need("django")
        module = "django.core.cache.backends.filebased"
        return DJANGO.format("filebased.FileBasedCache", str(folder / "c"), module), "cache", {}
    known = request.getfixturevalue("dynamo")
    name = {"DynamoDB": "DynamoCache", "DynamoDB with lock": "LockingDynamoCache"}[kind]
    # Once before the forks: what describes the service to boto3 is half a megabyte of JSON, and read by each process.
    return recipes() + "\nboto3.resource('dynamodb')\n", f"{name}('tokens')", known


WITH_LOCK = ["path", "redis", "valkey", "DynamoDB with lock"]
WITHOUT = ["pymemcache", "diskcache", "diskcache.FanoutCache", "cachelib on files", "Django on files", "Django on Redis", "DynamoDB"]


# --- the processes ----------------------------------------------------------------------------------------------------

# One process, or so many forks of one that has imported all and made nothing: at once, or in turn.
PROGRAM = """
import json, os, signal, sys, time
sys.path.insert(0, os.environ["ROOT"])
from oauth_session import OAuthSession
{imports}
how, count = sys.argv[1], int(sys.argv[2])
made, go = os.pipe(), os.pipe()

def be_told_to_go():
    print("ready", flush=True)
    sys.stdin.readline()

def fork():
    # Returns in each child, and never in the parent.
    failed = False
    if how == "in turn":
        be_told_to_go()
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            return
        children.append(child)
        if how == "in turn":
            failed |= os.waitpid(children.pop(), 0)[1] != 0
    if how == "at once":
        os.close(made[1])
        os.read(made[0], 1)  # nobody writes: the end comes when each has made its session, or ended
        be_told_to_go()
        os.close(go[0]), os.close(go[1])
    for child in children:
        failed |= os.waitpid(child, 0)[1] != 0
    sys.exit(failed)

signal.alarm(int(os.environ["LIMIT"]))
if how != "alone":
    fork()
    signal.alarm(int(os.environ["LIMIT"]))
session = OAuthSession.from_env(cache={cache}, cache_key=os.environ["KEY"], timeout=float(os.environ["TIMEOUT"]))
if how == "alone":
    be_told_to_go()
elif how == "at once":
    os.close(go[1]), os.close(made[0]), os.close(made[1])
    os.read(go[0], 1)
began = time.perf_counter()
token = session.access_token
os.write(1, json.dumps([token, time.perf_counter() - began]).encode() + b"\\n")
if how == "at once":
    os._exit(0)  # to take down all those modules is most of the work of a fork
"""


class Processes:
    """Processes that share a cache: `start` makes them ready, `go` lets them all ask for a token at once."""

    def __init__(self, source, auth, key, timeout=60.0):
        imports, cache, known = source
        self.command = [sys.executable, "-c", PROGRAM.format(imports=imports, cache=cache)]
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self.env = {
            **clean, **known, "ROOT": str(ROOT), "KEY": key, "LIMIT": str(int(LIMIT)), "TIMEOUT": str(timeout),
            "OAUTH_CLIENT_ID": auth.client_id, "OAUTH_CLIENT_SECRET": auth.client_secret, "OAUTH_TOKEN_URL": auth.token_url,
        }  # fmt: skip
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.communicate()

    def start(self, count, how="at once"):
        """So many processes, ready to ask. One can be killed; of several, what is returned is their parent."""
        how = "alone" if count == 1 else how
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        one = subprocess.Popen([*self.command, how, str(count)], env=self.env, start_new_session=True, **pipes)
        self.started.append(one)
        assert one.stdout.readline() == b"ready\n", one.communicate()[1].decode()
        return one

    @staticmethod
    def let_go(one):
        one.stdin.write(b"\n")
        one.stdin.flush()

    @staticmethod
    def finish(one, count):
        """All that they got: the set of tokens, and each one's wait. Nothing may have failed, or been logged."""
        out, err = one.communicate(timeout=LIMIT)
        assert (one.returncode, err) == (0, b""), err.decode()
        results = [json.loads(line) for line in out.splitlines()]
        assert len(results) == count
        return {token for token, _ in results}, [wait for _, wait in results]

    def run(self, count, how="at once"):
        one = self.start(count, how)
        self.let_go(one)
        return self.finish(one, count)


@pytest.fixture
def processes(request, tmp_path, auth):
    with contextlib.ExitStack() as stack:
        def make(kind, **timeout):
            source = source_of(kind, request, tmp_path)
            return stack.enter_context(Processes(source, auth, request.node.name, **timeout))
        yield make


@pytest.mark.parametrize("kind", WITH_LOCK)
def test_50_processes_that_start_at_once_make_one_token_request_and_a_later_one_none(processes, auth, kind):
    group = processes(kind)

    tokens, waits = group.run(MANY)
    later = group.run(1)

    tell(kind, "all at once", waits, auth.token_requests)
    tell(kind, "one later", later[1], auth.token_requests - 1)
    assert (len(tokens), auth.token_requests, later[0]) == (1, 1, tokens)


@pytest.mark.parametrize("kind", WITHOUT)
def test_50_processes_that_start_at_once_without_a_lock_all_get_a_token_and_a_later_one_makes_no_request(processes, auth, kind):
    group = processes(kind)

    tokens, waits = group.run(MANY)
    requests = auth.token_requests
    later = group.run(1)

    tell(kind, "all at once", waits, requests)
    tell(kind, "one later", later[1], auth.token_requests - requests)
    assert 1 <= requests <= MANY
    assert auth.token_requests == requests and later[0] <= tokens


def test_sessions_of_one_process_share_django_s_cache_in_memory(auth):
    need("django")
    imports = DJANGO.format("locmem.LocMemCache", "x", "django.core.cache.backends.locmem")
    imports += 'OAuthSession.from_env(cache=cache, cache_key="k").access_token\n'
    with Processes((imports, "cache", {}), auth, "k") as group:
        _, waits = group.run(1)

    tell("Django in memory", "second session of one process", waits, auth.token_requests - 1)
    assert auth.token_requests == 1


# --- the last five minutes --------------------------------------------------------------------------------------------


def key_of(cache_key):
    """Return the key under which a cache is asked for the token."""
    asked = []

    class Empty:
        def get(self, key):
            asked.append(key)

        def set(self, key, value, seconds):
            pass

    TokenSource(lambda: Token("other", expires_at=time.time() + 3600), cache=Empty(), cache_key=cache_key).token()
    return asked[0]


@pytest.mark.parametrize("kind", ["path", "redis"])
def test_20_short_runs_in_the_last_five_minutes_of_a_token_make_at_most_one_request(processes, auth, kind, tmp_path, request):
    group = processes(kind)
    group.run(1)
    imports, cache, _ = source_of(kind, request, tmp_path)
    known = {}
    exec(f"{imports}\ncache = {cache}", known)
    cache = FileCache(known["cache"]) if kind == "path" else known["cache"]
    key = key_of(request.node.name)
    entry = json.loads(cache.get(key))
    entry["obtained_at"] -= 3400  # as if that run had been so long ago
    cache.set(key, json.dumps(entry), 200)

    _, waits = group.run(20, "in turn")

    tell(kind, "20 short runs, one by one, in the last 5 minutes", waits, auth.token_requests - 1)
    assert auth.token_requests - 1 <= 1


# --- what goes wrong --------------------------------------------------------------------------------------------------


# Valkey's client has the lock of the Redis client: one of the two says enough.
@pytest.mark.parametrize("kind", [kind for kind in WITH_LOCK if kind != "valkey"])
def test_holder_of_the_lock_that_is_killed_fails_nobody(processes, auth, kind):
    # The system frees the lock of a file. Elsewhere each waits for it, for half of its timeout: not long here, and long
    # enough to leave a slow machine as much for the request.
    group = processes(kind, **({} if kind == "path" else {"timeout": 14.0}))
    auth.held = 1
    first, others = group.start(1), group.start(10)
    group.let_go(first)
    assert auth.come.wait(LIMIT)
    group.let_go(others)
    time.sleep(0.5)  # for them to find the lock taken; if that was not enough, they find it free

    first.send_signal(signal.SIGKILL)
    _, waits = group.finish(others, 10)

    tell(kind, "holder of the lock killed", waits, auth.token_requests - 1)
    if kind == "path":
        assert auth.token_requests == 2


def test_spoiled_file_is_written_anew(processes, auth, tmp_path):
    group = processes("path")
    group.run(1)
    file = next(one for one in (tmp_path / "c").iterdir() if one.suffix != ".lock")
    for number, spoilt in enumerate([b"", file.read_bytes()[:50], os.urandom(500)]):
        file.write_bytes(spoilt)
        tokens, waits = group.run(5)
        assert (len(tokens), auth.token_requests) == (1, number + 2)

    tell("path", "file corrupted", waits, 1)


def as_nobody(action):
    """Run the action in a fork as an ordinary user, whom modes concern; what it returns."""
    come, go = os.pipe()
    process = os.fork()
    if not process:
        try:
            signal.alarm(int(LIMIT))
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(go, json.dumps(action()).encode())
            os._exit(0)
        except BaseException as error:
            os.write(go, repr(error).encode())
        finally:
            os._exit(1)
    os.close(go)
    with open(come, "rb") as said:
        text = said.read().decode()
    assert os.waitpid(process, 0)[1] == 0, text
    return json.loads(text)


@pytest.fixture(scope="module")
def warm(short):
    """All modules and codecs are loaded: a user of few rights may not reach the files of this Python."""
    with DemoServer() as server:
        calls(server, str(short / "warm"), 2)


@pytest.fixture
def theirs(warm):
    """A folder that the user of `as_nobody` owns, and whose way there is open to all."""
    folder = Path(tempfile.mkdtemp(prefix="cache-"))
    folder.chmod(0o755)
    mine = folder / "theirs"
    mine.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(str(mine), 65534, 65534)
    yield mine
    shutil.rmtree(str(folder), ignore_errors=True)


def calls(auth, cache, count=3, **settings):
    """So many sessions, one after the other, each asking for a token; how many were given, and the slowest wait."""
    waits = []
    for _ in range(count):
        began = time.perf_counter()
        with OAuthSession(auth.client_id, auth.client_secret, "read", auth.token_url, cache=cache, **settings) as session:
            assert session.access_token
        waits.append(time.perf_counter() - began)
    return waits


FORBIDDEN = {
    "file 000": (lambda file: file.chmod(0), 1), "file of another user, 0600": (lambda file: os.chown(str(file), 0, 0), 1),
    # Not trusted, and written anew.
    "file of another user, 0644": (lambda file: (file.chmod(0o644), os.chown(str(file), 0, 0)), 1),
    "file that others could write": (lambda file: file.chmod(0o622), 1), "directory 000": (lambda file: file.parent.chmod(0), 3),
    "directory read-only, file gone": (lambda file: (file.unlink(), file.parent.chmod(0o500)), 3),
    "directory read-only, file good": (lambda file: file.parent.chmod(0o500), 0),
    "directory of another user": (lambda file: os.chown(str(file.parent), 0, 0), 3),
    "directory that others could write": (lambda file: file.parent.chmod(0o777), 3),
    "a link": (lambda file: (file.rename(file.parent / "x"), file.symlink_to(file.parent / "x")), 1),  # it is replaced
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_cannot_be_used_fails_nobody(auth, theirs, what):
    if os.geteuid() and "another user" in what:
        pytest.skip("needs root, to give a file away")
    auth.delay = 0.0
    folder = theirs / "c"
    as_nobody(lambda: calls(auth, str(folder), 1))
    spoil, requests = FORBIDDEN[what]
    spoil(next(one for one in folder.iterdir() if one.suffix != ".lock"))

    waits = as_nobody(lambda: calls(auth, str(folder)))

    tell("path", what, waits, auth.token_requests - 1)
    assert auth.token_requests - 1 == requests


def test_file_that_may_not_grow_fails_nobody(auth, theirs):
    import resource

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        return calls(auth, str(theirs / "c"))

    auth.delay = 0.0
    waits = as_nobody(limited)

    tell("path", "no byte can be written (ulimit -f 0)", waits, auth.token_requests)
    assert auth.token_requests == 3
    assert [one.name.endswith(".lock") for one in (theirs / "c").iterdir()] == [True]


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_full_or_read_only_disk_fails_nobody(auth, tmp_path, how):
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], stderr=subprocess.PIPE)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        (disk / "c").mkdir(mode=0o700)
        if how == "full":
            with contextlib.suppress(OSError), open(str(disk / "filler"), "wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 4096)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        auth.delay = 0.0

        waits = calls(auth, str(disk / "c"))

        tell("path", f"disk {how}", waits, auth.token_requests)
        assert auth.token_requests == 3
        assert [one for one in (disk / "c").iterdir() if one.suffix != ".lock"] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
def test_redis_that_stops_in_the_middle_fails_no_call(auth, how):
    folder = Path(tempfile.mkdtemp(prefix="cache-"))
    life = 2  # each is due after half of it
    auth.delay, auth.expires_in = 0.0, life
    waits = []
    try:
        with redis_server(folder) as (process, path):
            import redis

            cache = redis.Redis(unix_socket_path=path, socket_timeout=0.5, retry=None)
            with OAuthSession(auth.client_id, auth.client_secret, "read", auth.token_url, cache=cache) as session:
                began = time.monotonic()

                def call_until_there_were(requests):
                    while auth.token_requests < requests:
                        assert time.monotonic() - began < LIMIT, "no token is renewed"
                        at = time.perf_counter()
                        assert session.get(auth.url + "/me").status == 200
                        waits.append(time.perf_counter() - at)
                        time.sleep(0.01)

                call_until_there_were(2)
                assert cache.dbsize()
                process.send_signal(how)
                call_until_there_were(4)
                elapsed = time.monotonic() - began
    finally:
        shutil.rmtree(str(folder), ignore_errors=True)

    what = "killed" if how == signal.SIGKILL else "hangs (socket_timeout 0.5 s)"
    tell("redis", f"server {what}, slowest of {len(waits)} calls", [max(waits)], auth.token_requests)
    assert auth.token_requests <= elapsed / (life / 2) + 2


def test_redis_that_is_not_there_fails_nobody(auth):
    need("redis")
    import redis

    auth.delay = 0.0
    waits = calls(auth, redis.Redis(unix_socket_path="/nonexistent/redis.sock", retry=None), 1)

    tell("redis", "server not there", waits, auth.token_requests)
    assert auth.token_requests == 1
