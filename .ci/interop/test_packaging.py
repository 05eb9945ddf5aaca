# SPDX-License-Identifier: MIT
"""What somebody meets who installs the file, types against it, reads its help(), or makes one of the usual mistakes.

    python -m pytest .ci/interop/test_packaging.py
"""

from __future__ import annotations

import inspect
import os
import pydoc
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import traceback
import zipfile
from pathlib import Path

import pytest

import oauth_session
from oauth_session import DemoServer, OAuthSession

ROOT = Path(__file__).resolve().parents[2]
TOP = ("oauth_session.py", "test_oauth_session.py", "README.md", "LICENSE", "setup.cfg", "pyproject.toml")
LIMIT = 300  # seconds; pip over a slow line
HELP_COLUMNS = 80  # of help(), signatures apart: pydoc breaks those from Python 3.13 on


def run(*command, **options):
    """Run to the end, which must be a good one; return what it printed."""
    options.update(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    done = subprocess.run(list(map(str, command)), check=False, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


# --- packages ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy, since setuptools builds beside the source."""
    folder = tmp_path_factory.mktemp("source")
    for name in TOP:
        shutil.copy(str(ROOT / name), str(folder))
    return folder


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """The wheel, which is built from the sdist, and the sdist."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("packages")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_and_sdist_hold_the_file_the_licence_and_the_readme(built):
    wheel, sdist = built
    stem = f"oauth_session-{oauth_session.__version__}"
    expected = {name: (ROOT / name).read_text("utf-8") for name in ("oauth_session.py", "LICENSE", "README.md")}

    with tarfile.open(str(sdist)) as archive:
        packed = {name: archive.extractfile(f"{stem}/{name}").read().decode() for name in expected}
    with zipfile.ZipFile(str(wheel)) as archive:
        inside = {name.split("/", 1)[-1]: archive.read(name).decode() for name in archive.namelist()}

    assert wheel.name == f"{stem}-py3-none-any.whl"
    assert packed == expected
    metadata, _, readme = inside["METADATA"].partition("\n\n")
    held = {"oauth_session.py": inside["oauth_session.py"], "LICENSE": inside["licenses/LICENSE"], "README.md": readme}
    assert {name: held[name].strip() for name in expected} == {name: expected[name].strip() for name in expected}
    fields = {"Requires-Python: >=3.8", "License: MIT", "Description-Content-Type: text/markdown"}
    assert fields <= set(metadata.splitlines())
    assert not [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert {name for name in inside if name.endswith(".py")} == {"oauth_session.py"}


def test_the_wheel_brings_the_module_the_command_and_nothing_else(built, tmp_path):
    """That pip installs a checkout, with what the tests need, is shown by the test command of the README in `.ci/run`."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip, command = [sys.executable, "-m", "pip", "--python", scripts / "python"], scripts / "oauth-session"
    options = {"cwd": str(tmp_path), "env": {**os.environ, "PYTHONWARNINGS": "error", "COLUMNS": "80"}}

    run(*pip, "install", "-q", built[0])
    installed = run(*pip, "list", "--format=freeze")
    shown, demo = run(command, "--help", **options), run(command, "--demo", **options)

    assert re.findall(r"(?m)^([\w-]+)==", installed) == ["oauth_session"]
    assert shown.startswith("usage: ") and "wrong settings" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"Done: \d+ token requests in all\.$", demo.strip())


# --- types ------------------------------------------------------------------------------------------------------------

TYPED = """
from __future__ import annotations

import urllib.request

from oauth_session import ClientCredentials, DemoServer, OAuthError, OAuthHandler, OAuthSession
from oauth_session import Response, Token, TokenSource


class AcmeSession(OAuthSession):
    token_url = "https://auth.acme.example/oauth/token"
    base_url = "https://api.acme.example"
    scope = ("read", "write")


def name_of(session: OAuthSession, user: int) -> str:
    response: Response = session.get(f"/users/{user}", params={"fields": ["name"]}, timeout=3).raise_for_status()
    name: str = response.json()["name"]
    return name + response.text + str(response.status + 1)


with DemoServer() as server, AcmeSession("my-client", lambda: "my-secret", headers={"X-Team": "blue"}) as session:
    try:
        print(name_of(session, 1), session.access_token.upper(), server.url.upper())
        session.post("/notes", json={"text": "hello"}, headers={"X-Team": "red"})
        with session.open("/large") as answer:
            print(answer.read(10).decode())
    except OAuthError as error:
        print((error.error or "").upper(), (error.status or 0) + 1)

credentials = ClientCredentials("my-client", "my-secret", ["read"], "https://auth.example.com/oauth/token")
opener = urllib.request.build_opener(OAuthHandler(TokenSource(credentials), ["https://api.example.com"]))
print(TokenSource(lambda: Token("abc", expires_at=None)).authorization().upper(), opener)

OAuthSession(3)  # wrong
session.get("/").statuss  # wrong
name_of(session, session.get("/").status_code).decode()  # wrong
ClientCredentials("my-client", scope=3)  # wrong
"""


@pytest.mark.parametrize("checker", [["mypy", "--strict", "--cache-dir=.mypy"], ["pyright"]], ids=lambda line: line[0])
def test_program_over_a_vendored_copy_is_checked(tmp_path, checker):
    pytest.importorskip(checker[0])
    if checker[0] == "pyright" and shutil.which("node") is None:
        pytest.skip("not installed: node")
    shutil.copy(str(ROOT / "oauth_session.py"), str(tmp_path))
    (tmp_path / "program.py").write_text(TYPED, "utf-8")
    command = [sys.executable, "-m", *checker, "program.py"]
    done = subprocess.run(command, check=False, cwd=str(tmp_path), capture_output=True, text=True, timeout=LIMIT)

    found = {int(number) for number in re.findall(r"program\.py:(\d+):.*\berror\b", done.stdout)}

    assert found == {number for number, line in enumerate(TYPED.splitlines(), 1) if "# wrong" in line}, done.stdout
    assert "oauth_session.py" not in done.stdout


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_shows_what_is_public_and_nothing_private():
    text = pydoc.render_doc(oauth_session, renderer=pydoc.plaintext)

    private = set(re.findall(r"(?m)^    (?:class )?(_\w*[a-z])\(", text))  # trap: a module that has `_fields` hides nothing
    private -= {base.__name__ for base in oauth_session.OAuthBearerError.__mro__}  # it shows the bases of what is public
    missing = [name for name in oauth_session.__all__ if name not in text and name != "__version__"]
    assert (private, missing) == (set(), [])


def test_all_names_what_is_public():
    names = vars(oauth_session)
    own = [name for name, value in names.items() if getattr(value, "__module__", "") == "oauth_session"]
    public = {name for name in own if not name.startswith("_")}
    assert public - set(oauth_session.__all__) == {"main"}
    assert set(oauth_session.__all__) - set(names) == set()


def test_help_fits_the_columns():
    documented = [("the module", oauth_session, 4)]
    for name in oauth_session.__all__:
        thing = getattr(oauth_session, name)
        if inspect.isclass(thing):
            methods = [one for one in vars(thing) if one[0] != "_" and hasattr(getattr(thing, one), "__get__")]
            documented += [(f"{name}.{one}", getattr(thing, one), 8) for one in methods]
            documented.append((name, thing, 4))
    told = [(name, inspect.getdoc(one) or "", indent) for name, one, indent in documented]
    wide = {name for name, text, indent in told for line in text.splitlines() if len(line) + indent > HELP_COLUMNS}
    assert wide == set()


# --- mistakes ---------------------------------------------------------------------------------------------------------

ORDER = "the order is OAuthSession(client_id, client_secret, scope, token_url)"
TOKEN_URL = "https://auth.example.com/oauth/token"
MISTAKES = {  # what somebody writes, and what the last line of the traceback must say
    "arguments are missing": ("make('my-client', 'my-secret')", "ValueError: token_url", ORDER),
    "arguments are swapped": (f"make('my-client', 'my-secret', {TOKEN_URL!r}, 'read')", "ValueError: token_url", ORDER),
    "no scheme": ("make(*four).get('api.example.com/me')", "ValueError: url", "https://host:port/path", "base_url"),
    "verify": ("make(*four).get('/me', verify=False)", "TypeError", "'verify'", "ssl.create_default_context("),
    "http token_url": (
        "make('my-client', 'my-secret', 'read', 'http://auth.example.com/token')",
        "ValueError: token_url", "https://", "allow_http=True",
    ),
    "wrong secret": (
        "make(four[0], 'not-the-secret', *four[2:]).get(demo + '/me')",
        "OAuthInvalidClient: {demo} answered 401", "check client_id, client_secret (or assertion, or certificate) and auth_method",
    ),
    "data and json": ("make(*four).post(demo, data=b'', json={})", "ValueError: data and json", "leave one out"),
    "closed API": ("make(*four).get(closed + '/me')", "{closed}", "Connection refused"),
    "closed token endpoint": (
        "make(*four[:3], closed, timeout=1).get(demo)",
        "OAuthTransportError: no usable answer from {closed}", "Connection refused", "is token_url right",
    ),
    "not JSON": (
        "make(*four).get(page).json()", "not JSON", "text/html", "status 200"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def demo():
    with DemoServer() as server:
        yield server


@pytest.fixture
def closed():
    with socket.socket() as one:  # bound, and not listening
        one.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{one.getsockname()[1]}"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_usual_mistake_ends_in_a_sentence_that_helps(mistake, demo, closed, httpserver):
    code, *sentences = MISTAKES[mistake]
    httpserver.expect_request("/page").respond_with_data("<html>", content_type="text/html")
    names = {"demo": demo.url, "closed": closed, "page": httpserver.url_for("/page"), "make": OAuthSession}
    names["four"] = (demo.client_id, demo.client_secret, "read", demo.token_url)

    with pytest.raises(Exception) as caught:
        eval(code, names)
    last = "".join(traceback.format_exception_only(caught.type, caught.value)).splitlines()[-1]

    for sentence in sentences:
        assert sentence.format(demo=demo.url, closed=closed) in last
    assert demo.client_secret not in last and "not-the-secret" not in last
