#!/usr/bin/env python3
"""Measure oauth_session.py beside http.client and, with --peers, beside what people install instead.

    python3 .ci/bench.py --quick             about a minute; without --quick more rounds and 100,000 calls
    python3 .ci/bench.py --peers             installs requests and others into a cache folder, and measures them too
    python3 .ci/bench.py --only warm         one part; may be repeated

One table comes out. Each number is the median of rounds that alternate between the candidates (A B A B ...), each ratio
the median of the rounds' ratios: what else runs on the machine then slows both. CPU is that of the measured process
alone, user and system. The server runs in other processes: nginx where installed, else a small one of this file.
Standard library only, for Linux and macOS; needs the `openssl` command. The parts are listed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import gc
import hashlib
import http.client
import importlib.util
import json
import os
import platform
import py_compile
import selectors
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("OAUTH_SESSION_CI_CACHE") or Path.home() / ".cache" / "oauth_session-ci")
PEERS = ["requests", "requests-oauthlib", "authlib", "httpx-auth"]
SMALL = json.dumps({"id": 1, "name": "bench", "text": "x" * 260})  # 300 bytes
LARGE = json.dumps([{"id": number, "name": f"user {number}"} for number in range(1750)])[:-1].ljust(65535) + "]"

# ---- The candidates: imports, and code that defines make() -> fetch(url) -> bytes; TOKEN is the token endpoint -------

OURS, BARE, REQUESTS = "oauth_session", "http.client", "requests session"
CLIENTS = {
    OURS: ("import json\nfrom oauth_session import OAuthSession", """
def make():
    session = OAuthSession("bench", "secret", "read", TOKEN)
    return lambda url: session.get(url).content
"""),
    # As little as one can write: the token is never looked at again, and a connection serves one thread.
    BARE: ("import http.client, json, ssl", """
def make():
    context = ssl.create_default_context() if TOKEN.startswith("https") else None
    def connect(url):
        scheme, _, host, path = url.split("/", 3)
        if context is None:
            return http.client.HTTPConnection(host, timeout=30)
        return http.client.HTTPSConnection(host, timeout=30, context=context)
    state = []
    def fetch(url):
        if not state:
            form = "grant_type=client_credentials&client_id=bench&client_secret=secret&scope=read"
            connection = connect(TOKEN)
            connection.request("POST", "/" + TOKEN.split("/", 3)[3], form,
                               {"Content-Type": "application/x-www-form-urlencoded"})
            token = json.loads(connection.getresponse().read())["access_token"]
            connection.close()
            state.extend((connect(url), {"Authorization": "Bearer " + token}))
        connection, headers = state
        connection.request("GET", "/" + url.split("/", 3)[3], headers=headers)
        return connection.getresponse().read()
    return fetch
"""),
    # The session class that is in so many projects.
    REQUESTS: ("import json, time\nimport requests", """
class ClientCredentialsSession(requests.Session):
    def __init__(self, client_id, client_secret, scope, token_url, margin=10.0, timeout=30.0):
        super().__init__()
        self.credentials = client_id, client_secret
        self.scope, self.token_url, self.margin, self.timeout = scope, token_url, margin, timeout
        self.token, self.expires_at = None, 0.0

    def fetch_token(self):
        now = time.time()
        form = {"grant_type": "client_credentials", "scope": self.scope}
        response = super().request("POST", self.token_url, data=form, auth=self.credentials, timeout=self.timeout)
        response.raise_for_status()
        answer = response.json()
        life = float(answer.get("expires_in", 3600))
        self.token, self.expires_at = answer["access_token"], now + life - min(self.margin, life / 10)

    def request(self, method, url, headers=None, **options):
        if self.token is None or time.time() >= self.expires_at:
            self.fetch_token()
        headers = {**(headers or {}), "Authorization": "Bearer " + self.token}
        options.setdefault("timeout", self.timeout)
        response = super().request(method, url, headers=headers, **options)
        if response.status_code == 401:
            self.fetch_token()
            headers["Authorization"] = "Bearer " + self.token
            response = super().request(method, url, headers=headers, **options)
        return response

def make():
    session = ClientCredentialsSession("bench", "secret", "read", TOKEN)
    return lambda url: session.get(url).content
"""),
    "requests-oauthlib": ("""import json, os
os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session""", """
def make():
    session = OAuth2Session(client=BackendApplicationClient(client_id="bench"), scope=["read"])
    def fetch(url):
        if not session.token:
            session.fetch_token(TOKEN, client_secret="secret")
        return session.get(url).content
    return fetch
"""),
    "Authlib": ("import json\nfrom authlib.integrations.requests_client import OAuth2Session", """
def make():
    session = OAuth2Session("bench", "secret", scope="read", token_endpoint=TOKEN, grant_type="client_credentials")
    def fetch(url):
        if not session.token:
            session.fetch_token()
        return session.get(url).content
    return fetch
"""),
    "httpx-auth": ("import json\nimport httpx\nfrom httpx_auth import OAuth2ClientCredentials", """
def make():
    session = httpx.Client(auth=OAuth2ClientCredentials(TOKEN, "bench", "secret", scope="read"))
    return lambda url: session.get(url).content
"""),
}  # fmt: skip

# Host names that are not loopback to whoever looks at them, and still lead here; bytes stay bytes, as that matters.
RESOLVER = """
import socket, sys, time
real_getaddrinfo = socket.getaddrinfo
def local_getaddrinfo(host, *rest, **named):
    return real_getaddrinfo(b"127.0.0.1" if isinstance(host, bytes) else "127.0.0.1", *rest, **named)
socket.getaddrinfo = local_getaddrinfo
"""
COLD_CHILD = RESOLVER + """
sys.path.insert(0, sys.argv[1])
API, TOKEN = sys.argv[2:]
%s
imported = time.perf_counter()
%s
json.loads(make()(API))
wall, cpu, since = time.time(), time.process_time(), time.perf_counter() - imported
try:
    peak = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
found = {"CPU, ms": cpu * 1e3, "time, ms": wall * 1e3, "after imports, ms": since * 1e3, "memory, MiB": peak / 1024}
print(json.dumps(found))
"""
IMPORT_CHILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
wall, cpu = time.perf_counter(), time.process_time()
%s
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
import json
print(json.dumps({"CPU, ms": cpu * 1e3, "time, ms": wall * 1e3}))
"""

# ---- Processes: each wait bounded, all ended at exit -----------------------------------------------------------------


def start(command: list, **options: object) -> subprocess.Popen:
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, **options)
    atexit.register(end, process)
    return process


def end(process: subprocess.Popen) -> None:
    process.terminate()  # nginx ends its workers itself
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def run(command: list, check: bool = True, **options: object) -> str:
    """The output of a command, which must not fail; check=False: it may, and what it complains of is there too."""
    command, options = [str(part) for part in command], {"stdin": subprocess.DEVNULL, "text": True, **options}
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, **options)
    if done.returncode and check:
        raise SystemExit(f"{command[:4]} failed:\n{done.stderr[-3000:]}")
    return done.stdout + ("" if check else done.stderr)


def python(arguments: list, environ: dict[str, str]) -> dict:
    """Run a child whose output is JSON. -E -B: it writes no .pyc, whatever PYTHONDONTWRITEBYTECODE says here."""
    return json.loads(run([sys.executable, "-E", "-s", "-B", *arguments], env=environ))


# ---- What runs in a child of this file; most return values by candidate, round and what was measured -----------------


def load(name: str, job: dict) -> object:
    """The make() of a candidate."""
    names: dict = {"TOKEN": job["token"]}
    exec("\n".join(CLIENTS[name]), names)
    return names["make"]


def child_warm(job: dict) -> dict:
    """Each candidate on its standing connection."""
    fetchers = {name: load(name, job)() for name in job["clients"]}
    found: dict = {name: [] for name in fetchers}
    for turn in range(job["rounds"] + 1):
        urls = [job["api"] + (f"?turn={turn}&call={call}" if job["fresh"] else "") for call in range(job["calls"])]
        for name, fetch in fetchers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for url in urls:
                size = len(fetch(url))
            cpu, wall = (time.process_time() - cpu) / len(urls), (time.perf_counter() - wall) / len(urls)
            found[name].append({"CPU, µs": cpu * 1e6, "time, µs": wall * 1e6, "speed, MB/s": size / 1e6 / wall})
    return {name: values[1:] for name, values in found.items()}  # the first ones opened the connections


def child_threads(job: dict) -> dict:
    """16 threads: one session, or http.client with a connection for each."""
    opened: list[int] = []
    connect = socket.socket.connect
    socket.socket.connect = lambda sock, address: (opened.append(address[1]), connect(sock, address))[1]
    fetchers = {OURS: [load(OURS, job)()] * 16, BARE: [load(BARE, job)() for _ in range(16)]}
    found: dict = {name: [] for name in fetchers}
    for _ in range(job["rounds"] + 1):
        for name, fetches in fetchers.items():
            opened.clear()
            wall, cpu = time.perf_counter(), time.process_time()
            times = in_threads(fetches, job["api"], lambda done: len(done) < job["calls"])
            times = sorted(seconds for one in times for seconds in one)
            cpu, wall = (time.process_time() - cpu) / len(times), time.perf_counter() - wall
            total = opened.count(job["port"]) + (found[name][-1]["connections opened"] if found[name] else 0)
            values = {"CPU per call, µs": cpu * 1e6, "calls per second": len(times) / wall, "connections opened": total}
            found[name].append({**values, "p99, ms": times[len(times) * 99 // 100] * 1e3})
    return {name: values[1:] for name, values in found.items()}


def in_threads(fetches: list, url: str, more: object, pause: float = 0.0) -> list[list[float]]:
    """Let each thread call while more(its times so far) says so; the seconds of each call, by thread."""
    found: list[list[float]] = [[] for _ in fetches]
    barrier = threading.Barrier(len(fetches), timeout=30)

    def work(fetch: object, times: list[float]) -> None:
        barrier.wait()
        while not times or more(times):
            begin = time.perf_counter()
            fetch(url)
            times.append(time.perf_counter() - begin)
            if pause:
                time.sleep(pause)

    threading.excepthook = lambda failure: (sys.__excepthook__(*failure[:3]), os._exit(1))
    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in zip(fetches, found)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # the parent has a timeout
    return found


def child_renewal(job: dict) -> dict:
    """32 threads on one new session for some seconds."""
    until = time.monotonic() + job["seconds"]
    times = in_threads([load(job["client"], job)()] * 32, job["api"], lambda _: time.monotonic() < until, pause=0.02)
    later = max((max(one[1:]) for one in times if one[1:]), default=0.0)
    return {"slowest first call, ms": max(one[0] for one in times) * 1e3, "slowest later call, ms": later * 1e3}


def child_memory(job: dict) -> dict:
    """Growth over many calls to as many URLs."""
    fetch = load(OURS, job)()

    def now() -> tuple[int, float]:
        gc.collect()
        return getattr(sys, "getallocatedblocks", int)(), int(Path("/proc/self/statm").read_text().split()[1])

    for call in range(2000):  # longer than any cache is deep
        fetch(f"{job['api']}?warm={call}")
    blocks, pages = now()
    for call in range(job["calls"]):
        fetch(f"{job['api']}?call={call}")
    after, kib = now(), os.sysconf("SC_PAGE_SIZE") / 1024
    return {OURS: [{"Python's heap, blocks": after[0] - blocks, "resident, KiB": (after[1] - pages) * kib}]}


def child_relay(job: dict) -> None:
    """Pass TCP on, delayed both ways; the first bytes by one round trip more, as connect() itself cannot be delayed."""
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())  # epoll's clock has steps of 1 ms

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, due: float) -> None:
        data = b"x"
        while data:
            data = await reader.read(65536)
            due = max(loop.time() + job["delay"], due + 1e-6)  # call_at keeps no order of equal times
            loop.call_at(due, *((writer.write, data) if data else (writer.close,)))

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin = loop.time() + 3 * job["delay"]
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", job["port"])
        await asyncio.gather(pass_on(reader, far_writer, begin), pass_on(far_reader, writer, begin))

    listener = loop.run_until_complete(asyncio.start_server(accept, "127.0.0.1", 0))
    print(listener.sockets[0].getsockname()[1], flush=True)
    loop.run_forever()


def child_server(job: dict) -> None:
    """What nginx does below, where there is no nginx."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(job["folder"] + "/server.pem", job["folder"] + "/server.key")

    def answer(path: str, fields: dict[str, str]) -> bytes:
        path, status, body = path.partition("?")[0], "200 OK", {"/small": SMALL, "/large": LARGE}.get(path, "{}")
        if path.startswith("/token/"):
            with open(job["folder"] + "/token.log", "a") as file:
                file.write("token\n")
            token = {"access_token": os.urandom(16).hex(), "token_type": "Bearer", "expires_in": int(path[7:])}
            body = json.dumps(token)
        elif not fields.get("authorization", "").startswith("Bearer "):
            status, body = "401 Unauthorized", "{}"
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return (head + body).encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                await reader.readexactly(int(fields.get("content-length", 0)))
                writer.write(answer(first.split()[1], fields))

    loop = asyncio.new_event_loop()
    for port, tls in zip(job["ports"], (None, None, context, context)):
        loop.run_until_complete(asyncio.start_server(talk, "127.0.0.1", port, ssl=tls))
    loop.run_forever()


# ---- The place: server, certificates, copies of the file -------------------------------------------------------------

NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log error.log crit;
events { worker_connections 1024; }
http {
    access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; tcp_nodelay on;
    default_type application/json;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    log_format token token;
    ssl_certificate server.pem; ssl_certificate_key server.key; ssl_protocols TLSv1.2 TLSv1.3;
    server {
        listen 127.0.0.1:%d; listen 127.0.0.1:%d; listen 127.0.0.1:%d ssl; listen 127.0.0.1:%d ssl;
        location = /small { if ($http_authorization !~ "^Bearer .") { return 401; } return 200 '%s'; }
        location = /large { if ($http_authorization !~ "^Bearer .") { return 401; } root .; }
        location ~ ^/token/(?<life>[0-9]+)$ {
            access_log token.log token;
            return 200 '{"access_token": "$request_id", "token_type": "Bearer", "expires_in": $life}';
        }
    }
}
"""
EXTENSIONS = """
subjectAltName=DNS:api.bench.test,DNS:auth.bench.test
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


class Place:
    """A scratch folder with a server on four ports (http and https, API and tokens each), and copies of the file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.peers, self.quick = options.peers, options.quick
        self.folder = Path(tempfile.mkdtemp(prefix="oauth_session-bench-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)  # nginx started by root reads as nobody
        self.code = (ROOT / "oauth_session.py").read_bytes()  # once: somebody may be editing it
        self.make_certificates()
        self.log = self.folder / "token.log"  # a line for each token request
        self.log.touch()
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
        self.ports = [listener.getsockname()[1] for listener in listeners]
        for listener in listeners:
            listener.close()
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
        self.serve(shutil.which("nginx", path=path) if options.server == "auto" else None)
        self.paths = {pyc: self.copy(self.folder / ("compiled" if pyc else "plain"), pyc) for pyc in (False, True)}
        self.environ = self.trusting(SSL_CERT_FILE="ca.pem", SSL_CERT_DIR="empty", REQUESTS_CA_BUNDLE="ca.pem")

    def trusting(self, **names: str) -> dict[str, str]:
        """An environment without this machine's settings, and with these files of ours."""
        unwanted = ("proxy", "ssl_cert", "ca_bundle", "python", "oauth")
        kept = {name: text for name, text in os.environ.items() if not any(part in name.lower() for part in unwanted)}
        return {**kept, **{name: str(self.folder / file) for name, file in names.items()}}

    def make_certificates(self) -> None:
        """A CA, a server certificate, and the CA added to both forms of a trust store as large as this machine's."""
        at, key = self.folder, ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        (at / "extensions").write_text(EXTENSIONS)
        make, sign = ["openssl", "req", *key], ["openssl", "x509", "-req", "-CAcreateserial", "-days", 9]
        usage = ["-addext", "keyUsage=critical,keyCertSign"]  # Python 3.13 insists on it
        run([*make, "-x509", "-days", 9, "-subj", "/CN=CA", "-keyout", at / "ca.key", "-out", at / "ca.pem", *usage])
        run([*make, "-subj", "/CN=bench", "-keyout", at / "server.key", "-out", at / "server.csr"])
        run([*sign, "-in", at / "server.csr", "-CA", at / "ca.pem", "-CAkey", at / "ca.key",
             "-extfile", at / "extensions", "-out", at / "server.pem"])  # fmt: skip
        usual = ssl.create_default_context().get_ca_certs(binary_form=True)
        store = [ssl.DER_cert_to_PEM_cert(one) for one in usual] + [(at / "ca.pem").read_text()]
        (at / "empty").mkdir()
        (at / "hashed").mkdir()
        (at / "bundle.pem").write_text("".join(store))
        for number, one in enumerate(store):
            (at / "hashed" / f"{number}.pem").write_text(one)
        run(["openssl", "rehash", at / "hashed"], check=False)  # LibreSSL has none
        bundle = {"REQUESTS_CA_BUNDLE": "bundle.pem"}
        self.stores = {"hashed CAs": {**bundle, "SSL_CERT_DIR": "hashed"}} if any((at / "hashed").glob("*.0")) else {}
        self.stores["bundle only"] = {**bundle, "SSL_CERT_FILE": "bundle.pem", "SSL_CERT_DIR": "empty"}
        self.authorities = len(store)

    def serve(self, nginx: str | None) -> None:
        """Start the server, and wait until it answers."""
        if nginx:
            (self.folder / "large").write_text(LARGE)
            (self.folder / "nginx.conf").write_text(NGINX % (*self.ports, SMALL))
            start([nginx, "-p", f"{self.folder}/", "-c", "nginx.conf"])
            self.server = run([nginx, "-v"], check=False).strip().rpartition(" ")[2].replace("/", " ")
        else:
            self.start_child("server", ports=self.ports, folder=str(self.folder))
            self.server = "a server of its own"
        until = time.monotonic() + 10
        for port in self.ports:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                if time.monotonic() > until:
                    raise SystemExit("the server did not start")
                time.sleep(0.05)

    def copy(self, folder: Path, pyc: bool) -> Path:
        """A folder to import from, with .pyc files or without: the file, and the peers where wanted."""
        cached = CACHE / f"bench-peers-{sys.implementation.cache_tag}"
        if self.peers and not (cached / "complete").exists():
            print("installing the peers ...", file=sys.stderr)
            shutil.rmtree(cached, ignore_errors=True)
            run([sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", cached, *PEERS])
            (cached / "complete").touch()
        if self.peers:
            shutil.copytree(cached, folder, ignore=shutil.ignore_patterns("__pycache__"))
        folder.mkdir(exist_ok=True)
        (folder / "oauth_session.py").write_bytes(self.code)
        for path in folder.rglob("*.py") if pyc else ():
            py_compile.compile(str(path), quiet=2)
        return folder

    def start_child(self, name: str, **job: object) -> subprocess.Popen:
        return start([sys.executable, __file__, "--child", name, json.dumps(job)], stdout=subprocess.PIPE, text=True)

    def relay(self, port: int, delay: float) -> int:
        """The port of a relay to that port, each direction delayed by so many seconds."""
        return int(self.start_child("relay", port=port, delay=delay).stdout.readline())

    def child(self, name: str, tls: bool = False, path: str = "/small", **job: object) -> dict:
        hosts = ("https://api.bench.test", "https://auth.bench.test") if tls else ("http://127.0.0.1",) * 2
        api, token = self.ports[2:] if tls else self.ports[:2]
        usual = {"api": f"{hosts[0]}:{api}{path}", "token": f"{hosts[1]}:{token}/token/86400", "port": api}
        job = {**usual, **job, "path": str(self.paths[True])}
        return python([__file__, "--child", name, json.dumps(job)], self.environ)

    def cold(self, client: str, store: str, pyc: bool = True, ports: tuple[int, int] | None = None) -> dict:
        """A process up to its first JSON over https."""
        api, token = ports or self.ports[2:]
        urls = [f"https://api.bench.test:{api}/small", f"https://auth.bench.test:{token}/token/86400"]
        begin = time.time()
        environ = self.trusting(**self.stores[store])
        found = python(["-c", COLD_CHILD % CLIENTS[client], self.paths[pyc], *urls], environ)
        return {**found, "time, ms": found["time, ms"] - begin * 1e3}


# ---- The table -------------------------------------------------------------------------------------------------------


class Table:
    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = [("what", "ratio", "target", "reached", "ours", "reference")]

    def add(self, what: str, found: dict, metric: str, target: str = "", against: str = "") -> None:
        """A row. found: values by candidate, round and metric. target: `ratio <= 0.7`, `ours <= 3` or nothing."""
        ours, reference = ([one[metric] for one in found.get(name, ())] for name in (OURS, against))
        name, _, unit = metric.partition(", ")
        value = {"ours": statistics.median(ours), "ratio": 0.0}
        if reference:
            value["ratio"] = statistics.median(a / b if b else 0.0 for a, b in zip(ours, reference))
        which, sign, limit = target.split() if target else ("ours", "", "0")
        reached = ((value[which] <= float(limit)) == (sign == "<=")) if sign else None
        ratio = f"{value['ratio']:.2f}" if reference else ""
        cells = [f"{statistics.median(values):.4g} {unit}".strip() if values else "" for values in (ours, reference)]
        what = f"{what}: {name}" + (f", / {against}" if reference else "")
        self.rows.append((what, ratio, target, {None: "", True: "yes", False: "NO"}[reached], *cells))
        print(f"  {what}: {ratio or cells[0]}", file=sys.stderr, flush=True)

    def show(self) -> None:
        widths = [max(map(len, column)) for column in zip(*self.rows)]
        self.rows.insert(1, tuple("-" * width for width in widths))
        for row in self.rows:
            print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")


def alternate(count: int, **candidates: object) -> dict[str, list[dict]]:
    turns = [{name: measure() for name, measure in candidates.items()} for _ in range(count)]
    return {name: [turn[name] for turn in turns] for name in candidates}


def part_import(place: Place, table: Table) -> None:
    def measure(statement: str, pyc: bool) -> dict:
        return python(["-c", IMPORT_CHILD % statement, place.paths[pyc]], place.environ)

    ours, names = "import oauth_session", "urllib.request, json, ssl"
    candidates = {OURS: partial(measure, ours, True), names: partial(measure, "import " + names, True)}
    found = alternate(11 if place.quick else 41, **candidates, plain=partial(measure, ours, False))
    table.add("import", found, "CPU, ms", "ratio <= 1.08", names)
    table.add("import", found, "time, ms", "", names)
    missing = [plain["CPU, ms"] - usual["CPU, ms"] for plain, usual in zip(found["plain"], found[OURS])]
    table.add("a missing .pyc", {OURS: [{"CPU, ms": value} for value in missing]}, "CPU, ms")
    other = "urllib/request.py"
    texts = {OURS: place.code, other: Path(urllib.request.__file__).read_bytes()}
    found = alternate(5 if place.quick else 15, **{name: partial(compiled, text) for name, text in texts.items()})
    table.add("compile", found, "CPU, ms", "ratio <= 1.25", other)


def compiled(text: bytes) -> dict:
    """What a cold start pays where no .pyc can be written."""
    begun = time.process_time()
    for _ in range(5):
        compile(text, "<measured>", "exec", dont_inherit=True)
    return {"CPU, ms": (time.process_time() - begun) / 5 * 1000}


def part_cold(place: Place, table: Table) -> None:
    reference = REQUESTS if place.peers else BARE
    for store, pyc in [*((store, True) for store in place.stores), ("bundle only", False)]:
        others = list(CLIENTS)[3:] if place.peers and store == "hashed CAs" else []
        measures = {name: partial(place.cold, name, store, pyc) for name in (OURS, reference, *others)}
        found = alternate(7 if place.quick else 25, **measures)
        what = f"first JSON, {store}" + ("" if pyc else ", no .pyc")
        limit = {"hashed CAs": "ratio <= 0.40", "bundle only": "ratio <= 0.52"}[store] if pyc and place.peers else ""
        table.add(what, found, "CPU, ms", limit, reference)
        table.add(what, found, "time, ms", "", reference)
        table.add(what, found, "memory, MiB", "", reference)
        for name in others:
            table.add(what, found, "CPU, ms", "", name)


def part_distance(place: Place, table: Table) -> None:
    reference, store = REQUESTS if place.peers else BARE, next(iter(place.stores))
    ports = place.relay(place.ports[2], 0.010), place.relay(place.ports[3], 0.010)
    measures = {name: partial(place.cold, name, store, True, ports) for name in (OURS, reference)}
    found = alternate(7 if place.quick else 25, **measures)
    target = "ratio <= 0.70" if place.peers else ""
    table.add(f"first JSON, 20 ms away, {store}", found, "after imports, ms", target, reference)


def part_warm(place: Place, table: Table) -> None:
    for tls, path, fresh in ((False, "/small", False), (True, "/small", False), (False, "/small", True),
                             (False, "/large", False), (True, "/large", False)):  # fmt: skip
        usual = path == "/small" and not fresh
        peers = list(CLIENTS)[2 : 6 if usual and not tls else 3] if place.peers else []
        counts = {"rounds": 9, "calls": 200} if place.quick else {"rounds": 31, "calls": 500}
        found = place.child("warm", tls, path, clients=[OURS, BARE, *peers], fresh=fresh, **counts)
        size = "64 KB" if path == "/large" else "300 bytes" + (", each URL new" if fresh else "")
        what = f"warm call, http{'s' if tls else ''}, {size}"
        table.add(what, found, "CPU, µs", "ratio <= 1.00" if usual else "", BARE)
        table.add(what, found, "time, µs", "", BARE)
        if path == "/large":
            table.add(what, found, "speed, MB/s", "ratio >= 0.9", BARE)
        for name in peers:
            table.add(what, found, "CPU, µs", "ratio <= 0.167" if usual and name == REQUESTS else "", name)


def part_threads(place: Place, table: Table) -> None:
    found = place.child("threads", rounds=7 if place.quick else 21, calls=60 if place.quick else 250)
    table.add("16 threads", found, "CPU per call, µs", "ratio <= 1.00", BARE)
    table.add("16 threads", found, "calls per second", "", BARE)
    table.add("16 threads", found, "p99, ms", "", BARE)
    last = {name: values[-1:] for name, values in found.items()}
    table.add("16 threads", last, "connections opened", "ours <= 16", BARE)


def part_renewal(place: Place, table: Table) -> None:
    """The token endpoint is 300 ms away, so that a call that waits for a token shows; the API is here."""
    life, seconds = 4, 5
    token = f"http://127.0.0.1:{place.relay(place.ports[1], 0.150)}/token/{life}"

    def measure(client: str, seconds: float) -> dict:
        before = place.log.stat().st_size
        found = place.child("renewal", client=client, seconds=seconds, token=token)
        time.sleep(0.2)  # the log is written after the answer
        return {**found, "token requests": (place.log.stat().st_size - before) // len("token\n")}

    clients = [OURS, REQUESTS] if place.peers else [OURS]
    found = alternate(3 if place.quick else 11, **{name: partial(measure, name, 0) for name in clients})
    table.add("32 threads, cold", found, "token requests", "ours <= 1", REQUESTS)
    table.add("32 threads, cold, token 0.6 s away", found, "slowest first call, ms", "", REQUESTS)
    found = alternate(1 if place.quick else 5, **{name: partial(measure, name, seconds) for name in clients})
    most = int(seconds / (life / 2)) + 2  # the design's bound: elapsed time / (life - due window) + 2
    what = f"32 threads, {seconds} s with tokens of {life} s"
    table.add(what, found, "token requests", f"ours <= {most}", REQUESTS)
    table.add(what, found, "slowest later call, ms", "ours <= 50", REQUESTS)


def part_memory(place: Place, table: Table) -> None:
    calls = 10_000 if place.quick else 100_000
    if os.path.exists("/proc/self/statm"):
        found = place.child("memory", calls=calls)
        table.add(f"growth over {calls:,} calls", found, "Python's heap, blocks", "ours <= 100")
        table.add(f"growth over {calls:,} calls", found, "resident, KiB", "ours <= 512")


PARTS = {"import": part_import, "cold": part_cold, "distance": part_distance, "warm": part_warm,
         "threads": part_threads, "renewal": part_renewal, "memory": part_memory}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about a minute")
    parser.add_argument("--peers", action="store_true", help="install and measure " + ", ".join(PEERS))
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--server", choices=["auto", "own"], default="auto", help="own: not nginx")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that atexit ends what was started
    begin, busy, model = time.monotonic(), os.getloadavg()[0], platform.machine()
    place, table = Place(options), Table()
    for name in options.only or PARTS:
        PARTS[name](place, table)
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        model += " " + next(line for line in file if line.startswith("model name")).partition(":")[2].strip()
    version = f"{platform.python_implementation()} {platform.python_version()}, {ssl.OPENSSL_VERSION}"
    machine = f"{platform.system()}, {os.cpu_count()} x {model}, load {busy:.1f}"
    scope = f"{place.authorities} CA certificates; {'quick' if place.quick else 'full'}"
    print(f"{version}; {machine}; {place.server}; {scope}, {time.monotonic() - begin:.0f} s")
    print(f"oauth_session.py: {len(place.code):,} bytes, sha256 {hashlib.sha256(place.code).hexdigest()[:12]}")
    if place.peers:
        found = sorted(path.stem.replace("_", "-") for path in place.paths[True].glob("*.dist-info"))
        print("peers: " + ", ".join(name for name in found if name.rpartition("-")[0].lower() in PEERS))
    if not os.path.exists(importlib.util.cache_from_source(http.client.__file__)):
        print("Caution: the standard library of this Python has no .pyc files.")
    table.show()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        job = json.loads(sys.argv[3])
        sys.path.insert(0, job.get("path", ""))
        exec(RESOLVER)
        print(json.dumps(globals()["child_" + sys.argv[2]](job)))
    else:
        main()
