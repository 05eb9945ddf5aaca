# SPDX-License-Identifier: MIT
"""The README's recipes for clients without a secret, as they stand there, against Authlib's server and moto's AWS KMS.

    python -m pytest .ci/interop/test_recipes.py

Only placeholders are replaced: URLs, names of files, the id of the key. Each recipe is used for three token requests, so
that a token it cannot renew is seen; Authlib takes each assertion once, and what it saw is compared.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
import time
import urllib.parse

import pytest
from peers import WAIT_LIMIT, readme_blocks, run_recipe

from oauth_session import OAuthInvalidClient, OAuthSession

SIGN = "Sign it yourself"
RSA = "An RSA key in a file, and the openssl command"
EC = "An elliptic curve key in a file, and the openssl command"
KMS = "A key in AWS KMS"
TOKEN_FILE = "A token file of Kubernetes or Azure"
GITHUB = "GitHub Actions"

TOKEN_URL = "https://auth.example.com/oauth/token"
KEY_FILE = "/etc/my-client/key.pem"


def fetch(session, server, times=3):
    """Fetch so many tokens, and show each to the API; return the client that the API saw."""
    seen = []
    for _ in range(times):
        session.source.clear()
        seen.append(session.get(server.api + "/me").json()["client_id"])
    return seen


def assert_each_its_own(assertions):
    jtis = [one["jti"] for one in assertions]
    assert len(set(jtis)) == len(jtis)


@pytest.fixture
def recipe(authlib):
    """Run recipes; the session that they make is closed when the case is over."""
    sessions = []

    def run(*headings, **placeholders):
        made = run_recipe(*headings, **placeholders)
        sessions.append(made["session"])
        return made

    yield run
    for session in sessions:
        session.close()


@pytest.mark.parametrize("heading", [SIGN, RSA, EC, KMS, GITHUB])
def test_recipe_is_short(heading):
    (code,) = readme_blocks()[heading]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 120


# --- a key of one's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "kind", "alg"), [(RSA, "rsa", "RS256"), (EC, "ec", "ES256")], ids=["RS256", "ES256"]
)
def test_recipe_openssl(authlib, keys, recipe, heading, kind, alg):
    path = getattr(keys, kind)
    authlib.register("my-client", "private_key_jwt", alg=alg, public_key=keys.public(path))
    before = int(time.time())

    made = recipe(SIGN, heading, placeholders={TOKEN_URL: authlib.token_url, KEY_FILE: path})
    seen = fetch(made["session"], authlib)

    assert seen == ["my-client"] * 3
    assert authlib.token_answers == {"my-client": ["assertion 200"] * 3}
    assert_each_its_own(authlib.assertions["my-client"])
    for one in authlib.assertions["my-client"]:
        assert (one["alg"], one["kid"]) == (alg, "my-key")
        assert (one["iss"], one["sub"], one["aud"]) == ("my-client", "my-client", authlib.token_url)
        assert before <= one["iat"] <= time.time()
        assert one["exp"] == one["iat"] + 60


def test_recipe_openssl_es256_converts_every_signature(authlib, keys, recipe):
    """Of 256 numbers one has a leading zero byte, which DER leaves out; half need one more byte in DER."""
    authlib.register("my-client", "private_key_jwt", alg="ES256", public_key=keys.public(keys.ec))
    made = recipe(SIGN, EC, placeholders={TOKEN_URL: authlib.token_url, KEY_FILE: keys.ec})
    raw, ones, top = made["raw"], b"\x01", b"\x80" + bytes(31)

    assert raw(b"\x30\x06\x02\x01\x01\x02\x01\x7f") == bytes(31) + ones + bytes(31) + b"\x7f"
    assert raw(b"\x30\x46\x02\x21\x00" + top + b"\x02\x21\x00" + top) == top + top
    assert raw(b"\x30\x26\x02\x21\x00" + top + b"\x02\x01\x01") == top + bytes(31) + ones
    assert {len(made["sign"](b"%d" % number)) for number in range(20)} == {64}


def test_recipe_openssl_with_a_key_that_the_server_does_not_know(authlib, keys, recipe):
    authlib.register("my-client", "private_key_jwt", alg="RS256", public_key=keys.public(keys.rsa))
    made = recipe(SIGN, RSA, placeholders={TOKEN_URL: authlib.token_url, KEY_FILE: keys.stranger})

    with pytest.raises(OAuthInvalidClient) as caught:
        made["session"].get(authlib.api + "/me")

    assert (caught.value.error, caught.value.status) == ("invalid_client", 400)
    assert authlib.token_answers == {"my-client": ["assertion 400 invalid_client"] * 2}  # the function was asked again
    assert authlib.api_answers == []


@pytest.mark.parametrize(
    ("spec", "alg", "headings", "other"),
    [
        pytest.param("RSA_2048", "RS256", [KMS], {}, id="RS256"),
        pytest.param(
            "ECC_NIST_P256",
            "ES256",
            [EC, KMS],  # of EC only its `raw` is used: what KMS defines stands below
            {
                '"RS256"': '"ES256"',
                "RSASSA_PKCS1_V1_5_SHA_256": "ECDSA_SHA_256",
                "return kms.sign(": "return raw(kms.sign(",
                '["Signature"]': '["Signature"])',
            },
            id="ES256",
        ),
    ],
)
def test_recipe_aws_kms(authlib, kms, keys, recipe, spec, alg, headings, other):
    alias = f"alias/my-{alg.lower()}-client"
    key_id = kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName=alias, TargetKeyId=key_id)
    public_key = keys.public_of_der(kms.get_public_key(KeyId=alias)["PublicKey"])
    authlib.register("my-client", "private_key_jwt", alg=alg, public_key=public_key)

    placeholders = {TOKEN_URL: authlib.token_url, "alias/my-client": alias, **other}
    made = recipe(SIGN, *headings, placeholders=placeholders)
    asked = []
    made["kms"].meta.events.register("provide-client-params.kms.Sign", lambda params, **_: asked.append(dict(params)))
    try:
        seen = fetch(made["session"], authlib)
    finally:
        made["kms"].close()

    assert seen == ["my-client"] * 3
    # Trap: moto hashes whatever MessageType says; AWS takes 4096 bytes of RAW, or a DIGEST that is one.
    assert [(one["MessageType"], len(one["Message"]) <= 4096) for one in asked] == [("RAW", True)] * 3
    assert authlib.token_answers == {"my-client": ["assertion 200"] * 3}
    assert_each_its_own(authlib.assertions["my-client"])
    assert {one["alg"] for one in authlib.assertions["my-client"]} == {alg}


# --- workload identity: the platform signs, and a token of it serves until it ends -------------------------------------


class Platform:
    """What signs tokens for the workloads of a cluster, or the jobs of a repository."""

    def __init__(self, keys):
        self.keys = keys
        placeholders = {KEY_FILE: keys.rsa, TOKEN_URL: "http://127.0.0.1/token"}
        self._signing = run_recipe(SIGN, RSA, placeholders=placeholders)

    def trust(self, server, client_id, aud, **settings):
        """Let the server take this platform's tokens for the client."""
        federated = {"iss": "https://platform.example", "sub": "workload " + client_id, "aud": aud}
        public_key = self.keys.public(self.keys.rsa)
        server.register(
            client_id, "private_key_jwt", alg="RS256", public_key=public_key, federated=federated, **settings
        )

    def token(self, client_id, aud, jti):
        claims = {"iss": "https://platform.example", "sub": "workload " + client_id, "aud": [aud], "jti": jti}
        claims["exp"] = int(time.time()) + 600
        encode, sign = self._signing["base64url"], self._signing["sign"]
        message = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "RS256"}, claims))
        return (message + b"." + encode(sign(message))).decode()


@pytest.fixture
def platform(keys):
    return Platform(keys)


class Mount:
    """A projected volume, replaced as the kubelet does it: a new folder, and one link that is renamed to it."""

    def __init__(self, folder):
        self._folder, self._turn = folder, 0
        self.file = folder / "my-token"
        self.file.symlink_to("..data/my-token")

    def put(self, text):
        self._turn += 1
        new = self._folder / f"..{self._turn}"
        new.mkdir()
        (new / "my-token").write_text(text)
        link = self._folder / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(self._folder / "..data")


@pytest.fixture
def mount(tmp_path):
    return Mount(tmp_path)


def assert_file_is_read_again(session, server, put, token, client_id):
    """Two fetches with one token of the platform, and one with the next."""
    put(token("one"))
    seen = fetch(session, server, times=2)
    put(token("two"))
    seen += fetch(session, server, times=1)

    assert seen == [client_id] * 3
    assert server.token_answers == {client_id: ["assertion 200"] * 3}
    assert [one["jti"] for one in server.assertions[client_id]] == ["one", "one", "two"]


@pytest.mark.parametrize("end", ["", "\n"], ids=["as it is", "with a line end"])
def test_recipe_token_file_named_by_the_environment(authlib, platform, mount, monkeypatch, end):
    platform.trust(authlib, "my-client", authlib.issuer)
    mount.put(platform.token("my-client", authlib.issuer, "one") + end)
    monkeypatch.setenv("OAUTH_ASSERTION_FILE", str(mount.file))
    monkeypatch.setenv("OAUTH_CLIENT_ID", "my-client")
    monkeypatch.setenv("OAUTH_SCOPE", "read")
    monkeypatch.setenv("OAUTH_TOKEN_URL", authlib.token_url)

    with OAuthSession.from_env() as session:
        assert_file_is_read_again(
            session,
            authlib,
            mount.put,
            lambda jti: platform.token("my-client", authlib.issuer, jti) + end,
            "my-client",
        )


def exported(block, environ):
    """Return the OAUTH_ variables that a shell block of the README exports in this environment."""
    program = block + "env"
    done = subprocess.run(
        ["bash", "-euc", program], env={**environ, "PATH": os.environ["PATH"]}, check=True, capture_output=True, text=True
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("OAUTH_"))


def test_recipe_azure_workload_identity(authlib, platform, mount):
    tenant, client_id = "aaaaaaaa-0000-0000-0000-000000000000", "bbbbbbbb-0000-0000-0000-000000000000"
    scope, aud = "https://graph.microsoft.com/.default", "api://AzureADTokenExchange"
    platform.trust(authlib, client_id, aud, scope=scope)
    mount.put(platform.token(client_id, aud, "one"))
    (block,) = readme_blocks("sh")[TOKEN_FILE]
    assert "https://login.microsoftonline.com" in block
    environ = exported(
        block.replace("https://login.microsoftonline.com", authlib.url),
        {"AZURE_CLIENT_ID": client_id, "AZURE_TENANT_ID": tenant, "AZURE_FEDERATED_TOKEN_FILE": str(mount.file)},
    )

    with OAuthSession.from_env(environ=environ) as session:
        assert_file_is_read_again(
            session, authlib, mount.put, lambda jti: platform.token(client_id, aud, jti), client_id
        )
        assert session.source.token().scope == scope


@pytest.fixture
def actions(platform, monkeypatch):
    """GitHub's token service for a job, and what it was asked: (authorization, api-version, audience)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            asked.append((self.headers["Authorization"], query["api-version"], query["audience"]))
            value = platform.token("my-client", query["audience"], f"job {len(asked)}")
            body = json.dumps({"count": len(value), "value": value}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{service.server_port}/idtoken/job?api-version=2.0"
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", url)
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job-secret")
        yield asked
        service.shutdown()
        thread.join(WAIT_LIMIT)


def test_recipe_github_actions(authlib, platform, actions):
    platform.trust(authlib, "my-client", authlib.issuer)

    made = run_recipe(GITHUB, placeholders={"https://auth.example.com": authlib.issuer})
    with OAuthSession(
        "my-client", scope="read", token_url=authlib.token_url, client_assertion=made["assertion"]
    ) as session:
        seen = fetch(session, authlib)

    assert seen == ["my-client"] * 3
    assert authlib.token_answers == {"my-client": ["assertion 200"] * 3}
    assert [one["jti"] for one in authlib.assertions["my-client"]] == ["job 1", "job 2", "job 3"]
    assert actions == [("Bearer job-secret", "2.0", authlib.issuer)] * 3
