# SPDX-License-Identifier: MIT
"""An AWS Lambda function with its session at module level, run by Amazon's own runtime, and frozen as Lambda does it.

    python -m pytest .ci/interop/test_lambda.py

Between two invocations Lambda stops the process, with all that is under way in it; here SIGSTOP does. The clocks go on.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from peers import HERE

from oauth_session import DemoServer

LIFE = 3  # seconds of a short token
LIMIT = 60  # seconds; what takes longer fails, whatever the machine
KEEP_ALIVE = 1  # seconds after which the API closes an idle connection
API = "/2018-06-01/runtime/"

FUNCTION = """
from oauth_session import OAuthSession

session = OAuthSession.from_env()

def handler(event, context):
    response = session.request(event["method"], "/me", data=b"")
    return {"status": response.status, "request": context.aws_request_id}
"""


class Runtime(http.server.ThreadingHTTPServer):
    """The Lambda runtime API: hands out one event after another, and takes what becomes of them."""

    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), RuntimeHandler)
        self.events, self.outcomes, self.count = queue.Queue(), queue.Queue(), 0

    def invoke(self, method="POST"):
        """Run the function once; return what it returned."""
        self.count += 1
        self.events.put({"method": method})
        kind, outcome = self.outcomes.get(timeout=LIMIT)
        assert (kind, outcome.get("request")) == ("response", f"request-{self.count}"), outcome
        return outcome["status"]


class RuntimeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = None  # the runtime waits for the next event on a kept connection

    def do_GET(self):
        assert self.path == API + "invocation/next"
        event = json.dumps(self.server.events.get()).encode()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": f"request-{self.server.count}",
            "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + 60_000),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:123456789012:function:test",
            "Content-Type": "application/json",
        }
        self.reply(200, event, headers)

    def do_POST(self):
        """Of invocation/ID/response, invocation/ID/error or init/error."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(202, b"", {})
        self.server.outcomes.put((self.path.rpartition("/")[2], json.loads(body)))

    def reply(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """Authorisation server and API, whose requests are in `server.lines`, and which close idle connections."""
    handler = http.server.BaseHTTPRequestHandler
    monkeypatch.setattr(handler, "timeout", KEEP_ALIVE)
    monkeypatch.setattr(handler, "protocol_version", "HTTP/1.1")
    with DemoServer() as server:
        server.lines = []
        monkeypatch.setattr(handler, "log_request", lambda one, code: server.tell(f"{one.path} {code}"))
        server.tell = server.lines.append
        yield server


@pytest.fixture
def function(server, tmp_path):
    """The Lambda function, as its runtime API sees it, and its process."""
    pytest.importorskip("awslambdaric.__main__", reason="awslambdaric, for Linux and macOS, is not installed")
    shutil.copy(str(HERE.parents[1] / "oauth_session.py"), str(tmp_path))
    (tmp_path / "function.py").write_text(FUNCTION, "utf-8")
    with Runtime() as runtime, (tmp_path / "log.txt").open("wb") as log:
        threading.Thread(target=runtime.serve_forever, args=(0.05,), daemon=True).start()
        settings = {"TOKEN_URL": server.token_url, "CLIENT_ID": server.client_id, "CLIENT_SECRET": server.client_secret}
        environment = {f"OAUTH_{name}": value for name, value in {**settings, "BASE_URL": server.url}.items()}
        environment.update(AWS_LAMBDA_RUNTIME_API=f"127.0.0.1:{runtime.server_address[1]}", PATH=os.environ["PATH"])
        command = [sys.executable, "-B", "-m", "awslambdaric", "function.handler"]
        process = subprocess.Popen(command, cwd=str(tmp_path), env=environment, stdout=log, stderr=log)
        try:
            yield runtime, process
        finally:
            process.kill()  # a stopped one too
            process.wait(LIMIT)
            runtime.events.put({})
            runtime.shutdown()
    assert "Traceback" not in (tmp_path / "log.txt").read_text("utf-8")


@contextlib.contextmanager
def frozen(process):
    """Stop the process as Lambda does between two invocations."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    yield
    process.send_signal(signal.SIGCONT)


def test_five_invocations_need_one_token(server, function):
    runtime, _ = function

    assert [runtime.invoke("GET") for _ in range(5)] == [200] * 5
    assert server.token_requests == 1


def test_frozen_longer_than_the_token_lives_costs_one_token_and_no_call(server, function):
    runtime, process = function
    server.expires_in = LIFE
    assert runtime.invoke() == 200

    with frozen(process):
        time.sleep(LIFE)
        server.expires_in = 3600
    statuses = [runtime.invoke() for _ in range(3)]

    assert statuses == [200] * 3
    assert server.token_requests == 2
    assert not [line for line in server.lines if "401" in line]


def test_frozen_longer_than_connections_are_kept_costs_no_call(server, function):
    """The call is a POST, which cannot simply be sent again where a kept connection turns out to be closed."""
    runtime, process = function
    assert runtime.invoke() == 200

    with frozen(process):
        time.sleep(KEEP_ALIVE + 0.5)

    assert runtime.invoke() == 200
    assert server.token_requests == 1


def test_frozen_amid_a_renewal_costs_no_call(server, function):
    """A renewal that began in the background of an invocation is frozen with it, until its token is worth nothing."""
    runtime, process = function
    answer, life = threading.Event(), 5
    server.expires_in = life
    assert runtime.invoke() == 200
    time.sleep(life * 0.52)  # it is due for the second half, and not used in the last tenth
    server.tell = lambda line: (server.lines.append(line), "/oauth/token" in line and answer.wait(LIMIT))
    assert runtime.invoke() == 200
    deadline = time.monotonic() + LIMIT
    while server.token_requests < 2 and time.monotonic() < deadline:
        time.sleep(0.01)

    with frozen(process):
        assert server.token_requests == 2
        time.sleep(life * 0.5)
        server.expires_in = 3600
    threading.Timer(0.5, answer.set).start()  # the next call is waiting by then
    statuses = [runtime.invoke() for _ in range(3)]

    assert statuses == [200] * 3
    assert server.token_requests == 3
    assert not [line for line in server.lines if "401" in line]
