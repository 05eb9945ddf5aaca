# SPDX-License-Identifier: MIT
"""Make the file under test importable, start the peers, and print at the end what was counted and measured."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from peers import HERE, INSTALL_LIMIT, START_LIMIT, WAIT_LIMIT, AuthlibServer, Keys, OIDCProvider, started

from oauth_session import OAuthSession

ROWS = pytest.StashKey()
FIGURES = pytest.StashKey()


def pytest_configure(config):
    config.stash[ROWS] = []
    config.stash[FIGURES] = []


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for the names of the servers, its own CA, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("not installed: openssl")
    folder = tmp_path_factory.mktemp("tls")
    paths = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-out", paths[0], "-keyout", paths[1]]
    names = "subjectAltName=IP:127.0.0.1,DNS:auth.example.test,DNS:api.example.test"
    command += ["-days", "2", "-subj", "/CN=test", "-addext", names]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=START_LIMIT)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return paths


@pytest.fixture(scope="session")
def rows(pytestconfig):
    """The table's rows, (case, token requests, what they were), in the order in which the cases ran."""
    return pytestconfig.stash[ROWS]


@pytest.fixture(scope="session")
def figures(pytestconfig):
    """The second table's rows: (scenario, token requests, seconds of the slowest call or None, remark)."""
    return pytestconfig.stash[FIGURES]


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if rows:
        width = max(len(case) for case, _, _ in rows)
        terminalreporter.section("token requests, counted by the authorisation servers")
        for case, requests, answers in rows:
            terminalreporter.write_line(f"{case:<{width}}  {requests:>3}  {answers}".rstrip())
    figures = config.stash[FIGURES]
    if figures:
        width = max(len(scenario) for scenario, *_ in figures)
        terminalreporter.section("the life of a token, in real time")
        terminalreporter.write_line(f"{'':<{width}}   token   slowest")
        terminalreporter.write_line(f"{'':<{width}}    req.      call")
        for scenario, requests, slowest, remark in figures:
            longest = "" if slowest is None else f"{slowest:.3f} s"
            line = f"{scenario:<{width}}  {requests:>6}  {longest:>8}   {remark}"
            terminalreporter.write_line(line.rstrip())


def missing(*packages):
    """Skip, and say which of these Python packages are not installed."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")


def note(rows, peer, case, answers):
    """Put into the table what a case cost, {client id: answers of the token endpoint}."""
    given = list(itertools.chain.from_iterable(answers.values()))
    grouped = [(answer, len(list(group))) for answer, group in itertools.groupby(given)]
    texts = [answer if times == 1 else f"{answer} ({times} times)" for answer, times in grouped]
    if given:
        rows.append((f"{peer}: {case[len('test_') :].replace('_', ' ')}", len(given), ", ".join(texts)))


@pytest.fixture
def make_session():
    """Make sessions that are closed when the case is over."""
    with contextlib.ExitStack() as sessions:

        def make(server, client_id, secret=None, scope=("read",), **settings):
            settings.setdefault("timeout", WAIT_LIMIT)
            if "issuer" not in settings:
                settings.setdefault("token_url", server.token_url)
            if secret is not None:
                settings["client_secret"] = secret
            return sessions.enter_context(OAuthSession(client_id, scope=list(scope), **settings))

        yield make


# --- oidc-provider ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def programs():
    """The paths of node and npm, or a skip that says what is missing."""
    paths = {name: shutil.which(name) for name in ("node", "npm", "openssl")}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    # oidc-provider names Node 22; what it really cannot do without are these two functions, which late 20.x has.
    capable = "process.exit(URL.parse && require('crypto').hash ? 0 : 1)"
    if subprocess.run([paths["node"], "-e", capable], check=False, timeout=START_LIMIT).returncode:
        pytest.skip("this node is too old for oidc-provider, which needs 22 or a late 20")
    return paths


@pytest.fixture(scope="session")
def packages(programs):
    """The folder where this very package-lock.json is installed."""
    manifest = [HERE / "package.json", HERE / "package-lock.json"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in manifest)).hexdigest()
    cache = Path(os.environ.get("OAUTH_SESSION_CI_CACHE") or Path.home() / ".cache" / "oauth_session-ci")
    installed = cache / f"oidc-provider-{digest[:12]}"
    if installed.is_dir():
        return installed
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(cache)) as scratch:
        staging = Path(scratch, "staging")
        staging.mkdir()
        for path in manifest:
            shutil.copy(str(path), str(staging))
        command = [programs["npm"], "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        npm = subprocess.run(command, check=False, cwd=str(staging), timeout=INSTALL_LIMIT, **options)
        assert npm.returncode == 0, npm.stdout.decode("utf-8", "replace")
        # Renamed when complete: an interrupted installation must not be taken for one, and another run may be first.
        with contextlib.suppress(OSError):
            staging.rename(installed)
    assert installed.is_dir()
    return installed


@pytest.fixture(scope="session")
def running(programs, packages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("oidc-provider")
    with started([programs["node"], str(HERE / "server.mjs"), str(folder)], folder, cwd=str(packages)) as facts:
        yield OIDCProvider(facts)


@pytest.fixture
def server(running, rows, request, monkeypatch):
    """The servers with all counts at zero. What a case cost is put into the table."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running.reset()
    yield running
    note(rows, "oidc-provider", request.node.name, running.token_answers)


@pytest.fixture
def connect(server, make_session):
    """Make sessions of a registered client."""

    def session_of(client_id, secret=None, scope=("read",), **settings):
        settings.setdefault("context", server.context())
        return make_session(server, client_id, secret or server.secrets.get(client_id), scope, **settings)

    return session_of


# --- Authlib ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def running_authlib(tmp_path_factory):
    missing("authlib", "flask")
    folder = tmp_path_factory.mktemp("authlib")
    with started([sys.executable, str(HERE / "authlib_server.py")], folder) as facts:
        yield AuthlibServer(facts)


@pytest.fixture
def authlib(running_authlib, rows, request, monkeypatch):
    """Authlib's server with all counts at zero. What a case cost is put into the table."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running_authlib.reset()
    yield running_authlib
    note(rows, "Authlib", request.node.name, running_authlib.token_answers)


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Private keys as a client has them."""
    if shutil.which("openssl") is None:
        pytest.skip("not installed: openssl")
    return Keys(tmp_path_factory.mktemp("keys"))


# --- AWS KMS ----------------------------------------------------------------------------------------------------------

MOTO = """
import json, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(json.dumps({"url": "http://{}:{}".format(*server.get_host_and_port())}), flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="session")
def running_moto(tmp_path_factory):
    missing("moto", "flask", "flask_cors", "boto3")
    with started([sys.executable, "-c", MOTO], tmp_path_factory.mktemp("moto")) as facts:
        yield facts["url"]


@pytest.fixture
def kms(running_moto, monkeypatch):
    """AWS KMS as moto plays it, where every boto3 client of the case finds it; the client of an administrator."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", running_moto)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "eu-central-1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    import boto3  # not above: the other cases do without

    client = boto3.client("kms")
    yield client
    client.close()
