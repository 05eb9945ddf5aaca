# SPDX-License-Identifier: MIT
"""Every block of code in the README is run, as it stands there, in an empty folder that holds only oauth_session.py.

    python -m pytest .ci/interop/test_readme.py

Only names of the network and of the client are replaced, by those of a DemoServer.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from peers import HERE, README

from oauth_session import DemoServer, OAuthSession

LIMIT = 60  # seconds
PRINT_TYPE = "print(session.source.token().token_type)"

# What other checks run: {block: (file, what it says about it)}; blocks are numbered from 0 in their section.
ELSEWHERE = {
    ("oauth_session", 3): ("../run", "the test command of the README"),
    ("The arguments", 0): ("test_readme.py", "def test_signature_is_the_one_shown"),
    ("AWS Lambda with DynamoDB", 0): ("test_cache.py", "AWS Lambda with DynamoDB"),
    ("AWS Lambda with DynamoDB", 2): ("test_cache.py", "AWS Lambda with DynamoDB"),
}
RECIPES = "Without a client secret"  # the sections of this chapter are named in test_recipes.py

# What a block lacks to be a program that shows something: {block: (before it, behind it, what is printed)}.
FRAME = {
    ("oauth_session", 0): ("mkdir project\n", "rm -r project", None),
    ("oauth_session", 1): ("", "print(user['path'])", "/me"),
    ("oauth_session", 2): ("", "", None),
    ("The arguments", 1): ("", "print(session)", None),
    ("One token for many processes", 0): ("", PRINT_TYPE, "Bearer"),
    ("AWS Lambda with DynamoDB", 1): (
        "from oauth_session import OAuthSession\n"
        "DynamoCache = lambda table: None\n",
        "print(handler({}, None)['path'])", "/me",
    ),
    ("Redis and Django", 0): (  # there is no such server, which a line in the log says
        "from oauth_session import OAuthSession\nimport logging\nlogging.disable()\n", PRINT_TYPE, "Bearer",
    ),
    ("Redis and Django", 1): (
        "from oauth_session import OAuthSession\nfrom django.conf import settings\nsettings.configure()\n",
        PRINT_TYPE, "Bearer",
    ),
    ("AWS Lambda", 0): ("", "print(handler({}, None)['path'])", "/me"),
    ("A script that cron starts", 0): ("", "", None),
    ("Code that calls urlopen already", 0): ("", "", None),
    ("Threads, and asyncio", 0): ("", "", None),
    ("Another HTTP library", 0): (
        "",
        "connection = http.client.HTTPConnection('https://api.example.com'.split('//')[1])\n"
        "connection.request('GET', '/me', headers=headers)\n"
        "print(connection.getresponse().status)\nconnection.close()", "200",
    ),
    ("Several APIs in one opener", 0): (
        "", "print(opener.open('https://api.example.com/me', timeout=9).status)", "200",
    ),
    ("Proxies, and certificates of your own", 0): ("", "print(session.get('https://api.example.com/me').status)", "200"),
    ("On the command line", 0): ("", "", None),
    ("Testing your own code", 0): ("", "", None),
}  # fmt: skip


def blocks():
    """(chapter, block, language, code) of each."""
    pattern = r"(?ms)^```(\w*)\n(.*?)^```$|^(#+) ([^\n]*)$"  # a line in a block may look like a heading
    chapter, section, number = "", "", 0
    for language, code, level, title in re.findall(pattern, README.read_text("utf-8")):
        if title:
            chapter, section, number = chapter if level == "###" else title, title, 0
        else:
            yield chapter, (section, number), language, code
            number += 1


def test_every_block_is_run():
    for chapter, block, _, _ in blocks():
        if block not in FRAME:
            assert chapter == RECIPES or block in ELSEWHERE, f"nothing runs {block}"
            file, text = ("test_recipes.py", block[0]) if chapter == RECIPES else ELSEWHERE[block]
            assert text in (HERE / file).read_text("utf-8"), f"{file} does not run {block}"
    assert {*FRAME, *ELSEWHERE} <= {block for _, block, _, _ in blocks()}


def test_signature_is_the_one_shown():
    (shown,) = (code for _, block, _, code in blocks() if block == ("The arguments", 0))

    assert re.findall(r"\w+", shown)[1:5] == list(inspect.signature(OAuthSession).parameters)[:4]
    assert "*, base_url=None, ..." in shown and "base_url" in inspect.signature(OAuthSession).parameters


@pytest.mark.parametrize("block", FRAME, ids=lambda block: f"{block[0]}, {block[1]}")
def test_block_runs_in_an_empty_folder(block, tmp_path):
    ((language, code),) = ((language, code) for _, one, language, code in blocks() if one == block)
    before, behind, printed = FRAME[block]
    program = before + code + behind
    for package in re.findall(r"(?m)^(?:from|import) (redis|django)\b", program):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"not installed: {package}")
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    shutil.copy(str(README.parent / "oauth_session.py"), str(folder))
    names = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "error"}
    from_env = "from_env(" in program

    with DemoServer() as server:
        secret = shlex.quote(server.client_secret) if language == "sh" else server.client_secret
        for written, real in (
            ("https://auth.example.com/oauth/token", server.token_url), ("https://api.example.com", server.url),
            ("my-client", server.client_id), ("my-secret", secret), ("/path/to/your/project/", "project/"),
            ("https://other.example", "https://other.invalid"), ("http://proxy.example", "http://proxy.invalid"),
        ):  # fmt: skip
            program = program.replace(written, real)
        if from_env:
            names.update(OAUTH_CLIENT_ID=server.client_id, OAUTH_CLIENT_SECRET=server.client_secret)
            names.update(OAUTH_TOKEN_URL=server.token_url, OAUTH_SCOPE="read")
        assert "example.com" not in program
        command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, program], check=False, cwd=str(folder), env=names, capture_output=True, text=True, timeout=LIMIT
        )

    assert (done.stderr, done.returncode) == ("", 0)
    shown = re.findall(r"(?m)^ *print\(.*\) +# (.+)$", code)
    assert (printed is None and not shown) or done.stdout.split() == (shown or printed.split())
    assert os.listdir(folder) == ["oauth_session.py"]
