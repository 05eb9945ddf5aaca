# SPDX-License-Identifier: MIT
"""Every block of code in the README is run, as it stands there, in an empty folder that holds only oauth_session.py.

    python -m pytest .ci/interop/test_readme.py

Only names of the network and of the client are replaced, by those of a DemoServer.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse

import pytest
from peers import HERE, README, readme_blocks

from oauth_session import DemoServer, OAuthSession
from test_oauth_session import Server, form_of, grant, page

LIMIT = 60  # seconds

# What other checks run: {block: (file, what it says about it)}; blocks are numbered from 0 in their section.
ELSEWHERE = {
    ("Reviewing it", 0): ("../run", "the test command of the README"),
    ("Recipes", 0): ("test_everyday_recipes.py", 'readme_blocks()["Recipes"]'),
    ("AWS Lambda with DynamoDB", 0): ("test_cache.py", "AWS Lambda with DynamoDB"),
}
# The sections of this chapter are named in test_recipes.py, those of "Recipes" here or in test_everyday_recipes.py.
CHAPTERS = {"Without a client secret": "test_recipes.py", "Recipes": "test_everyday_recipes.py"}

# What a block lacks to be a program that shows something: {block: (before it, behind it, what is printed)}. Before those
# of "Recipes" stand the lines that the README names.
FRAME = {
    ("oauth_session", 0): ("mkdir project\n", "rm -r project", None),
    ("oauth_session", 1): ("", "print(user['path'])", "/me"),
    ("oauth_session", 2): ("", "", None),
    ("AWS Lambda", 0): ("", "print(handler({}, None)['path'])", "/me"),
    ("A script that cron starts", 0): ("", "", None),
    ("Testing your own code", 0): ("", "", None),
    ("Testing your own code", 1): ("", "", None),
    ("urlopen, asyncio and other libraries", 0): (
        "",
        "import http.client\n"
        "connection = http.client.HTTPConnection('https://api.example.com'.split('//')[1])\n"
        "connection.request('GET', '/me', headers=headers)\n"
        "print(connection.getresponse().status)  # 200\nconnection.close()\n"
        "print(opener.open('https://api.example.com/me', timeout=9).status)  # 200\n", None,
    ),
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
            assert chapter in CHAPTERS or block in ELSEWHERE, f"nothing runs {block}"
            file, text = ELSEWHERE.get(block) or (CHAPTERS[chapter], block[0])
            assert text in (HERE / file).read_text("utf-8"), f"{file} does not run {block}"
    assert {*FRAME, *ELSEWHERE} <= {block for _, block, _, _ in blocks()}


def test_all_settings_are_named():
    settings = README.read_text("utf-8").partition("## Settings")[2].partition("\n\nOnly")[0]
    named = re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", settings.partition("also takes:")[2]))
    first = re.search(r"`OAuthSession\((.*)\)` also takes:", settings)[1].split(", ")

    parameters = list(inspect.signature(OAuthSession).parameters)
    assert first == parameters[:4]
    assert {*first, *named} - {"ProxyHandler", "TokenSource"} == {*parameters} - {"unknown"}


def test_rooms_to_review_are_those_of_the_file():
    text = (README.parent / "oauth_session.py").read_text("utf-8")
    parts = re.split(r"(?m)^# ---- ([\w ]+?)(?:: .*| -+)$", text)
    rooms = dict(zip(["Head", *parts[1::2]], parts[::2]))
    table = README.read_text("utf-8").partition("## Reviewing it")[2].partition("sha256sum")[0]
    rows = re.findall(r"(?m)^\| (\w[\w ]*) \| (\d+) \| (.*) \|$", table)

    assert [room for room, _, _ in rows] == list(rooms)
    for room, _, advice in rows:
        for name in re.findall(r"`(\w+)`", advice):
            assert re.search(rf"(def|class) {name}\b", rooms[room]), f"{room} has no {name}"


@pytest.mark.parametrize("block", FRAME, ids=lambda block: f"{block[0]}, {block[1]}")
def test_block_runs_in_an_empty_folder(block, tmp_path):
    ((chapter, language, code),) = ((chapter, *rest) for chapter, one, *rest in blocks() if one == block)
    before, behind, printed = FRAME[block]
    program = (readme_blocks()["Recipes"][0] if chapter == "Recipes" else "") + before + code + behind
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    shutil.copy(str(README.parent / "oauth_session.py"), str(folder))
    names = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "error"}

    with DemoServer() as server:
        secret = shlex.quote(server.client_secret) if language == "sh" else server.client_secret
        for written, real in (
            ("https://auth.example.com/oauth/token", server.token_url), ("https://api.example.com", server.url),
            ("my-client", server.client_id), ("my-secret", secret), ("/path/to/your/project/", "project/"),
            ("https://other.example", "https://other.invalid"),
        ):  # fmt: skip
            program = program.replace(written, real)
        if chapter == "Recipes":
            names.update(OAUTH_CLIENT_ID=server.client_id, OAUTH_CLIENT_SECRET=server.client_secret)
            names.update(OAUTH_TOKEN_URL=server.token_url, OAUTH_SCOPE="read", OAUTH_BASE_URL=server.url)
        assert "example.com" not in program
        command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, program], check=False, cwd=str(folder), env=names, capture_output=True, text=True, timeout=LIMIT
        )

    assert (done.stderr, done.returncode) == ("", 0)
    shown = " ".join(re.findall(r"(?m)^ *print\(.*\) +# (.+)$", code + behind)) or printed
    assert shown is None or done.stdout.split() == shown.split()
    assert os.listdir(folder) == ["oauth_session.py"]


PROVIDERS = {  # of the table in the README, and the form that each gets
    "Auth0": "audience=https://api.example.com&grant_type=client_credentials", "Okta": "grant_type=client_credentials&scope=my.scope",
    "Microsoft Entra": "grant_type=client_credentials&scope=https://graph.microsoft.com/.default",
    "Amazon Cognito": "grant_type=client_credentials&scope=my-api/read", "Zoom": "account_id=ACCOUNT&grant_type=account_credentials",
    "Twitch": "client_id=ID&client_secret=SECRET&grant_type=client_credentials", "Keycloak": "grant_type=client_credentials",
    "Salesforce": "grant_type=client_credentials", "Spotify": "grant_type=client_credentials", "PayPal": "grant_type=client_credentials",
}  # fmt: skip


def test_each_provider_of_the_table_gets_what_it_wants():
    rows = re.findall(r"(?m)^\| ([\w ]+) \| `(OAuthSession\(.*)` \|$", README.read_text("utf-8"))
    assert {name for name, _ in rows} == set(PROVIDERS)
    for name, code in rows:
        with Server(grant(), page()) as server:
            code = re.sub(r'((?:None|"), ")https://[^/]+', r"\1" + server.url, code)
            with eval(code, {"OAuthSession": OAuthSession, "ID": "ID", "SECRET": "SECRET"}) as session:
                session.get(server.url)
        form = "&".join(form_of(server))
        assert urllib.parse.unquote(form) == PROVIDERS[name]
        assert bool(server.header("authorization")[0]) == (name != "Twitch")
        assert bool(server.header("client-id")[1]) == (name == "Twitch")
