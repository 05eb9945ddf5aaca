# SPDX-License-Identifier: MIT
"""The README's everyday recipes, as they stand there, against servers that fail as real ones do.

    python -m pytest .ci/interop/test_everyday_recipes.py

Each runs in an empty folder that holds only oauth_session.py. Only names of hosts and files are replaced.
"""

from __future__ import annotations

import contextlib
import email
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import missing
from peers import README, WAIT_LIMIT, readme_blocks

from oauth_session import DemoServer

RETRY = "Retrying 429, 5xx and timeouts"
PAGINATION = "Pagination"
UPLOAD = "Uploading a multipart form"
DOWNLOAD = "Downloading to disk, with progress, and resuming"
PROXY = "A proxy with a password"
PRIVATE_CA = "A private CA beside the public ones"
SECRETS_MANAGER = "A secret from a secrets manager"
LAMBDA = "AWS Lambda"
CRON = "A script that cron starts"

TOKEN_URL = "https://auth.example.com/oauth/token"
API = "https://api.example.com"
LIMIT = 60  # seconds


@pytest.fixture
def demo():
    with DemoServer() as server:
        yield server


class Program:
    """A recipe in a folder of its own, and what it needs to be run."""

    def __init__(self, folder, demo):
        self.folder = folder
        self.demo = demo
        self.environ = {
            "HOME": str(folder), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "error",
            "OAUTH_CLIENT_ID": demo.client_id, "OAUTH_CLIENT_SECRET": demo.client_secret, "OAUTH_SCOPE": "read",
            "OAUTH_TOKEN_URL": demo.token_url,
        }  # fmt: skip
        shutil.copy(str(README.parent / "oauth_session.py"), str(folder))

    def run(self, heading, before="", behind="", api=None, placeholders=None):
        """Run the first block below a heading; return its exit status, output and error output."""
        begins, code = readme_blocks()["Recipes"][0], readme_blocks()[heading][0]
        code = f"{before}\n{begins}\n{code}\n{behind}"
        self.environ["OAUTH_BASE_URL"] = api or self.demo.url
        for text, instead in (placeholders or {}).items():
            assert text in code, f"{heading}: {text!r} is not in\n{code}"
            code = code.replace(text, instead)
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=str(self.folder), env=self.environ, capture_output=True,
            text=True, timeout=LIMIT,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def program(tmp_path, demo):
    return Program(tmp_path, demo)


class QuietHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def serving(handler, context=None):
    """An HTTP server on loopback, with TLS if there is a context; its port."""
    server = QuietServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(WAIT_LIMIT)


# --- retrying ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def failing(*statuses):
    """An API that answers these statuses one after the other, the last one for ever; None: no answer."""
    seen, over = [], threading.Event()

    class Handler(QuietHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(self.command)
            status = statuses[min(len(seen), len(statuses)) - 1]
            if status is None:
                over.wait(WAIT_LIMIT)
                self.close_connection = True
            else:
                self.reply(status, b"{}", Retry_After="0")

        do_GET = do_POST = do_PUT = answer

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}", seen
        over.set()


@pytest.mark.parametrize(
    ("statuses", "call", "status", "requests"),
    [
        pytest.param([503, 429, 200], "get('/x')", 200, ["GET"] * 3, id="503, then 429"),
        pytest.param([500, 200], "put('/x', b'body')", 200, ["PUT"] * 2, id="a PUT"),
        pytest.param([503], "get('/x')", 503, ["GET"] * 4, id="the last answer is returned"),
        pytest.param([None, 200], "get('/x', timeout=0.5)", 200, ["GET"] * 2, id="a timeout"),
        pytest.param([404], "get('/x')", 404, ["GET"], id="404 is final"),
        pytest.param([503], "post('/x', b'body')", 503, ["POST"], id="a POST is sent once"),
        pytest.param([503], "put('/x', iter([b'body']))", 503, ["PUT"], id="a stream is sent once"),
    ],
)
def test_recipe_retries_what_may_pass(program, statuses, call, status, requests):
    with failing(*statuses) as (url, seen):
        result = program.run(RETRY, api=url, behind=f"print(session.{call}.status)")

    assert result == (0, f"{status}\n", "")
    assert seen == requests


def test_recipe_for_retries_gives_up_with_the_error(program):
    behind = (
        "import urllib.error\n"
        "session.source.token()\n"
        "time.sleep = lambda seconds: print(int(seconds))\n"
        "try: session.get('/x')\n"
        "except urllib.error.URLError as error: print(type(error.reason).__name__)"
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        result = program.run(RETRY, api=f"http://127.0.0.1:{unused.getsockname()[1]}", behind=behind)

    assert result == (0, "1\n2\n4\nConnectionRefusedError\n", "")


def test_recipe_for_retries_leaves_the_401_to_the_session(program):
    program.demo.answer("/me", {}, status=401, headers={"WWW-Authenticate": "Bearer"})

    result = program.run(RETRY, behind="print(session.get('/me').status)")

    assert result == (0, "401\n", "")
    assert (program.demo.token_requests, len(program.demo.requests)) == (2, 2)


def test_recipe_for_retries_has_at_most_twenty_lines_in_its_handler():
    code = readme_blocks()[RETRY][0]
    body = code[code.index("class Retry") : code.index("session = ")]

    assert len([line for line in body.splitlines() if line.strip()]) <= 20


# --- pages, uploads, downloads ----------------------------------------------------------------------------------------


def test_recipe_follows_the_pages(program):
    program.demo.answer("/users", {"users": ["ada", "bob"], "next": "/users/2?size=2"})
    program.demo.answer("/users/2", {"users": ["eve"], "next": None})

    result = program.run(PAGINATION)

    assert result == (0, "ada\nbob\neve\n", "")
    assert [request.path for request in program.demo.requests] == ["/users", "/users/2?size=2"]


def test_recipe_does_not_take_the_token_to_another_origin(program):
    program.demo.answer("/users", {"users": ["ada"], "next": "https://elsewhere.example/users"})

    status, _, error = program.run(PAGINATION)

    assert status == 1
    assert "ValueError: url leads to https://elsewhere.example, which is not among base_url and origins" in error


def test_recipe_uploads_a_file_piece_by_piece(program):
    size = 16 << 20
    (program.folder / "report.pdf").write_bytes(b"a" * size)
    program.demo.answer("/upload", {})

    result = program.run(
        UPLOAD, before="import oauth_session, tracemalloc; tracemalloc.start()", behind="print(tracemalloc.get_traced_memory()[1] < 4 << 20)"
    )

    assert result == (0, "True\n", "")
    (request,) = program.demo.requests
    assert int(request.headers["Content-Length"]) == len(request.body)
    (part,) = email.message_from_string(f"Content-Type: {request.headers['Content-Type']}\n\n{request.body}").get_payload()
    assert (part.get_param("name", header="Content-Disposition"), part.get_filename()) == ("file", "report.pdf")
    assert part.get_payload() == "a" * size


def test_recipe_for_uploads_can_be_repeated_after_a_401(program):
    (program.folder / "report.pdf").write_bytes(b"text")
    before = (
        "import oauth_session, urllib.request\n"
        "fetched = []\n"
        "call = oauth_session.ClientCredentials.__call__\n"
        "def fetch(self):\n"
        "    token = call(self)\n"
        "    fetched.append(token)\n"
        "    return token if len(fetched) > 1 else oauth_session.Token('revoked')\n"
        "oauth_session.ClientCredentials.__call__ = fetch\n"
    )
    code = readme_blocks()[UPLOAD][0]
    last = "session.post(" + code.partition("session.post(")[2]
    behind = "data, headers = multipart('report.pdf')\n" + last
    placeholders = {
        "\n" + last + "\n" + behind: (
            "\ntry:\n    " + last + "except oauth_session.OAuthInvalidToken as error:\n    print(error)\n" + behind
        )
    }

    status, output, error = program.run(UPLOAD, before=before, behind=behind, placeholders=placeholders)

    assert (status, error) == (0, "")
    assert "the body cannot be sent again" in output
    assert [request.body.count("text\r\n") for request in program.demo.requests] == [1, 1]


@pytest.mark.parametrize("with_ranges", [True, False], ids=["Range", "a server without Range"])
def test_recipe_resumes_a_download(program, with_ranges):
    content, asked = os.urandom(300_000), []

    class Handler(QuietHandler):
        def do_GET(self):
            asked.append(self.headers["Range"])
            begin = int(re.sub(r"\D", "", asked[-1] or "0")) if with_ranges else 0
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            self.wfile.write(content[begin:100_000] if len(asked) == 1 else content[begin:])
            self.close_connection = len(asked) == 1

    with serving(Handler) as port:
        api = f"http://127.0.0.1:{port}"
        first = program.run(DOWNLOAD, api=api)
        assert not (program.folder / "big.iso").exists()
        second = program.run(DOWNLOAD, api=api)

    assert first[0] == 1
    assert "closed before the answer was complete" in first[2]
    assert second[:2] == (0, "")
    assert second[2].endswith("300,000 of 300,000 bytes")
    assert asked[0] is None
    assert re.fullmatch(r"bytes=\d+-", asked[1])
    assert (program.folder / "big.iso").read_bytes() == content
    assert sorted(os.listdir(program.folder)) == ["big.iso", "oauth_session.py"]


# --- proxies and certificates -----------------------------------------------------------------------------------------


class Authority:
    """A certificate authority made by the openssl command, which signs a certificate for one host."""

    def __init__(self, folder, host):
        self.file = str(folder / "ca.pem")
        (folder / "extensions").write_text(f"subjectAltName=DNS:{host}\n")
        for command in (
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=authority-of-" + host,
            f"req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN={host}",
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 30 -extfile extensions",
        ):
            subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=LIMIT)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(str(folder / "server.pem"), str(folder / "server.key"))


@pytest.fixture
def network(tmp_path_factory):
    """https://auth.example.com and https://api.example.com, each with its own authority, behind a proxy: (its port,
    what it was asked, the authorities by host)."""
    if shutil.which("openssl") is None:
        pytest.skip("not installed: openssl")
    asked, ports, authorities = [], {}, {}

    class Server(QuietHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.reply(200, json.dumps({"access_token": "t", "expires_in": 3600}).encode())

        do_GET = do_POST = answer

    class Proxy(QuietHandler):
        def do_CONNECT(self):
            asked.append((self.path, self.headers["Proxy-Authorization"]))
            with socket.create_connection(("127.0.0.1", ports[self.path])) as upstream:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=self.copy, args=(upstream, self.connection), daemon=True)
                back.start()
                self.copy(self.connection, upstream)
                back.join(WAIT_LIMIT)
            self.close_connection = True

        def copy(self, source, target):
            with contextlib.suppress(OSError):
                while piece := source.recv(65536):
                    target.sendall(piece)
                target.shutdown(socket.SHUT_WR)

    with contextlib.ExitStack() as stack:
        for host in ("auth.example.com", "api.example.com"):
            authorities[host] = Authority(tmp_path_factory.mktemp(host), host)
            ports[host + ":443"] = stack.enter_context(serving(Server, authorities[host].context))
        yield stack.enter_context(serving(Proxy)), asked, authorities


def test_recipe_gives_the_proxy_its_password(program, network, tmp_path):
    port, asked, authorities = network
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(one.file).read_text() for one in authorities.values()))
    program.environ.update(OAUTH_TOKEN_URL=TOKEN_URL, SSL_CERT_FILE=str(both), PROXY_PASSWORD="p@ss:w/rd")

    result = program.run(
        PROXY, api=API, behind="print(session.get('/me').status)", placeholders={"proxy.example:3128": f"127.0.0.1:{port}"}
    )

    assert result == (0, "200\n", "")
    basic = "Basic dXNlcjpwQHNzOncvcmQ="  # user:p@ss:w/rd
    assert asked == [("auth.example.com:443", basic), ("api.example.com:443", basic)]


def test_retries_go_through_the_proxy_each_time(program, network, tmp_path):
    port, asked, authorities = network
    program.environ.update(
        OAUTH_TOKEN_URL=TOKEN_URL, SSL_CERT_FILE=authorities["auth.example.com"].file, HTTPS_PROXY=f"http://127.0.0.1:{port}"
    )  # the certificate of the API is not trusted
    behind = (
        "session.source.token()\n"
        "time.sleep = lambda seconds: None\n"
        "try: session.get('/me')\n"
        "except urllib.error.URLError as error: print(error.reason.verify_code)"
    )

    result = program.run(RETRY, api=API, behind=behind)

    assert result == (0, "20\n", "")
    assert [host for host, _ in asked] == ["auth.example.com:443"] + ["api.example.com:443"] * 4


def test_recipe_trusts_a_private_ca_beside_the_public_ones(program, network):
    port, _, authorities = network
    program.environ.update(
        OAUTH_TOKEN_URL=TOKEN_URL, SSL_CERT_FILE=authorities["auth.example.com"].file, HTTPS_PROXY=f"http://127.0.0.1:{port}"
    )

    result = program.run(
        PRIVATE_CA, api=API, behind="print(session.get('/me').status)",
        placeholders={"/etc/ssl/acme-ca.pem": authorities["api.example.com"].file},
    )  # fmt: skip

    assert result == (0, "200\n", "")


# --- secrets, platforms -----------------------------------------------------------------------------------------------


def test_recipe_asks_the_secrets_manager_again_when_the_secret_is_rotated(program, kms):
    import boto3

    program.environ.update({name: os.environ[name] for name in os.environ if name.startswith("AWS_")}, no_proxy="127.0.0.1")
    manager = boto3.client("secretsmanager")
    manager.create_secret(Name="my-client", SecretString="old")
    program.demo.client_secret = "new"
    behind = (
        "ask = manager.get_secret_value\n"
        "def rotating(**names):\n"
        "    answer = ask(**names)\n"
        "    manager.put_secret_value(SecretString='new', **names)\n"
        "    return answer\n"
        "manager.get_secret_value = rotating\n"
        f"print(session.get('{program.demo.url}/me').status)"
    )

    result = program.run(
        SECRETS_MANAGER, before="import warnings; warnings.simplefilter('ignore')", behind=behind,
        placeholders={TOKEN_URL: program.demo.token_url, '"my-client", c': f'"{program.demo.client_id}", c'},
    )  # fmt: skip
    manager.close()

    assert result == (0, "200\n", "")
    assert program.demo.token_requests == 3  # "old" by two methods, "new"


@pytest.mark.parametrize("fault", ["the API", "the token endpoint"])
def test_recipe_lambda_answers_when_something_fails(program, fault):
    if fault == "the API":
        program.demo.answer("/me", {}, status=503)
    else:
        program.demo.fail(400)

    status, output, error = program.run(LAMBDA, behind="print(handler({}, None))")

    assert (status, error) == (0, "")
    assert output.startswith("{'statusCode': 502, 'body': ")


@pytest.mark.parametrize("fault", ["the API", "the token endpoint"])
def test_recipe_cron_fails_with_a_message(program, fault):
    if fault == "the API":
        program.demo.answer("/report", {}, status=500)
    else:
        program.demo.fail(400)

    status, output, error = program.run(CRON)

    assert (status, output) == (1, "")
    assert re.fullmatch("no report: .*\n", error)


# --- coming from requests ---------------------------------------------------------------------------------------------


def test_expression_in_the_place_of_response_links():
    code = re.search(r'(?m)^\| `response.links\["next"\]` \| `(.*)`: one URL or none \|$', README.read_text("utf-8"))[1]

    class response:
        headers = {"Link": '<https://a.example/2?x=1,2>; rel="prev", <https://a.example/4>; rel="next"; title="t"'}

    assert eval(code, {"re": re, "response": response}) == ["https://a.example/4"]


def test_what_requests_names_otherwise_is_in_the_table():
    with DemoServer() as server:
        program = (
            "from oauth_session import OAuthSession\n"
            f"session = OAuthSession('a', 'b', None, {server.token_url!r})\n"
            "for name in 'verify cert proxies stream allow_redirects auth cookies files'.split():\n"
            "    try: session.get('https://api.example.com/', **{name: 1})\n"
            "    except TypeError as error: print(name)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, cwd=str(README.parent), capture_output=True, text=True, timeout=LIMIT
        )
    table = README.read_text("utf-8").partition("## Coming from requests")[2].partition("\n## ")[0]

    assert len(done.stdout.split()) == 8
    for name in done.stdout.split():
        assert f"`{name}=" in table


# --- what instruments it ----------------------------------------------------------------------------------------------

CALLS = """
from oauth_session import DemoServer, OAuthSession
with DemoServer() as server:
    session = OAuthSession(server.client_id, server.client_secret, "read", server.token_url, base_url=server.url)
    {}
        session.get("/me")
        session.get("/me")
    headers = server.requests[-1].headers
"""


def run_alone(tmp_path, code):
    """Run Python code in a process of its own, since what instruments a library changes its classes."""
    shutil.copy(str(README.parent / "oauth_session.py"), str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], check=False, cwd=str(tmp_path), capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sentry_sees_calls_and_token_requests(tmp_path):
    missing("sentry_sdk")
    before = """
import sentry_sdk
from sentry_sdk.transport import Transport
events = []
class Kept(Transport):
    def capture_envelope(self, envelope):
        events.extend(item.payload.json for item in envelope.items if item.payload.json)
sentry_sdk.init(dsn="http://key@sentry.example/1", transport=Kept, traces_sample_rate=1.0)
"""
    behind = """
sentry_sdk.flush()
print(*[span["description"].split()[0] for event in events for span in event.get("spans", ())], "sentry-trace" in headers)
"""

    output = run_alone(tmp_path, before + CALLS.format("with sentry_sdk.start_transaction(name='t'):") + behind)

    assert output.split() == ["POST", "GET", "GET", "True"]


def test_opentelemetry_sees_calls(tmp_path):
    missing("opentelemetry")
    before = """
from opentelemetry import trace
from opentelemetry.instrumentation.urllib import URLLibInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
URLLibInstrumentor().instrument()
"""
    behind = "print(*[span.name for span in kept.get_finished_spans()], 'Traceparent' in headers)"

    output = run_alone(tmp_path, before + CALLS.format("if True:") + behind)

    assert output.split() == ["GET", "GET", "True"]

