# SPDX-License-Identifier: MIT
"""The life of a token where it needs real time, real sockets and real processes: load, outages, forks, signals.

    python -m pytest .ci/interop/test_life.py

What a clock driven by hand can show is in test_oauth_session.py. Scenarios that only wait run beside the others, each
in a thread of its own. Requests and connections are counted at the server, and exact. That nobody waits for a renewal is
seen by its answer, which a server keeps back until calls have ended meanwhile: machines differ, and stand still at times.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

import oauth_session
from oauth_session import ClientCredentials, OAuthSession, OAuthTransportError, TokenSource

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, SIGSTOP and SIGINT")

LIMIT = 120.0  # seconds; what takes longer fails, whatever the machine
CLIENT = "client", "secret"
STRICT = ["-W", "error"]  # what is left open or goes wrong in a program is to be seen on stderr
if sys.version_info >= (3, 9):  # Trap: in development mode 3.8 crashes at the end of a child of a fork with threads
    STRICT += ["-X", "dev"]


# --- the servers ------------------------------------------------------------------------------------------------------


def page(status, body=b"", kind="application/json"):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Request:
    """What came: when, from whom, with which token."""

    def __init__(self, head):
        self.at = time.monotonic()
        first, *lines = head.decode("latin-1").split("\r\n")
        self.path = first.split(" ")[1]
        self.headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines}
        self.token = self.headers.get("authorization", "").rpartition(" ")[2]
        self.sender = self.headers.get("user-agent", "")


class Endpoint:
    """A server on a port that the system chose. Its `answer` may be slow, never end, or hang up by returning None."""

    def __init__(self, tls=None):
        self.tls, self.requests, self.connections = tls, [], []  # connections: the requests of each
        self.sockets, self.threads, self.lock = [], [], threading.Lock()
        self.closing, self.acceptor = threading.Event(), None
        self.reserved = self._bind(0)  # is bound and does not listen: the port stays ours while connections are refused
        self.port = self.reserved.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.listen()

    def _bind(self, port):
        sock = socket.socket()
        for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
            if hasattr(socket, option):
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        sock.bind(("127.0.0.1", port))
        return sock

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.refuse()
        self.reserved.close()

    def listen(self):
        listener = self._bind(self.port)
        listener.listen(128)
        listener.settimeout(0.05)
        self.closing.clear()
        self.acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self.acceptor.start()

    def refuse(self):
        """Hang up, and refuse connections from now on."""
        self.closing.set()
        self.acceptor.join(LIMIT)
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join(LIMIT)

    def _accept(self, listener):
        with listener:
            while not self.closing.is_set():
                try:
                    sock, _ = listener.accept()
                except socket.timeout:
                    continue
                self.sockets.append(sock)
                self.connections.append([])
                thread = threading.Thread(target=self._serve, args=(sock, self.connections[-1]), daemon=True)
                self.threads.append(thread)
                thread.start()

    def _serve(self, sock, mine):
        try:
            sock.settimeout(2 * LIMIT)
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self.sockets.append(sock)
            with sock, sock.makefile("rb") as stream:
                while True:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        line = stream.readline()
                        if not line:
                            return
                        head += line
                    request = Request(head.rstrip())
                    stream.read(int(request.headers.get("content-length", 0)))
                    mine.append(request)
                    with self.lock:
                        self.requests.append(request)
                        number = len(self.requests)
                    answer = self.answer(number, request, sock)
                    if answer is None:
                        return
                    sock.sendall(answer)
        except OSError:  # the client hung up
            sock.close()

    def answer(self, number, request, sock):
        """Bytes, or None to hang up. number: of this request, from 1."""
        raise NotImplementedError


class Gate:
    """A request that has come, and is answered when it may go on."""

    def __init__(self):
        self.entered, self.go = threading.Event(), threading.Event()

    def reached(self):
        assert self.entered.wait(LIMIT), "the request never came"


class Issuer(Endpoint):
    """A token endpoint; its tokens are t-1, t-2 and so on, by the number of the request."""

    def __init__(self, life=3600.0, refresh_in=None, delay=0.0, tls=None):
        self.fields = {"expires_in": life, **({} if refresh_in is None else {"refresh_in": refresh_in})}
        self.life, self.delay, self.ends = life, delay, {}
        self.gates, self.fault, self.cured = {}, None, threading.Event()
        super().__init__(tls)
        self.token_url = self.url + "/token"

    def hold(self, number):
        """Keep the answer to this request back."""
        self.gates[number] = Gate()
        return self.gates[number]

    def fail(self, fault):
        """From now on be down, in one of these ways: refusing, hanging, or the bytes of an answer."""
        self.fault = fault
        if fault == "refusing":
            self.refuse()

    def work(self):
        """Be up again."""
        if self.fault == "refusing":
            self.listen()
        self.fault = None
        self.cured.set()

    def answer(self, number, request, sock):
        time.sleep(self.delay)
        gate = self.gates.get(number)
        if gate is not None:
            gate.entered.set()
            gate.go.wait(LIMIT)
        if self.fault == "hanging":
            self.cured.wait(LIMIT)
            return None
        if self.fault is not None:
            return self.fault(request) if callable(self.fault) else self.fault
        token = f"t-{number}"
        self.ends[token] = time.monotonic() + self.life
        return page("200 OK", json.dumps({"access_token": token, "token_type": "Bearer", **self.fields}).encode())

    def __exit__(self, *_):
        self.cured.set()
        for gate in self.gates.values():
            gate.go.set()
        super().__exit__()


class API(Endpoint):
    """Answers 200 and the token, if its issuers gave it and it lives, else 401."""

    def __init__(self, *issuers, tls=None):
        self.issuers, self.refused, self.gate = issuers, [], Gate()
        super().__init__(tls)

    def answer(self, number, request, sock):
        if request.path == "/slow":
            self.gate.entered.set()
            self.gate.go.wait(LIMIT)
        if any(time.monotonic() < issuer.ends.get(request.token, 0.0) for issuer in self.issuers):
            return page("200 OK", json.dumps(request.token).encode())
        self.refused.append(request.token)
        return page("401 Unauthorized")

    def __exit__(self, *_):
        self.gate.go.set()
        super().__exit__()


# --- the clients ------------------------------------------------------------------------------------------------------


class Call:
    """One call: how long it took, and its status or its exception."""

    def __init__(self, session, url):
        self.began = time.monotonic()
        try:
            self.outcome = session.get(url).status
        except Exception as error:
            self.outcome = error
        self.ended = time.monotonic()
        self.lasted = self.ended - self.began


def slowest(calls):
    return max(call.lasted for call in calls)


def outcomes(calls):
    return {call.outcome if isinstance(call.outcome, int) else type(call.outcome) for call in calls}


def together(actions):
    """Run these in threads that begin at once, and return their results."""
    results, barrier = [], threading.Barrier(len(actions))

    def run(action):
        barrier.wait(LIMIT)
        results.append(action())

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(results) == len(actions), "a caller does not come back"
    return results


def load(session, url, threads, enough):
    """Let so many threads call at the same time, each until it is enough; return all the calls."""
    calls, end = [], time.monotonic() + LIMIT

    def run():
        while not enough():
            assert time.monotonic() < end, "it goes on for ever"
            calls.append(Call(session, url))
            time.sleep(0.04)

    together([run] * threads)
    return calls


class Program:
    """A Python program in a process of its own. It is told to go on line by line, and answers so."""

    def __init__(self, text, *arguments, options=()):
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "program.py")
        path.write_text(text)
        self.errors = Path(self.folder.name, "errors")
        module = Path(oauth_session.__file__).resolve().parent
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *STRICT, *options, str(path), *arguments],
                env={**os.environ, "PYTHONPATH": str(module), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.decode().strip())
        self.lines.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()  # continues a stopped one, too
        self.process.wait(LIMIT)
        self.reader.join(LIMIT)
        self.process.stdin.close()
        self.process.stdout.close()
        self.folder.cleanup()

    def say(self, line="go on"):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.lines.get(timeout=LIMIT)
        assert line is not None, f"it ended early: {self.errors.read_text()}"
        return line

    def end(self):
        """Wait for it; it must be content, and have said nothing more. Return how long that took."""
        began = time.monotonic()
        status = self.process.wait(LIMIT)
        lasted = time.monotonic() - began
        assert (status, self.errors.read_text()) == (0, "")
        assert self.lines.get(timeout=LIMIT) is None
        return lasted


# --- which scenarios run beside the others ----------------------------------------------------------------------------


def beside(*cases):
    """Make a test whose body runs in a thread of its own, from the first test of this file on."""

    def make(body):
        def test(request, running, figures):
            name = request.node.name
            title = name[5:].replace("_", " ").replace("[", ": ").rstrip("]")
            figures.append((title, *running[name].result(2 * LIMIT)))

        def test_of_case(request, running, figures, case):
            test(request, running, figures)

        made = pytest.mark.parametrize("case", cases)(test_of_case) if cases else test
        made.body, made.__doc__ = body, body.__doc__
        return made

    return make


def run_into(future, body, *arguments):
    try:
        future.set_result(body(*arguments))
    except BaseException as error:
        future.set_exception(error)


@pytest.fixture(scope="module", autouse=True)
def running(request):
    """The bodies under way, by the name of the test that waits for them."""
    futures = {}
    for item in request.session.items:
        body = getattr(getattr(item, "function", None), "body", None)
        if body is not None:
            case = item.callspec.params.values() if hasattr(item, "callspec") else ()
            futures[item.name] = Future()
            arguments = (futures[item.name], body, *case)
            threading.Thread(target=run_into, args=arguments, daemon=True).start()
    return futures


# --- forks, while another thread is in the middle of something --------------------------------------------------------

FORK = """
import multiprocessing, os, signal, ssl, sys, threading
from oauth_session import OAuthSession

how, middle, token_url, api, trusted = sys.argv[1:]
context = ssl.create_default_context(cafile=trusted) if trusted else None
session = OAuthSession("client", "secret", None, token_url, context=context)

def call(path="/"):
    session.headers["User-Agent"] = "%d" % os.getpid()
    return session.get(api + path).status

def child():
    signal.alarm(50)
    sys.exit(call() != 200 or call() != 200)

def fork():
    if how == "os.fork":
        pid = os.fork()
        return os.waitpid(pid, 0)[1] if pid else child()
    process = multiprocessing.get_context(how).Process(target=child)
    process.start()
    process.join(50)
    return process.exitcode

def main():
    print(os.getpid(), call(), flush=True)
    if middle == "fetch":
        session.source.clear()
    done = []
    thread = threading.Thread(target=lambda: done.append(call("/slow" if middle == "call" else "/")), daemon=True)
    thread.start()
    sys.stdin.readline()
    print(fork(), flush=True)
    sys.stdin.readline()
    thread.join(50)
    print(*done, call(), flush=True)

if __name__ == "__main__":
    main()
"""


# Each value of the three is in one at least; https and os.fork, which have the most to go wrong, are together in two.
@pytest.mark.parametrize(
    ("scheme", "middle", "how"),
    [("https", "fetch", "os.fork"), ("https", "call", "os.fork"), ("http", "call", "fork"), ("http", "fetch", "spawn")],
)
def test_parent_and_child_go_on_after_a_fork_in_the_middle_of_a(request, figures, scheme, middle, how):
    tls, trusted = None, ""
    if scheme == "https":
        paths = request.getfixturevalue("certificate")
        tls, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), paths[0]
        tls.load_cert_chain(*paths)
    ignore = "ignore:This process"  # Python 3.12 warns of a fork with threads, which is the point here
    with Issuer(tls=tls) as issuer, API(issuer, tls=tls) as api:
        gate = issuer.hold(2) if middle == "fetch" else api.gate
        arguments = how, middle, issuer.token_url, api.url, trusted
        with Program(FORK, *arguments, options=("-W", ignore)) as program:
            parent, first = program.hear().split()
            gate.reached()
            program.say()
            child = program.hear()
            gate.go.set()
            program.say()
            last = program.hear()
            program.end()

    assert (first, child, last) == ("200", "0", "200 200")
    used = {"auth": issuer.connections, "api": api.connections}
    count = {"parent": [], "child": []}
    for name, connections in used.items():
        for connection in connections:
            senders = {one.sender for one in connection}
            assert len(senders) == 1, "parent and child share a connection"
            count["parent" if senders == {parent} else "child"].append(name)
    assert count["parent"] == ["auth", "api"]  # one each, used until the end: the child spoiled neither
    fetched = middle == "fetch" or how == "spawn"
    assert count["child"] == ["auth", "api"] if fetched else ["api"]
    assert len(issuer.requests) == 1 + (middle == "fetch") + fetched
    remark = f"connections: parent {len(count['parent'])}, child {len(count['child'])}"
    figures.append((f"{how} in the middle of a {middle}, {scheme}", len(issuer.requests), None, remark))


BUSY = page("503 Service Unavailable")

# --- a thread that cannot be started, and the end of the program ------------------------------------------------------

START = """
import sys, threading, time
from oauth_session import OAuthSession
session = OAuthSession("client", "secret", None, sys.argv[1])
def call():
    response = session.get(sys.argv[2])  # not session.source.token() too: it may be due by then
    print(response.status, response.json(), flush=True)
call()
time.sleep(0.3)
"""
NO_THREADS = START + """
try:
    threading.stack_size(1 << 50)  # more than there is address space
    threading.Thread(target=print, daemon=True).start()
except (RuntimeError, ValueError):
    pass
try:
    threading.Thread(target=int, daemon=True).start()
except RuntimeError:
    print("real", flush=True)
else:
    def refuse(self):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = refuse
    print("mocked", flush=True)
sys.stdin.readline()
call()
call()
"""


@pytest.mark.parametrize("case", ["works", "is busy"])
def test_call_is_served_where_no_thread_can_be_started_and_the_token_endpoint(figures, case):
    with Issuer(refresh_in=0.2) as issuer, API(issuer) as api:
        with Program(NO_THREADS, issuer.token_url, api.url) as program:
            heard, kind = [program.hear()], program.hear()
            issuer.fault = BUSY if case == "is busy" else None
            issuer.fields = {"expires_in": 3600}
            program.say()
            heard += [program.hear() for _ in range(2)]
            program.end()

    token = "t-2" if case == "works" else "t-1"
    # The call that finds the token due renews it, with three tries where it is busy, and goes with the old one.
    assert heard == ["200 t-1", "200 t-1", f"200 {token}"]
    assert len(issuer.requests) == (2 if case == "works" else 4)
    remark = f"RuntimeError ({kind}); renewed in the caller's thread"
    figures.append((f"no thread can be started, token endpoint {case}", len(issuer.requests), None, remark))


@pytest.mark.parametrize("case", ["due", "none"])
def test_call_at_interpreter_shutdown_is_served_where_the_token_is(figures, case):
    text = START if case == "due" else START.replace("call()\ntime.sleep(0.3)\n", "")
    with Issuer(refresh_in=0.2) as issuer, API(issuer) as api:
        with Program(text + "import atexit\natexit.register(call)\n", issuer.token_url, api.url) as program:
            heard = [program.hear() for _ in range(1 if case == "none" else 2)]
            program.end()

    assert all(line.startswith("200 ") for line in heard)
    # If a thread still starts, which versions do not agree about, it may be ended with the program before it has asked.
    assert len(issuer.requests) in ((1,) if case == "none" else (1, 2))
    figures.append((f"call at interpreter shutdown, token {case}", len(issuer.requests), None, heard[-1]))


# --- signals ----------------------------------------------------------------------------------------------------------

INTERRUPT = """
import signal, sys, threading
from oauth_session import OAuthSession
signal.signal(signal.SIGINT, signal.default_int_handler)
session = OAuthSession("client", "secret", None, sys.argv[1])
def call():
    return session.get(sys.argv[2]).status
served = []
def other():
    if sys.argv[3] == "fetches":
        sys.stdin.readline()
    served.append(call())
thread = threading.Thread(target=other, daemon=True)
thread.start()
try:
    if sys.argv[3] == "waits":
        sys.stdin.readline()
    call()
except KeyboardInterrupt:
    print("interrupted", flush=True)
thread.join(50)
print(*served, call(), session.source.token().access_token, flush=True)
"""


@pytest.mark.parametrize("case", ["fetches", "waits"])
def test_fetch_goes_on_after_ctrl_c_in_a_main_thread_that(figures, case):
    """The fetch goes on in a thread of its own, for the other thread and the next call."""
    with Issuer() as issuer, API(issuer) as api:
        gate = issuer.hold(1)
        with Program(INTERRUPT, issuer.token_url, api.url, case) as program:
            gate.reached()
            program.say()
            time.sleep(0.5)  # time to wait for the same fetch; if that was not enough, the counts are the same
            program.process.send_signal(signal.SIGINT)
            assert program.hear() == "interrupted"
            gate.go.set()
            last = program.hear()
            program.end()

    assert last == "200 200 t-1"
    assert (len(issuer.requests), len(issuer.connections)) == (1, 1)
    remark = "the other thread and a next call: 200"
    figures.append((f"Ctrl-C in a main thread that {case}", 1, None, remark))


# --- an API that refuses ----------------------------------------------------------------------------------------------


@beside("for ever", "once, since the token was revoked")
def test_8_threads_cost_one_more_token_where_the_api_answers_401(case):
    def enough():
        if case != "for ever" and len(api.requests) > 80:
            issuer.ends.pop("t-1", None)
        return len(api.requests) > 200

    with Issuer() as issuer, API(issuer) as api, OAuthSession(*CLIENT, None, issuer.token_url) as session:
        if case == "for ever":
            api.issuers = ()
        calls = load(session, api.url, 8, enough)

    sent = [one.token for one in api.requests]
    assert outcomes(calls) == {401 if case == "for ever" else 200}
    assert len(issuer.requests) == 2
    if case == "for ever":
        assert set(sent) == {"t-1", "t-2"}
        # Who sent the first token sent the second one after it, once; nobody sent anything twice after that.
        assert sent.count("t-1") <= 8
        replays = sent.count("t-1")
    else:
        replays = len(api.refused)
        assert set(api.refused) == {"t-1"} and replays <= 8
    assert len(sent) == len(calls) + replays
    return 2, slowest(calls), f"{len(calls)} calls, {replays} replays by 8 threads"


# --- a token endpoint that is down from the due point on --------------------------------------------------------------



@beside("refusing", "hanging")
def test_nobody_notices_before_the_token_expires_that_the_token_endpoint_is(case):
    """Once the token has expired, all who call get the error, and in the end the next token."""
    life, deadline, fetches = 7.0, 2.0, []

    def fetch():  # counts fetches, also where no server could
        fetches.append(time.monotonic())
        return credentials()

    fetch.timeout = deadline
    with Issuer(life=life, refresh_in=0.2) as issuer, API(issuer) as api, \
            OAuthSession(source=TokenSource(fetch), timeout=deadline) as session:  # fmt: skip
        credentials = ClientCredentials(*CLIENT, None, issuer.token_url, timeout=deadline)
        first = Call(session, api.url)
        issuer.fail(case)
        lives, expired = first.began + 0.9 * life, first.ended + 0.9 * life
        calls = load(session, api.url, 4, lambda: len(fetches) > 2 or time.monotonic() > lives)
        time.sleep(max(0.0, expired + 0.05 - time.monotonic()))
        before = [at for at in fetches[1:] if at < lives]
        waiters = together([lambda: Call(session, api.url)] * 8)
        issuer.work()
        end = time.monotonic() + LIMIT
        while Call(session, api.url).outcome != 200:
            assert time.monotonic() < end, "it does not recover"
            time.sleep(0.02)

    assert outcomes([first, *(call for call in calls if call.ended < lives)]) == {200}
    assert before, "it was not due"
    # Attempts keep a distance: 1, 2, 4 s, half of it by chance.
    assert all(b - a >= 0.5 * 2**n for n, (a, b) in enumerate(zip(before, before[1:])))
    assert outcomes(waiters) == {OAuthTransportError}
    assert len({id(call.outcome) for call in waiters}) == 8
    assert api.refused == []
    remark = f"{len(before)} fetches while due; then an error after {slowest(waiters):.2f} s of {deadline:g}"
    return len(issuer.requests), slowest(calls), remark


@beside("stays down", "works again")
def test_callers_come_back_where_the_token_expires_in_a_renewal_that_hangs_and_the_token_endpoint(case):
    """Expired after 3.6 s, when the renewal that began after 0.3 s has 2.7 s to its deadline; callers have one too."""
    with Issuer(life=4.0, refresh_in=0.3) as issuer, API(issuer) as api, \
            OAuthSession(*CLIENT, None, issuer.token_url, timeout=6.0) as session:  # fmt: skip
        gate = issuer.hold(2)
        assert Call(session, api.url).outcome == 200
        ends = session.source.token().expires_at
        if case == "stays down":
            issuer.fail("hanging")
        while not gate.entered.is_set():
            assert Call(session, api.url).outcome == 200
            time.sleep(0.02)
        time.sleep(max(0.0, ends - 0.4 + 0.05 - time.time()))
        waiters = together([lambda: Call(session, api.url)] * 8)
        requests = len(issuer.requests)  # here: when the server ends, what hangs there fails, and is tried again

    assert outcomes(waiters) == ({OAuthTransportError} if case == "stays down" else {200})
    assert (requests, api.refused) == (3, [])
    return 3, slowest(waiters), "8 waiters, whose deadline is 6 s"


# --- through many renewals --------------------------------------------------------------------------------------------


class HoldsRenewals(Issuer):
    """Answers a renewal when each of the threads that call has begun and ended a call since it came."""

    def __init__(self, ended):
        self.ended = ended  # how many calls of each thread have ended
        super().__init__(refresh_in=0.3)

    def answer(self, number, request, sock):
        then, end = list(self.ended), time.monotonic() + LIMIT
        while number > 1 and not all(now >= before + 2 for before, now in zip(then, self.ended)):
            if time.monotonic() > end or self.closing.wait(0.01):
                return None
        return super().answer(number, request, sock)


@beside()
def test_nobody_of_8_threads_waits_in_5_renewals_of_which_each_lasts_until_all_have_called():
    ended = [0] * 8
    with HoldsRenewals(ended) as issuer, API(issuer) as api, \
            OAuthSession(*CLIENT, None, issuer.token_url, timeout=LIMIT) as session:  # fmt: skip

        def run(thread):
            calls, end = [], time.monotonic() + LIMIT
            while len(issuer.ends) < 6:
                assert time.monotonic() < end, "calls wait for a renewal"
                calls.append(Call(session, api.url))
                ended[thread] += 1
                time.sleep(0.02)
            return calls

        calls = [call for made in together([functools.partial(run, thread) for thread in range(8)]) for call in made]

    assert outcomes(calls) == {200}
    assert (len(issuer.requests), api.refused) == (6, [])
    return 6, slowest(calls), f"{len(calls)} calls"


# --- what may happen between two lines --------------------------------------------------------------------------------


def test_an_interrupt_before_the_thread_of_a_fetch_starts_leaves_nobody_waiting(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    source = TokenSource(lambda: oauth_session.Token("token"))
    with monkeypatch.context() as patched:
        patched.setattr("contextvars.copy_context", interrupt)
        with pytest.raises(KeyboardInterrupt):
            source.token()
    assert source.token(timeout=1).access_token == "token"


def test_what_a_tls_record_holds_behind_an_answer_is_not_the_next_answer(certificate):
    """The reader has room for the answer only, so that the rest of the record waits inside TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    chunk = 100 + 16277
    behind = page(200, b"S" * 40)
    record = b"A" * 16277 + b"\r\n0\r\n\r\n" + behind[:100].ljust(100, b"S")
    connections = []

    def serve(sock):
        with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as stream:
            connections.append(stream)
            while b"/first" in stream.recv(65536):
                stream.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % chunk)
                stream.sendall(b"A" * 100)
                stream.sendall(record)
            stream.sendall(page(200, b"true"))

    source = TokenSource(lambda: oauth_session.Token("token"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen():
            for _ in range(2):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        trusted = ssl.create_default_context(cafile=certificate[0])
        with OAuthSession(source=source, context=trusted, timeout=LIMIT) as session:
            assert session.get(url + "/first").content == b"A" * chunk
            assert session.get(url + "/second").content == b"true"
    assert len(connections) == 2
