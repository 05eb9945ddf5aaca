# SPDX-License-Identifier: MIT
"""The peers of the interop tests: how they are started, asked and steered; and the recipes of the README."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import ssl
import subprocess
import threading
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
INSTALL_LIMIT = 300  # seconds; a first `npm ci` over a slow line
START_LIMIT = 60  # seconds; key generation on a busy machine
WAIT_LIMIT = 15  # seconds; any answer on loopback


def read_line(process):
    """Return the process's first line, or an empty one if it ended or took too long."""
    lines = queue.Queue()
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
    with contextlib.suppress(queue.Empty):
        return lines.get(timeout=START_LIMIT)
    return ""


@contextlib.contextmanager
def started(command, folder, **options):
    """Run a server, and give what its first line of JSON says. The end of its stdin ends it."""
    log = folder / "stderr.txt"
    with log.open("wb") as stderr, subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8", **options
    ) as process:
        try:
            line = read_line(process)
            assert line, f"the server did not start: {log.read_text('utf-8', 'replace')}"
            yield json.loads(line)
        finally:
            process.stdin.close()
            try:
                ended = process.wait(WAIT_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert ended == 0, log.read_text("utf-8", "replace")


def ask(method, url, body=None):
    """Ask a control interface, with JSON both ways."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT_LIMIT) as response:
        return json.load(response)


class OIDCProvider:
    """What the servers of server.mjs said about themselves, and their control interface."""

    def __init__(self, facts):
        self.issuer = facts["issuer"]
        self.token_url = facts["token_url"]
        self.mtls_token_url = facts["mtls_token_url"]
        self.api = facts["api"]
        self.resource = facts["resource"]
        self.secrets = facts["secrets"]
        self.signing_keys = facts["signing_keys"]
        self.lifetimes = facts["lifetimes"]
        self.client_certificate = facts["client_certificate"]
        self.stranger_certificate = facts["stranger_certificate"]
        self.ca = facts["ca"]
        self._control = facts["control"]

    def context(self, certificate=None):
        """Return a client's TLS settings: our CA alone, and a certificate of its own if given as (file, key file)."""
        context = ssl.create_default_context(cafile=self.ca)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context

    def reset(self):
        ask("POST", self._control + "/reset")

    def revoke(self):
        """Destroy every token issued so far."""
        ask("POST", self._control + "/revoke")

    def hide(self, form):
        """Answer 404 to one of the two forms of discovery."""
        ask("POST", f"{self._control}/hide/{form}")

    def _counts(self, name):
        return ask("GET", self._control + "/counts")[name]

    @property
    def token_answers(self):
        """What was asked and answered at the token endpoint, in order: {client id: ["basic 200", …]}."""
        return self._counts("token_answers")

    @property
    def token_requests(self):
        """{client id: number of token requests}."""
        return self._counts("token_requests")

    @property
    def mtls_requests(self):
        """{client id: number of those token requests that came to the mtls_endpoint_aliases}."""
        return self._counts("mtls_requests")

    @property
    def assertions(self):
        """{client id: [the claims and the header of each assertion, together]}."""
        return self._counts("assertions")

    @property
    def discovery(self):
        """The paths of the discovery requests, in order."""
        return self._counts("discovery")

    @property
    def api_answers(self):
        """{path: [status, …]} of the API."""
        return self._counts("api")

    @property
    def elsewhere_answers(self):
        """{path: [status, …]} of the other origin."""
        return self._counts("elsewhere")


class AuthlibServer:
    """What authlib_server.py does, and its control interface."""

    def __init__(self, facts):
        self.url = facts["url"]
        self.token_url = self.url + "/token"
        self.issuer = self.url
        self.api = self.url

    def register(self, client_id, auth_method, **rest):
        """Let a client be known, instead of what it was before: see `Client` there."""
        self._do("register", {"client_id": client_id, "auth_method": auth_method, **rest})

    def fail(self, times):
        """Answer 503 to the next token requests, after the assertion has been used up."""
        self._do("fail", {"times": times})

    def reset(self):
        self._do("reset")

    def revoke(self):
        """Destroy every token issued so far."""
        self._do("revoke")

    def _do(self, action, body=None):
        return ask("POST", f"{self.url}/control/{action}", body or {})

    @property
    def token_answers(self):
        """What was asked and answered at the token endpoint, in order: {client id: ["basic 200", …]}."""
        return self._do("counts")["token_answers"]

    @property
    def assertions(self):
        """{client id: [the claims and the header of each assertion that was accepted, together]}."""
        return self._do("counts")["assertions"]

    @property
    def discovery(self):
        """The paths of the discovery requests, in order."""
        return self._do("counts")["discovery"]

    @property
    def api_answers(self):
        """The statuses of the API."""
        return self._do("counts")["api"]


class Keys:
    """Two private keys in files, made by the openssl command, and the public ones as text."""

    def __init__(self, folder):
        self._folder = folder
        self.rsa = self._make("rsa", "RSA", "rsa_keygen_bits:2048")
        self.ec = self._make("ec", "EC", "ec_paramgen_curve:P-256")
        self.stranger = self._make("stranger", "RSA", "rsa_keygen_bits:2048")

    def _make(self, name, algorithm, option):
        path = str(self._folder / f"{name}.pem")
        self._openssl("genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", path)
        return path

    @staticmethod
    def _openssl(*arguments, data=None):
        command = ["openssl", *arguments]
        done = subprocess.run(command, input=data, check=False, capture_output=True, timeout=START_LIMIT)
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
        return done.stdout

    def public(self, path):
        """The public half, as PEM."""
        return self._openssl("pkey", "-in", path, "-pubout").decode()

    def public_of_der(self, der):
        """A public key that came as DER, as PEM."""
        return self._openssl("pkey", "-pubin", "-inform", "DER", "-pubout", data=der).decode()


def readme_blocks(language="python"):
    """The blocks of the README in a language: {heading: [code, …]}."""
    blocks, heading = {}, ""
    pattern = r"(?ms)^```(\w*)\n(.*?)^```$|^#+ ([^\n]*)$"  # a line in a block may look like a heading
    for kind, code, title in re.findall(pattern, README.read_text("utf-8")):
        heading = title or heading
        if kind == language:
            blocks.setdefault(heading, []).append(code)
    return blocks


def run_recipe(*headings, placeholders):
    """Run the first block below each of these headings of the README, one after another; return the names they made.

    placeholders: {text in a block: text instead}. Each must be there, lest a recipe calls somebody else's server.
    """
    blocks = readme_blocks()
    code = "\n".join(blocks[heading][0] for heading in headings)
    for text, instead in placeholders.items():
        assert text in code, f"{headings}: {text!r} is not in\n{code}"
        code = code.replace(text, instead)
    names = {"__name__": "recipe"}
    exec(compile(code, f"README.md, {headings[-1]}", "exec"), names)
    return names
