# SPDX-FileCopyrightText: 2026 The oauth_session authors
# SPDX-License-Identifier: MIT
"""Tests of oauth_session.py, in the order of its rooms. They need pytest and pytest-httpserver, and no network."""
from __future__ import annotations

import base64
import collections
import concurrent.futures
import contextlib
import copy
import enum
import functools
import gc
import gzip
import hashlib
import hmac
import html
import http.client
import io
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zlib
from decimal import Decimal
from enum import Enum

import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response as WerkzeugResponse

import oauth_session
from oauth_session import (
    ERRORS_BY_CODE,
    ClientCredentials,
    OAuthBearerError,
    OAuthError,
    OAuthHandler,
    OAuthInsufficientScope,
    OAuthInvalidGrant,
    OAuthInvalidToken,
    OAuthMalformedResponse,
    OAuthResponseError,
    OAuthSession,
    Response,
    Token,
    TokenSource,
)  # fmt: skip

CLIENT, SECRET, TOKEN = "my-client", "s3cret:% &+ü", "at-5f1c9e7b"  # tokens are TOKEN-1, TOKEN-2 ...
BASIC = [base64.b64encode(f"{CLIENT}:{one}".encode()).decode() for one in (SECRET, urllib.parse.quote(SECRET, ""))]
HIDDEN = [SECRET, urllib.parse.quote(SECRET, ""), urllib.parse.quote_plus(SECRET), TOKEN, *BASIC]


def assert_no_secret(*things):
    """No secret, token or Basic value in these texts, or in anything that an exception shows, holds or pickles."""
    for thing in things:
        texts = [thing] if isinstance(thing, str) else [repr(thing), str(thing)]
        chain = thing
        while isinstance(chain, BaseException):
            texts += [repr(chain), str(chain), repr(chain.args), repr(vars(chain))]
            texts += ["".join(traceback.format_exception(type(chain), chain, chain.__traceback__))]
            texts += [str(getattr(chain, "headers", "")), str(getattr(chain, "reason", ""))]
            if isinstance(chain, urllib.error.URLError):
                texts.append(pickle.dumps(chain).decode("utf-8", "replace"))
            chain = chain.__cause__ or chain.__context__
        for text, secret in itertools.product(texts, HIDDEN):
            assert secret not in text, f"{type(thing).__name__} shows a secret"


class Answer(WerkzeugResponse):
    def get_wsgi_headers(self, environ):
        location = self.headers.pop("Location", None)  # werkzeug would correct it
        headers = super().get_wsgi_headers(environ)
        headers.extend([] if location is None else [("Location", location)])
        return headers


class Scripted:
    """A server that answers from a script, then from a rule, and records each request. An answer is (status, headers,
    body); a body is bytes, a JSON value or a generator."""

    def __init__(self, server, otherwise):
        self.url = f"http://127.0.0.1:{server.port}"
        self.alias = f"http://localhost:{server.port}"  # the same server, another origin
        self.script, self.otherwise, self.seen = collections.deque(), otherwise, []
        server.clear()
        server.expect_request(re.compile(".*")).respond_with_handler(self.answer)

    def answer(self, request):
        request.get_data()
        self.seen.append(request)
        status, headers, body = self.script.popleft() if self.script else self.otherwise(request)
        raw = isinstance(body, bytes) or hasattr(body, "__next__")
        kind = None if raw else "application/json"
        return Answer(body if raw else json.dumps(body), status, headers, content_type=kind)

    def will(self, status, headers=(), body=b"", times=1):
        self.script.extend([(status, list(dict(headers).items()), body)] * times)

    def always(self, status, headers=(), body=b""):
        self.otherwise = lambda request: (status, list(dict(headers).items()), body)

    @property
    def bearers(self):
        return [request.headers.get("Authorization") for request in self.seen]

    @property
    def lines(self):
        return [f"{request.method} {request.environ['REQUEST_URI']}" for request in self.seen]


@pytest.fixture(scope="session")
def servers():
    """Three servers, which all tests share, since stopping one takes half a second."""
    running = [HTTPServer("127.0.0.1", 0, threaded=True) for _ in range(3)]
    for server in running:
        server.start()
    yield running
    for server in running:
        server.stop()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OAUTH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def auth(servers):
    """An authorisation server: TOKEN-1, TOKEN-2 ... by default. `session(...)` makes sessions that use it."""
    fresh = {"expires_in": 3600}
    auth = Scripted(servers[0], lambda request: (200, [], {"access_token": f"{TOKEN}-{len(auth.seen)}", **fresh}))
    made = []

    def session(*arguments, kind=OAuthSession, **settings):
        arguments += (CLIENT, SECRET, "read", auth.url + "/token")[len(arguments) :]
        made.append(kind(*arguments, **settings))
        return made[-1]

    auth.session = session
    yield auth
    for one in made:
        one.close()


@pytest.fixture
def api(servers):
    return Scripted(servers[1], lambda request: (200, [], {"path": request.path}))


@pytest.fixture
def other(servers):
    return Scripted(servers[2], lambda request: (200, [], {"other": True}))


@pytest.fixture
def session(auth, api):
    return auth.session(base_url=api.url)


def source_of(*names):
    """A TokenSource that hands out these tokens, one for each fetch, and the list of fetches."""
    fetched = []

    def fetch():
        fetched.append(names[len(fetched)])
        return Token(fetched[-1])

    return TokenSource(fetch), fetched


def raise_it(error):
    """Raise an error in a worker process."""
    raise error


def shown(error):
    """All that a user can get out of an error, its body included."""
    names = "error status error_description error_uri retry_after scope realm url code reason headers".split()
    body = error.read() if isinstance(error, urllib.error.HTTPError) else None
    return type(error), str(error), body, {name: str(getattr(error, name, None)) for name in names}


class TestErrors:
    """What the token endpoint or the API said, as classes."""

    PARENTS = {
        "OAuthError": ("URLError",), "OAuthTransportError": ("OAuthError",), "OAuthResponseError": ("OAuthError",),
        "OAuthInvalidRequest": ("OAuthResponseError",), "OAuthInvalidClient": ("OAuthResponseError",),
        "OAuthInvalidGrant": ("OAuthResponseError",), "OAuthUnauthorizedClient": ("OAuthResponseError",),
        "OAuthUnsupportedGrantType": ("OAuthResponseError",), "OAuthInvalidScope": ("OAuthResponseError",),
        "OAuthInvalidTarget": ("OAuthResponseError",), "OAuthTemporarilyUnavailable": ("OAuthResponseError",),
        "OAuthServerError": ("OAuthResponseError",), "OAuthMalformedResponse": ("OAuthResponseError",),
        "OAuthBearerError": ("OAuthError", "HTTPError"), "OAuthInvalidToken": ("OAuthBearerError",),
        "OAuthInsufficientScope": ("OAuthBearerError",),
    }  # fmt: skip
    CLASSES = [getattr(oauth_session, name) for name in PARENTS]

    def test_the_hierarchy_is_the_documented_one(self):
        found = {
            name: tuple(base.__name__ for base in one.__bases__)
            for name, one in vars(oauth_session).items()
            if isinstance(one, type) and issubclass(one, Exception) and not name.startswith("_")
        }
        assert found == self.PARENTS

    def test_all_names_everything_that_is_public(self):
        names = oauth_session.__all__
        classes = {
            name
            for name, one in vars(oauth_session).items()
            if isinstance(one, type) and one.__module__ == "oauth_session" and not name.startswith("_")
        }
        assert len(names) == len(set(names))
        assert classes | {"ERRORS_BY_CODE", "__version__"} == set(names)

    def test_each_code_has_its_class(self):
        expected = (
            "invalid_request invalid_client invalid_grant unauthorized_client unsupported_grant_type invalid_scope "
            "invalid_target temporarily_unavailable server_error"
        ).split()
        named = {code: "OAuth" + code.title().replace("_", "") for code in expected}
        assert {code: one.__name__ for code, one in ERRORS_BY_CODE.items()} == named

    @staticmethod
    def make(kind):
        headers = http.client.HTTPMessage()
        headers["Retry-After"] = "7"
        fields = {"error": "e", "status": 418}
        if issubclass(kind, OAuthBearerError):
            fields.update(scope="a b", realm="r", url="https://api.example/x", reason="No", headers=headers, body=b"body")
        if issubclass(kind, OAuthResponseError):
            fields.update(error_description="d", error_uri="u", headers=headers, retry_after=7.0)
        return kind("it failed", **fields)

    @pytest.fixture
    def errors(self, auth, api):
        """One error of each class, and those of public calls."""
        calls = {
            "raise_for_status": lambda session: session.get(api.url + "/404").raise_for_status(),
            "open": lambda session: session.open(api.url + "/500"),
            "redirect": lambda session: session.get(api.url + "/302"),
            "refused token": lambda session: session.get(api.url + "/401").raise_for_status(),
            "refused scope": lambda session: session.open(api.url + "/403"),
            "no answer": lambda session: session.get(f"http://127.0.0.1:{free_port()}/"),
            "no token": lambda session: auth.will(400, {"X-Echo": BASIC[0]}, {"error": SECRET}) or session.access_token,
        }
        auth.always(200, body={"access_token": TOKEN})
        headers = [("WWW-Authenticate", f'Bearer error_description="{TOKEN}"'), ("Location", f"ftp://x/{TOKEN}"), ("X-A", "1")]
        api.otherwise = lambda request: (int(request.path[1:]), headers, b"body")
        errors = {kind.__name__: self.make(kind) for kind in self.CLASSES}
        for name, call in calls.items():
            with pytest.raises(urllib.error.URLError) as caught:
                call(auth.session(auth_method="client_secret_basic_raw"))
            errors[name] = caught.value
        return errors

    @pytest.mark.parametrize("way", ["copy", "deepcopy", "pickle", "Pool", "ProcessPoolExecutor"])
    def test_each_error_arrives_with_its_fields_and_its_body(self, way, errors):
        if way == "ProcessPoolExecutor" and sys.implementation.name == "pypy" and sys.version_info < (3, 10):
            pytest.skip("this PyPy's ProcessPoolExecutor cannot spawn")
        with contextlib.ExitStack() as stack:
            context = multiprocessing.get_context("spawn")  # a fork would take the threads of other tests along
            if way == "Pool":
                pool = stack.enter_context(context.Pool(1))
            if way == "ProcessPoolExecutor":
                executor = stack.enter_context(concurrent.futures.ProcessPoolExecutor(1, context))
            act = {
                "copy": lambda error: raise_it(copy.copy(error)),
                "deepcopy": lambda error: raise_it(copy.deepcopy(error)),
                "pickle": lambda error: raise_it(pickle.loads(pickle.dumps(error))),
                "Pool": lambda error: pool.apply_async(raise_it, [error]).get(PATIENCE),
                "ProcessPoolExecutor": lambda error: executor.submit(raise_it, error).result(PATIENCE),
            }[way]
            arrived = {}
            for name, error in errors.items():
                with pytest.raises(urllib.error.URLError) as caught:
                    act(error)
                assert caught.value is not error
                arrived[name] = shown(caught.value)

        assert arrived == {name: shown(error) for name, error in errors.items()}
        assert [arrived[name][2] for name in ("raise_for_status", "open", "redirect", "refused token")] == [b"body"] * 4

    def test_no_error_holds_a_secret_not_even_when_it_is_pickled(self, errors):
        for name in ("redirect", "refused token", "refused scope", "no answer", "no token"):
            assert_no_secret(errors[name])

    @pytest.mark.parametrize("kind", CLASSES)
    def test_each_error_needs_no_argument_but_takes_a_message(self, kind):
        error = kind("it failed")

        assert (str(error), error.error) == ("it failed", None)
        assert isinstance(error, urllib.error.URLError)
        assert isinstance(error, urllib.error.HTTPError) == issubclass(kind, OAuthBearerError)
        assert kind().error is None
        with pytest.raises(TypeError):
            kind("it failed", "invalid_client")

    def test_a_bearer_error_is_a_whole_http_error(self):
        error = self.make(OAuthInvalidToken)

        with error:
            assert (error.code, error.status, error.reason, error.headers["retry-after"]) == (418, 418, "No", "7")
            assert (error.geturl(), error.read(), error.response) == ("https://api.example/x", b"body", None)

    class Unpaid(OAuthResponseError):
        """As a user may add it."""

    def test_a_subclass_with_its_own_code_is_raised_for_that_code(self, auth, api, monkeypatch):
        monkeypatch.setitem(ERRORS_BY_CODE, "unpaid", self.Unpaid)
        auth.will(402, body={"error": "unpaid", "error_description": "pay", "error_uri": "https://pay.example"})

        with pytest.raises(self.Unpaid) as caught:
            auth.session().get(api.url)

        error = caught.value
        assert (error.error, error.status) == ("unpaid", 402)
        assert (error.error_description, error.error_uri) == ("pay", "https://pay.example")
        assert api.seen == []
        assert_no_secret(error)


class TestToken:
    """A value, and how old it is."""

    NOW = 1_000_000.0

    @staticmethod
    def of(**fields):
        return Token.from_response({"access_token": TOKEN, "token_type": "Bearer", **fields}, TestToken.NOW)

    @pytest.mark.parametrize("shape, seconds", [
        (3600, 3600), (3600.5, 3600.5), ("3600", 3600), ("3600.0", 3600), ("3.6e3", 3600), (1, 1), (0.5, 0.5),
        (10**9, 10**9),
    ], ids=repr)  # fmt: skip
    def test_a_usable_expires_in_counts_from_the_request(self, shape, seconds):
        assert self.of(expires_in=shape).expires_at == self.NOW + seconds

    @pytest.mark.parametrize("shape", [
        None, 0, -1, 0.0, "0", "-5", "", "abc", "3600s", True, False, [], [3600], {}, float("nan"), float("inf"), "NaN",
        "Infinity", "-inf", 1e300, "1e300", 10**400, "9" * 5000,
    ], ids=lambda shape: repr(shape)[:12])  # fmt: skip
    def test_a_senseless_expires_in_counts_as_missing(self, shape):
        assert self.of(expires_in=shape).expires_at is None

    def test_a_missing_expires_in_leaves_the_end_open(self):
        assert self.of().expires_at is None

    def test_the_time_of_the_request_is_now_by_default(self):
        before = time.time()

        token = Token.from_response({"access_token": TOKEN, "expires_in": 60})

        assert before + 60 <= token.expires_at <= time.time() + 60

    @pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER", "bEARER", None, ""])
    def test_bearer_in_any_case_is_taken_and_missing_too(self, kind):
        assert self.of(token_type=kind).access_token == TOKEN
        assert Token.from_response({"access_token": TOKEN}).token_type == "Bearer"

    @pytest.mark.parametrize("kind", ["BearerToken", "Application Access Token", 5, ["Bearer"], {"a": 1}], ids=repr)
    def test_a_type_of_the_servers_own_is_sent_as_bearer(self, kind):
        token = self.of(token_type=kind)

        assert TokenSource(lambda: token).authorization() == "Bearer " + TOKEN

    @pytest.mark.parametrize("kind", ["mac", "DPoP", "PoP", "N_A", " mac "], ids=repr)
    def test_a_type_that_needs_more_than_a_header_is_malformed(self, kind):
        with pytest.raises(OAuthMalformedResponse, match="token_type") as caught:
            self.of(token_type=kind)
        assert_no_secret(caught.value)

    UNUSABLE = [
        None, 5, "", [TOKEN], {"a": TOKEN}, TOKEN + " x", " " + TOKEN, TOKEN + "\r\nX: y", TOKEN + "\0", TOKEN + "\n",
        TOKEN + "ü", TOKEN + "\x7f", TOKEN * 7000, TOKEN.encode(), True,
    ]  # fmt: skip

    @pytest.mark.parametrize("value", UNUSABLE, ids=lambda value: ascii(value)[:24])
    def test_an_access_token_that_fits_no_header_is_malformed(self, value):
        with pytest.raises(OAuthMalformedResponse) as caught:
            self.of(access_token=value)
        with pytest.raises((TypeError, ValueError), match="access_token") as direct:
            Token(value)
        assert_no_secret(caught.value, direct.value)

    @pytest.mark.parametrize("answer", [None, [], "text", 5, True], ids=repr)
    def test_what_is_no_object_is_malformed(self, answer):
        with pytest.raises(OAuthMalformedResponse):
            Token.from_response(answer)

    @pytest.mark.parametrize("scope, expected", [
        ("a b", "a b"), (["a", "b"], "a b"), ([], ""), (None, None), (5, None), ({}, None),
    ], ids=repr)  # fmt: skip
    def test_scope_is_text_whatever_the_server_sends(self, scope, expected):
        assert (self.of(scope=scope).scope or None) == (expected or None)

    def test_it_does_not_change(self):
        answer = {"access_token": TOKEN, "extra": 1}
        token = Token.from_response(answer)

        answer["extra"] = 2

        assert token.raw == {"access_token": TOKEN, "extra": 1}
        for name in ("access_token", "token_type", "expires_at", "scope", "raw", "another"):
            with pytest.raises(AttributeError):
                setattr(token, name, "x")

    def test_no_text_of_it_shows_the_token(self):
        token = self.of(expires_in=60, scope="read")
        assert_no_secret(token, f"{token}", f"{token!r}", repr([token]), repr({"token": token}))
        assert "read" in repr(token)

    @pytest.mark.parametrize("twin", [
        copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t)),
    ], ids=["copy", "deepcopy", "pickle"])  # fmt: skip
    def test_a_copy_is_equal_and_whole(self, twin):
        token = self.of(expires_in=60, scope=["a", "b"], refresh_in=30)

        other = twin(token)

        assert other == token and hash(other) == hash(token) and other.raw == token.raw
        assert other != Token(TOKEN) and other != TOKEN


def asked(request):
    """The fields of a token request."""
    return dict(urllib.parse.parse_qsl(request.get_data(as_text=True)))


CHALLENGE = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class Kind(str, Enum):
    """Its str() is Kind.WORD on some Pythons."""

    WORD = "word"


class Loud(str):
    def __str__(self):
        return "LOUD"


class AcmeSession(OAuthSession):
    """As a company ships it."""

    token_url = "https://auth.acme.example/token"
    base_url = "https://api.acme.example/v1"
    scope = "company"
    headers = {"X-Company": "acme"}
    timeout = 7.5


class TestSession:
    """The face: verbs, URLs, bodies, headers, settings."""

    @pytest.mark.parametrize("verb", ["get", "delete", "head", "options", "post", "put", "patch"])
    def test_each_verb_sends_its_method_with_the_token(self, verb, session, auth, api):
        response = getattr(session, verb)("/x", headers={"X-A": "1"}, timeout=5)

        assert response.status == 200
        assert api.lines == [f"{verb.upper()} /x"]
        assert api.bearers == [f"Bearer {TOKEN}-1"]
        assert api.seen[0].headers["X-A"] == "1"
        assert len(auth.seen) == 1
        assert asked(auth.seen[0]) == {"grant_type": "client_credentials", "scope": "read"}

    @pytest.mark.parametrize("method", ["PROPFIND", "propfind", b"propfind", Loud("PropFind")])
    def test_any_method_goes_by_request_in_capitals(self, method, session, api):
        assert session.request(method, "/x").status == 200
        assert api.lines == ["PROPFIND /x"]

    @pytest.mark.parametrize("word", ["word", Kind.WORD, Loud("word"), b"word"], ids=["str", "Enum", "own", "bytes"])
    def test_text_is_sent_as_its_characters_and_bytes_as_they_are(self, word, auth, api):
        token_settings = {"token_headers": {"X-Key": word}, "token_params": {"field": word, word: "1"}}
        session = auth.session(base_url=api.url, headers={"X-Session": word}, **token_settings)

        session.request(word, word, params={word: word}, data={word: [word, "2"]}, headers={"X-Call": word})
        session.open(word, headers={"X-Call": word}).close()
        session.open(urllib.request.Request(api.url, headers={"X-Call": word})).close()

        assert api.lines == ["WORD /word?word=word", "GET /word", "GET /"]
        assert api.seen[0].get_data() == b"word=word&word=2"
        assert [one.headers["X-Session"] + one.headers["X-Call"] for one in api.seen] == ["wordword"] * 3
        assert (asked(auth.seen[0])["field"], asked(auth.seen[0])["word"]) == ("word", "1")
        assert auth.seen[0].headers["X-Key"] == "word"
        assert "X-Key" not in api.seen[0].headers and "X-Session" not in auth.seen[0].headers

    @pytest.mark.parametrize("number, text", [(5, "5"), (-1.5, "-1.5"), (Decimal("1.50"), "1.50")], ids=repr)
    def test_numbers_are_text_in_parameters_and_forms_only(self, number, text, session, api):
        session.post("/x", {"n": number}, params={"n": [number, None]})

        assert (api.lines, api.seen[0].get_data()) == ([f"POST /x?n={text}"], f"n={text}".encode())
        with pytest.raises(TypeError, match="headers"):
            session.get("/x", headers={"X-Number": number})
        assert len(api.seen) == 1

    @pytest.mark.parametrize("value", [{"a": 1}, {"a"}, object(), [object()]], ids=["dict", "set", "object", "list"])
    @pytest.mark.parametrize("call", [
        lambda session, value: session.get("/x", {"a": value}), lambda session, value: session.post("/x", {"a": value}),
        lambda session, value: session.get("/x", headers={"a": value}), lambda session, value: session.get(value),
        lambda session, value: session.open("/x", headers={"a": value}),
        lambda session, value: session.request(value, "/x"),
        lambda session, value: AcmeSession(CLIENT, SECRET, headers={"a": value}),
        lambda session, value: AcmeSession(CLIENT, SECRET, token_params={"a": value}),
        lambda session, value: AcmeSession(CLIENT, SECRET, token_headers={"a": value}),
    ], ids="params data headers url opened method settings token_params token_headers".split())  # fmt: skip
    def test_anything_else_is_a_type_error_before_a_token_is_fetched(self, call, value, session, auth, api):
        with pytest.raises(TypeError):
            call(session, value)
        assert (auth.seen, api.seen) == ([], [])

    @pytest.mark.parametrize("url, params, expected", [
        ("/x", {"a": 1, "b": "ü &"}, "/x?a=1&b=%C3%BC+%26"), ("/x", {"a": [1, 2], "n": None}, "/x?a=1&a=2"),
        ("/x", [("a", 1), ("a", 2)], "/x?a=1&a=2"), ("/x", "a=1&b=ü", "/x?a=1&b=%C3%BC"),
        ("/x?z=0", {"a": 1}, "/x?z=0&a=1"), ("/x#part", {"a": 1}, "/x?a=1"), ("/x", {}, "/x"), ("/x", None, "/x"),
    ], ids=["dict", "list-value", "pairs", "text", "existing-query", "fragment", "empty", "none"])  # fmt: skip
    def test_params_become_the_query(self, url, params, expected, session, api):
        session.get(url, params)
        session.post(url, params=params)
        assert api.lines == [f"GET {expected}", f"POST {expected}"]

    @pytest.mark.parametrize("value", [{"a": "ü"}, {}, [], 0, False, "text"], ids=repr)
    def test_json_is_sent_as_json(self, value, session, api):
        session.post("/x", json=value)
        assert api.seen[0].headers["Content-Type"] == "application/json"
        assert json.loads(api.seen[0].get_data()) == value

    FORM, OCTETS = "application/x-www-form-urlencoded", "application/octet-stream"

    @pytest.mark.parametrize("make, body, kind", [
        (lambda: {"a": 1, "b": ["x", "y"], "n": None}, b"a=1&b=x&b=y", FORM),
        (lambda: [("a", 1), ("a", "ü")], b"a=1&a=%C3%BC", FORM),
        (lambda: "ü", "ü".encode(), "text/plain; charset=utf-8"), (lambda: b"\0\xff", b"\0\xff", OCTETS),
        (lambda: bytearray(b"ab"), b"ab", OCTETS), (lambda: io.BytesIO(b"file" * 50000), b"file" * 50000, OCTETS),
        (lambda: (b"%d," % n for n in range(3)), b"0,1,2,", OCTETS), (lambda: None, b"", None),
        (lambda: [b"a", bytearray(b"b")], b"ab", OCTETS), (lambda: (b"a", b"b"), b"ab", OCTETS),
        (lambda: Loud("ü"), "ü".encode(), "text/plain; charset=utf-8"),
    ], ids="dict pairs str bytes bytearray file generator none list tuple own".split())  # fmt: skip
    def test_data_of_each_kind_arrives(self, make, body, kind, session, api):
        session.post("/x", make())
        session.put("/x", make(), headers={"content-type": "text/x-own"})

        assert [request.get_data() for request in api.seen] == [body, body]
        assert [request.headers.get("Content-Type") for request in api.seen] == [kind, "text/x-own"]
        if isinstance(make(), (str, bytes, dict, io.BytesIO)):
            assert [request.headers.get("Content-Length") for request in api.seen] == [str(len(body))] * 2

    def test_a_file_on_disk_is_sent_from_where_it_stands(self, session, api, tmp_path):
        path = tmp_path / "body"
        path.write_bytes(b"0123456789")
        with open(path, "rb") as file:
            file.seek(4)
            session.put("/x", file)
        assert (api.seen[0].get_data(), api.seen[0].headers["Content-Length"]) == (b"456789", "6")

    def test_headers_of_the_call_go_over_those_of_the_session(self, auth, api):
        session = auth.session(base_url=api.url, headers={"X-Both": "session", "X-Gone": "1", "User-Agent": "acme/1"})

        session.get("/1", headers={"x-both": "call", "x-gone": None, "X-Call": "5"})
        session.headers["X-Later"] = "yes"
        session.get("/2")

        first, second = (request.headers for request in api.seen)
        assert (first["X-Both"], first["X-Call"]) == ("call", "5")
        assert "X-Gone" not in first and "X-Later" not in first
        assert (second["X-Both"], second["X-Gone"], second["X-Later"]) == ("session", "1", "yes")
        assert first["User-Agent"] == auth.seen[0].headers["User-Agent"] == "acme/1"
        assert "X-Both" not in auth.seen[0].headers

    def test_the_user_agent_names_the_module_and_its_version(self, session, auth, api):
        session.get("/")
        session.open("/").close()
        name = f"oauth_session/{oauth_session.__version__}"
        assert [request.headers["User-Agent"] for request in auth.seen + api.seen] == [name] * 3

    def test_headers_replaced_as_a_whole_reach_the_token_endpoint_too(self, session, auth, api):
        session.headers = {"User-Agent": "acme/2"}
        session.get("/")
        assert api.seen[0].headers["User-Agent"] == "acme/2"
        assert auth.seen[0].headers["User-Agent"] == "acme/2"

    @pytest.mark.parametrize("base, url, expected", [
        ("/v1", "users", "/v1/users"), ("/v1", "/users", "/v1/users"), ("/v1/", "users", "/v1/users"),
        ("/v1/", "/users", "/v1/users"), ("/v1", "", "/v1"), ("/v1", "?q=1", "/v1?q=1"), ("", "", "/"), ("", "x", "/x"),
        ("/v1", "a:b/c", "/v1/a:b/c"), ("/v1", "x?u=http://a.example/", "/v1/x?u=http://a.example/"),
        ("/v1", "a b/ü?q=ö ä&p=%20", "/v1/a%20b/%C3%BC?q=%C3%B6%20%C3%A4&p=%20"), ("/v 1", "x", "/v%201/x"),
        ("/v1", "x#part", "/v1/x"), ("/v1", 'a|b{}^`"<>\\?q=|{}\\', "/v1/a%7Cb%7B%7D%5E%60%22%3C%3E%5C?q=%7C%7B%7D%5C"),
    ])  # fmt: skip
    def test_what_is_not_absolute_is_appended_to_base_url(self, base, url, expected, auth, api):
        session = auth.session(base_url=api.url + base)
        session.get(url)
        session.open(url).close()
        assert api.lines == [f"GET {expected}"] * 2

    def test_an_absolute_url_is_taken_as_it_is(self, auth, api):
        auth.session(base_url=api.url + "/v1").get(api.url + "/elsewhere")
        assert api.lines == ["GET /elsewhere"]

    @pytest.mark.parametrize("url", ["//host/x", "//", "/x"], ids=repr)
    def test_a_url_without_scheme_or_base_is_refused(self, url, auth, api):
        base = api.url if url.startswith("//") else None
        session = auth.session(base_url=base)
        for call in (session.get, session.open):
            with pytest.raises(ValueError, match="url"):
                call(url)
        assert auth.seen == api.seen == []

    @pytest.mark.parametrize("name", ["base_url", "origins"])
    def test_a_name_beyond_ascii_is_sent_as_idna(self, name, auth, other):
        proxy = urllib.request.ProxyHandler({"http": other.url})  # stands for the network
        session = auth.session(handlers=[proxy], allow_http=True, **{name: "http://bücher.example/"})

        session.get("http://BÜCHER.example/ä")
        session.get("http://xn--bcher-kva.example/b")

        assert [request.host for request in other.seen] == ["xn--bcher-kva.example"] * 2
        assert other.bearers == [f"Bearer {TOKEN}-1"] * 2

    # Settings, and where they come from

    def test_a_subclass_holds_the_defaults(self):
        session = AcmeSession(CLIENT, SECRET)
        assert (session.token_url, session.base_url) == (AcmeSession.token_url, AcmeSession.base_url)
        assert (session.scope, session.headers, session.timeout) == ("company", {"X-Company": "acme"}, 7.5)

    def test_changing_the_headers_of_one_session_leaves_the_class_alone(self):
        AcmeSession(CLIENT, SECRET).headers["X-Own"] = "1"
        assert AcmeSession(CLIENT, SECRET).headers == {"X-Company": "acme"}

    def test_an_explicit_argument_goes_before_the_class(self, auth, api):
        session = auth.session(kind=AcmeSession, base_url=api.url, headers={"X-Own": "1"})
        session.get("/")
        assert asked(auth.seen[0])["scope"] == "read"
        assert ("X-Company" in api.seen[0].headers, api.seen[0].headers["X-Own"]) == (False, "1")

    def test_an_explicit_none_switches_a_default_off(self, auth, api):
        session = auth.session(CLIENT, SECRET, None, kind=AcmeSession, base_url=None, headers=None, timeout=None)
        session.get(api.url)
        assert asked(auth.seen[0]) == {"grant_type": "client_credentials"}
        assert (session.base_url, session.headers, session.timeout) == (None, {}, None)

    def test_a_source_contradicts_the_credentials_of_the_class_unless_these_are_switched_off(self, api):
        source, fetched = source_of(TOKEN)
        with pytest.raises(ValueError, match=r"scope and source.*leave one out, or pass scope=None"):
            AcmeSession(source=source, base_url=api.url)
        with AcmeSession(source=source, base_url=api.url, scope=None, token_url=None) as session:
            session.get("/")
        assert session.source is source and fetched == [TOKEN]
        assert (api.bearers, api.seen[0].headers["X-Company"]) == ([f"Bearer {TOKEN}"], "acme")

    def test_credentials_contradict_a_source_of_the_class_unless_it_is_switched_off(self, auth, api):
        kind = type("Sourced", (OAuthSession,), {"source": source_of("from-the-class")[0]})
        with pytest.raises(ValueError, match="client_id and source"):
            auth.session(kind=kind)
        auth.session(kind=kind, source=None).get(api.url)
        assert api.bearers == [f"Bearer {TOKEN}-1"]

    @pytest.mark.parametrize("settings, words", [
        ({"issuer": "https://i.example"}, "issuer and token_url .*(issuer|token_url)=None"),
        ({"client_assertion": "a.b.c"}, "client_secret and client_assertion .*client_secret=None"),
        ({"auth_method": "none"}, "client_secret and auth_method='none' .*client_secret=None"),
        ({"auth_method": "private_key_jwt"}, "client_secret and auth_method='private_key_jwt' .*client_secret=None"),
    ], ids=lambda value: str(value)[:30])  # fmt: skip
    @pytest.mark.parametrize("by_class", [False, True], ids=["argument", "class"])
    def test_settings_that_contradict_each_other_name_both_and_the_way_out(self, settings, words, by_class):
        kind = type("Odd", (AcmeSession,), settings if by_class else {})
        with pytest.raises(ValueError, match=words) as caught:
            kind(CLIENT, SECRET, **({} if by_class else settings))
        assert_no_secret(caught.value)

    @pytest.mark.parametrize("how", [staticmethod(lambda: SECRET), lambda self: SECRET], ids=["staticmethod", "method"])
    def test_a_secret_of_the_class_may_be_a_callable(self, how, auth, api):
        kind = type("Rotating", (OAuthSession,), {"client_secret": how, "client_id": CLIENT, "token_url": auth.url})
        with kind(base_url=api.url) as session:
            session.get("/")
        sent = base64.b64decode(auth.seen[0].headers["Authorization"][6:]).decode()
        assert urllib.parse.unquote(sent) == f"{CLIENT}:{SECRET}"

    @pytest.mark.parametrize("name", [
        "client_id", "client_secret", "scope", "token_url", "auth_method", "audience", "resource", "token_params",
        "refresh_before",
    ])  # fmt: skip
    def test_a_source_contradicts_each_credential(self, name):
        value = {"token_url": "https://auth.example", "refresh_before": 5.0, "token_params": {"a": "b"}}.get(name, "x")
        with pytest.raises(ValueError, match=f"{name} and source .* pass {name}=None"):
            OAuthSession(source=source_of(TOKEN)[0], **{name: value})

    @pytest.mark.parametrize("scope", ["read", ["read", "write"]], ids=["text", "list"])
    @pytest.mark.parametrize("order", [order for order in itertools.permutations(range(4)) if order[3] != 3], ids=str)
    def test_arguments_in_the_wrong_order_are_told_the_right_one(self, order, scope):
        values = (CLIENT, SECRET, scope, "https://auth.example/token")
        with pytest.raises((ValueError, TypeError), match="client_id, client_secret, scope, token_url") as caught:
            OAuthSession(*(values[place] for place in order))
        assert_no_secret(caught.value)

    @pytest.mark.parametrize("given", [
        (), (CLIENT,), (CLIENT, SECRET), (CLIENT, SECRET, "read"), (None, SECRET, None, "https://a.example"),
    ], ids=len)  # fmt: skip
    def test_a_missing_argument_is_told_the_order(self, given):
        with pytest.raises(ValueError, match="client_id, client_secret, scope, token_url") as caught:
            OAuthSession(*given)
        assert_no_secret(caught.value)

    ENVIRONMENT = {
        "OAUTH_CLIENT_ID": CLIENT, "OAUTH_CLIENT_SECRET": SECRET, "OAUTH_TOKEN_URL": "https://auth.example/token",
    }  # fmt: skip

    def test_from_env_reads_each_variable(self, auth, api, monkeypatch):
        more = {
            "TOKEN_URL": auth.url, "SCOPE": "a b", "AUDIENCE": "aud", "RESOURCE": "https://r.example",
            "BASE_URL": api.url, "AUTH_METHOD": "client_secret_post", "CLIENT_SECRET_FILE": "",
        }  # fmt: skip
        environ = {**self.ENVIRONMENT, **{"OAUTH_" + name: value for name, value in more.items()}}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

        with OAuthSession.from_env() as session:
            session.get("/x")

        assert api.lines == ["GET /x"]
        assert asked(auth.seen[0]) == {
            "grant_type": "client_credentials", "scope": "a b", "audience": "aud", "resource": "https://r.example",
            "client_id": CLIENT, "client_secret": SECRET,
        }  # fmt: skip

    def test_from_env_takes_a_prefix_a_mapping_and_arguments(self):
        environ = {name.replace("OAUTH", "ACME"): value for name, value in self.ENVIRONMENT.items()}
        session = OAuthSession.from_env("ACME_", environ, scope="own", client_id="other", timeout=3.0)
        assert (session.client_id, session.scope, session.timeout) == ("other", "own", 3.0)

    def test_an_empty_variable_counts_as_unset(self):
        session = OAuthSession.from_env(environ={**self.ENVIRONMENT, "OAUTH_SCOPE": "", "OAUTH_BASE_URL": ""})
        kept = AcmeSession.from_env(environ={**self.ENVIRONMENT, "OAUTH_SCOPE": ""})
        assert (session.scope, session.base_url, kept.scope) == (None, None, "company")

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no-bom", "bom"])
    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"], ids=["none", "lf", "crlf"])
    def test_a_secret_file_is_read_for_each_fetch_without_bom_and_last_newline(self, mark, end, auth, api, tmp_path):
        path = tmp_path / "secret"
        path.write_bytes(mark + b"old" + end)
        environ = {"OAUTH_CLIENT_ID": CLIENT, "OAUTH_CLIENT_SECRET_FILE": str(path), "OAUTH_TOKEN_URL": auth.url}

        with OAuthSession.from_env(environ=environ, auth_method="client_secret_post") as session:
            session.get(api.url)
            path.write_bytes(mark + "neü".encode() + end)
            session.source.clear()
            session.get(api.url)

        assert [asked(request)["client_secret"] for request in auth.seen] == ["old", "neü"]

    @pytest.mark.parametrize("variable, value", [
        ("TOKEN_URL", "http://auth.example/"), ("TOKEN_URL", "not a url"), ("CLIENT_SECRET", SECRET + "\n"), ("CLIENT_SECRET_FILE", "/no/such/file"),
        ("CLIENT_SECRET_FILE", __file__), ("AUTH_METHOD", "magic"), ("BASE_URL", "no-url"), ("SCOPE", "a\nb"),
    ], ids=lambda value: str(value)[:12])  # fmt: skip
    def test_errors_of_from_env_name_the_variable(self, variable, value):
        environ = {**self.ENVIRONMENT, "OAUTH_" + variable: value}
        if variable == "CLIENT_SECRET_FILE" and value != __file__:
            del environ["OAUTH_CLIENT_SECRET"]
        with pytest.raises(ValueError, match="OAUTH_" + variable) as caught:
            OAuthSession.from_env(environ=environ)
        assert_no_secret(caught.value)

    @pytest.mark.parametrize("variable", ["CLIENT_ID", "CLIENT_SECRET", "TOKEN_URL"])
    def test_a_missing_variable_is_said_not_to_be_set(self, variable):
        environ = {**self.ENVIRONMENT, "OAUTH_" + variable: ""}
        with pytest.raises(ValueError, match=f"^OAUTH_{variable} is not set"):
            OAuthSession.from_env(environ=environ)

    def test_from_env_reads_no_other_variable(self):
        names = "CLIENT_ASSERTION ASSERTION_AUDIENCE TOKEN_PARAMS TOKEN_HEADERS HEADERS TIMEOUT ORIGINS ALLOW_HTTP SOURCE"
        environ = {**self.ENVIRONMENT, **{"OAUTH_" + name: "x" for name in names.split()}}
        session = OAuthSession.from_env(environ=environ)
        assert (session.assertion_audience, session.token_params, session.headers, session.timeout) == (None, None, {}, 30.0)

    @pytest.mark.parametrize("name", [
        "client_id", "client_secret", "scope", "token_url", "base_url", "auth_method", "audience", "resource",
        "token_params", "context", "handlers", "refresh_before", "origins", "allow_http", "source", "issuer", "cache",
        "cache_key", "client_assertion", "assertion_audience", "token_headers", "opener",
    ])  # fmt: skip
    def test_a_setting_is_fixed_once_the_session_is_made(self, name):
        session = AcmeSession(CLIENT, SECRET)
        with pytest.raises(AttributeError, match=name):
            setattr(session, name, "x")

    WORDS = {
        "verify": "load_verify_locations", "proxies": "ProxyHandler", "stream": "open", "allow_redirects": "handlers=",
        "auth": "Authorization", "files": "multipart", "cert": "load_cert_chain", "cookies": "HTTPCookieProcessor",
    }  # fmt: skip

    @pytest.mark.parametrize("name", WORDS)
    def test_what_requests_calls_otherwise_says_what_to_write_here(self, name, session, auth, api):
        for call in (session.get, session.post, session.delete, AcmeSession):
            with pytest.raises(TypeError, match=name) as caught:
                call("/", **{name: False})
            assert self.WORDS[name] in str(caught.value)
        for call in (session.get, AcmeSession):
            with pytest.raises(TypeError, match="nonsense"):
                call("/", nonsense=1)
        assert auth.seen == api.seen == []

    @pytest.mark.parametrize("kind", [OAuthSession, AcmeSession])
    @pytest.mark.parametrize("name", "verify params proxies auth cert stream cookies hooks".split())
    def test_an_attribute_that_requests_has_is_refused_with_the_same_advice(self, name, kind):
        session = kind(CLIENT, SECRET, None, "https://auth.example")
        with pytest.raises(AttributeError, match=f"no {name}: .*{self.WORDS.get(name, 'give ')}"):
            setattr(session, name, None)

    def test_a_misspelt_setting_is_refused_while_a_subclass_has_attributes_of_its_own(self, session):
        for name in ("token_uri", "time_out", "header"):
            with pytest.raises(AttributeError, match=f"{name}.*token_url.*headers, timeout"):
                setattr(session, name, "x")

        class Own(AcmeSession):
            def __init__(self):
                self.region, self.headers, self.timeout = "eu", {"X-Own": "1"}, 3.0
                super().__init__(CLIENT, SECRET)
                self.after = self._private = 1

        own = Own()
        assert (own.region, own.after, own._private) == ("eu", 1, 1)
        assert (own.headers, own.timeout) == ({"X-Own": "1"}, 3.0)

    @pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://127.0.0.1/x", "data:text/plain,x", "file:/etc/hosts"])
    def test_other_schemes_are_refused(self, url, auth, api):
        session = auth.session()
        for call in (session.get, session.open, lambda url: session.open(urllib.request.Request(url))):
            with pytest.raises(ValueError, match="url"):
                call(url)
        assert auth.seen == []

    def test_no_text_of_a_session_shows_a_secret(self, session):
        session.get("/")
        for one in (session, session.source, session.opener):
            assert_no_secret(one, repr(vars(session)))
        assert CLIENT in repr(session) and session.access_token == f"{TOKEN}-1"

    def test_the_token_is_fetched_once_for_all(self, session, auth, api):
        assert session.access_token == session.source.token().access_token == f"{TOKEN}-1"
        assert session.source.authorization() == f"Bearer {TOKEN}-1"
        session.get("/")
        assert len(auth.seen) == 1

    def test_a_closed_session_can_be_used_again(self, auth, api):
        with auth.session(base_url=api.url) as session:
            session.get("/1")
        session.close()
        assert session.get("/2").ok
        assert (len(auth.seen), len(api.seen)) == (1, 2)

    # open, install

    def test_open_reads_nothing_ahead(self, session, api):
        gate = threading.Event()

        def events():
            yield b"first\n"
            yield b"second\n" if gate.wait(10) else b"too late\n"

        api.will(200, {}, events())
        with session.open("/events") as answer:
            first = answer.readline()
            gate.set()
            rest = answer.read()
        assert (first, rest) == (b"first\n", b"second\n")
        assert "gzip" not in api.seen[0].headers["Accept-Encoding"]

    @pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 500])
    def test_open_raises_http_error_unless_2xx(self, status, session, api):
        api.will(status, {"X-A": "1"}, b"" if status in (204, 304) else b"body")
        if status < 300:
            with session.open("/") as answer:
                assert (answer.status, answer.headers["x-a"]) == (status, "1")
            return
        with pytest.raises(urllib.error.HTTPError) as caught:
            session.open("/")
        with caught.value as error:
            assert (error.code, error.headers["x-a"], error.read()) == (status, "1", b"" if status == 304 else b"body")

    def test_an_error_of_open_holds_at_most_a_mebibyte_of_the_body(self, session, api):
        api.always(500, {}, b"x" * (2**20 + 1))
        with pytest.raises(urllib.error.HTTPError) as caught:
            session.open("/")
        assert caught.value.read() == b"x" * 2**20

    def test_open_takes_a_request_and_data_as_urllib_does(self, session, api):
        request = urllib.request.Request(api.url + "/r", headers={"X-A": "1"}, method="PUT")
        session.headers.update({"X-A": "session", "X-B": "2"})

        session.open(request, b"data", timeout=5).close()
        session.open("/s", b"data").close()
        session.open("/t", b"data", headers={"x-a": "call", "X-B": None, "X-C": "3"}).close()

        assert api.lines == ["PUT /r", "POST /s", "POST /t"]
        assert [one.get_data() for one in api.seen] == [b"data"] * 3
        found = [[one.headers.get(name) for name in ("X-A", "X-B", "X-C")] for one in api.seen]
        assert found == [["1", "2", None], ["session", "2", None], ["call", None, "3"]]

    def test_open_leaves_the_callers_request_as_it_was(self, session, api):
        request = urllib.request.Request(api.url + "/ä", headers={"X-A": "1"})
        before = copy.deepcopy(vars(request))
        session.headers["X-Key"] = "private"

        session.open(request, b"data", timeout=5).close()

        assert vars(request) == before

    @pytest.fixture
    def urllib_restored(self):
        yield
        urllib.request.install_opener(None)

    def test_install_serves_urlopen_inside_the_origins_only(self, session, api, other, tmp_path, urllib_restored):
        path = tmp_path / "file"
        path.write_bytes(b"from disk")

        session.install()
        for url in (api.url, other.url, api.alias):
            urllib.request.urlopen(url, timeout=5).close()
        with urllib.request.urlopen(path.as_uri()) as file, urllib.request.urlopen("data:,x") as data:
            texts = file.read(), data.read()

        assert (api.bearers, other.bearers) == ([f"Bearer {TOKEN}-1", None], [None])
        assert texts == (b"from disk", b"x")

    def test_install_needs_origins(self, auth):
        with pytest.raises(ValueError, match="base_url or origins"):
            auth.session().install()

    def test_a_call_without_a_time_out_gets_that_of_the_session(self, auth, urllib_restored):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            session = auth.session(base_url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
            session.install()
            session.access_token
            for call in (session.get, session.open, session.opener.open, urllib.request.urlopen):
                with pytest.raises(urllib.error.URLError, match="timed out"):
                    call(session.base_url)
            with pytest.raises(urllib.error.URLError, match="timed out"):
                auth.session(timeout=None).get(session.base_url, timeout=0.2)


class TestResponse:
    """What the verbs return."""

    def test_it_has_the_names_that_requests_users_know(self, session, api):
        api.will(201, {"Content-Type": "application/json", "X-A": "1"}, b'{"a": "\xc3\xbc"}')
        response = session.get("/x?q=1")
        assert isinstance(response, Response)
        assert (response.status, response.status_code, response.ok, response.reason) == (201, 201, True, "Created")
        assert (response.url, response.headers["x-a"]) == (api.url + "/x?q=1", "1")
        assert (response.content, response.text, response.json()) == (b'{"a": "\xc3\xbc"}', '{"a": "ü"}', {"a": "ü"})
        assert response.raise_for_status() is response
        assert "201" in repr(response)

    @pytest.mark.parametrize("said, reason", [
        ("404 tok-en and more", "Not Found"), ("404 ", "Not Found"), ("299 Mine", ""), ("599 Mine", ""),
    ])  # fmt: skip
    def test_the_reason_is_the_standard_phrase_whatever_the_server_says(self, said, reason):
        with Server(page(said)) as server, OAuthSession(source=source_of("tok-en")[0]) as session:
            assert session.get(server.url).reason == reason

    @pytest.mark.parametrize("status", [200, 304, 399, 400, 404, 500])
    def test_it_is_true_if_it_is_ok(self, status, session, api):
        api.will(status)
        response = session.get("/")
        assert bool(response) == response.ok == (status < 400)

    @pytest.mark.parametrize("kind, body", [
        (None, '"ü"'.encode()), ("text/plain", '"ü"'.encode()), ("text/plain; charset=latin-1", b'"\xfc"'),
        ('application/json; charset="ISO-8859-1"', b'"\xfc"'), ("application/json; Charset=cp1252", b'"\xfc"'),
        ("application/json; charset=nonsense", '"ü"'.encode()), ("application/json", b"\xef\xbb\xbf" + '"ü"'.encode()),
        ("application/json; charset=utf-8", b"\xef\xbb\xbf" + '"ü"'.encode()),
        ("application/json", '"ü"'.encode("utf-16")), ("application/json; charset=utf-16", '"ü"'.encode("utf-16")),
        ("application/json; charset=utf-16-le", '"ü"'.encode("utf-16-le")),
    ], ids=lambda value: str(value)[:40])  # fmt: skip
    def test_text_and_json_are_decoded_by_one_rule(self, kind, body, session, api):
        api.will(200, {"Content-Type": kind} if kind else {}, body)
        response = session.get("/")
        assert (response.text, response.json(), response.content) == ('"ü"', "ü", body)

    @pytest.mark.parametrize("kind, body, text", [("text/plain", b"\xff", "\ufffd"), ("text/plain", b"", "")])
    def test_text_always_comes(self, kind, body, text, session, api):
        api.will(200, {"Content-Type": kind}, body)
        assert session.get("/").text == text

    @pytest.mark.parametrize("body", [
        b"<html>", b"", b"{", b"\xff\xfe\xff", b"[" * 100_000,
    ], ids=lambda body: repr(body[:4]))  # fmt: skip
    def test_json_of_something_else_says_status_and_type(self, body, session, api):
        api.will(502, {"Content-Type": "text/html"}, body)
        with pytest.raises(ValueError, match="502") as caught:
            session.get("/").json()
        assert "text/html" in str(caught.value)

    @pytest.mark.parametrize("status", [304, 400, 401, 403, 404, 429, 500, 503])
    def test_a_verb_returns_any_status_and_raise_for_status_raises(self, status, session, api):
        api.always(status, {"X-A": "1"}, b"" if status == 304 else b"why")
        response = session.get("/x")
        assert (response.status, response.ok) == (status, status < 400)
        if response.ok:
            assert response.raise_for_status() is response
            return
        with pytest.raises(urllib.error.HTTPError) as caught:
            response.raise_for_status()
        with caught.value as error:
            assert (error.code, error.headers["X-A"], error.read(), error.response) == (status, "1", b"why", response)
            assert isinstance(error, OAuthInvalidToken) == (status == 401)

    @pytest.mark.parametrize("status, phrase", [(404, " Not Found"), (500, " Internal Server Error"), (599, "")])
    def test_an_http_error_names_method_and_url_without_its_query(self, status, phrase, session, api):
        api.always(status, {}, b"why")
        for call in (
            lambda: session.post("/me?key=private#part").raise_for_status(),
            lambda: session.open("/me?key=private#part", b""),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                call()
            assert str(caught.value) == f"POST {api.url}/me answered {status}{phrase}"
            assert "private" not in repr(caught.value)

    @pytest.mark.parametrize("twin", [
        copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error)),
    ], ids=["copy", "deepcopy", "pickle"])  # fmt: skip
    @pytest.mark.parametrize("call", [
        lambda session: session.get("/x").raise_for_status(), lambda session: session.open("/x"),
    ], ids=["raise_for_status", "open"])  # fmt: skip
    @pytest.mark.parametrize("status, headers", [
        (404, {}), (302, {"Location": "ftp://x/"}), (401, CHALLENGE), (403, {"WWW-Authenticate": "Bearer"}),
    ], ids=["status", "redirect", "refused token", "scope"])  # fmt: skip
    def test_every_http_error_survives_pickle_and_copy(self, status, headers, call, twin, session, api):
        api.always(status, {"X-A": "1", **headers}, b"" if status == 302 else b"why")
        with pytest.raises(urllib.error.HTTPError) as caught:
            call(session)

        other = twin(caught.value)

        fields = [(type(one), str(one), one.code, one.url, one.headers["X-A"], one.read()) for one in (caught.value, other)]
        assert fields[0] == fields[1]
        assert fields[0][2:] == (status, api.url + "/x", "1", b"" if status == 302 else b"why")

    def test_a_refused_token_keeps_the_response(self, session, api):
        api.always(403, {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="admin"'}, {"why": "scope"})
        response = session.get("/x")
        with pytest.raises(OAuthInsufficientScope) as caught:
            response.raise_for_status()
        error = caught.value
        assert (error.response, error.response.json(), error.scope) == (response, {"why": "scope"}, "admin")
        assert json.loads(error.read()) == {"why": "scope"}
        assert_no_secret(error, response)

    def test_gzip_is_asked_for_and_undone(self, session, api):
        api.will(200, {"Content-Encoding": "gzip"}, gzip.compress(b"a" * 9999) + gzip.compress(b"b"))
        response = session.get("/")
        assert response.content == b"a" * 9999 + b"b"
        assert api.seen[0].headers["Accept-Encoding"] == "gzip"

    @pytest.mark.parametrize("headers", [{"Range": "bytes=0-5"}, {"accept-encoding": "gzip"}], ids=["range", "own"])
    def test_gzip_stays_where_the_caller_rules(self, headers, session, api):
        packed = gzip.compress(b"a")
        api.will(200, {"Content-Encoding": "gzip"}, packed)
        assert session.get("/", headers=headers).content == packed
        assert api.seen[0].headers["Accept-Encoding"] == headers.get("accept-encoding", "identity")

    @pytest.mark.parametrize("body", [
        b"plain", gzip.compress(b"abc" * 99)[:-9], gzip.compress(b"a") + b"x",
    ], ids=["none", "cut", "tail"])  # fmt: skip
    def test_broken_gzip_is_a_url_error(self, body, session, api):
        api.will(200, {"Content-Encoding": "gzip"}, body)
        with pytest.raises(urllib.error.URLError, match="gzip"):
            session.get("/")

    def test_head_has_headers_and_no_body(self, session, api):
        api.will(200, {"Content-Encoding": "gzip", "X-A": "1"}, gzip.compress(b"a"))
        response = session.head("/")
        assert (response.status, response.headers["X-A"], response.content) == (200, "1", b"")


TLS = """
-----BEGIN CERTIFICATE-----
MIIBlzCCAT6gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABClUFnzjSQs1kT5b
L/MwZzjp0sco4VmXY7zHZi6tfg0a7KcFM7sr93EHP3/goJEm5zl/CJ/RLqzwchlv
G1ycEfOjfzB9MB0GA1UdDgQWBBQPnYa16xR99vFPeQKwhyDamgED/zAfBgNVHSME
GDAWgBQPnYa16xR99vFPeQKwhyDamgED/zAPBgNVHRMBAf8EBTADAQH/MA4GA1Ud
DwEB/wQEAwIChDAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZIzj0E
AwIDRwAwRAIgNlSiDDINYXAQfAU23U1i4IqSJzE7d1yyhmFtfUZiGVcCIAllWUs4
jJxy2WZJYYcRz0IChnLiMgQYG3mFLHNYvRh9
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCoOLGPaXzYPSJG9s
ocXDEveAbnGg7p3rKP1bHTpd6UGhRANCAAQpVBZ840kLNZE+Wy/zMGc46dLHKOFZ
l2O8x2YurX4NGuynBTO7K/dxBz9/4KCRJuc5fwif0S6s8HIZbxtcnBHz
-----END PRIVATE KEY-----
"""  # for loopback, made for these tests, good until 2120


class TestHandler:
    """Which requests get the token, where a redirect may go, what a 401 does."""

    @pytest.mark.parametrize("origin, url, inside", [
        ("http://api.example", "http://api.example/x", True), ("http://api.example", "http://API.Example/x", True),
        ("http://API.EXAMPLE/some/path", "http://api.example/", True),
        ("http://api.example", "http://api.example:80/", True), ("http://api.example:80", "http://api.example?q", True),
        ("http://api.example", "http://api.example:8080/", False),
        ("http://api.example:8080", "http://api.example/", False),
        ("https://api.example", "http://api.example/", False),
        ("https://api.example:80", "http://api.example:80/", False),
        ("http://api.example", "http://sub.api.example/", False),
        ("http://sub.api.example", "http://api.example/", False),
        ("http://api.example", "http://api.example.evil.example/", False),
        ("http://api.example", "http://evil-api.example/", False),
        ("http://api.example", "http://api.example./", False),
        ("http://api.example", "http://evil.example/@api.example/", False),
        ("http://api.example", "http://evil.example#@api.example/", False),
        ("http://api.example", "http://evil.example?@api.example/", False),
        ("http://bücher.example", "http://xn--bcher-kva.example/", True),
        ("http://bücher.example", "http://bucher.example/", False),
        ("http://[2001:db8::1]", "http://[2001:DB8::1]:80/", True),
        ("http://[2001:db8::1]", "http://[2001:db8::2]/", False),
    ])  # fmt: skip
    def test_the_token_is_on_a_request_inside_the_origins_only(self, origin, url, inside, other):
        source, fetched = source_of(TOKEN)
        network = urllib.request.ProxyHandler({"http": other.url})
        opener = urllib.request.build_opener(network, OAuthHandler(source, origins=[origin], allow_http=True))

        opener.open(url, timeout=5).close()

        assert other.bearers == ([f"Bearer {TOKEN}"] if inside else [None])
        assert fetched == ([TOKEN] if inside else [])

    @pytest.mark.parametrize("url", ["http://api.example@evil.example/", "http://api.example:80@evil.example/"])
    def test_a_url_with_user_information_goes_nowhere(self, url, other):
        source, fetched = source_of(TOKEN)
        network = urllib.request.ProxyHandler({"http": other.url})
        opener = urllib.request.build_opener(network, OAuthHandler(source, ["http://api.example"], allow_http=True))
        for call in (opener.open, OAuthSession(source=source).get):
            with pytest.raises(ValueError, match="user name"):
                call(url, timeout=5)
        assert (other.seen, fetched) == ([], [])

    @pytest.mark.parametrize("alias", [False, True], ids=["other-port", "other-name"])
    def test_a_call_outside_the_origins_is_refused_and_named(self, alias, auth, api, other):
        session = auth.session(base_url=api.url, origins=["https://more.example"])
        url = api.alias if alias else other.url
        for call in (session.get, session.open, lambda url: session.open(urllib.request.Request(url))):
            with pytest.raises(ValueError, match="origins"):
                call(url + "/x")
        assert auth.seen == api.seen == other.seen == []

    def test_origins_widen_what_base_url_allows(self, auth, api, other):
        session = auth.session(base_url=api.url, origins=other.url + "/any/path")
        session.get("/x")
        session.get(other.url)
        assert api.bearers == other.bearers == [f"Bearer {TOKEN}-1"]

    def test_without_origins_each_url_that_the_caller_names_gets_it(self, auth, api, other):
        session = auth.session()
        session.get(api.url)
        session.get(other.url)
        assert api.bearers == other.bearers == [f"Bearer {TOKEN}-1"]

    def test_a_bare_opener_is_authorised_and_raises_as_urllib_does(self, api, other):
        source, fetched = source_of(f"{TOKEN}-1", f"{TOKEN}-2")
        opener = urllib.request.build_opener(OAuthHandler(source, origins=[api.url]))
        api.will(401, CHALLENGE)
        api.will(404)
        request = urllib.request.Request(api.url + "/x", b"body", {"X-A": "1"})

        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            opener.open(request, timeout=5)
        caught.value.close()
        opener.open(other.url, timeout=5).close()

        assert api.bearers == [f"Bearer {TOKEN}-1", f"Bearer {TOKEN}-2"]
        assert [one.get_data() for one in api.seen] == [b"body"] * 2
        assert (other.bearers, len(fetched), request.has_header("Authorization")) == ([None], 2, False)

    def test_two_handlers_in_one_opener_keep_apart(self, api, other):
        sources = {server: source_of(f"{name}-1", f"{name}-2") for name, server in (("a", api), ("b", other))}
        handlers = [OAuthHandler(source, origins=[server.url]) for server, (source, _) in sources.items()]
        opener = urllib.request.build_opener(*handlers)
        opener.open(api.url, timeout=5).close()
        opener.open(other.url, timeout=5).close()

        other.will(401, CHALLENGE)
        opener.open(other.url, timeout=5).close()
        api.will(302, {"Location": other.url})
        opener.open(api.url, timeout=5).close()

        assert (api.bearers, sources[api][1]) == (["Bearer a-1"] * 2, ["a-1"])
        assert other.bearers[:3] == ["Bearer b-1", "Bearer b-1", "Bearer b-2"]
        assert (other.bearers[3:], sources[other][1]) in (([None], ["b-1", "b-2"]), (["Bearer b-2"], ["b-1", "b-2"]))

    # Redirects

    BECOMES = {  # status: what GET, POST, PUT and HEAD become
        301: "GET GET PUT HEAD", 302: "GET GET PUT HEAD", 303: "GET GET GET HEAD", 307: "GET POST PUT HEAD",
        308: "GET POST PUT HEAD",
    }  # fmt: skip
    MATRIX = [
        (status, method, became)
        for status, row in BECOMES.items()
        for method, became in zip(("GET", "POST", "PUT", "HEAD"), row.split())
    ]

    @staticmethod
    def redirected(session, api, status, method, location):
        api.will(status, {"Location": location}, b"" if method == "HEAD" else b"moved")
        headers = {"X-Own": "1", "Cookie": "a=b", "Accept": "text/x", "Accept-Language": "de", "User-Agent": "me"}
        body = {"data": b"body"} if method in ("POST", "PUT") else {}
        return session.request(method, "/from", headers={**headers, "Proxy-Authorization": "Basic x"}, **body)

    @pytest.mark.parametrize("status, method, became", MATRIX)
    def test_a_redirect_within_the_origin_takes_all_along(self, status, method, became, session, auth, api):
        response = self.redirected(session, api, status, method, "/to?q=ü".encode().decode("latin-1"))

        kept = became == method and method in ("POST", "PUT")
        second = api.seen[1]
        assert (response.status, response.url) == (200, api.url + "/to?q=%C3%BC")
        assert api.lines == [f"{method} /from", f"{became} /to?q=%C3%BC"]
        assert api.bearers == [f"Bearer {TOKEN}-1"] * 2
        assert (second.headers["X-Own"], second.headers["Cookie"], second.headers["Accept"]) == ("1", "a=b", "text/x")
        assert (second.get_data(), "Content-Type" in second.headers) == ((b"body", True) if kept else (b"", False))
        assert len(auth.seen) == 1

    def test_a_redirect_to_get_leaves_all_that_speaks_of_the_body(self, session, api):
        api.will(303, {"Location": "/to"})
        headers = {"Transfer-Encoding": "chunked", "Content-Type": "text/x", "Content-Language": "de"}

        session.post("/from", data=iter([b"body"]), headers=headers)

        assert [one for one in dict(api.seen[1].headers) if one.lower().startswith(("content-", "transfer-"))] == []

    @pytest.mark.parametrize("alias", [False, True], ids=["other-port", "other-name"])
    @pytest.mark.parametrize("status, method, became", MATRIX)
    def test_a_redirect_to_another_origin_takes_little(self, status, method, became, alias, session, api, other):
        away = (api.alias if alias else other.url) + "/to"
        arrived = api.seen if alias else other.seen
        if became in ("POST", "PUT"):
            with pytest.raises(urllib.error.HTTPError, match="body") as caught:
                self.redirected(session, api, status, method, away)
            assert caught.value.code == status and len(api.seen) == 1 and other.seen == []
            caught.value.close()
            return

        response = self.redirected(session, api, status, method, away)

        assert (response.url, len(api.seen) + len(other.seen), arrived[-1].method) == (away, 2, became)
        headers = arrived[-1].headers
        assert (headers["Accept"], headers["Accept-Language"], headers["User-Agent"]) == ("text/x", "de", "me")
        secret = {"authorization", "x-own", "cookie", "content-type", "proxy-authorization"}
        assert not secret & {name.lower() for name, _ in headers}
        assert arrived[-1].get_data() == b""

    def test_once_left_the_token_never_comes_back(self, session, api, other):
        api.will(302, {"Location": other.url})
        other.will(302, {"Location": api.url + "/back"})
        api.will(307, {"Location": "/again"})

        assert session.get("/x").ok

        assert api.lines == ["GET /x", "GET /back", "GET /again"]
        assert (api.bearers, other.bearers) == ([f"Bearer {TOKEN}-1", None, None], [None])

    def test_a_401_outside_costs_no_renewal(self, session, auth, api, other):
        api.will(302, {"Location": other.url})
        other.always(401, CHALLENGE)
        response = session.get("/x")
        assert (response.status, len(other.seen), len(auth.seen)) == (401, 1, 1)
        with pytest.raises(urllib.error.HTTPError) as caught:
            response.raise_for_status()
        assert not isinstance(caught.value, OAuthBearerError)

    def test_between_named_origins_the_token_goes_along(self, auth, api, other):
        session = auth.session(base_url=api.url, origins=[other.url])
        api.will(302, {"Location": other.url})
        session.get("/x", headers={"X-Own": "1"})
        assert other.bearers == [f"Bearer {TOKEN}-1"] and "X-Own" not in other.seen[0].headers

    def test_a_redirect_loop_ends(self, session, auth, api):
        api.always(302, {"Location": "/loop"})
        with pytest.raises(urllib.error.HTTPError, match="redirect") as caught:
            session.get("/loop")
        assert (caught.value.code, len(api.seen), len(auth.seen)) == (302, 11, 1)

    @pytest.mark.parametrize("location", [
        "ftp://127.0.0.1/x", "file:///etc/hosts", "data:,x", "http://a b/", "http://u@127.0.0.1/", "http://[::1/",
        "http://a:99999/",
    ])  # fmt: skip
    def test_a_redirect_to_nowhere_is_an_http_error_that_says_so(self, location, session, api):
        api.always(302, {"Location": location})
        for call in (session.get, session.open):
            with pytest.raises(urllib.error.HTTPError, match="not followed") as caught:
                call("/x")
            assert caught.value.code == 302
        assert len(api.seen) == 2

    def test_a_redirect_from_https_to_http_is_refused(self, auth, api, tmp_path):
        path = tmp_path / "tls.pem"
        path.write_text(TLS)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(path))
        with HTTPServer("127.0.0.1", 0, ssl_context=context) as server:
            server.expect_request("/x").respond_with_data("", 302, {"Location": api.url})
            trusting = ssl.create_default_context(cafile=str(path))
            session = auth.session(context=trusting, origins=[api.url, server.url_for("/")])
            with pytest.raises(urllib.error.HTTPError, match="https to http"):
                session.get(server.url_for("/x"))
            session.close()
        assert api.seen == []

    def test_a_redirect_replays_a_file_from_where_it_stood_and_a_generator_never(self, session, api):
        file = io.BytesIO(b"0123456789")
        file.seek(4)
        api.will(307, {"Location": "/to"})
        session.put("/x", file)
        api.will(307, {"Location": "/to"})
        with pytest.raises(urllib.error.HTTPError, match="body"):
            session.put("/x", (b"%d" % n for n in range(3)))
        assert [one.get_data() for one in api.seen] == [b"456789", b"456789", b"012"]

    @pytest.mark.parametrize("status, headers", [
        (304, {}), (300, {"Location": "/x"}), (302, {}), (305, {"Location": "/x"}),
    ], ids=str)  # fmt: skip
    def test_what_names_no_redirect_is_a_response(self, status, headers, session, api):
        api.will(status, headers)
        assert session.get("/").status == status
        assert len(api.seen) == 1

    def test_a_handler_of_the_user_may_stop_all_redirects(self, auth, api):
        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None

        api.will(302, {"Location": "/to"}, b"moved")
        response = auth.session(handlers=[Stay]).get(api.url)
        assert (response.status, response.text, len(api.seen)) == (302, "moved", 1)

    # The caller's own Authorization

    def test_a_header_of_the_caller_is_left_alone_and_never_replayed(self, session, auth, api, other):
        api.will(401, CHALLENGE)
        api.will(302, {"Location": "/same"})
        api.will(200)
        api.will(302, {"Location": other.url})

        statuses = [session.get("/x", headers={"authorization": "Basic own"}).status for _ in range(3)]

        assert (statuses, api.bearers, other.bearers) == ([401, 200, 200], ["Basic own"] * 4, [None])
        assert auth.seen == []

    def test_a_request_used_twice_is_not_taken_for_the_callers(self, session, auth, api, other):
        request = urllib.request.Request(api.url + "/x")
        session.open(request).close()
        assert not request.has_header("Authorization")
        session.source.clear()
        session.open(request).close()
        api.will(404)
        with pytest.raises(urllib.error.HTTPError):
            session.open(request)
        urllib.request.build_opener().open(request, timeout=5).close()
        assert api.bearers == [f"Bearer {TOKEN}-{n}" for n in (1, 2, 2)] + [None]

    # 401

    class Pipe(io.RawIOBase):
        """A file that can be read once."""

        def __init__(self):
            self.rest = b"pipe"

        def readable(self):
            return True

        def readinto(self, buffer):
            piece, self.rest = self.rest, b""
            buffer[: len(piece)] = piece
            return len(piece)

    @staticmethod
    def standing():
        file = io.BytesIO(b"0123456789")
        file.seek(4)
        return file

    @pytest.mark.parametrize("status, headers", [
        (401, CHALLENGE), (401, {}), (401, {"WWW-Authenticate": "Basic realm=x"}), (403, CHALLENGE),
    ], ids=["challenge", "none", "basic", "403"])  # fmt: skip
    @pytest.mark.parametrize("make, body", [
        (lambda: None, b""), (lambda: b"bytes", b"bytes"), (lambda: {"a": 1}, b"a=1"),
        (lambda: TestHandler.standing(), b"456789"), (lambda: [b"4", b"5"], b"45"), (lambda: (b"4", b"5"), b"45"),
    ], ids=["none", "bytes", "form", "file", "list", "tuple"])  # fmt: skip
    def test_a_refused_token_costs_one_renewal_and_one_replay(self, make, body, status, headers, session, auth, api):
        api.will(status, headers)

        response = session.post("/x", make(), headers={"X-A": "1"})

        assert response.status == 200
        assert api.bearers == [f"Bearer {TOKEN}-1", f"Bearer {TOKEN}-2"]
        assert [one.get_data() for one in api.seen] == [body, body]
        assert [one.headers["X-A"] for one in api.seen] == ["1", "1"]
        assert [asked(one) for one in auth.seen] == [{"grant_type": "client_credentials", "scope": "read"}] * 2

    @pytest.mark.parametrize("make, body", [
        (lambda: iter([b"once"]), b"once"), (lambda: TestHandler.Pipe(), b"pipe"),
    ], ids=["generator", "pipe"])  # fmt: skip
    def test_a_body_that_is_gone_is_never_replayed_and_named_as_the_reason(self, make, body, session, api):
        api.will(401, CHALLENGE)
        response = session.post("/x", make())

        with pytest.raises(OAuthInvalidToken, match="body cannot be sent again") as caught:
            response.raise_for_status()

        assert "audience" not in str(caught.value)
        assert [one.get_data() for one in api.seen] == [body]
        assert session.post("/x", make()).ok and api.bearers == [f"Bearer {TOKEN}-1", f"Bearer {TOKEN}-2"]

    @pytest.mark.parametrize("status, headers", [(401, {}), (403, CHALLENGE), (307, {"Location": "/to"})], ids=str)
    @pytest.mark.parametrize("bare", [False, True], ids=["session", "bare opener"])
    def test_the_next_request_has_the_cookie_that_the_answer_set(self, bare, status, headers, api):
        cookies = urllib.request.HTTPCookieProcessor()
        source = source_of("t-1", "t-2")[0]
        bare_opener = urllib.request.build_opener(cookies, OAuthHandler(source, [api.url]))
        opener = bare_opener if bare else OAuthSession(source=source, handlers=[cookies])
        api.will(200, {"Set-Cookie": "sid=old"})
        api.will(status, {"Set-Cookie": "sid=new", **headers})

        for _ in range(2):
            opener.open(api.url, timeout=5).close()

        assert [one.headers.get("Cookie") for one in api.seen] == [None, "sid=old", "sid=new"]

    def test_a_lack_of_scope_is_not_cured_by_another_token(self, session, auth, api):
        api.will(401, {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="admin"'})
        with pytest.raises(OAuthInsufficientScope) as caught:
            session.open("/x")
        assert (caught.value.status, caught.value.scope) == (401, "admin")
        assert (len(api.seen), len(auth.seen)) == (1, 1)

    def test_the_same_token_again_is_not_replayed(self, session, auth, api):
        auth.always(200, {}, {"access_token": TOKEN, "expires_in": 3600})
        api.will(401, CHALLENGE)
        assert session.get("/x").status == 401
        assert (len(api.seen), len(auth.seen)) == (1, 2)

    def test_an_api_that_answers_401_for_ever_costs_one_renewal(self, session, auth, api):
        api.always(401, CHALLENGE, b"no")
        for _ in range(5):
            assert session.get("/x").status == 401
        with pytest.raises(OAuthInvalidToken) as caught:
            session.open("/x")
        assert (caught.value.read(), caught.value.url, caught.value.error) == (b"no", api.url + "/x", "invalid_token")
        assert (len(auth.seen), api.bearers) == (2, [f"Bearer {TOKEN}-1"] + [f"Bearer {TOKEN}-2"] * 6)
        assert_no_secret(caught.value)

    def test_a_401_after_a_redirect_is_replayed_where_it_happened(self, session, auth, api):
        api.will(307, {"Location": "/to"})
        api.will(401, CHALLENGE)
        assert session.post("/from", b"body").ok
        assert api.lines == ["POST /from", "POST /to", "POST /to"]
        assert api.bearers == [f"Bearer {TOKEN}-{n}" for n in (1, 1, 2)]

    def test_a_redirect_after_a_replay_ends_in_the_second_401(self, session, auth, api):
        api.will(401, CHALLENGE)
        api.will(307, {"Location": "/to"})
        api.will(401, CHALLENGE)
        assert session.get("/from").status == 401
        assert (api.lines, len(auth.seen)) == (["GET /from", "GET /from", "GET /to"], 2)

    def test_a_renewal_that_fails_has_the_401_as_its_cause(self, session, auth, api):
        session.get("/warm")
        auth.will(400, {}, {"error": "invalid_grant"})
        api.will(401, CHALLENGE)
        with pytest.raises(OAuthInvalidGrant) as caught:
            session.get("/x")
        cause = caught.value.__cause__
        assert (type(cause), cause.status, cause.url) == (OAuthInvalidToken, 401, api.url + "/x")
        assert (len(api.seen), len(auth.seen)) == (2, 2)
        assert_no_secret(caught.value)

    LACK, TOO_LONG = "insufficient_scope", "a" * 50000

    @pytest.mark.parametrize("status, lines, kind, error, scope, realm", [
        (401, [], OAuthInvalidToken, None, None, None), (401, ["Bearer"], OAuthInvalidToken, None, None, None),
        (401, ['Bearer realm="r", error="invalid_token"'], OAuthInvalidToken, "invalid_token", None, "r"),
        (401, ["bEARER ERROR=invalid_token,REALM = r"], OAuthInvalidToken, "invalid_token", None, "r"),
        (401, ['Basic realm="b", Bearer realm="r", error="e"'], OAuthInvalidToken, "e", None, "r"),
        (401, ['Bearer realm="r", error="e", Basic realm="b"'], OAuthInvalidToken, "e", None, "r"),
        (401, ["Negotiate abc==", 'Bearer realm="r"'], OAuthInvalidToken, None, None, "r"),
        (401, ["Bearer", 'Bearer error="e"'], OAuthInvalidToken, "e", None, None),
        (401, [r'Bearer realm="a, Basic \"b\" = c", error="e"'], OAuthInvalidToken, "e", None, 'a, Basic "b" = c'),
        (401, ['Digest realm="Bearer error=insufficient_scope"'], OAuthInvalidToken, None, None, None),
        (401, ['Bearer realm="open, error="x'], OAuthInvalidToken, ..., None, ...),
        (401, ['"', ",,,", "=", "Bearer error=", 'Bearer "a" b c'], OAuthInvalidToken, ..., None, None),
        (401, ['Bearer realm="' + TOO_LONG + '", error="e"'], OAuthInvalidToken, ..., None, ...),
        (401, ['Bearer a="' + "\\" * 8000, "a=" * 9000, '"' * 30000], OAuthInvalidToken, None, None, None),
        (403, ['Bearer error="insufficient_scope", scope="a b"'], OAuthInsufficientScope, LACK, "a b", None),
        (403, ["Bearer realm=r"], OAuthInsufficientScope, None, None, "r"), (403, [], None, None, None, None),
        (403, ['Bearer error="invalid_token"'], OAuthInvalidToken, "invalid_token", None, None),
        (403, ['Bearer error="e"'], OAuthBearerError, "e", None, None),
        (403, ["Basic realm=r"], None, None, None, None),
        (400, ['Bearer error="invalid_request"'], OAuthBearerError, "invalid_request", None, None),
        (400, [], None, None, None, None), (404, ['Bearer error="invalid_token"'], None, None, None, None),
    ], ids=lambda value: str(value)[:40])  # fmt: skip
    def test_a_challenge_becomes_its_exception(self, status, lines, kind, error, scope, realm, session, api):
        api.otherwise = lambda request: (status, [("WWW-Authenticate", line) for line in lines], b"body")
        begin = time.monotonic()

        with pytest.raises(urllib.error.HTTPError) as caught:
            session.open("/x")

        found = caught.value
        assert time.monotonic() - begin < 5
        assert (found.code, found.read(), len(str(found)) < 2000) == (status, b"body", True)
        assert (type(found) is kind) if kind else not isinstance(found, OAuthError)
        if kind is not None:
            for expected, value in ((error, found.error), (scope, found.scope), (realm, found.realm)):
                assert value == expected or (expected is ... and (value is None or len(value) < 1000))
        assert_no_secret(found)

    @pytest.mark.parametrize("status", [400, 401, 403])
    def test_an_api_that_echoes_the_token_reveals_nothing(self, status, session, api):
        def echo(request):
            token = request.headers["Authorization"][7:]
            line = f'Bearer realm="{token}", error="{token}", error_description="{token}", scope="x {token}"'
            return f"{status} {token}", [("WWW-Authenticate", line), ("X-Echo", token)], b"what the API says is kept"

        api.otherwise = echo
        with pytest.raises(OAuthBearerError) as caught:
            session.open("/x")
        with pytest.raises(OAuthBearerError) as raised:
            session.get("/x").raise_for_status()
        assert_no_secret(caught.value, raised.value)
        assert "***" in caught.value.realm

    def test_a_refused_redirect_that_echoes_the_token_reveals_nothing(self, session, api):
        api.otherwise = lambda request: (302, [("Location", "ftp://x/" + request.headers["Authorization"][7:])], b"")
        with pytest.raises(urllib.error.HTTPError) as caught:
            session.get("/x")
        assert_no_secret(caught.value)

    # Proxies

    @pytest.mark.parametrize("how", ["environment", "handler"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_plain_http_to_loopback_never_goes_to_a_proxy(self, host, how, auth, api, other, monkeypatch):
        settings = {"handlers": [urllib.request.ProxyHandler({"http": other.url})]} if how == "handler" else {}
        if how == "environment":
            monkeypatch.setenv("http_proxy", other.url)
        session = auth.session(**settings)
        api.will(401, CHALLENGE)
        api.will(307, {"Location": "/to"})

        assert session.post(api.url.replace("127.0.0.1", host), b"body").ok

        assert (len(auth.seen), len(api.seen), other.seen) == (2, 3, [])

    def test_a_bare_opener_keeps_the_token_for_loopback_from_the_proxy(self, api, other, monkeypatch):
        monkeypatch.setenv("http_proxy", other.url)
        opener = urllib.request.build_opener(OAuthHandler(source_of(TOKEN)[0], origins=[api.url]))
        opener.open(api.url, timeout=5).close()
        assert other.bearers in ([], [None])

    def test_a_replay_through_a_proxy_stays_on_it(self, auth, other):
        network = urllib.request.ProxyHandler({"http": other.url})
        session = auth.session(handlers=[network], allow_http=True)
        other.will(401, CHALLENGE)
        assert session.get("http://api.example/x?q=1").ok
        assert other.lines == ["GET http://api.example/x?q=1"] * 2
        assert other.bearers == [f"Bearer {TOKEN}-1", f"Bearer {TOKEN}-2"]


class TestInput:
    """What is wrong is refused before any I/O, naming the argument."""

    URL = "https://x.example"

    @pytest.mark.parametrize("name, value, kind", [
        ("client_id", "", ValueError), ("client_id", 5, (ValueError, TypeError)), ("client_id", "a\nb", ValueError),
        ("client_secret", "", ValueError),
        ("client_secret", SECRET + "\n", ValueError), ("client_secret", SECRET + "\0", ValueError),
        ("client_secret", SECRET + "\ud800", ValueError), ("scope", [1], TypeError), ("scope", "a\r\nb", ValueError),
        ("token_url", "auth.example/token", ValueError), ("token_url", 5, TypeError),
        ("token_url", "http://auth.example", ValueError), ("token_url", "http://localhost.example", ValueError),
        ("token_url", "http://127.0.0.1.example", ValueError), ("token_url", "http://127.1", ValueError),
        ("token_url", "https://u:p@auth.example", ValueError), ("token_url", "https://a\\b.example", ValueError),
        ("token_url", "https://a%2eb", ValueError), ("token_url", "https://a\r\nb", ValueError),
        ("token_url", "https://", ValueError),
        ("token_url", "ftp://a.example", ValueError), ("token_url", "https://a:0", ValueError),
        ("base_url", "/v1", ValueError), ("base_url", URL + "?q", ValueError),
        ("base_url", "http://a.example", ValueError), ("base_url", 5, TypeError), ("origins", "a.example", ValueError),
        ("origins", [None], TypeError), ("auth_method", "magic", ValueError),
        ("auth_method", "none", ValueError), ("audience", [5], TypeError), ("resource", [5], TypeError), ("token_params", "a=b", TypeError),
        ("token_params", 5, TypeError), ("token_params", {"a": {}}, TypeError),
        ("headers", "X-A: 1", (ValueError, TypeError)), ("headers", 5, (ValueError, TypeError)),
        ("timeout", 0, ValueError), ("timeout", -1, ValueError), ("timeout", float("nan"), ValueError),
        ("timeout", "5", ValueError), ("context", True, TypeError),
        ("handlers", [urllib.request.HTTPSHandler], ValueError), ("refresh_before", -1, ValueError),
        ("refresh_before", float("nan"), ValueError),
    ], ids=lambda value: ascii(value)[:28])  # fmt: skip
    def test_a_bad_argument_is_named(self, name, value, kind, auth):
        with pytest.raises(kind, match=name) as caught:
            OAuthSession(**{"client_id": CLIENT, "client_secret": SECRET, "token_url": auth.url, name: value})
        assert_no_secret(caught.value)
        assert auth.seen == []

    def test_an_https_handler_is_told_of_context(self):
        with pytest.raises(ValueError, match="context="):
            OAuthSession(CLIENT, SECRET, None, self.URL, handlers=[urllib.request.HTTPSHandler()])

    @pytest.mark.parametrize("make, word", [
        (lambda: TokenSource(5), "fetch"), (lambda: OAuthHandler(5, ["https://a.example"]), "source"),
        (lambda: OAuthHandler(source_of(TOKEN)[0], []), "origins"),
        (lambda: OAuthHandler(source_of(TOKEN)[0], None), "origins"),
        (lambda: OAuthHandler(source_of(TOKEN)[0], ["http://a.example"]), "origins"),
    ], ids=["fetch", "source", "no-origins", "none", "http"])  # fmt: skip
    def test_the_parts_name_their_arguments_too(self, make, word):
        with pytest.raises((TypeError, ValueError), match=word):
            make()

    @pytest.mark.parametrize("options, word", [
        ({"data": b"a", "json": {}}, "data and json"), ({"data": 5}, "data"), ({"data": io.StringIO("text")}, "binary"),
        ({"json": float("nan")}, "JSON"), ({"json": object()}, "JSON"), ({"timeout": 0}, "timeout"),
        ({"timeout": "5"}, "timeout"), ({"method": ""}, "method"), ({"method": "GET /x"}, "method"),
        ({"method": "GÉT"}, "method"), ({"url": 5}, "url"), ({"headers": {"": "1"}}, "header"),
        ({"headers": {"X A": "1"}}, "header"), ({"headers": {"X:": "1"}}, "header"),
        ({"headers": {"Xé": "1"}}, "header"), ({"headers": {"X": "€"}}, "header"),
    ], ids=lambda value: ascii(value)[:40])  # fmt: skip
    def test_a_call_that_makes_no_sense_sends_nothing(self, options, word, session, auth, api):
        with pytest.raises((ValueError, TypeError), match=word):
            session.request(**{"method": "POST", "url": "/x", **options})
        assert (auth.seen, api.seen) == ([], [])

    @pytest.mark.parametrize("bad", ["\r", "\n", "\r\n", "\0", "\r\nX-Evil: 1\r\n\r\n"], ids=ascii)
    @pytest.mark.parametrize("place", [
        "method", "name", "value", "session value", "user agent", "user agent of a token", "path", "query", "host",
        "start", "opened", "opened header",
    ])  # fmt: skip
    def test_a_line_end_or_nul_sends_nothing_anywhere(self, place, bad, auth, api):
        session = auth.session(origins=[api.url])
        request = urllib.request.Request(api.url + "/x")
        act = {
            "method": lambda: session.request("GET" + bad, api.url),
            "name": lambda: session.get(api.url, headers={"X-A" + bad: "1"}),
            "value": lambda: session.get(api.url, headers={"X-A": "1" + bad}),
            "session value": lambda: session.headers.update({"X-A": "1" + bad}) or session.get(api.url),
            "user agent": lambda: session.headers.update({"User-Agent": "1" + bad}) or session.get(api.url),
            "user agent of a token": lambda: session.headers.update({"User-Agent": "1" + bad}) or session.access_token,
            "path": lambda: session.get(api.url + "/x" + bad + "y"),
            "query": lambda: session.get(api.url + "/x?a=" + bad + "y"),
            "host": lambda: session.get(api.url + bad + "/x"),
            "start": lambda: session.get(bad + api.url),
            "opened": lambda: session.open(api.url + "/x" + bad + "y"),
            "opened header": lambda: request.add_header("X-A", "1" + bad) or session.open(request),
        }[place]
        with pytest.raises(ValueError):
            act()
        assert (auth.seen, api.seen) == ([], [])

    def test_a_bare_opener_sends_no_line_end_either(self, api):
        source, fetched = source_of(TOKEN)
        opener = urllib.request.build_opener(OAuthHandler(source, origins=[api.url]))
        bad = urllib.request.Request(api.url, headers={"X-A": "1\r\nX-Evil: 1"})
        with pytest.raises(ValueError):
            opener.open(bad, timeout=5)
        assert (fetched, api.seen) == ([], [])

        opener.open(api.url, timeout=5).close()  # from now on it holds a token
        with pytest.raises(ValueError):
            opener.open(bad, timeout=5)
        assert (fetched, api.lines) == ([TOKEN], ["GET /"])


PATIENCE = 30.0  # seconds; a wait that takes longer fails its test
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")

# -- Kit: clock, scripted fetches, crowds of threads, raw sockets -----------------------------------------------------


class Clock:
    """Stands in for the `time` module: moves only by hand, wall and monotonic also apart."""

    def __init__(self):
        self.wall, self.steady, self.sleeps, self.threads = float(2**30), 1024.0, [], set(threading.enumerate())

    def time(self):
        return self.wall

    def monotonic(self):
        return self.steady

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.move(seconds)

    def move(self, wall, steady=None):
        self.wall, self.steady = self.wall + wall, self.steady + (wall if steady is None else steady)

    def settle(self):
        """Wait until the background renewals have landed."""
        for thread in set(threading.enumerate()) - self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} does not end"


@pytest.fixture
def clock(monkeypatch):
    hands = Clock()
    monkeypatch.setattr(oauth_session, "time", hands)
    return hands


class Script:
    """A fetch callable that plays its steps in turn, the last one for ever: a life in seconds, a Token, an error."""

    def __init__(self, clock, *steps):
        self.clock, self.steps, self.calls = clock, steps, 0

    def __call__(self):
        self.calls += 1
        step = self.steps[min(self.calls, len(self.steps)) - 1]
        number, step = self.calls, step() if callable(step) else step
        if isinstance(step, BaseException):
            raise step
        return step if isinstance(step, Token) else Token(
            f"token-{number}", expires_at=None if step is None else self.clock.wall + step)


class Gate:
    """A step of a Script that is entered, and waits to be let go."""

    def __init__(self, result):
        self.result, self.entered, self.go = result, threading.Event(), threading.Event()

    def __call__(self):
        self.entered.set()
        assert self.go.wait(PATIENCE), "the gate was never opened"
        return self.result

    def reached(self):
        assert self.entered.wait(PATIENCE), "the fetch never began"


class Crowd:
    """Threads that all begin at once; what each returned or raised is in the results."""

    def __init__(self, count, action):
        self.results, self.barrier = [], threading.Barrier(count)
        self.threads = [threading.Thread(target=self._run, args=(action,), daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, action):
        try:
            self.barrier.wait(PATIENCE)
            self.results.append(action())
        except BaseException as error:
            self.results.append(error)

    def wait_inside(self, count):
        """Wait until so many of the threads are blocked in a lock below oauth_session.py."""
        end = time.monotonic() + PATIENCE
        while sum(map(self._blocked, self.threads)) != count:
            assert time.monotonic() < end, "the threads do not wait for the flight"
            threading.Event().wait(0.002)

    @staticmethod
    def _blocked(thread):
        frame, below, files = sys._current_frames().get(thread.ident), False, []
        while frame is not None:
            files.append(frame.f_code.co_filename)
            if frame.f_code is threading.Event.wait.__code__ and frame.f_locals["self"].is_set():
                return False  # it is about to wake up
            frame = frame.f_back
        return files[:1] == [threading.__file__] and oauth_session.__file__ in files

    def finish(self):
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a caller does not come back"
        return self.results


class Server:
    """A raw-socket server. Each request gets the next answer, the last one for ever; all that came is recorded.

    An answer is bytes; a 1-tuple of bytes, after which it hangs up; None, to hang up at once; or a callable that gets
    the socket and returns one of these.
    """

    def __init__(self, *answers, tls=None):
        self.answers, self.tls, self.requests, self.accepted = answers, tls, [], 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.settimeout(0.02)
        self.sockets, self.threads, self.closing = [], [], threading.Event()
        self.place = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.url = ("https://" if tls else "http://") + self.place

    def __enter__(self):
        self.threads.append(threading.Thread(target=self._accept, daemon=True))
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.threads[0].join(PATIENCE)
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
        self.listener.close()

    def _accept(self):
        while not self.closing.is_set():
            with contextlib.suppress(socket.timeout):
                sock, _ = self.listener.accept()
                self.accepted += 1
                self.threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
                self.threads[-1].start()

    def _serve(self, sock):
        sock.settimeout(PATIENCE)
        self.sockets.append(sock)
        try:
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self.sockets.append(sock)
            while self._answer(sock):
                pass
        except OSError:
            pass
        finally:
            sock.close()

    def _answer(self, sock):
        request = b""
        while not self.complete(request):
            more = sock.recv(65536)
            if not more:
                return False
            request += more
        self.requests.append(request)
        answer = self.choose(request)
        answer = answer(sock) if callable(answer) else answer
        sock.sendall((answer or b"") if isinstance(answer, (bytes, type(None))) else answer[0])
        return isinstance(answer, bytes)

    def choose(self, request):
        return self.answers[min(len(self.requests), len(self.answers)) - 1]

    @staticmethod
    def complete(request):
        head, end, body = request.partition(b"\r\n\r\n")
        if b"\r\nTransfer-Encoding: chunked" in head:
            return body.endswith(b"0\r\n\r\n")
        length = head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0]
        return bool(end) and len(body) >= int(length or 0)


def drip(data, forever=b""):
    """An answer that comes byte by byte, and then repeats `forever` until the client gives up."""
    def send(sock):
        for at in itertools.chain(range(len(data)), itertools.count(len(data)) if forever else ()):
            sock.sendall(data[at:at + 1] or forever[at % len(forever):][:1])
            threading.Event().wait(0.01)
        return None
    return send


def flood(data, forever):
    """An answer that never ends, as fast as the client takes it."""
    def send(sock):
        sock.sendall(data)
        while True:
            sock.sendall(forever)
    return send


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return None


def page(status="200 OK", body=b"", *headers):
    lines = ["HTTP/1.1 " + status, "Content-Length: %d" % len(body), *headers]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


def grant(**fields):
    return page("200 OK", json.dumps({"access_token": "t-1", "token_type": "Bearer", **fields}).encode())


def assert_hidden(error, *secrets, log=""):
    """Nothing that a person may see of an exception, its causes or the log holds a secret."""
    texts = [log] + (traceback.format_exception(type(error), error, error.__traceback__) if error else [])
    while error is not None:
        texts += [str(error), repr(error), repr(vars(error)), repr(getattr(error, "headers", None) and error.headers.items())]
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
            texts.append(pickle.dumps(error).decode("latin-1"))
        error = error.__cause__ or error.__context__
    for secret in secrets:
        for text in texts:
            assert secret not in text, f"{secret!r} shows in {text!r}"


# -- TokenSource: keeps the token, renews it, one fetch at a time -----------------------------------------------------

YEAR = 365 * 86400.0
AGES = [  # life, due after, expired after; all of them exact in binary, apart from 0.9
    (1.0, 0.5, 0.9), (10.0, 5.0, 9.0), (60.0, 30.0, 54.0), (300.0, 150.0, 290.0), (3600.0, 3300.0, 3590.0),
    (YEAR, YEAR - 300, YEAR - 10), (None, 3300.0, 3590.0)]
MOMENTS = [
    pytest.param(life, passed, seen, id=f"life {life} {name}")
    for life, due, expired in AGES
    for name, passed, seen in [
        ("at the start", 0.0, "fresh"), ("before due", due - 0.001, "fresh"), ("at due", due, "due"),
        ("before expired", expired - 0.001, "due"), ("at expired", expired + (0.001 if life == 1 else 0), "expired"),
        ("long after", expired * 3, "expired")]]
SEEN = {"fresh": ("token-1", 1), "due": ("token-1", 2), "expired": ("token-2", 2)}  # token served, fetches by then
SICK = oauth_session.OAuthServerError("it is sick", status=500)


def busy(seconds):
    return oauth_session.OAuthTemporarilyUnavailable("it is busy", status=503, retry_after=seconds)


def due_source(clock, *steps):
    """A source whose token-1 has just become due, and the Script that goes on with these steps."""
    script = Script(clock, 3600, *steps)
    source = TokenSource(script)
    assert source.token().access_token == "token-1"
    clock.move(3300)
    return source, script


def look(source, script, clock):
    served = source.token().access_token
    clock.settle()
    return served, script.calls


class TestTokenSource:
    """Who keeps the token: three ages, one flight, pauses, and nobody disturbed."""

    @pytest.mark.parametrize("life, passed, seen", MOMENTS)
    def test_three_ages_have_exact_boundaries(self, clock, life, passed, seen):
        script = Script(clock, life, 3600)
        source = TokenSource(script)
        source.token()
        clock.move(passed)

        assert look(source, script, clock) == SEEN[seen]

    @pytest.mark.parametrize("before, passed, seen", [
        (0, 3589.9, "fresh"), (0, 3590, "expired"), (60, 3539.9, "fresh"), (60, 3540, "due"),
        (1800, 1800, "due"), (99999, 1799.9, "fresh"), (99999, 1800, "due")])
    def test_refresh_before_moves_the_due_point_up_to_half_of_the_life(self, clock, before, passed, seen):
        script = Script(clock, 3600, 3600)
        source = TokenSource(script, refresh_before=before)
        source.token()
        clock.move(passed)

        assert look(source, script, clock) == SEEN[seen]

    @pytest.mark.parametrize("refresh_in, passed, seen", [
        (100, 99.9, "fresh"), (100, 100, "due"), ("100.0", 100, "due"), (3500, 3499.9, "fresh"), (3500, 3500, "due"),
        (9999, 3589.9, "fresh"), (9999, 3590, "expired"), (-1, 3299.9, "fresh"), (0, 3299.9, "fresh"),
        ("x", 3300, "due"), (float("nan"), 3300, "due"), (True, 3299.9, "fresh"), ([], 3300, "due")])
    def test_refresh_in_moves_the_due_point_if_it_makes_sense(self, clock, refresh_in, passed, seen):
        answer = Token("token-1", expires_at=clock.wall + 3600, raw={"refresh_in": refresh_in})
        script = Script(clock, answer, 3600)
        source = TokenSource(script)
        source.token()
        clock.move(passed)

        assert look(source, script, clock) == SEEN[seen]

    @pytest.mark.parametrize("wall, steady, seen", [
        (3600, 0, "expired"), (0, 3600, "expired"), (3590, -1, "expired"), (-7200, 3590, "expired"),
        (-3600, 3299, "fresh"), (-3600, 3300, "due"), (3300, 0, "due"), (3299, 3000, "fresh")],
        ids=["suspended", "wall stands", "frozen", "set back, expired", "set back", "set back, due", "frozen, due", "apart"])
    def test_the_clock_that_says_more_decides(self, clock, wall, steady, seen):
        script = Script(clock, 3600, 3600)
        source = TokenSource(script)
        source.token()
        clock.move(wall, steady)

        assert look(source, script, clock) == SEEN[seen]

    def test_wall_clock_set_back_in_a_fetch_costs_no_error(self, clock):
        def fetch():
            clock.move(-3600, 1)
            return Token.from_response({"access_token": "good", "expires_in": 3600})

        assert TokenSource(fetch).token().access_token == "good"

    @pytest.mark.parametrize("step", [3600.0, -3600.0], ids=["forward", "back"])
    def test_a_clock_that_is_set_costs_at_most_one_fetch(self, clock, step):
        script = Script(clock, 3600)
        source = TokenSource(script)
        source.token()
        clock.move(step, 0)

        for _ in range(1000):
            look(source, script, clock)
            clock.move(1)

        assert script.calls == (2 if step > 0 else 1)

    @pytest.mark.parametrize("life, due", [(1, 0.5), (10, 5), (60, 30), (300, 150), (3600, 3300), (None, 3300)])
    def test_the_number_of_fetches_follows_the_life_and_not_the_calls(self, clock, life, due):
        script = Script(clock, life)
        source = TokenSource(script)

        for _ in range(1000):
            look(source, script, clock)
            clock.move(due / 50)

        assert script.calls == 20

    def test_authorization_is_the_value_of_a_header(self, clock):
        source = TokenSource(Script(clock, Token("abc", token_type="bEARER")))

        assert source.authorization() == "Bearer abc"

    def test_32_threads_that_start_cold_cost_one_fetch(self, clock):
        gate = Gate(3600)
        script = Script(clock, gate)
        crowd = Crowd(32, TokenSource(script).token)
        crowd.wait_inside(32)

        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"token-1"}
        assert script.calls == 1

    def test_32_threads_get_one_error_and_each_its_own_copy(self, clock):
        gate = Gate(oauth_session.OAuthInvalidScope("no such scope", error="invalid_scope", status=400))
        script = Script(clock, gate)
        crowd = Crowd(32, TokenSource(script).token)
        crowd.wait_inside(32)

        gate.go.set()
        errors = crowd.finish()

        assert {(type(one), one.error, one.status) for one in errors} == {
            (oauth_session.OAuthInvalidScope, "invalid_scope", 400)}
        assert len({id(one) for one in errors}) == 32
        assert script.calls == 1

    def test_due_token_is_served_while_one_thread_renews(self, clock):
        gate = Gate(3600)
        source, script = due_source(clock, gate)

        served = {one.access_token for one in Crowd(32, source.token).finish()}
        gate.reached()

        assert (served, script.calls) == ({"token-1"}, 2)
        gate.go.set()
        clock.settle()
        assert look(source, script, clock) == ("token-2", 2)

    def test_failed_renewal_disturbs_nobody_and_backs_off(self, clock, caplog):
        source, script = due_source(clock, SICK, SICK, SICK, 3600)

        for tries, pause in [(2, 1), (3, 2), (4, 4)]:
            assert look(source, script, clock) == ("token-1", tries)
            clock.move(pause * 0.3)
            assert look(source, script, clock) == ("token-1", tries), "no pause"
            clock.move(pause * 0.7)

        assert [look(source, script, clock)[1] for _ in range(3)] == [5, 5, 5]
        assert source.token().access_token == "token-5"
        assert [one.levelname for one in caplog.records] == ["WARNING"] * 3

    def test_error_of_a_background_renewal_never_reaches_a_caller(self, clock):
        gate = Gate(SICK)
        source, script = due_source(clock, gate, 3600)
        clock.move(289)
        source.token()
        gate.reached()
        clock.move(1)
        crowd = Crowd(8, source.token)
        crowd.wait_inside(8)

        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"token-3"}
        assert script.calls == 3

    def test_after_a_failed_renewal_an_expired_token_is_fetched_at_once(self, clock):
        source, script = due_source(clock, SICK, 3600)
        clock.move(289.9)
        look(source, script, clock)
        clock.move(0.2)

        assert look(source, script, clock) == ("token-3", 3)

    def test_expired_token_is_never_handed_out(self, clock):
        source, script = due_source(clock, SICK)
        clock.move(290)

        for wait in range(40):
            with pytest.raises(oauth_session.OAuthServerError):
                source.token()
            clock.move(wait)

    def test_pauses_double_from_the_second_failure_in_a_row_up_to_a_minute(self, clock):
        script = Script(clock, SICK)
        source = TokenSource(script)
        with pytest.raises(OAuthError):
            source.token()

        for calls, pause in enumerate([1, 2, 4, 8, 16, 32, 60, 60, 60], 2):
            with pytest.raises(OAuthError):
                source.token()
            clock.move(pause * 0.3)
            with pytest.raises(oauth_session.OAuthServerError, match="it is sick"):
                source.token()
            assert script.calls == calls
            clock.move(pause * 0.7)

    def test_pauses_have_jitter(self, clock):
        lengths = []
        for _ in range(12):
            script = Script(clock, SICK)
            source, steps = TokenSource(script), 0
            while script.calls < 3:
                with pytest.raises(OAuthError):
                    source.token()
                clock.move(1 / 64)
                steps += 1
            lengths.append(steps)

        assert len(set(lengths)) > 1
        assert 66 >= max(lengths)

    @pytest.mark.parametrize("asked, pause", [(7, 7), (120, 120), (300, 300), (1e9, 300)])
    @pytest.mark.parametrize("ends", ["wall", "monotonic"])
    def test_retry_after_is_a_pause_by_either_clock_of_at_most_300_seconds(self, clock, asked, pause, ends):
        script = Script(clock, busy(asked), 3600)
        source = TokenSource(script)
        with pytest.raises(OAuthError):
            source.token()
        hand = {"wall": lambda by: clock.move(by, 0), "monotonic": lambda by: clock.move(-1, by)}[ends]

        hand(pause - 0.5)
        for _ in range(3):
            with pytest.raises(oauth_session.OAuthTemporarilyUnavailable, match="it is busy"):
                source.token()
        assert script.calls == 1

        hand(0.5)
        assert look(source, script, clock) == ("token-2", 2)

    def test_retry_after_of_a_renewal_spaces_attempts_and_then_fails_callers_at_once(self, clock):
        source, script = due_source(clock, busy(300), 3600)

        assert look(source, script, clock) == ("token-1", 2)
        clock.move(289)
        assert look(source, script, clock) == ("token-1", 2)
        clock.move(10)
        with pytest.raises(oauth_session.OAuthTemporarilyUnavailable):
            source.token()
        assert script.calls == 2
        clock.move(1)
        assert look(source, script, clock) == ("token-3", 3)

    def test_success_ends_the_row_of_failures(self, clock):
        script = Script(clock, SICK, SICK, 10, SICK, 10)
        source = TokenSource(script)
        for _ in range(2):
            with pytest.raises(OAuthError):
                source.token()
        clock.move(1)
        source.token()
        clock.move(10)
        with pytest.raises(OAuthError):
            source.token()

        assert look(source, script, clock) == ("token-5", 5)

    def test_clear_ends_a_pause(self, clock):
        script = Script(clock, busy(300), 3600)
        source = TokenSource(script)
        with pytest.raises(OAuthError):
            source.token()

        source.clear()

        assert look(source, script, clock) == ("token-2", 2)

    def test_clear_in_the_middle_of_a_flight_begins_a_new_epoch(self, clock):
        gate = Gate(Token("of-the-old-epoch", expires_at=clock.wall + 3600))
        script = Script(clock, gate, 3600)
        source = TokenSource(script)
        crowd = Crowd(4, source.token)
        gate.reached()
        crowd.wait_inside(4)

        source.clear()
        fresh = source.token()
        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"of-the-old-epoch"}
        assert fresh.access_token == source.token().access_token == "token-2"
        assert script.calls == 2

    @pytest.mark.parametrize("result", [busy(300), Token("of-the-old-epoch")], ids=["error", "token"])
    def test_result_of_an_older_epoch_counts_for_nothing_in_the_new_one(self, clock, result):
        gate = Gate(result)
        script = Script(clock, gate, 3600)
        source = TokenSource(script)
        crowd = Crowd(2, source.token)
        crowd.wait_inside(2)
        source.clear()
        gate.go.set()
        crowd.finish()

        assert look(source, script, clock) == ("token-2", 2)

    def test_reject_returns_the_current_token_if_it_is_another_one(self, clock):
        script = Script(clock, 3600)
        source = TokenSource(script)
        source.token()

        assert source.reject("an-older-one").access_token == "token-1"
        assert script.calls == 1

    def test_reject_fetches_if_the_current_one_is_another_but_expired(self, clock):
        script = Script(clock, 3600)
        source = TokenSource(script)
        source.token()
        clock.move(3590)

        assert source.reject("an-older-one").access_token == "token-2"

    @pytest.mark.parametrize("form", [str, Token], ids=["as str", "as Token"])
    def test_reject_of_the_current_token_costs_one_fetch_for_all_threads(self, clock, form):
        gate = Gate(3600)
        script = Script(clock, 3600, gate)
        source = TokenSource(script)
        source.token()
        crowd = Crowd(16, lambda: source.reject(form("token-1")))
        crowd.wait_inside(16)

        meanwhile = source.token().access_token
        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"token-2"}
        assert (meanwhile, script.calls) == ("token-1", 2)

    @pytest.mark.parametrize("wall, steady, fetched", [
        (59.9, 59.9, False), (60, 60, True), (60, 0, True), (-3600, 60, True), (-3600, 59.9, False)])
    @pytest.mark.parametrize("second", ["failed", "same"])
    def test_reject_forces_one_fetch_a_minute_if_it_failed_or_gave_the_same(self, clock, wall, steady, fetched, second):
        same = Token("token-1", expires_at=clock.wall + 7200)
        script = Script(clock, same, SICK if second == "failed" else same, 3600)
        source = TokenSource(script)
        source.token()
        with contextlib.suppress(oauth_session.OAuthServerError):
            assert source.reject("token-1") == same
        clock.move(wall, steady)

        answer = source.reject("token-1").access_token

        assert (answer, script.calls) == (("token-3", 3) if fetched else ("token-1", 2))

    def test_api_that_refuses_every_token_costs_one_forced_fetch_a_minute(self, clock):
        script = Script(clock, 3600)
        source = TokenSource(script)
        for _ in range(600):
            source.reject(source.token())
            clock.move(1)

        assert script.calls == 11  # the first, and one in each of ten minutes

    def test_refused_token_that_has_expired_is_replaced_within_the_minute_too(self, clock):
        script = Script(clock, 3600, 20, 3600)
        source = TokenSource(script)
        source.token()
        source.reject("token-1")
        clock.move(18)

        assert source.reject("token-2").access_token == "token-3"

    def test_reject_returns_the_same_token_in_a_pause(self, clock):
        source, script = due_source(clock, busy(100), 3600)
        look(source, script, clock)
        clock.move(99)

        assert source.reject("token-1").access_token == "token-1"
        clock.move(1)
        assert source.reject("token-1").access_token == "token-3"

    def test_reject_joins_the_renewal_under_way(self, clock):
        gate = Gate(3600)
        source, script = due_source(clock, gate)
        source.token()
        gate.reached()
        crowd = Crowd(4, lambda: source.reject("token-1"))
        crowd.wait_inside(4)

        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"token-2"}
        assert script.calls == 2

    def test_same_token_again_is_used_to_its_end_and_asked_for_twice(self, clock):
        same = Token("the-same", expires_at=clock.wall + 3600)
        script = Script(clock, same)
        source = TokenSource(script)
        calls = {}
        for second in range(3600):
            assert look(source, script, clock)[0] == "the-same"
            calls[script.calls] = calls.get(script.calls, second)
            clock.move(1)

        assert calls == {1: 0, 2: 3300, 3: 3590}
        with pytest.raises(oauth_session.OAuthMalformedResponse, match="expired before it arrived"):
            source.token()

    def test_same_token_with_a_new_expiry_is_kept_until_that_one(self, clock):
        later = Token("token-1", expires_at=clock.wall + 7200)
        script = Script(clock, 3600, later, 3600)
        source = TokenSource(script)
        source.token()
        clock.move(3300)
        look(source, script, clock)

        clock.move(3889)
        assert look(source, script, clock) == ("token-1", 2)
        clock.move(1)
        assert look(source, script, clock) == ("token-3", 3)

    @pytest.mark.parametrize("wall, steady", [(40, 0), (0, 40), (-3600, 40)], ids=["wall", "monotonic", "set back"])
    def test_flight_of_a_frozen_process_is_dead_and_its_late_result_is_not_kept(self, clock, wall, steady):
        gate = Gate(Token("late", expires_at=clock.wall + 99999))
        script = Script(clock, gate, 3600)
        source = TokenSource(script)
        crowd = Crowd(1, source.token)
        gate.reached()
        crowd.wait_inside(1)
        clock.move(wall, steady)

        taken = source.token().access_token
        gate.go.set()

        assert [one.access_token for one in crowd.finish()] == ["late"]
        assert taken == source.token().access_token == "token-2"
        assert script.calls == 2

    def test_late_failure_of_a_dead_flight_is_no_pause(self, clock):
        gate = Gate(busy(300))
        script = Script(clock, gate, 10, 3600)
        source = TokenSource(script)
        crowd = Crowd(1, source.token)
        gate.reached()
        clock.move(40)
        source.token()
        gate.go.set()
        crowd.finish()
        clock.move(10)

        assert look(source, script, clock) == ("token-3", 3)

    def test_process_stopped_in_a_renewal_beyond_the_tokens_life_fetches_afresh(self, clock):
        gate = Gate(SICK)
        source, script = due_source(clock, gate, 3600)
        source.token()
        gate.reached()
        clock.move(86400, 0)

        assert source.token().access_token == "token-3"
        gate.go.set()
        clock.settle()
        assert look(source, script, clock) == ("token-3", 3)

    @pytest.mark.parametrize("wall, steady", [(61, 61), (61, 0), (0, 61)])
    def test_token_that_expired_before_it_arrived_is_refused(self, clock, wall, steady):
        answer = Token("stale", expires_at=clock.wall + 60)
        script = Script(clock, lambda: clock.move(wall, steady) or answer, 3600)
        source = TokenSource(script)

        with pytest.raises(oauth_session.OAuthMalformedResponse, match="expired before it arrived"):
            source.token()

        assert look(source, script, clock) == ("token-2", 2)

    def test_token_in_its_last_tenth_on_arrival_serves_all_of_its_flight(self, clock):
        gate = Gate(Token("nearly-over", expires_at=clock.wall + 30))
        script = Script(clock, gate, 3600)
        source = TokenSource(script)
        crowd = Crowd(8, source.token)
        crowd.wait_inside(8)
        clock.move(28)

        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"nearly-over"}
        assert look(source, script, clock) == ("token-2", 2)

    @pytest.mark.parametrize("step", [-3600, 1800], ids=["back", "forward"])
    def test_wall_clock_set_in_the_middle_of_a_token_request_does_not_prolong_the_token(self, clock, step):
        with Server(lambda sock: clock.move(step, 1) or grant(expires_in=3600), grant(access_token="t-2")) as server:
            source = TokenSource(credentials(server))
            source.token()
            clock.move(3589.5)
            second = source.token()

        assert (second.access_token, len(server.requests)) == ("t-2", 2)

    @pytest.mark.parametrize("step", [-3600, 1800], ids=["back", "forward"])
    def test_wall_clock_set_between_two_tries_costs_no_error_and_prolongs_nothing(self, clock, step):
        with Server(lambda sock: clock.move(step, 1) or page("503 Busy"), grant(expires_in=3600), grant()) as server:
            source = TokenSource(credentials(server))
            first = source.token()
            clock.move(0, 3599)
            source.token()

        assert (first.access_token, len(server.requests)) == ("t-1", 3)

    def test_32_threads_at_a_sick_endpoint_cost_one_flight_of_three_tries(self, clock):
        gate = Gate(page("503 Busy", b"", "Retry-After: 1"))
        with Server(lambda sock: gate()) as server:
            crowd = Crowd(32, TokenSource(credentials(server)).token)
            crowd.wait_inside(32)
            gate.go.set()
            errors = crowd.finish()

        assert [type(one) for one in errors] == [oauth_session.OAuthTemporarilyUnavailable] * 32
        assert (len(server.requests), len({id(one) for one in errors})) == (3, 32)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_fetch_that_ends_its_thread_is_an_error_for_all_who_wait_and_the_next_call_tries_again(self, clock):
        gate = Gate(SystemExit())
        script = Script(clock, gate, 3600)
        source = TokenSource(script)
        crowd = Crowd(8, source.token)
        crowd.wait_inside(8)

        gate.go.set()

        assert [(type(one), str(one)) for one in crowd.finish()] == [
            (OAuthError, "the token request was interrupted: SystemExit")] * 8
        clock.settle()
        assert look(source, script, clock) == ("token-2", 2)

    def test_ctrl_c_reaches_a_waiter_and_the_fetch_goes_on(self, clock):
        gate = Gate(3600)
        script = Script(clock, gate)
        source = TokenSource(script)
        crowd = Crowd(4, source.token)
        crowd.wait_inside(4)

        with interrupted_when(gate.entered), pytest.raises(KeyboardInterrupt):
            source.token()
        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"token-1"}
        assert look(source, script, clock) == ("token-1", 1)

    @pytest.mark.parametrize("due", [True, False], ids=["due", "missing"])
    def test_ctrl_c_is_not_lost_where_the_caller_had_to_fetch_by_itself(self, clock, monkeypatch, due):
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        script = Script(clock, *([3600] if due else []), KeyboardInterrupt(), 3600)
        source = TokenSource(script)
        if due:
            source.token()
            clock.move(3300)

        with pytest.raises(KeyboardInterrupt):
            source.token()

        assert source.token().access_token == ("token-1" if due else "token-2")

    def test_waiters_of_a_dead_fetch_take_the_token_that_came_meanwhile(self, clock):
        gate = Gate(SICK)
        source = TokenSource(Script(clock, gate, 3600))
        crowd = Crowd(2, source.token)
        crowd.wait_inside(2)
        clock.move(40)
        source.token()

        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"token-2"}

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_renewal_that_ends_the_thread_is_followed_by_a_pause_too(self, clock):
        source, script = due_source(clock, SystemExit(), 3600)

        for _ in range(50):
            assert look(source, script, clock)[0] == "token-1"

        assert script.calls == 2

    def test_repr_shows_no_argument_of_a_callable(self):
        assert repr(TokenSource(functools.partial(Token, "s3cret"))) == "TokenSource('partial')"

    @pytest.mark.parametrize("use", [TokenSource.token, TokenSource.authorization, lambda source: source.reject("x")],
                             ids=["token", "authorization", "reject"])
    def test_fetch_that_uses_its_own_source_gets_an_error_and_no_deadlock(self, clock, use):
        source = TokenSource(lambda: use(source))

        results = Crowd(1, source.token).finish()

        assert [type(one) for one in results] == [OAuthError]

    def test_log_handler_that_uses_the_source_gets_an_error_and_no_deadlock(self, clock, caplog):
        caplog.set_level(logging.INFO)
        source = TokenSource(lambda: Token.from_response({"access_token": "abc", "token_type": "odd"}))
        seen = []

        class Handler(logging.Handler):
            def emit(self, record):
                try:
                    seen.append(source.token())
                except OAuthError as error:
                    seen.append(error)

        logger, handler = logging.getLogger("oauth_session"), Handler()
        logger.addHandler(handler)
        try:
            results = Crowd(1, source.token).finish()
        finally:
            logger.removeHandler(handler)

        assert [one.access_token for one in results] == ["abc"]
        assert [type(one) for one in seen] == [OAuthError]

    @pytest.mark.parametrize("step, then", [(3600, "token-2"), (SICK, "token-1")], ids=["renewed", "failed"])
    def test_where_no_thread_can_be_started_the_caller_renews_and_is_served(self, clock, monkeypatch, step, then):
        source, script = due_source(clock, step)
        monkeypatch.setattr(threading.Thread, "start", no_thread)

        first, second = source.token().access_token, source.token().access_token

        assert (first, second, script.calls) == ("token-1", then, 2)

    def test_a_calls_own_timeout_bounds_its_wait_and_the_flight_goes_on(self, clock):
        gate = Gate(3600)
        script = Script(clock, gate)
        source = TokenSource(script)
        with Server(page()) as api, OAuthSession(source=source) as session:
            with pytest.raises(oauth_session.OAuthTransportError):
                session.get(api.url, timeout=0.1)
            crowd = Crowd(4, source.token)
            crowd.wait_inside(4)
            gate.go.set()

            assert {one.access_token for one in crowd.finish()} == {"token-1"}
            assert (script.calls, api.requests) == (1, [])

    @pytest.mark.parametrize("answer", [None, "text", {"access_token": "x"}])
    def test_fetch_that_returns_no_token_is_a_type_error_and_nothing_is_kept(self, clock, answer):
        script = Script(clock, 3600)
        answers = iter([answer])
        source = TokenSource(lambda: next(answers, None) if script.calls else (script(), answer)[1])

        with pytest.raises(TypeError):
            source.token()

    @needs_fork
    def test_child_of_a_fork_in_the_middle_of_a_renewal_keeps_the_token_and_starts_all_else_anew(self, clock):
        gate = Gate(3600)
        source, script = due_source(clock, gate, 3600)
        source.token()
        gate.reached()

        def child():
            first = source.token().access_token
            return [first, source.reject("token-1").access_token] == ["token-1", "token-3"]

        assert forked(child) == 0
        gate.go.set()
        clock.settle()
        assert look(source, script, clock) == ("token-2", 2)

    @needs_fork
    def test_child_of_a_fork_in_the_middle_of_the_first_fetch_makes_its_own(self, clock):
        gate = Gate(3600)
        script = Script(clock, gate, 3600)
        source = TokenSource(script)
        crowd = Crowd(1, source.token)
        gate.reached()

        assert forked(lambda: source.token().access_token == "token-2") == 0
        gate.go.set()
        assert [one.access_token for one in crowd.finish()] == ["token-1"]
        assert look(source, script, clock) == ("token-1", 1)

    def test_a_source_is_not_pickled(self):
        for act in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="make it anew"):
                act(TokenSource(int))

    @pytest.mark.parametrize("act", [
        lambda source: source.token(0.01), lambda source: source.reject("another", 0.01),
    ], ids=["token", "reject"])  # fmt: skip
    def test_a_callers_own_timeout_is_said_and_the_fetch_goes_on_for_others(self, clock, act):
        gate = Gate(3600)
        script = Script(clock, gate)
        source = TokenSource(script)

        with pytest.raises(oauth_session.OAuthTransportError, match=r"within 0\.01 s"):
            act(source)
        gate.go.set()
        clock.settle()

        assert look(source, script, clock) == ("token-1", 1)

    @pytest.mark.parametrize("moment", [1, 2, 3])
    def test_a_finalizer_that_uses_the_source_in_its_middle_is_no_deadlock(self, clock, monkeypatch, moment):
        """As the garbage collector or a signal can call one at any time; here it is the clock that does."""
        source, script = due_source(clock, 3600)
        looks, served, real = [], [], clock.monotonic

        def monotonic():
            if threading.get_ident() in looks[:1]:
                looks.append(1)
                if len(looks) == 1 + moment:
                    served.append(source.token().access_token)
            return real()

        monkeypatch.setattr(clock, "monotonic", monotonic)
        crowd = Crowd(1, lambda: looks.append(threading.get_ident()) or source.token())

        assert [one.access_token for one in crowd.finish()] == served == ["token-1"]

    def test_an_error_says_where_in_the_fetch_callable_it_came_from(self):
        def fetch():
            raise LookupError("no such setting")

        with pytest.raises(LookupError, match="no such setting") as caught:
            TokenSource(fetch).token()

        assert caught.traceback[-1].name == "fetch"

    def test_an_error_that_cannot_be_copied_is_one_of_ours_and_is_copied_with_nothing_held(self, clock):
        class Odd(Exception):
            def __reduce__(self):
                with pytest.raises(OAuthError):
                    source.token(0.0)  # would wait for ever
                raise TypeError("not that")

        script = Script(clock, Odd())
        source = TokenSource(script)

        results = Crowd(1, source.token).finish()

        assert [(type(one), str(one)) for one in results] == [(OAuthError, "the token could not be obtained: Odd")]

    LAST_CALL = """
        import atexit, sys, threading
        import oauth_session
        class Last:
            def __del__(self):
                print(self.source.token(5).access_token)
        def fetch():  # of another module than the one that dies
            begun.set()
            return hanging.pop().wait() if hanging else Token("abc")
        names = dict(vars(oauth_session), begun=threading.Event(), hanging=[])
        source = oauth_session.TokenSource(type(fetch)(fetch.__code__, names))
        if sys.argv[1] == "atexit":
            atexit.register(lambda: print(source.token().access_token))
        else:
            last = Last()
            last.source = source
        if sys.argv[1] == "del, with a fetch under way":
            names["hanging"].append(threading.Event())
            threading.Thread(target=source.token, daemon=True).start()
            names["begun"].wait()
    """

    @pytest.mark.parametrize("how", ["atexit", "del", "del, with a fetch under way"])
    def test_last_call_of_a_program_gets_its_token(self, how):
        if how != "atexit" and sys.implementation.name == "pypy":
            pytest.skip("PyPy runs no __del__ at the end of a program")
        assert program(self.LAST_CALL, how) == (0, b"abc\n", b"")

    def test_program_ends_at_once_during_a_renewal_and_prints_nothing(self):
        done = program("""
            import threading, time
            from oauth_session import Token, TokenSource
            begun, calls = threading.Event(), []
            def fetch():
                calls.append(1)
                if len(calls) > 1:
                    begun.set()
                    threading.Event().wait(600)
                return Token("abc", expires_at=time.time() + 1800, raw={"expires_in": 3600})
            source = TokenSource(fetch, refresh_before=3600)  # due from the beginning
            print(source.token().access_token, source.token().access_token, begun.wait(30))
        """)

        assert done == (0, b"abc abc True\n", b"")


def no_thread(self):
    raise RuntimeError("can't start new thread")


@contextlib.contextmanager
def interrupted_when(event):
    """Ctrl-C for the main thread as soon as it waits inside oauth_session.py, after the event."""
    def send():
        assert event.wait(PATIENCE)
        while not Crowd._blocked(threading.main_thread()):
            threading.Event().wait(0.002)
        signal.raise_signal(signal.SIGINT) if os.name == "nt" else os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
        signal.signal(signal.SIGINT, before)


def forked(action):
    """Run the action in a forked child; the exit status is 0 if it returned True."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork with threads, which is the point here
        process = os.fork()
    if not process:
        signal.alarm(int(PATIENCE))
        try:
            os._exit(0 if action() is True else 1)
        finally:
            os._exit(2)
    return os.waitpid(process, 0)[1]


def program(text, *arguments):
    """Run a program with warnings as errors; return exit status, output, errors."""
    import textwrap

    path = os.path.dirname(os.path.abspath(oauth_session.__file__))
    done = subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(text), *arguments], timeout=2 * PATIENCE,
                          env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.returncode, done.stdout.replace(b"\r", b""), done.stderr


# -- FileCache, and how any cache is asked ----------------------------------------------------------------------------

needs_modes = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners and modes")
FileCache = oauth_session.FileCache


class TestFileCache:
    """The shared cache for the processes of one machine."""

    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "a" / "b"

    @pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path], ids=["str", "bytes", "PathLike"])
    def test_what_was_set_is_there_for_all(self, folder, kind):
        FileCache(kind(folder)).set("k", "grüße", 60)

        assert FileCache(kind(folder)).get("k") == "grüße".encode()
        assert FileCache(kind(folder)).get("other") is None

    @needs_modes
    @pytest.mark.parametrize("umask", [0, 0o022, 0o077])
    def test_directory_is_0700_and_files_are_0600(self, folder, umask):
        before = os.umask(umask)
        try:
            cache = FileCache(folder)
            lock = cache.lock("k.lock")
            lock.acquire(blocking=False)
            cache.set("k", "v", 60)
            lock.release()
        finally:
            os.umask(before)

        modes = {one.name: one.stat().st_mode & 0o7777 for one in [folder, *folder.iterdir()]}
        assert modes == {"b": 0o700, "k": 0o600, "k.lock": 0o600}

    def test_file_is_flushed_before_it_takes_the_place(self, folder, monkeypatch):
        steps, real = [], (os.fsync, os.replace)
        monkeypatch.setattr(os, "fsync", lambda number: steps.append("fsync") or real[0](number))
        monkeypatch.setattr(os, "replace", lambda *paths: steps.append("replace") or real[1](*paths))

        FileCache(folder).set("k", "v", 60)

        assert steps == ["fsync", "replace"]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
    def test_write_that_breaks_off_leaves_what_was_there_and_nothing_else(self, folder, monkeypatch, step, error):
        def fail(*_):
            raise error

        cache = FileCache(folder)
        cache.set("k", "old", 60)
        monkeypatch.setattr(os, step, fail)

        with pytest.raises(type(error)):
            cache.set("k", "new", 60)

        assert (cache.get("k"), os.listdir(str(folder))) == (b"old", ["k"])

    def test_home_is_expanded(self, tmp_path, monkeypatch):
        for name in ("HOME", "USERPROFILE"):
            monkeypatch.setenv(name, str(tmp_path))

        FileCache("~/tokens").set("k", "v", 60)

        assert (tmp_path / "tokens" / "k").read_bytes() == b"v"

    def test_missing_home_is_an_os_error_and_makes_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it is without HOME and entry in passwd
        monkeypatch.chdir(tmp_path)
        cache = FileCache("~/tokens")

        for act in (lambda: cache.get("k"), lambda: cache.set("k", "v", 60), lambda: cache.lock("k")):
            with pytest.raises(OSError, match="home"):
                act()
        assert os.listdir(str(tmp_path)) == []

    @pytest.mark.parametrize("key", ["../k", "a/b", "..", "a\0b", "a:b", "C:\\x"])
    def test_no_key_leaves_the_directory(self, folder, key):
        cache = FileCache(folder)

        with contextlib.suppress(OSError):
            cache.set(key, "v", 60)

        assert [one.name for one in folder.parent.iterdir()] == ["b"]
        assert cache.get("k") is None

    def test_empty_path_is_refused(self):
        with pytest.raises(ValueError, match="cache"):
            FileCache("")

    def acts(self, cache):
        return (lambda: cache.get("k"), lambda: cache.set("k", "v", 60), lambda: cache.lock("k"))

    @needs_modes
    @pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777, 0o1777])
    def test_directory_that_others_could_write_is_refused(self, folder, mode):
        folder.mkdir(parents=True)
        folder.chmod(mode)

        for act in self.acts(FileCache(folder)):
            with pytest.raises(PermissionError, match="chmod 700"):
                act()
        assert os.listdir(str(folder)) == []

    @needs_modes
    def test_directory_of_another_user_is_refused(self, folder, monkeypatch):
        folder.mkdir(parents=True, mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)

        for act in self.acts(FileCache(folder)):
            with pytest.raises(PermissionError, match="other users"):
                act()

    @needs_modes
    def test_directory_that_is_a_link_is_refused(self, folder, tmp_path):
        (tmp_path / "real").mkdir(mode=0o700)
        folder.parent.mkdir()
        folder.symlink_to(tmp_path / "real", target_is_directory=True)

        for act in self.acts(FileCache(folder)):
            with pytest.raises(PermissionError, match="symbolic link"):
                act()
        assert os.listdir(str(tmp_path / "real")) == []

    @needs_modes
    def test_file_that_others_could_write_is_a_miss_and_is_replaced(self, folder):
        cache = FileCache(folder)
        cache.set("k", "theirs", 60)
        (folder / "k").chmod(0o620)

        found = cache.get("k")
        cache.set("k", "ours", 60)

        assert (found, cache.get("k")) == (None, b"ours")

    @needs_modes
    def test_no_link_is_followed_to_read_write_or_lock(self, folder, tmp_path):
        cache = FileCache(folder)
        cache.set("k", "v", 60)
        target = tmp_path / "target"
        target.write_bytes(b"theirs")
        for name in ("l", "m.lock"):
            (folder / name).symlink_to(target)

        with pytest.raises(OSError):
            cache.get("l")
        with pytest.raises(OSError):
            cache.lock("m.lock").acquire(blocking=False)
        cache.set("l", "ours", 60)

        assert (target.read_bytes(), cache.get("l")) == (b"theirs", b"ours")

    def test_file_that_cannot_be_read_is_a_miss_and_can_be_replaced(self, folder, monkeypatch):
        cache, real = FileCache(folder), os.open
        cache.set("k", "old", 60)

        def refuse(path, flags, *more):
            if os.path.basename(path) == "k":
                raise PermissionError(13, "Permission denied")
            return real(path, flags, *more)

        monkeypatch.setattr(os, "open", refuse)
        found = cache.get("k")
        cache.set("k", "new", 60)
        monkeypatch.undo()

        assert (found, cache.get("k")) == (None, b"new")

    def test_lock_has_one_holder_and_is_never_waited_for(self, folder):
        first, second = (FileCache(folder).lock("k.lock", timeout=5) for _ in range(2))

        assert [first.acquire(blocking=False), second.acquire(blocking=False)] == [True, False]
        first.release()
        assert second.acquire(blocking=False)
        second.release()
        assert os.listdir(str(folder)) == ["k.lock"]

    HOLDER = """
        import os, sys, time
        from oauth_session import FileCache
        lock = FileCache(sys.argv[1]).lock("k.lock")
        print(lock.acquire(blocking=False), flush=True)
        if sys.argv[2] == "forks" and os.fork() == 0:
            print("forked", flush=True)
        sys.stdin.read()
    """

    @pytest.mark.parametrize("how", ["alone", pytest.param("forks", marks=needs_fork)])
    def test_lock_holds_between_processes_and_is_free_when_its_holder_is_killed(self, folder, how):
        lock = FileCache(folder).lock("k.lock")
        with started(self.HOLDER, str(folder), how) as holder:
            said = [holder.stdout.readline().strip() for _ in range(1 if how == "alone" else 2)]
            held = lock.acquire(blocking=False)
            holder.kill()
            holder.wait(PATIENCE)
            free = lock.acquire(blocking=False)  # a child that it forked lives on

        assert (said, held, free) == ([b"True", b"forked"][: len(said)], False, True)
        lock.release()

    @needs_fork
    def test_lock_is_free_after_release_while_a_forked_child_lives(self, folder):
        lock, other = (FileCache(folder).lock("k.lock") for _ in range(2))
        assert lock.acquire(blocking=False)
        come, go = os.pipe()

        def child():
            os.close(go)
            return os.read(come, 1) == b""  # until the parent closes its end

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            process = os.fork()
        if not process:
            os._exit(0 if child() else 1)
        lock.release()
        free = other.acquire(blocking=False)
        os.close(go)

        assert (free, os.waitpid(process, 0)[1]) == (True, 0)
        os.close(come)
        other.release()

    def test_system_without_any_lock_works_without(self, folder, monkeypatch):
        monkeypatch.setattr(sys, "platform", "elsewhere")
        monkeypatch.setitem(sys.modules, "fcntl", None)
        cache = FileCache(folder)

        assert [lock.acquire(blocking=False) for lock in (cache.lock("k"), cache.lock("k"))] == [True, True]

    @needs_modes
    def test_file_system_without_locks_works_without(self, folder, monkeypatch):
        import fcntl

        def refuse(number, how):
            raise OSError(37, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)

        assert FileCache(folder).lock("k").acquire(blocking=False)

    def test_windows_locks_by_msvcrt_and_looks_at_no_modes(self, folder, monkeypatch):
        class Msvcrt:
            LK_NBLCK, LK_UNLCK, held = 2, 0, []

            def locking(self, number, how, size):
                assert (os.lseek(number, 0, os.SEEK_CUR), size) == (0, 1)
                if how == self.LK_UNLCK:
                    return self.held.pop()
                if self.held:
                    raise PermissionError(13, "Permission denied")
                return self.held.append(number)

        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt())
        monkeypatch.delattr(os, "geteuid", raising=False)
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        first, second = (FileCache(folder).lock("k.lock") for _ in range(2))

        assert [first.acquire(blocking=False), second.acquire(blocking=False)] == [True, False]
        first.release()
        assert second.acquire(blocking=False)
        second.release()
        FileCache(folder).set("k", "v", 60)
        assert FileCache(folder).get("k") == b"v"


@contextlib.contextmanager
def started(text, *arguments):
    """A program that runs beside the test, with pipes; killed at the end."""
    import textwrap

    path = os.path.dirname(os.path.abspath(oauth_session.__file__))
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(text), *arguments], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    try:
        with process:
            yield process
            process.kill()
    finally:
        process.kill()


class Memory:
    """A cache in memory, as redis-py and Django have it, without a lock. `trouble` maps a method to what it raises or returns."""

    def __init__(self, value=None, **trouble):
        self.value, self.trouble, self.calls, self.seconds = value, trouble, [], None

    def _called(self, name, otherwise):
        self.calls.append(name)
        step = self.trouble.get(name, otherwise)
        step = step() if callable(step) else step
        if isinstance(step, BaseException):
            raise step
        return step

    def get(self, key):
        return self._called("get", self.value)

    def set(self, key, value, seconds):
        self._called("set", None)
        self.value, self.seconds = value, seconds
        self.key = key


class Locking(Memory):
    """The same with a lock, as redis-py has it. taken: by another process."""

    taken = False

    def lock(self, name, timeout=None):
        self._called("lock", None)
        self.timeout = timeout
        return self

    def acquire(self, blocking=True):
        assert blocking is False
        taken, self.taken = self._called("acquire", self.taken), True
        return not taken

    def release(self):
        self.taken = False
        self._called("release", None)


def entry(clock, ago=0.0, life=3600.0, token="from-the-cache", **more):
    """A cache's value as another process wrote it `ago` seconds ago."""
    fields = {"access_token": token, "token_type": "Bearer", "expires_in": life, "obtained_at": clock.wall - ago, **more}
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


class TestSharedCache:
    """One token for a whole fleet: what is read, what is written, who fetches."""

    @staticmethod
    def sources(clock, cache, count, *steps):
        """Sources as different processes have them, which share a cache and one Script."""
        script = Script(clock, *(steps or (3600,)))
        return [TokenSource(script, cache=cache, cache_key="k") for _ in range(count)], script

    def test_a_life_is_not_longer_because_a_clock_is_ahead(self, clock):
        (source,), script = self.sources(clock, Memory(entry(clock, ago=-290.0, life=60)), 1)
        source.token()
        clock.move(58)

        source.token()

        assert script.calls == 1

    @needs_modes
    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
    def test_what_is_no_file_in_its_place_is_a_miss(self, clock, tmp_path, make):
        (source,), script = self.sources(clock, tmp_path / "c", 1)
        source.token()
        (file,) = [one for one in (tmp_path / "c").iterdir() if one.suffix != ".lock"]
        file.unlink()
        make(str(file))
        numbers = []

        for _ in range(4):
            clock.move(60)  # a cache that failed is asked again
            source.clear()
            source.token()
            numbers.append(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)

        assert (script.calls, len(set(numbers))) == (5, 1)

    # -- what is shared

    @pytest.mark.parametrize("make", [
        str, lambda path: path, FileCache, lambda path: Memory(), lambda path: Locking(),
    ], ids=["str", "PathLike", "FileCache", "object", "object with lock"])  # fmt: skip
    def test_second_process_takes_the_token_of_the_first(self, clock, tmp_path, make):
        (first, second), script = self.sources(clock, make(tmp_path / "c"), 2)

        tokens = [first.token(), second.token()]

        assert [one.access_token for one in tokens] == ["token-1", "token-1"]
        assert tokens[0].expires_at == tokens[1].expires_at
        assert script.calls == 1

    @pytest.mark.parametrize("form", [str, str.encode], ids=["str", "bytes"])
    def test_value_may_come_back_as_str_or_bytes(self, clock, form):
        (source,), script = self.sources(clock, Memory(form(entry(clock, scope="a b", token_type="bearer"))), 1)

        token = source.token()

        assert (token.access_token, token.scope, token.token_type) == ("from-the-cache", "a b", "bearer")
        assert token.expires_at == clock.wall + 3600
        assert script.calls == 0

    @pytest.mark.parametrize("life, kept", [
        (3600, 3600), (59.9, 59), (0.5, 1), (None, 3600), (30 * 86400.0, 30 * 86400), (YEAR, 30 * 86400)])
    def test_value_is_json_and_is_kept_for_whole_seconds_of_at_most_30_days(self, clock, life, kept):
        cache = Memory()
        answer = Token("abc", expires_at=life and clock.wall + life, scope="s", raw={"expires_in": life, "id_token": "x"})

        self.sources(clock, cache, 1, answer)[0][0].token()

        assert json.loads(cache.value) == {
            "access_token": "abc", "token_type": "Bearer", "scope": "s", "expires_in": life, "refresh_in": None,
            "obtained_at": clock.wall}
        assert (type(cache.value), type(cache.seconds), cache.seconds) == (str, int, kept)

    def test_warm_calls_never_touch_the_cache(self, clock):
        cache = Locking()
        (source,), script = self.sources(clock, cache, 1)
        source.token()
        calls = list(cache.calls)

        for _ in range(100):
            source.token()
            clock.move(1)

        assert calls == cache.calls == ["get", "lock", "acquire", "get", "set", "release"]

    def test_borrowed_token_ends_when_its_first_owner_says(self, clock):
        (source,), script = self.sources(clock, Locking(entry(clock, ago=3000.0)), 1, 7200)
        source.token()

        clock.move(589.9)
        assert source.token().access_token == "from-the-cache"
        clock.settle()
        clock.move(0.2)
        assert source.token().access_token == "token-1"

    @pytest.mark.parametrize("ago, life, calls", [
        (0, 3600, 0), (3589.9, 3600, 0), (3590, 3600, 1), (99999, 3600, 1), (0, 1, 0), (0.95, 1, 1), (-300, 3600, 0),
        (-300.1, 3600, 1), (-99999, 3600, 1), (0, None, 0), (3590, None, 1), (0, "60", 0), (0, 1e300, 1), (0, 1e12, 1),
        (0, -5, 1), (0, 0, 1), (0, "abc", 1), (0, float("nan"), 1), (0, float("inf"), 1), (0, True, 1), (0, [60], 1),
        (0, 10**400, 1), (0, "9" * 5000, 1)], ids=lambda value: str(value)[:9])  # fmt: skip
    def test_entry_is_judged_by_the_wall_clock_like_a_fresh_answer(self, clock, ago, life, calls):
        (source,), script = self.sources(clock, Memory(entry(clock, ago, life)), 1)

        token = source.token().access_token

        assert (script.calls, token) == (calls, "token-1" if calls else "from-the-cache")

    def test_clock_of_the_writer_that_is_ahead_prolongs_the_token_by_no_more_than_that(self, clock):
        (source,), script = self.sources(clock, Locking(entry(clock, ago=-200.0)), 1, 7200)
        source.token()

        clock.move(3590 + 200)

        assert source.token().access_token == "token-1"

    NONSENSE = {
        "empty": "", "empty bytes": b"", "not JSON": "nonsense", "truncated": '{"access_token": "from-the-ca', "list": "[]",
        "text": '"from-the-cache"', "null": "null", "no time": '{"access_token": "from-the-cache"}', "not UTF-8": b"\xff\xfe",
        "nested": "[" * 100000, "surrogate": "\ud800", "number": 7, "object": object(), "dict": {"access_token": "x"},
        "true": True,
    }

    @pytest.mark.parametrize("name", NONSENSE)
    @pytest.mark.parametrize("kind", [Memory, Locking])
    def test_nonsense_is_a_miss_and_one_log_line_and_is_written_over(self, clock, caplog, name, kind):
        cache = kind(self.NONSENSE[name])
        (first, second), script = self.sources(clock, cache, 2)

        assert [one.token().access_token for one in (first, second)] == ["token-1"] * 2

        assert (script.calls, len(caplog.records)) == (1, 1)
        assert_hidden(None, "from-the-cache", "token-1", log=caplog.text)

    @pytest.mark.parametrize("field", [
        {"access_token": "a\r\nEvil: 1"}, {"access_token": ""}, {"access_token": 7}, {"access_token": ...},
        {"access_token": "a" * 70000}, {"token_type": "mac"}, {"obtained_at": ...}, {"obtained_at": "x"},
        {"obtained_at": float("nan")}, {"obtained_at": -1}, {"obtained_at": True}], ids=lambda field: repr(field)[:30])
    def test_entry_that_makes_no_token_is_a_miss(self, clock, caplog, field):
        (source,), script = self.sources(clock, Memory(entry(clock, **field)), 1)

        assert (source.token().access_token, script.calls, len(caplog.records)) == ("token-1", 1, 1)

    # -- who may share

    SETTINGS = {
        "client_id": ("a", "b"), "client_secret": ("one", "two"), "scope": ("read", "write"), "audience": ("x", "y"),
        "token_url": ("https://a.example/t", "https://a.example/u"), "resource": ("https://r.example", "https://s.example"),
        "auth_method": (None, "client_secret_post"), "token_params": ({"tenant": "1"}, {"tenant": "2"}),
    }

    def key(self, **settings):
        """Where a client with these settings looks for its token."""
        asked = []
        cache = Memory(json.dumps({"access_token": TOKEN, "obtained_at": time.time()}))
        cache.get = lambda key: asked.append(key) or cache.value
        default = {name: values[0] for name, values in self.SETTINGS.items()}
        TokenSource(ClientCredentials(**{**default, **settings}), cache=cache).token()
        return asked[0]

    @pytest.mark.parametrize("name", SETTINGS)
    def test_clients_that_differ_in_one_setting_share_nothing(self, name):
        keys = {self.key(**{name: value}) for value in (*self.SETTINGS[name], *self.SETTINGS[name])}

        assert len(keys) == 2

    def test_settings_do_not_flow_into_one_another(self):
        keys = [
            self.key(audience="x y"), self.key(audience=["x", "y"]), self.key(audience=None, token_params={"audience": "z"}),
            self.key(client_id="a", client_secret="bc"), self.key(client_id="ab", client_secret="c")]

        assert len(set(keys)) == 5

    def test_what_says_nothing_about_the_token_is_no_part_of_the_key(self):
        same = {self.key(), self.key(timeout=3.0), self.key(headers={"User-Agent": "x"}), self.key(scope=["read"])}

        assert len(same) == 1

    def test_callable_secret_adds_nothing_and_is_not_called(self):
        keys = {self.key(client_secret=secret) for secret in (lambda: 1 / 0, lambda: "other")}

        assert len(keys) == 1 and self.key() not in keys

    def test_key_is_a_hash_and_shows_no_secret(self):
        assert re.fullmatch("oauth_session-[0-9a-f]{64}", self.key())
        assert_hidden(None, "s3cret", log=ClientCredentials("a", "s3cret", None, "https://a.example/t").cache_key)

    def test_cache_key_separates_and_joins(self, clock, tmp_path):
        script = Script(clock, 3600)
        keys = "blue", "green", "blue"

        tokens = [TokenSource(script, cache=tmp_path / "c", cache_key=key).token().access_token for key in keys]

        assert tokens == ["token-1", "token-2", "token-1"]

    @pytest.mark.parametrize("cache", [5, object(), {}, [], True, type("Half", (), {"get": print})()], ids=repr)
    def test_what_is_no_cache_is_a_type_error_that_says_what_is(self, cache):
        with pytest.raises(TypeError, match=r"cache must .*get\(key\) and set\(key, value, seconds\)"):
            TokenSource(lambda: None, cache=cache, cache_key="k")

    @pytest.mark.parametrize("key", [None, "", 5])
    def test_fetch_of_ones_own_needs_a_cache_key(self, key):
        with pytest.raises(ValueError, match="cache_key"):
            TokenSource(lambda: None, cache=Memory(), cache_key=key)

    # -- refused and cleared

    @pytest.mark.parametrize("form", [str, Token], ids=["as str", "as Token"])
    def test_refused_token_is_never_taken_again_though_it_is_written_anew(self, clock, form):
        cache = Locking(entry(clock))
        (source,), script = self.sources(clock, cache, 1)
        source.token()
        source.reject(form("from-the-cache"))
        seen = []

        for _ in range(3):
            clock.move(3590)
            cache.value = entry(clock)
            seen.append(source.token().access_token)

        assert seen == ["token-2", "token-3", "token-4"]

    def test_newer_token_is_used_without_a_fetch(self, clock):
        cache = Locking(entry(clock, token="old"))
        (source,), script = self.sources(clock, cache, 1)
        source.token()
        clock.move(10)
        cache.value = entry(clock, token="new")

        assert source.reject("old").access_token == source.token().access_token == "new"
        assert script.calls == 0

    def test_older_token_is_not_taken_for_a_refused_one(self, clock):
        cache = Locking()
        (source,), script = self.sources(clock, cache, 1)
        source.token()
        cache.value = entry(clock, ago=1.0)

        assert source.reject("token-1").access_token == "token-2"

    def test_in_a_pause_the_cache_is_not_asked_and_after_it_serves(self, clock):
        cache = Locking()
        (source,), script = self.sources(clock, cache, 1, busy(300))
        for _ in range(3):
            with pytest.raises(oauth_session.OAuthTemporarilyUnavailable):
                source.token()
        cache.value = entry(clock)
        clock.move(300)

        assert (source.token().access_token, script.calls) == ("from-the-cache", 1)
        assert cache.calls.count("get") == 3

    def test_api_that_refuses_every_token_costs_each_process_one_forced_fetch_a_minute(self, clock):
        sources, script = self.sources(clock, Locking(), 5)
        for _ in range(600):
            for source in sources:
                source.reject(source.token())
            clock.move(1)

        assert script.calls == 1 + 5 * 10  # as without a cache, apart from the first

    def test_clear_takes_nothing_from_before_and_what_is_newer(self, clock):
        cache = Locking()
        (first, second), script = self.sources(clock, cache, 2)
        first.token()
        clock.move(1)

        first.clear()
        second_token, after = second.token().access_token, first.token().access_token
        second.clear()
        clock.move(1)
        cache.value = entry(clock)

        assert (second_token, after, second.token().access_token) == ("token-1", "token-2", "from-the-cache")
        assert script.calls == 2

    def test_clear_takes_no_other_token_from_before(self, clock):
        cache = Locking()
        (source,), script = self.sources(clock, cache, 1)
        source.token()
        clock.move(10)
        cache.value = entry(clock, ago=5.0)

        source.clear()

        assert source.token().access_token == "token-2"

    def test_clear_does_not_take_the_same_token_by_a_clock_that_is_ahead(self, clock):
        (source,), script = self.sources(clock, Locking(entry(clock, ago=-200.0)), 1)
        source.token()

        source.clear()

        assert source.token().access_token == "token-1"

    # -- due

    def test_due_token_is_renewed_once_it_was_held_for_five_seconds(self, clock):
        (source,), script = self.sources(clock, Locking(entry(clock, ago=3400.0)), 1)

        seen = []
        for _ in range(7):
            seen.append(look(source, script, clock))
            clock.move(1)

        assert seen[:6] == [("from-the-cache", 0)] * 5 + [("from-the-cache", 1)]
        assert seen[6] == ("token-1", 1)

    def test_short_runs_in_the_last_five_minutes_fetch_nothing_until_it_expires(self, clock):
        cache, script = Locking(entry(clock, ago=3300.0)), Script(clock, 3600)
        calls = []
        for _ in range(30):
            source = TokenSource(script, cache=cache, cache_key="k")
            for _ in range(3):
                look(source, script, clock)
                clock.move(1)
            calls.append(script.calls)
            clock.move(7)

        assert calls == [0] * 29 + [1]

    @pytest.mark.parametrize("kind", [Memory, Locking])
    def test_fleet_costs_one_fetch_for_each_life(self, clock, kind):
        sources, script = self.sources(clock, kind(), 10)
        for _ in range(7200):
            for source in sources:
                look(source, script, clock)
            clock.move(1)

        assert script.calls == 3

    @pytest.mark.parametrize("kind, least, most", [(Memory, 150, 300), (Locking, 300, 300)])
    def test_without_a_lock_chance_spreads_the_renewals_over_half_of_the_window(self, clock, kind, least, most):
        cache = kind(entry(clock))
        script = Script(clock, SICK)
        sources = [TokenSource(script, cache=cache, cache_key="k") for _ in range(40)]
        dues, start = [], clock.wall
        for source in sources:
            source.token()
        clock.move(3299)

        while len(dues) < 40:
            clock.move(1)
            for source in [one for one in sources if one not in dues]:
                before = script.calls
                look(source, script, clock)
                dues += [source] if script.calls > before else []
            seen = start + 3600 - clock.wall
            assert least - 10 <= seen <= most, "before or after its window"

        assert (seen > 290) == (kind is Locking)

    def test_refresh_in_of_the_server_counts_for_all(self, clock):
        answer = Token("token-1", expires_at=clock.wall + 3600, raw={"expires_in": 3600, "refresh_in": 100})
        (first, second), script = self.sources(clock, Locking(), 2, answer, 3600)
        first.token(), second.token()

        clock.move(99.9)
        before = look(second, script, clock)
        clock.move(0.1)

        assert (before, look(second, script, clock)) == (("token-1", 1), ("token-1", 2))

    # -- the lock

    def test_who_gets_the_lock_looks_again_before_it_fetches(self, clock):
        cache = Locking()
        cache.trouble["acquire"] = lambda: setattr(cache, "value", entry(clock))  # the one before has just written
        (source,), script = self.sources(clock, cache, 1)

        assert (source.token().access_token, script.calls) == ("from-the-cache", 0)
        assert cache.calls == ["get", "lock", "acquire", "get", "release"]

    def test_who_waits_for_the_lock_takes_the_token_as_soon_as_it_is_there(self, clock):
        cache = Locking()
        cache.taken = True
        cache.trouble["get"] = lambda: entry(clock) if cache.calls.count("get") == 4 else None
        (source,), script = self.sources(clock, cache, 1)

        assert (source.token().access_token, script.calls) == ("from-the-cache", 0)
        assert (cache.calls.count("acquire"), len(clock.sleeps), "release" in cache.calls) == (3, 2, False)

    @pytest.mark.parametrize("limit", [4.0, 30.0])
    def test_dead_holder_is_waited_for_no_longer_than_half_a_fetch(self, clock, limit):
        script = Script(clock, 3600)
        script.timeout = limit
        waits = []
        for _ in range(20):
            cache = Locking()
            cache.taken = True
            clock.sleeps.clear()
            TokenSource(script, cache=cache, cache_key="k").token()
            waits.append(sum(clock.sleeps))
            assert (cache.taken, cache.timeout, json.loads(cache.value)["obtained_at"]) == (True, limit, clock.wall)

        assert 0.3 * limit <= min(waits) < max(waits) <= 0.5 * limit + 0.1
        assert script.calls == 20

    def test_time_spent_waiting_is_not_taken_off_the_tokens_life(self, clock):
        cache = Locking()
        cache.taken = True
        (source,), script = self.sources(clock, cache, 1, lambda: Token("abc", raw={"expires_in": 10}))
        source.token()

        clock.move(8.9)

        assert (source.token().access_token, script.calls, sum(clock.sleeps) > 9) == ("abc", 1, True)
        clock.move(0.1)
        source.token()
        assert script.calls > 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @pytest.mark.parametrize("step", [3600, SICK, SystemExit()], ids=["token", "error", "end of the thread"])
    def test_lock_is_given_back_whatever_comes_of_the_fetch(self, clock, step):
        cache = Locking()
        (source,), script = self.sources(clock, cache, 1, step)

        with contextlib.suppress(OAuthError):
            source.token()
        clock.settle()

        assert (cache.taken, cache.calls[-1]) == (False, "release")

    def test_16_threads_with_sources_of_their_own_cost_one_fetch(self, tmp_path):
        fetched = []

        def fetch():
            threading.Event().wait(0.1)
            fetched.append(1)
            return Token(f"token-{len(fetched)}")

        crowd = Crowd(16, lambda: TokenSource(fetch, cache=tmp_path / "c", cache_key="k").token())

        assert {one.access_token for one in crowd.finish()} == {"token-1"}

    def test_6_processes_that_start_at_once_cost_one_token_request(self, tmp_path):
        text = """
            import sys
            from oauth_session import OAuthSession
            session = OAuthSession.from_env()
            print("ready", flush=True)
            sys.stdin.read()
            print(session.access_token)
        """
        with oauth_session.DemoServer() as server, contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
            for name in ("client_id", "client_secret", "token_url"):
                patch.setenv("OAUTH_" + name.upper(), getattr(server, name))
            patch.setenv("OAUTH_CACHE", str(tmp_path / "c"))
            crowd = [stack.enter_context(started(text)) for _ in range(6)]
            assert [one.stdout.readline().strip() for one in crowd] == [b"ready"] * 6
            for one in crowd:
                one.stdin.close()
            tokens = {one.stdout.readline().strip() for one in crowd}

            assert (len(tokens), server.token_requests) == (1, 1)

    @needs_fork
    def test_child_of_a_fork_in_the_middle_of_a_fetch_works_by_itself(self, clock, tmp_path):
        gate = Gate(3600)
        (source,), script = self.sources(clock, tmp_path / "c", 1, gate, 3600)
        crowd = Crowd(1, source.token)
        gate.reached()

        assert forked(lambda: source.token().access_token == "token-2") == 0
        gate.go.set()
        assert [one.access_token for one in crowd.finish()] == ["token-1"]

    # -- a cache that fails

    LINES = {"get": 1, "set": 1, "lock": 1, "acquire": 1, "release": 0}

    @pytest.mark.parametrize("method", LINES)
    @pytest.mark.parametrize("error", [OSError("token-1 from-the-cache"), ValueError("x"), AssertionError(), EOFError()], ids=repr)
    def test_cache_that_raises_is_one_log_line_and_no_failed_call(self, clock, caplog, method, error):
        cache = Locking(**{method: error})
        (source,), script = self.sources(clock, cache, 1)

        token = source.token().access_token

        assert (token, script.calls, len(caplog.records)) == ("token-1", 1, self.LINES[method])
        assert_hidden(None, "token-1", "from-the-cache", log=caplog.text)

    def test_cache_that_failed_is_left_alone_for_a_minute_and_asked_again(self, clock, caplog):
        cache = Locking(get=ConnectionError())
        (source,), script = self.sources(clock, cache, 1)
        asked = []
        for _ in range(121):
            source.clear()
            source.token()
            asked.append(cache.calls.count("get"))
            clock.move(1)

        assert asked == [1] * 60 + [2] * 60 + [3]
        assert (len(caplog.records), cache.calls.count("set")) == (3, 0)
        cache.trouble.clear()
        clock.move(60)
        source.clear()
        source.token()
        assert cache.calls[-6:] == ["get", "lock", "acquire", "get", "set", "release"]

    def test_object_whose_lock_is_something_else_works_without(self, clock):
        class Odd(Memory):
            lock = threading.Lock()

        class Asserting(Memory):
            def __getattr__(self, name):
                raise AssertionError(name)  # as diskcache.FanoutCache does

        for cache in (Odd(), Asserting()):
            (first, second), script = self.sources(clock, cache, 2)
            assert first.token() == second.token()
            assert script.calls == 1

    @needs_modes
    def test_directory_that_is_not_trusted_is_said_in_the_log_and_not_used(self, clock, caplog, tmp_path):
        folder = tmp_path / "c"
        folder.mkdir()
        folder.chmod(0o777)
        (first, second), script = self.sources(clock, folder, 2)

        assert [first.token().access_token, second.token().access_token] == ["token-1", "token-2"]
        assert [one.levelname for one in caplog.records] == ["WARNING"] * 2
        assert str(folder) in caplog.text and os.listdir(str(folder)) == []

    @pytest.mark.parametrize("spoil", [
        lambda file: file.write_bytes(b""), lambda file: file.write_bytes(file.read_bytes()[:20]),
        lambda file: file.write_bytes(b"\0" * 99), lambda file: file.unlink(), lambda file: file.chmod(0),
    ], ids=["empty", "truncated", "zeros", "gone", "unreadable"])  # fmt: skip
    def test_spoiled_file_is_a_miss_and_mended(self, clock, tmp_path, spoil, monkeypatch):
        (first, second, third), script = self.sources(clock, tmp_path / "c", 3)
        first.token()
        spoil(next(one for one in (tmp_path / "c").iterdir() if one.suffix != ".lock"))

        assert [one.token().access_token for one in (second, third)] in (["token-2"] * 2, ["token-1"] * 2)
        assert script.calls == 2 or (script.calls == 1 and oauth_session.os.geteuid() == 0)  # root reads all

    def test_other_threads_are_answered_while_the_cache_works(self, clock):
        def other():
            with contextlib.suppress(OAuthError):
                return source.token(0.0)

        cache = Locking()
        (source,), script = self.sources(clock, cache, 1)
        answers = []
        for method in ("get", "lock", "acquire", "set", "release"):
            cache.trouble[method] = lambda: answers.append(Crowd(1, other).finish()[0]) or None

        source.token()

        assert [one and one.access_token for one in answers] == [None] * 4 + ["token-1"] * 2

    @pytest.mark.parametrize("method", ["get", "set", "lock", "acquire", "release"])
    def test_cache_that_uses_the_session_it_serves_is_no_deadlock(self, clock, method):
        cache = Locking()
        (source,), script = self.sources(clock, cache, 1)
        cache.trouble[method] = lambda: source.token() and None

        results = Crowd(1, source.token).finish()

        assert [one.access_token for one in results] == ["token-1"]

    def test_32_threads_that_start_cold_look_and_fetch_once(self, clock):
        gate = Gate(3600)
        cache = Locking()
        (source,), script = self.sources(clock, cache, 1, gate)
        crowd = Crowd(32, source.token)
        crowd.wait_inside(32)

        gate.go.set()

        assert {one.access_token for one in crowd.finish()} == {"token-1"}
        assert (script.calls, cache.calls) == (1, ["get", "lock", "acquire", "get", "set", "release"])

    @pytest.mark.parametrize("method", ["get", "lock", "acquire", "set", "release"])
    def test_cache_that_hangs_costs_one_call_its_timeout_and_then_nobody(self, clock, method):
        """What hangs before the fetch is an error that says so, what hangs after it keeps the token from nobody."""
        gate, cache = Gate(None), Locking()
        (source,), script = self.sources(clock, cache, 1)
        cache.trouble[method] = gate
        late = method in ("set", "release")
        try:
            if late:
                first = source.token(0.2).access_token
            else:
                with pytest.raises(oauth_session.OAuthTransportError, match="shared cache"):
                    source.token(0.2)
                gate.reached()
                clock.move(32)  # the deadline of that fetch
                first = source.token().access_token
            second = source.token().access_token
        finally:
            gate.go.set()

        assert (first, second, script.calls) == ("token-1", "token-1", 1)

    def test_token_is_in_the_cache_before_those_who_wait_go_on(self, clock):
        gates, cache = (Gate(3600), Gate(None)), Locking()
        cache.trouble["set"] = gates[1]
        (source,), script = self.sources(clock, cache, 1, gates[0])
        crowd = Crowd(8, source.token)
        crowd.wait_inside(8)
        gates[0].go.set()
        gates[1].reached()

        served = source.token().access_token  # to who comes now: it is there
        crowd.wait_inside(8)
        gates[1].go.set()

        assert (served, {one.access_token for one in crowd.finish()}) == ("token-1", {"token-1"})

    def test_late_result_of_a_frozen_process_is_not_written(self, clock):
        gate = Gate(Token("late", expires_at=clock.wall + 99999))
        cache = Locking()
        (source,), script = self.sources(clock, cache, 1, gate)
        crowd = Crowd(1, source.token)
        gate.reached()
        crowd.wait_inside(1)
        clock.move(40, 0)
        gate.go.set()

        assert [one.access_token for one in crowd.finish()] == ["late"]
        assert (cache.value, cache.taken) == (None, False)

    # -- the session, the environment, the command line

    def test_session_takes_cache_and_key_as_arguments_and_from_its_class(self, auth, api, tmp_path):
        cache = str(tmp_path / "c")
        kind = type("Cached", (OAuthSession,), {"cache": cache, "cache_key": "ours"})
        for session in (auth.session(kind=kind), auth.session(cache=cache, cache_key="ours"), auth.session(cache=cache)):
            session.get(api.url)

        assert (len(auth.seen), len(set(api.bearers))) == (2, 2)

    def test_explicit_none_switches_the_cache_of_the_class_off(self, auth, api):
        cache = Memory()
        auth.session(kind=type("Cached", (OAuthSession,), {"cache": cache}), cache=None).get(api.url)

        assert cache.calls == []

    @pytest.mark.parametrize("name", ["cache", "cache_key"])
    def test_cache_and_source_contradict_each_other(self, name):
        with pytest.raises(ValueError, match=name):
            OAuthSession(source=source_of(TOKEN)[0], **{name: "x"})
        with pytest.raises(AttributeError, match=name):
            setattr(AcmeSession(CLIENT, SECRET), name, "x")

    def test_401_of_the_api_takes_the_newer_token_of_another_process(self, auth, api):
        cache = Memory()
        first, second = (auth.session(base_url=api.url, cache=cache) for _ in range(2))
        first.get("/"), second.get("/")
        first.source.clear()
        first.get("/")
        api.will(401)

        second.get("/")

        assert api.bearers[-2:] == [f"Bearer {TOKEN}-1", f"Bearer {TOKEN}-2"]
        assert len(auth.seen) == 2

    @pytest.mark.parametrize("how", ["flag", "variable"])
    def test_runs_of_the_command_line_share_a_token(self, auth, tmp_path, how):
        settings = {"OAUTH_CLIENT_ID": CLIENT, "OAUTH_CLIENT_SECRET": SECRET, "OAUTH_TOKEN_URL": auth.url}
        flags = ["--cache", str(tmp_path / "c")] if how == "flag" else []
        settings.update({"OAUTH_CACHE": str(tmp_path / "c")} if how == "variable" else {})

        results = [TestCommandLine.run("--token", *flags, **settings) for _ in range(2)]

        assert results == [(0, f"{TOKEN}-1{os.linesep}", "")] * 2
        assert len(auth.seen) == 1


# -- ClientCredentials: how one token is obtained ---------------------------------------------------------------------

QUOTED_CLIENT, QUOTED_SECRET = "id: 1/ü", "p%20 +&=:€/\"'~"
QUOTED = "id%3A%201%2F%C3%BC:p%2520%20%2B%26%3D%3A%E2%82%AC%2F%22%27~"
QUOTED_BASIC = base64.b64encode(QUOTED.encode()).decode()
RAW = base64.b64encode(f"{QUOTED_CLIENT}:{QUOTED_SECRET}".encode()).decode()
FORM_ID, FORM_SECRET = "client_id=id%3A+1%2F%C3%BC", "client_secret=p%2520+%2B%26%3D%3A%E2%82%AC%2F%22%27~"
TRANSPORT, RESPONSE = oauth_session.OAuthTransportError, oauth_session.OAuthResponseError
MALFORMED, CLIENT_ERROR = oauth_session.OAuthMalformedResponse, oauth_session.OAuthInvalidClient
TEMPORARY, BROKEN = oauth_session.OAuthTemporarilyUnavailable, oauth_session.OAuthServerError


def credentials(server, secret=QUOTED_SECRET, scope=None, **settings):
    return ClientCredentials(QUOTED_CLIENT, secret, scope, server.url + "/token", **settings)


def parsed(request):
    """Request line, headers (lower case, none doubled), and body of what a server got."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines}
    assert len(headers) == len(lines), "a header came twice"
    return first, headers, body


def form(request):
    return sorted(parsed(request)[2].decode("ascii").split("&"))


def refused(server, **settings):
    """The error of a fetch that fails, looked at for secrets."""
    with pytest.raises(OAuthError) as caught:
        credentials(server, **settings)()
    assert_hidden(caught.value, QUOTED_SECRET, urllib.parse.quote(QUOTED_SECRET, ""), QUOTED_BASIC, RAW, "T0KEN")
    return caught.value


def error_page(status, code, **more):
    return page(status, json.dumps({"error": code, **more}).encode(), "Content-Type: application/json")


# id: (answer, class, error, status, what the message says)
REFUSALS = {
    **{code: (error_page("400 Bad Request", code), kind, code, 400, code)
       for code, kind in sorted(oauth_session.ERRORS_BY_CODE.items())},
    "code at 200": (error_page("200 OK", "invalid_scope"), oauth_session.OAuthInvalidScope, "invalid_scope", 200, "200"),
    "unknown code": (error_page("400 No", "what_ever"), RESPONSE, "what_ever", 400, "what_ever"),
    "description": (error_page("400 No", "invalid_scope", error_description="no\x1b[31m such\r\nscope" + "x" * 9999),
                    oauth_session.OAuthInvalidScope, "invalid_scope", 400, "no [31m such"),
    "Latin-1": (page("400 No", '{"error": "invalid_scope", "error_description": "für"}'.encode("latin-1"),
                     "Content-Type: application/json; charset=ISO-8859-1"), oauth_session.OAuthInvalidScope, "invalid_scope", 400, "für"),
    **{f"{status} {code}": (error_page(f"{status} No", code), kind, code, status, code) for status, code, kind in [
        (401, "access_denied", CLIENT_ERROR), (401, "server_error", CLIENT_ERROR), (401, "unauthorized_client", CLIENT_ERROR),
        (401, "invalid_grant", CLIENT_ERROR), (401, "invalid_scope", oauth_session.OAuthInvalidScope),
        (401, "invalid_target", oauth_session.OAuthInvalidTarget),
        (401, "unsupported_grant_type", oauth_session.OAuthUnsupportedGrantType), (403, "what_ever", RESPONSE),
        (429, "invalid_request", TEMPORARY), (503, "invalid_client", TEMPORARY), (500, "access_denied", BROKEN)]},
    "400 empty": (page("400 Bad Request"), RESPONSE, None, 400, "empty (no Content-Type, 0 bytes)"),
    "404 html": (page("404 Not Found", b"<html>nothing</html>", "Content-Type: text/html"), RESPONSE, None, 404, "(text/html, 20 bytes)"),
    "401 empty": (page("401 Unauthorized"), CLIENT_ERROR, None, 401, "client_secret"),
    "403 html": (page("403 Forbidden", b"<go away>"), CLIENT_ERROR, None, 403, "9 bytes"),
    "408": (page("408 Slow"), TEMPORARY, None, 408, "408"),
    "425": (page("425 Early"), TEMPORARY, None, 425, "425"),
    "429": (page("429 Busy"), TEMPORARY, None, 429, "429"),
    "500 html": (page("500 Oops", b"<h1>oops</h1>"), BROKEN, None, 500, "13 bytes"),
    "502 html": (page("502 Bad Gateway", b"<h1>gateway</h1>"), BROKEN, None, 502, "502"),
    "503": (page("503 Busy"), TEMPORARY, None, 503, "503"),
    "599": (page("599 Odd"), BROKEN, None, 599, "599"),
    **{f"token at {status}": (page(f"{status} No", b'{"access_token": "T0KEN"}'), kind, None, status, str(status))
       for status, kind in ((302, MALFORMED), (400, RESPONSE), (403, CLIENT_ERROR), (503, TEMPORARY))},
    "token in a form": (page("403 No", b"access_token=T0KEN"), CLIENT_ERROR, None, 403, "18 bytes"),
    "error a list": (page("400 No", b'{"error": ["invalid_client"]}'), RESPONSE, None, 400, "400"),
    "error a number": (page("400 No", b'{"error": 7}'), RESPONSE, None, 400, "400"),
    "error an object": (page("400 No", b'{"error": {"code": 7}}'), RESPONSE, None, 400, "400"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", MALFORMED, None, 204, "204"),
    "200 empty": (page(), MALFORMED, None, 200, "empty"),
    "200 html": (page("200 OK", b"<html>"), MALFORMED, None, 200, "not JSON"),
    "200 list": (page("200 OK", b"[]"), MALFORMED, None, 200, "object"),
    "200 string": (page("200 OK", b'"T0KEN"'), MALFORMED, None, 200, "object"),
    "200 form": (page("200 OK", b"access_token=T0KEN&token_type=bearer"), MALFORMED, None, 200, "not JSON"),
    "nested": (page("200 OK", b"[" * 100000), MALFORMED, None, 200, "not JSON"),
    "nested objects": (page("200 OK", b'{"a":' * 100000), MALFORMED, None, 200, "not JSON"),
    "invalid UTF-8": (page("200 OK", b'{"access_token": "T0KEN\xff"}'), MALFORMED, None, 200, "access_token"),
    "lone surrogate": (page("200 OK", b'{"access_token": "T0KEN\\ud800"}'), MALFORMED, None, 200, "access_token"),
    "control in JSON": (page("200 OK", b'{"access_token": "T0KEN\x01"}'), MALFORMED, None, 200, ""),
    **{f"access_token {name}": (grant(access_token=value), MALFORMED, None, 200, "token") for name, value in {
        "empty": "", "null": None, "number": 7, "list": ["T0KEN"], "megabyte": "T0KEN" * 200000, "space": "T0KEN x",
        "newline": "T0KEN\r\nEvil: 1", "NUL": "T0KEN\0", "non-ASCII": "T0KENé", "true": True}.items()},
    **{f"token_type {name}": (grant(access_token="T0KEN", token_type=value), MALFORMED, None, 200, "token_type")
       for name, value in {"mac": "mac", "DPoP": "DPoP", "PoP": "PoP", "N_A": " N_A "}.items()},
    **{f"redirect {status}": (page(f"{status} Go", b"", "Location: https://evil.example/t"), MALFORMED, None, status, "evil")
       for status in (300, 301, 302, 303, 304, 305, 307, 308)},
    "echo": (error_page("400 No", "invalid_request", error_description=f"{QUOTED_SECRET} {QUOTED_BASIC} {RAW}",
                        error_uri="https://x/" + urllib.parse.quote(QUOTED_SECRET, "")),
             oauth_session.OAuthInvalidRequest, "invalid_request", 400, "***"),
    "echo in headers": (page("400 No", b"", "X: " + QUOTED_BASIC, f"Content-Type: {QUOTED_BASIC}"), RESPONSE, None, 400, "***"),
    "echo as the code": (error_page("400 No", QUOTED_SECRET), RESPONSE, "***", 400, "***"),
    "echo of the token": (page("200 OK", b'{"access_token":"T0KEN","error":"x","error_description":"T0KEN"}'),
                          RESPONSE, "x", 200, "***"),
    "echo split by control": (error_page("400 No", "x", error_description="\x07".join([QUOTED_SECRET[:5], QUOTED_SECRET[5:]])),
                              RESPONSE, "x", 400, "400"),
}
ODD_ANSWERS = {  # fields or a body that make a token all the same, and its expires_at after the request
    "missing": (grant(), None), "null": (grant(expires_in=None), None), "int": (grant(expires_in=60), 60),
    "float": (grant(expires_in=60.5), 60.5), "text": (grant(expires_in="60"), 60), "text float": (grant(expires_in="60.0"), 60),
    "zero": (grant(expires_in=0), None), "negative": (grant(expires_in=-1), None), "word": (grant(expires_in="abc"), None),
    "list": (grant(expires_in=[1]), None), "true": (grant(expires_in=True), None), "absurd": (grant(expires_in=1e300), None),
    "NaN": (grant(expires_in=float("nan")), None), "Infinity": (grant(expires_in=float("inf")), None),
    "5000 digits": (page(body=b'{"access_token":"t-1","expires_in":%s}' % (b"9" * 5000)), None),
    "5000 digits as text": (grant(expires_in="9" * 5000), None),
    **{name: (page("200 OK", '{"access_token":"t-1"}'.encode(name), f"Content-Type: application/json{more}"), None)
       for name, more in [("utf-8-sig", ""), ("utf-16", ""), ("utf-16-le", "; charset=UTF-16LE"), ("utf-16-be", "")]},
    "duplicate keys": (page(body=b'{"access_token":"no","access_token":"t-1"}'), None),
    "no type": (page(body=b'{"access_token":"t-1"}'), None), "null type": (grant(token_type=None), None),
    "capitals": (grant(token_type="BEARER"), None), "null error": (grant(error=None), None),
    "no reason phrase": (grant().replace(b"200 OK", b"200", 1), None),
    "gzip": (page("200 OK", gzip.compress(b'{"access_token":"t-1"}'), "Content-Encoding: gzip"), None),
    "chunked": (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n16\r\n{"access_token":"t-1"}\r\n0\r\n\r\n', None),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + grant(), None),
}
HEAD_200 = b"HTTP/1.1 200 OK\r\n"
ENDLESS = {  # what a server does that never comes to an end, and the exception
    "silence": lambda sock: sock.recv(1) and None,
    "drips the head": drip(HEAD_200, b"X: y\r\n"), "drips the status line": drip(b"HTTP/1.1 200 ", b"a"),
    "drips 1xx": drip(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "drips the body": drip(HEAD_200 + b"\r\n", b" "), "drips chunks": drip(
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "drips trailers": drip(HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
}
TOO_MUCH = {
    "1xx for ever": flood(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 100), "headers for ever": flood(HEAD_200, b"X: y\r\n" * 999),
    "one line for ever": flood(b"HTTP/1.1 200 ", b"a" * 65536), "body for ever": flood(HEAD_200 + b"\r\n", b" " * 65536),
    "chunks for ever": flood(HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n", b"8000\r\n" + b" " * 0x8000 + b"\r\n"),
    "trailers for ever": flood(HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 999),
    "over 1 MiB": page("200 OK", b'{"access_token":"T0KEN"}' + b" " * (1 << 20)),
    "over 1 MiB announced": HEAD_200 + b"Content-Length: 999999999999\r\n\r\n" + b" " * (2 << 20),
    "over 1 MiB unpacked": page("200 OK", gzip.compress(b" " * (64 << 20)), "Content-Encoding: gzip"),
    "bomb of empty members": page("200 OK", gzip.compress(b"") * 50000 + gzip.compress(b"x"), "Content-Encoding: gzip"),
    "not gzip": page("200 OK", b'{"access_token":"T0KEN"}', "Content-Encoding: gzip"),
    "gzip cut short": page("200 OK", gzip.compress(b'{"access_token":"T0KEN"}')[:-3], "Content-Encoding: gzip"),
    "not HTTP": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
}


class TestClientCredentials:
    """One token request: its bytes, its tries, its deadline, and the judgement of the answer."""

    @pytest.mark.parametrize("method, authorization, fields", [
        ("client_secret_basic", "Basic " + QUOTED_BASIC, []), ("client_secret_basic_raw", "Basic " + RAW, []),
        ("client_secret_post", None, [FORM_ID, FORM_SECRET]), ("none", None, [FORM_ID]),
        ("tls_client_auth", None, [FORM_ID]), (None, "Basic " + QUOTED_BASIC, [])])
    def test_request_is_exactly_this(self, method, authorization, fields):
        secret = None if method in ("none", "tls_client_auth") else QUOTED_SECRET
        with Server(grant()) as server:
            token = credentials(server, secret, ["read", "wri+te"], auth_method=method)()
            first, headers, body = parsed(server.requests[0])

        assert token.access_token == "t-1"
        assert first == "POST /token HTTP/1.1"
        assert form(server.requests[0]) == sorted(["grant_type=client_credentials", "scope=read+wri%2Bte", *fields])
        assert headers.pop("connection", "keep-alive") == "keep-alive"
        assert headers == {
            "host": server.place, "accept": "application/json", "accept-encoding": "identity",
            "content-type": "application/x-www-form-urlencoded", "content-length": str(len(body)),
            "user-agent": "oauth_session/" + oauth_session.__version__,
            **({"authorization": authorization} if authorization else {})}

    @pytest.mark.parametrize("settings, fields", [
        ({}, []), ({"scope": ""}, []), ({"scope": []}, []), ({"scope": "a b"}, ["scope=a+b"]), ({"scope": ("a", "b")}, ["scope=a+b"]),
        ({"audience": "x&y"}, ["audience=x%26y"]), ({"audience": ["a", "b"]}, ["audience=a", "audience=b"]),
        ({"resource": ["https://a/?x", "urn:b"]}, ["resource=https%3A%2F%2Fa%2F%3Fx", "resource=urn%3Ab"]),
        ({"token_params": {"organization": "ü", "n": 7, "no": None}}, ["organization=%C3%BC", "n=7"]),
        ({"token_params": {"x": ["1", "2"]}, "scope": "a"}, ["x=1", "x=2", "scope=a"]),
        ({"token_params": {"scope": "other"}, "scope": "a"}, ["scope=other"])])
    def test_fields_of_the_form_are_all_sent_at_each_fetch(self, settings, fields):
        with Server(grant()) as server:
            fetch = credentials(server, **settings)
            fetch(), fetch()

        assert [form(one) for one in server.requests] == [sorted(["grant_type=client_credentials", *fields])] * 2
        assert server.accepted == 1

    @pytest.mark.parametrize("of", [
        str.encode, lambda text: enum.Enum("Name", {"MEMBER": text}, type=str).MEMBER,
    ], ids=["bytes", "Enum"])  # fmt: skip
    def test_text_may_be_bytes_or_a_member_of_an_enum(self, of):
        def settings(of):
            return {
                "client_id": of("id"), "client_secret": of("ä"), "scope": [of("a"), of("b")], "audience": of("aud"),
                "resource": [of("urn:r")], "token_params": {of("x"): of("y")}, "token_headers": {of("X-Key"): of("k")},
                "auth_method": "client_secret_post",
            }  # fmt: skip

        with Server(grant()) as server:
            fetch = ClientCredentials(token_url=of(server.url), **settings(of))
            plain = ClientCredentials(token_url=server.url, **settings(str))
            fetch()

        expected = "audience=aud client_id=id client_secret=%C3%A4 grant_type=client_credentials resource=urn%3Ar scope=a+b x=y"
        assert form(server.requests[0]) == expected.split()
        assert parsed(server.requests[0])[1]["x-key"] == "k"
        assert fetch.cache_key == plain.cache_key

    @pytest.mark.parametrize("name, logged", [
        ("Bearer", 0), ("bEARER", 0), ("BearerToken", 1), ("Application Access Token", 1), (" Bearer ", 1), (7, 1), (["Bearer"], 1)])
    def test_a_token_of_another_name_is_sent_as_bearer_and_logged(self, name, logged, caplog):
        caplog.set_level(logging.INFO)
        with Server(grant(token_type=name), HELLO) as server, OAuthSession("c", QUOTED_SECRET, None, server.url) as session:
            session.get(server.url)

        assert parsed(server.requests[1])[1]["authorization"] == "Bearer t-1"
        assert caplog.text.count("is sent as a Bearer token") == logged

    KEY = "k3y-0f/the gateway"

    @pytest.mark.parametrize("where", ["argument", "class"])
    def test_token_headers_go_with_the_token_request_alone(self, where):
        setting = {"token_headers": {"x-api-key": self.KEY}}
        kind, settings = (OAuthSession, setting) if where == "argument" else (type("Gateway", (OAuthSession,), setting), {})
        with Server(grant(), HELLO) as server, kind("c", "s", None, server.url, **settings) as session:
            session.get(server.url)

        assert [parsed(one)[1].get("x-api-key") for one in server.requests] == [self.KEY, None]

    def test_token_headers_are_secrets_that_are_part_of_the_cache_key(self):
        echo = error_page("400 No", "invalid_request", error_description=urllib.parse.quote(self.KEY, ""))
        with Server(echo) as server:
            error = refused(server, token_headers={"x-api-key": self.KEY}, auth_method="client_secret_post")
            keys = {credentials(server, token_headers=one).cache_key for one in (None, {"x-api-key": self.KEY}, {"x-api-key": "b"})}

        assert "***" in str(error)
        assert_hidden(error, self.KEY, urllib.parse.quote(self.KEY, ""), log=repr(keys))
        assert len(keys) == 3

    def test_of_the_headers_only_the_user_agent_goes_along(self):
        with Server(grant()) as server, OAuthSession(
                "id", "s", None, server.url, headers={"user-agent": "mine", "X-Key": "private"}) as session:
            session.access_token
            headers = parsed(server.requests[0])[1]

        assert headers["user-agent"] == "mine" and "x-key" not in headers

    NOT_THIS_METHOD = {  # what servers say to one that they do not take
        "RFC 6749": error_page("401 No", "invalid_client"), "at 400": error_page("400 No", "invalid_client"),
        "at 200": error_page("200 OK", "invalid_client"), "401 alone": page("401 No"), "403 alone": page("403 No", b"<html>"),
        "Auth0": error_page("401 No", "access_denied"), "ServiceNow": error_page("401 No", "server_error"),
        "Keycloak": error_page("401 No", "unauthorized_client"), "403 with a code of its own": error_page("403 No", "forbidden"),
        "without Basic": error_page("400 No", "invalid_request", error_description="client_id is missing"),
    }

    @pytest.mark.parametrize("refusals, sent", [(0, QUOTED_BASIC), (1, None), (2, RAW)], ids=["Basic", "body", "unencoded"])
    @pytest.mark.parametrize("refusal", NOT_THIS_METHOD.values(), ids=NOT_THIS_METHOD)
    def test_the_method_that_a_server_takes_is_found_remembered_and_logged(self, refusal, refusals, sent, caplog):
        caplog.set_level(logging.DEBUG)
        with Server(*[refusal] * refusals, grant()) as server:
            fetch = credentials(server)
            fetch(), fetch()

        tried = ["Basic " + QUOTED_BASIC, None, "Basic " + RAW][:refusals + 1]
        assert [parsed(one)[1].get("authorization") for one in server.requests] == [*tried, tried[-1]]
        assert [FORM_SECRET in form(one) for one in server.requests[-2:]] == [sent is None] * 2
        assert caplog.text.count("name it as auth_method") == min(refusals, 1)
        assert_hidden(None, QUOTED_SECRET, QUOTED_BASIC, RAW, "t-1", log=caplog.text)

    @pytest.mark.parametrize("secret, tried", [
        ("plain", ["client_secret_basic", "client_secret_post"]),
        (QUOTED_SECRET, ["client_secret_basic", "client_secret_post", "client_secret_basic_raw"])])
    @pytest.mark.parametrize("refusal", NOT_THIS_METHOD.values(), ids=NOT_THIS_METHOD)
    def test_a_wrong_secret_costs_a_request_for_each_reading_of_it(self, refusal, secret, tried):
        with Server(refusal, error_page("401 No", "invalid_client", error_description="second")) as server:
            with pytest.raises(RESPONSE) as caught:
                ClientCredentials("c", secret, None, server.url)()

        assert len(server.requests) == len(tried)
        assert str(caught.value).endswith(f"auth_method (tried: {', '.join(tried)})") or caught.value.error == "forbidden"
        assert "second" not in str(caught.value)

    def test_accepted_basic_is_remembered(self):
        with Server(grant(), error_page("401 No", "invalid_client")) as server:
            fetch = credentials(server)
            fetch()
            with pytest.raises(CLIENT_ERROR):
                fetch()

        assert len(server.requests) == 2

    @pytest.mark.parametrize("code", sorted(set(ERRORS_BY_CODE) - {"invalid_client", "invalid_request", "server_error",
                                                                   "temporarily_unavailable"}))
    def test_client_that_is_accepted_with_the_body_but_not_with_its_request_gets_that_error(self, code):
        with Server(error_page("401 No", "invalid_client"), error_page("400 No", code), grant()) as server:
            fetch = credentials(server)
            with pytest.raises(ERRORS_BY_CODE[code]) as caught:
                fetch()
            fetch()

        assert type(caught.value) is ERRORS_BY_CODE[code] and "tried" not in str(caught.value)
        assert [FORM_SECRET in form(one) for one in server.requests] == [False, True, True]

    @pytest.mark.parametrize("second", [error_page("400 No", "what_ever"), page("400 No"), page("200 OK", b"<html>")],
                             ids=["unknown code", "no code", "html"])
    def test_what_does_not_say_that_the_client_was_accepted_is_no_better_than_the_first_error(self, second):
        with Server(page("401 No"), second) as server:
            error = refused(server)

        assert (type(error), error.status) == (CLIENT_ERROR, 401) and "(tried: " in str(error)

    @pytest.mark.parametrize("answer, kind, code, status, says", REFUSALS.values(), ids=REFUSALS)
    def test_refusal_becomes(self, clock, caplog, answer, kind, code, status, says):
        caplog.set_level(logging.DEBUG)
        transient = kind in (TEMPORARY, BROKEN)
        with Server(answer) as server:
            error = refused(server, auth_method="client_secret_basic")
            again = pickle.loads(pickle.dumps(error))

        assert (type(error), error.error, error.status) == (kind, code, status)
        assert str(status) in str(error) and says in str(error) and "<" not in str(error)
        assert str(error).isprintable() and len(str(error)) < 1500
        assert len(error.error_description or "") <= 503 and (error.error_description or "").isprintable()
        assert (type(again), str(again), again.error, again.status) == (kind, str(error), code, status)
        assert str(copy.copy(error)) == str(error)
        assert_hidden(None, QUOTED_SECRET, QUOTED_BASIC, "T0KEN", log=caplog.text)
        assert len(server.requests) == (3 if transient else 1)

    @pytest.mark.parametrize("answer, seconds", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
    def test_odd_answer_is_a_token(self, clock, answer, seconds):
        with Server(answer) as server:
            token = credentials(server)()

        assert token.access_token == "t-1"
        assert token.expires_at == (None if seconds is None else clock.wall + seconds)

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
    def test_no_redirect_is_followed_and_nothing_reaches_its_target(self, status):
        with Server(grant()) as target:
            for place in (target.url + "/token", "/elsewhere", "file:///etc/hostname", "//" + target.place):
                with Server(page(f"{status} Go", b"", "Location: " + place)) as server:
                    error = refused(server)
                assert (type(error), error.status, len(server.requests)) == (MALFORMED, status, 1)

        assert target.accepted == 0

    @pytest.mark.parametrize("answer, kind", [
        (page("503 No"), TEMPORARY), (None, TRANSPORT), (reset, TRANSPORT), ((page("200 OK", b"x" * 9)[:-3],), TRANSPORT),
    ], ids=["503", "hang-up", "reset", "cut short"])  # fmt: skip
    def test_what_may_pass_is_tried_three_times(self, clock, answer, kind):
        with Server(answer) as server:
            error = refused(server)

        assert (type(error), len(server.requests), len(clock.sleeps)) == (kind, 3, 2)
        assert all(0 <= wait <= limit for wait, limit in zip(clock.sleeps, (0.5, 1)))

    def test_nobody_listening_is_tried_three_times(self, clock):
        with Server() as server:
            pass

        error = refused(server)

        assert (type(error), len(clock.sleeps)) == (TRANSPORT, 2)
        assert server.place in str(error) and isinstance(error, urllib.error.URLError)

    @pytest.mark.parametrize("headers, retry_after, tries", [
        (["Retry-After: 3"], 3, 3), (["Retry-After: 0"], 0, 3), (["Retry-After: 16"], 16, 1), (["Retry-After: 99999999999"], 300, 1),
        (["Retry-After: " + "9" * 5000], 300, 1), (["Retry-After: -1"], None, 3), (["Retry-After: soon"], None, 3),
        (["Retry-After: 1.5"], None, 3), (["Retry-After: ²"], None, 3), (["Retry-After:"], None, 3),
        (["Date: Mon, 01 Jan 2024 00:00:00 GMT", "Retry-After: Mon, 01 Jan 2024 00:00:04 GMT"], 4, 3),
        (["Date: Mon, 01 Jan 2024 00:00:00 GMT", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"], 300, 1),
        (["Retry-After: Mon, 01 Jan 2001 00:00:00 GMT"], 0, 3), (["Retry-After: Mon, 99 Foo 2001 00:00:00 GMT"], None, 3)])
    def test_retry_after_is_obeyed_if_it_fits_in_half_of_what_is_left(self, clock, headers, retry_after, tries):
        with Server(page("503 No", b"", *headers)) as server:
            error = refused(server)

        assert (error.retry_after, len(server.requests)) == (retry_after, tries)
        assert retry_after is None or clock.sleeps == [retry_after] * (tries - 1)

    @pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
    def test_one_deadline_ends_what_never_ends(self, answer):
        with Server(answer) as server:
            start = time.monotonic()
            error = refused(server, timeout=0.3)
            took = time.monotonic() - start

        assert type(error) in (TRANSPORT, MALFORMED)
        assert took < 5

    @pytest.mark.parametrize("answer", TOO_MUCH.values(), ids=TOO_MUCH)
    def test_too_much_or_nonsense_is_refused_at_once(self, answer):
        with Server(answer) as server:
            error = refused(server)

        assert type(error) is MALFORMED
        assert len(server.requests) == 1

    def test_two_fetches_use_one_connection_and_a_refusal_does_not_end_it(self):
        with Server(grant(), page("400 No", b"x"), grant()) as server:
            fetch = credentials(server)
            fetch()
            with pytest.raises(RESPONSE):
                fetch()
            fetch()

        assert server.accepted == 1

    def test_no_cookie_is_kept(self):
        with Server(page("200 OK", b'{"access_token":"a"}', "Set-Cookie: a=b; Path=/")) as server:
            fetch = credentials(server)
            fetch(), fetch()

        assert "cookie" not in parsed(server.requests[1])[1]

    @pytest.mark.parametrize("fault, advice", [
        ("self-signed", "load_verify_locations"), ("wrong-name", "the certificate names"), ("expired", "renew it")])
    def test_bad_certificate_names_its_way_out_and_is_tried_once(self, clock, certificates, fault, advice):
        context = None if fault == "self-signed" else certificates.trusting(fault)
        with Server(grant(), tls=certificates.server(fault)) as server:
            error = refused(server, context=context)

        assert type(error) is TRANSPORT and "127.0.0.1" in str(error)
        assert [word for word in ("load_verify_locations", "the certificate names", "renew it") if word in str(error)] == [advice]
        assert (clock.sleeps, server.requests) == ([], [])

    def test_certificate_named_by_the_environment_is_trusted(self, certificates, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.path / "good.pem"))
        with Server(grant(), tls=certificates.server("good")) as server:
            assert credentials(server)().access_token == "t-1"


def claims_of(request):
    """Header and claims of the assertion in a token request, and its form."""
    fields = dict(urllib.parse.parse_qsl(parsed(request)[2].decode()))
    parts = [base64.urlsafe_b64decode(part + "==") for part in fields["client_assertion"].split(".")]
    return json.loads(parts[0]), json.loads(parts[1]), parts[2], fields


def metadata_of(server, path="", **fields):
    body = {"issuer": server.url + path, "token_endpoint": server.url + "/token", **fields}
    return page("200 OK", json.dumps({name: value for name, value in body.items() if value is not None}).encode())


class Issuer(Server):
    """Answers by path: metadata where they are asked for, and tokens elsewhere."""

    def __init__(self, found, *answers, **options):
        super().__init__(*answers or [grant()], **options)
        self.found, self.asked, self.token_requests = found, [], []

    def choose(self, request):
        path = request.split(b" ")[1].decode()
        if "/.well-known/" in path:
            self.asked.append(path)
            return self.found(self, path)
        self.token_requests.append(request)
        return self.answers[min(len(self.token_requests), len(self.answers)) - 1]


class TestAssertionsAndDiscovery:
    """How else a client proves itself, and where the token endpoint is."""

    def test_client_secret_jwt_is_a_new_signed_assertion_for_each_request(self):
        with Server(error_page("503 No", "temporarily_unavailable"), grant()) as server:
            made = credentials(server, auth_method="client_secret_jwt")
            before = int(time.time())
            made()
            made()

        assert len(server.requests) == 3
        found = [claims_of(request) for request in server.requests]
        for (header, claims, signature, fields), request in zip(found, server.requests):
            message = fields["client_assertion"].rpartition(".")[0].encode()
            assert header == {"alg": "HS256", "typ": "JWT"}
            assert signature == hmac.new(QUOTED_SECRET.encode(), message, "sha256").digest()
            assert (claims["iss"], claims["sub"], claims["aud"]) == (QUOTED_CLIENT, QUOTED_CLIENT, server.url + "/token")
            assert before <= claims["iat"] <= time.time() and 60 <= claims["exp"] - claims["iat"] <= 300
            assert fields["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            assert fields["client_id"] == QUOTED_CLIENT
            assert "client_secret" not in fields and "authorization" not in parsed(request)[1]
        assert len({claims["jti"] for _, claims, _, _ in found}) == 3

    def test_audience_of_the_assertion_may_be_named(self):
        with Server(grant()) as server:
            credentials(server, auth_method="client_secret_jwt", assertion_audience="https://aud.example")()

        assert claims_of(server.requests[0])[1]["aud"] == "https://aud.example"

    @pytest.mark.parametrize("listed, algorithm", [
        (None, "HS256"), (["RS256", "HS512"], "HS512"), (["HS384", "HS512"], "HS384"), (["HS512", "HS256"], "HS256"),
        ([], "HS256"),
    ])
    def test_algorithm_is_one_that_the_issuer_lists(self, listed, algorithm):
        field = {"token_endpoint_auth_signing_alg_values_supported": listed}
        with Issuer(lambda server, path: metadata_of(server, **field)) as server:
            ClientCredentials("c", "s" * 64, issuer=server.url, auth_method="client_secret_jwt")()

        header, claims, signature, fields = claims_of(server.token_requests[0])
        message = fields["client_assertion"].rpartition(".")[0].encode()
        assert (header["alg"], claims["aud"]) == (algorithm, server.url)
        assert signature == hmac.new(b"s" * 64, message, "sha" + algorithm[2:]).digest()

    def test_assertion_of_a_callable_is_made_for_each_request_and_shown_nowhere(self):
        made = (f"head.cl41ms{number}.s1gnature{number}" for number in itertools.count(1))
        echo = error_page("400 No", "invalid_grant", error_description="head.cl41ms1.s1gnature1 and s1gnature1")
        with Server(echo, grant()) as server:
            prove = ClientCredentials("c", None, None, server.url, client_assertion=lambda: next(made))
            with pytest.raises(oauth_session.OAuthInvalidGrant) as caught:
                prove()
            prove()

        assert prove.auth_method == "private_key_jwt"
        assert [f"cl41ms{n}" in request.decode() for n, request in zip((1, 2), server.requests)] == [True, True]
        assert_hidden(caught.value, "cl41ms1", "s1gnature1")

    @pytest.mark.parametrize("wrong", ["", "a.b.c\n", 5, None, "https://x"], ids=repr)
    def test_what_is_no_assertion_is_refused_before_anything_is_sent(self, wrong):
        with Server(grant()) as server:
            with pytest.raises(OAuthError, match="client_assertion"):
                ClientCredentials("c", None, None, server.url, client_assertion=lambda: wrong)()
            if wrong is not None:
                with pytest.raises((TypeError, ValueError), match="client_assertion"):
                    ClientCredentials("c", None, None, server.url, client_assertion=wrong)

        assert server.requests == []

    @pytest.mark.parametrize("settings, both, spare", [
        ({"client_secret": "s", "client_assertion": "a.b.c"}, "client_secret and client_assertion", "client_secret"),
        ({"client_secret": "s", "issuer": "https://i.example"}, "issuer and token_url", "token_url"),
        ({"client_assertion": "a.b.c", "auth_method": "client_secret_post"}, "client_assertion and auth_method", "client_assertion"),
        ({"client_assertion": "a.b.c", "auth_method": "none"}, "client_assertion and auth_method", "client_assertion"),
        ({"client_secret": "s", "auth_method": "private_key_jwt"}, "client_secret and auth_method", "client_secret"),
    ])
    def test_settings_that_contradict_each_other_are_named_wherever_they_are(self, settings, both, spare):
        names = {"client_id": "c", "token_url": "https://t.example/t"}
        environ = {"OAUTH_" + name.upper(): value for name, value in names.items()}
        last, value = settings.popitem()
        for make in (
            lambda: ClientCredentials(**names, **settings, **{last: value}), lambda: OAuthSession(**names, **settings, **{last: value}),
            lambda: type("Company", (OAuthSession,), {**names, **settings})(**{last: value}),
            lambda: OAuthSession.from_env(environ=environ, **settings, **{last: value}),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=f"{both}.* contradict each other: leave one out, or pass {spare}=None"):
                make()

    def test_none_takes_a_setting_of_class_or_environment_away(self):
        class Company(OAuthSession):
            client_id, client_secret, token_url = "c", "s", "https://t.example/t"

        environ = {"OAUTH_CLIENT_ID": "c", "OAUTH_CLIENT_SECRET": "s", "OAUTH_TOKEN_URL": "https://t.example/t"}
        for make in (Company, functools.partial(OAuthSession.from_env, environ=environ)):
            session = make(issuer="https://i.example", token_url=None, client_secret=None, client_assertion="a.b.c")

            assert (session.issuer, session.token_url) == ("https://i.example", None)

    @pytest.mark.parametrize("settings, words", [
        ({"auth_method": "private_key_jwt"}, "needs client_assertion="), ({"auth_method": "client_secret_jwt"}, "needs client_secret="),
        ({}, "client_secret is missing"),
    ])
    def test_what_a_method_needs_is_said_before_anything_is_sent(self, settings, words):
        for kind in (ClientCredentials, OAuthSession):
            with pytest.raises(ValueError, match=words):
                kind(client_id="c", token_url="https://t.example/t", **settings)

    @pytest.mark.parametrize("issuer", ["http://i.example", "i.example", 5])
    def test_what_is_no_issuer_is_refused(self, issuer):
        with pytest.raises((ValueError, TypeError), match="issuer"):
            ClientCredentials("c", "s", issuer=issuer)

    @pytest.mark.parametrize("path, asked", [
        ("", "/.well-known/oauth-authorization-server"), ("/", "/.well-known/oauth-authorization-server"),
        ("/a/b", "/.well-known/oauth-authorization-server/a/b"), ("/a/", "/.well-known/oauth-authorization-server/a"),
    ])
    def test_metadata_are_asked_for_once(self, path, asked):
        with Issuer(lambda server, _: metadata_of(server, path)) as server:
            fetch = ClientCredentials("c", "s", issuer=server.url + path)
            fetch()
            fetch()

        assert server.asked == [asked]
        assert len(server.token_requests) == 2

    def test_openid_connect_is_asked_second(self):
        wrong = iter([page("404 No"), page("200 OK", b"<html>")])
        with Issuer(lambda server, path: metadata_of(server, "/t") if "openid" in path else next(wrong)) as server:
            for _ in range(2):
                ClientCredentials("c", "s", issuer=server.url + "/t")()

        assert server.asked == ["/.well-known/oauth-authorization-server/t", "/t/.well-known/openid-configuration"] * 2

    @pytest.mark.parametrize("answer, kind, words", [
        (lambda server: page("404 No"), MALFORMED, "/.well-known/oauth-authorization-server answered 404"),
        (lambda server: page("200 OK", b"[]"), MALFORMED, "not a JSON object"),
        (lambda server: metadata_of(server, issuer="https://sts.example/"), MALFORMED, "or token_url instead"),  # Azure AD B2C
        (lambda server: metadata_of(server, issuer=None), MALFORMED, "is of issuer 'None'"),
        (lambda server: metadata_of(server, token_endpoint=None), MALFORMED, "token_endpoint"),
        (lambda server: metadata_of(server, token_endpoint="http://evil.example/t"), MALFORMED, "https"),
        (lambda server: metadata_of(server, token_endpoint=["x"]), MALFORMED, "token_endpoint"),
        (lambda server: page("302 Go", b"", "Location: https://evil.example/"), MALFORMED, "302"),
        (lambda server: page("503 No"), oauth_session.OAuthTransportError, "answered 503"),
        (lambda server: b"SSH-2.0\r\n\r\n", MALFORMED, "is issuer right"),
    ])
    def test_metadata_that_do_not_serve_are_an_error_that_names_the_url(self, answer, kind, words):
        with Issuer(lambda server, _: answer(server)) as server:
            with pytest.raises(OAuthError) as caught:
                ClientCredentials("c", "s", issuer=server.url, timeout=5.0)()

        assert type(caught.value) is kind
        assert words in str(caught.value)
        assert server.url in str(caught.value)
        assert server.token_requests == []

    @pytest.mark.parametrize("second, kind, words, asked", [
        (lambda server: page("503 No"), oauth_session.OAuthTransportError, "configuration answered 503", 6),
        (lambda server: (b"",), oauth_session.OAuthTransportError, "gave no answer", 9),  # a kept connection that breaks is replaced
        (lambda server: metadata_of(server, issuer=server.url + "/"), MALFORMED, "is of issuer", 2),
    ], ids=["503", "hang-up", "other issuer"])
    def test_of_two_failed_documents_the_one_that_is_there_is_named(self, clock, second, kind, words, asked):
        with Issuer(lambda server, path: second(server) if "openid" in path else page("404 No")) as server:
            with pytest.raises(OAuthError) as caught:
                ClientCredentials("c", "s", issuer=server.url, timeout=60.0)()

        assert type(caught.value) is kind and words in str(caught.value)
        assert len(server.asked) == asked

    def test_an_issuer_that_cannot_be_reached_is_named(self):
        url = f"http://127.0.0.1:{free_port()}"

        with pytest.raises(oauth_session.OAuthTransportError) as caught:
            ClientCredentials("c", "s", issuer=url, timeout=2.0)()

        assert url in str(caught.value) and "is issuer right" in str(caught.value)

    @pytest.mark.parametrize("fails, again", [(page("404 Gone"), True), (page("400 No"), False)])
    def test_metadata_are_read_again_after_a_404_but_not_within_a_minute(self, fails, again, clock):
        with Issuer(lambda server, _: metadata_of(server), grant(), fails, fails, grant()) as server:
            fetch = ClientCredentials("c", "s", issuer=server.url, auth_method="client_secret_basic")
            fetch()
            for seconds in (30, 40):
                clock.move(seconds)
                with pytest.raises(OAuthResponseError):
                    fetch()
            fetch()

        assert len(server.asked) == 1 + again

    def test_metadata_that_worked_stay_in_use_while_new_ones_cannot_be_had(self, clock):
        answers = iter([None, page("503 No"), page("503 No"), page("404 No"), page("200 OK", b"[]")])
        with Issuer(lambda server, _: next(answers) or metadata_of(server), grant(), page("404 No"), grant()) as server:
            fetch = ClientCredentials("c", "s", issuer=server.url, auth_method="client_secret_basic")
            fetch()
            clock.move(61)
            with pytest.raises(OAuthResponseError):
                fetch()
            fetch()
            fetch()

        assert (len(server.asked), len(server.token_requests)) == (3, 4)

    def test_a_first_document_that_fails_does_not_hide_the_second(self):
        for wrong in (page("503 No"), page("500 No"), page("200 OK", b'{"message": "not here"}')):
            with Issuer(lambda server, path: metadata_of(server) if "openid" in path else wrong) as server:
                assert ClientCredentials("c", "s", issuer=server.url)().access_token == "t-1"

    def test_where_the_issuer_lists_both_basic_and_body_both_are_tried(self):
        field = {"token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"]}
        refusal = error_page("401 No", "invalid_client")
        with Issuer(lambda server, _: metadata_of(server, **field), refusal, grant()) as server:
            ClientCredentials("c", "s", issuer=server.url)()

        assert ["authorization" in parsed(request)[1] for request in server.token_requests] == [True, False]

    def test_an_http_error_of_a_callable_is_not_the_answer_of_the_api(self):
        def broken():
            raise urllib.error.HTTPError("https://elsewhere.example/", 200, "OK", http.client.HTTPMessage(), io.BytesIO())

        with Server(HELLO) as api:
            for session in (
                OAuthSession("c", None, None, api.url, client_assertion=broken), OAuthSession(source=TokenSource(broken)),
            ):  # fmt: skip
                with pytest.raises(OAuthError, match="what the token depends on got an HTTP status: 200"):
                    session.get(api.url)

        assert api.requests == []

    def test_secrets_among_the_token_params_are_masked_too(self):
        with Server(error_page("400 No", "invalid_grant", error_description="got hunter2-hunter2")) as server:
            error = refused(server, token_params={"grant_type": "password", "password": b"hunter2-hunter2"})

        assert "got ***" in str(error)

    def test_a_secret_that_is_echoed_many_times_shows_no_part_of_itself(self):
        secret = "".join(chr(97 + at * 7 % 26) + str(at) for at in range(40))
        with Server(error_page("400 No", "invalid_request", error_description="x" + secret * 200)) as server:
            with pytest.raises(OAuthResponseError) as caught:
                ClientCredentials("c", secret, None, server.url, auth_method="client_secret_post")()

        assert_hidden(caught.value, *(secret[at:at + 8] for at in range(len(secret) - 8)))

    def test_credentials_are_not_pickled(self):
        fetch = ClientCredentials("c", "s", None, "https://t.example/t")

        for one in (fetch, TokenSource(fetch), OAuthSession("c", "s", None, "https://t.example/t")):
            with pytest.raises(TypeError):
                pickle.dumps(one)
        assert "a.b.c" not in repr(vars(OAuthSession("c", None, None, "https://t.example/t", client_assertion="a.b.c")))

    @pytest.mark.parametrize("listed, seen", [
        (["client_secret_post"], "post"), (["private_key_jwt", "client_secret_jwt"], "jwt"),
        (["client_secret_basic", "client_secret_jwt"], "basic"), (None, "basic"), (["none"], "basic"), ("x", "basic"),
    ])
    def test_method_is_one_that_the_issuer_lists(self, listed, seen):
        field = {"token_endpoint_auth_methods_supported": listed}
        with Issuer(lambda server, _: metadata_of(server, **field)) as server:
            ClientCredentials("c", "s", issuer=server.url)()

        _, headers, body = parsed(server.token_requests[0])
        found = "basic" if "authorization" in headers else "jwt" if b"client_assertion=" in body else "post"
        assert (found, len(server.token_requests)) == (seen, 1)

    @pytest.mark.parametrize("method, path", [("tls_client_auth", b"/mtls"), ("none", b"/token")])
    def test_alias_for_certificates_is_used_with_a_certificate_only(self, method, path):
        def found(server, _):
            return metadata_of(server, mtls_endpoint_aliases={"token_endpoint": server.url + "/mtls"})

        with Issuer(found) as server:
            ClientCredentials("c", issuer=server.url, auth_method=method)()

        assert server.token_requests[0].startswith(b"POST " + path)

    def test_refused_client_asks_a_secret_callable_once_more(self):
        def refuse(number):
            return error_page("401 No", "access_denied", error_description=str(number))

        secrets = iter(["old", "new", "newer", "newer", "newer"])
        with Server(refuse(1), grant(), refuse(2), refuse(3)) as server:
            fetch = ClientCredentials("c", lambda: next(secrets), None, server.url, auth_method="client_secret_post")
            assert fetch().access_token == "t-1"
            with pytest.raises(oauth_session.OAuthInvalidClient):
                fetch()

        sent = [dict(urllib.parse.parse_qsl(parsed(request)[2].decode()))["client_secret"] for request in server.requests]
        assert sent == ["old", "new", "newer"]

    @pytest.mark.parametrize("answer, words", [
        (error_page("401 No", "access_denied"), "check client_id, client_secret"), (error_page("400 No", "invalid_request"), "auth_method"),
        (error_page("400 No", "invalid_scope"), "check scope"), (error_page("400 No", "unauthorized_client"), "for this client"),
        (error_page("400 No", "unsupported_grant_type"), "at this server"), (error_page("400 No", "what_ever"), "documentation"),
        (page("200 OK", b"<html>"), "is token_url right"),
    ])
    def test_a_refusal_says_what_to_check(self, answer, words):
        with Server(answer) as server:
            error = refused(server)

        assert words in str(error)

    PROVIDERS = {
        "Auth0": {"audience": "https://api.example.com"}, "Microsoft Entra": {"scope": "https://graph.microsoft.com/.default"},
        "Okta": {"scope": "my.scope"}, "Keycloak": {}, "Amazon Cognito": {"scope": "my-api/read"},
        "Zoom": {"grant_type": "account_credentials", "account_id": "ACCOUNT"}, "Salesforce": {}, "Spotify": {}, "PayPal": {},
        "Twitch": {"client_id": "ID", "client_secret": "SECRET"},
    }

    def test_table_of_providers_is_complete(self):
        rows = re.findall(r"(?m)^\| ([\w ]+) \| `OAuthSession\(", TestVendoring().text_of("README.md"))

        assert rows == list(self.PROVIDERS)

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_provider_gets_what_it_wants(self, provider):
        code = re.search(rf"(?m)^\| {provider} \| `(.*)` \|$", TestVendoring().text_of("README.md"))[1]
        url = re.search(r'(?:None|"), "(https://[^/]+)', code)[1]
        answer = grant(scope=["read"] if provider == "Twitch" else "read")  # Twitch's is a list
        with Server(answer, page()) as server:
            scope = {"OAuthSession": OAuthSession, "ID": "ID", "SECRET": "SECRET"}
            with eval(code.replace(url, server.url), scope) as session:
                session.get(server.url + "/api")
                assert session.source.token().scope == "read"

        _, headers, body = parsed(server.requests[0])
        basic = "Basic " + base64.b64encode(b"ID:SECRET").decode()
        assert dict(urllib.parse.parse_qsl(body.decode())) == {"grant_type": "client_credentials", **self.PROVIDERS[provider]}
        assert headers.get("authorization") == (None if provider == "Twitch" else basic)
        assert ("client-id" in parsed(server.requests[1])[1]) == (provider == "Twitch")


class Certificates:
    """Certificates for 127.0.0.1, each signed by itself, made by the `openssl` command."""

    def __init__(self, path):
        self.path = path
        (path / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=db\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n"
            "unique_subject=no\n[p]\ncommonName=supplied\n[req]\ndistinguished_name=n\n[n]\n")
        (path / "db").write_text("")
        (path / "serial").write_text("01\n")
        self._run("req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -config ca.cnf -subj /CN=test")
        for name, host, start, end in [
                ("good", "IP:127.0.0.1", "2020", "2049"), ("self-signed", "IP:127.0.0.1", "2020", "2049"),
                ("wrong-name", "DNS:other.example", "2020", "2049"), ("expired", "IP:127.0.0.1", "2020", "2021")]:
            (path / "extensions").write_text(f"subjectAltName={host}\nbasicConstraints=critical,CA:true\n")
            self._run(f"ca -batch -selfsign -config ca.cnf -in request.pem -keyfile key.pem -notext -out {name}.pem "
                      f"-startdate {start}0101000000Z -enddate {end}0101000000Z -extfile extensions")

    def _run(self, command):
        subprocess.run(["openssl", *command.split()], cwd=self.path, check=True, capture_output=True, timeout=60)

    def server(self, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(self.path / f"{name}.pem"), str(self.path / "key.pem"))
        return context

    def trusting(self, name):
        return ssl.create_default_context(cafile=str(self.path / f"{name}.pem"))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is missing: no certificates")
    return Certificates(tmp_path_factory.mktemp("certificates"))


# -- URLs: origins, loopback, the https rule, encoding ----------------------------------------------------------------


class Word(str, enum.Enum):
    """What str() of a member is not what goes out."""

    VALUE = "value"
    PURGE = "purge"


class TestURLs:
    """What is sent is what RFC 3986 allows, and no two readers take a host for different ones."""

    SENT = {  # path and query as a caller writes them: as they are sent
        "": "/", "/": "/", "?q": "/?q", "/a b": "/a%20b", "/\u00fc?\u00f6=\u00e4": "/%C3%BC?%C3%B6=%C3%A4", "/\U0001f600": "/%F0%9F%98%80",
        '/<>"{}|^`\\': "/%3C%3E%22%7B%7D%7C%5E%60%5C", '?<>"{}|^`\\': "/?%3C%3E%22%7B%7D%7C%5E%60%5C",
        "/[1]?a[]=[x]": "/%5B1%5D?a%5B%5D=%5Bx%5D", "/%20%zz%": "/%20%25zz%25", "/100%?p=5%&q=%4": "/100%25?p=5%25&q=%254",
        "/%c3%bc%2F%2f?%26": "/%c3%bc%2F%2f?%26", "/-._~!$&'()*+,;=:@": "/-._~!$&'()*+,;=:@",
        "/x?-._~!$&'()*+,;=:@/?": "/x?-._~!$&'()*+,;=:@/?", "//a//b/../c/.": "//a//b/../c/.", "/x?a=b+c#part?/": "/x?a=b+c",
        "/x#": "/x", "/a;b=c?http://u@h/": "/a;b=c?http://u@h/", "/\u2028\x85x": "/%E2%80%A8%C2%85x",
    }  # fmt: skip

    def test_what_a_uri_may_not_contain_is_percent_encoded_and_nothing_else(self):
        with Server(page()) as server, OAuthSession(source=TokenSource(lambda: Token("T0KEN"))) as session:
            for text in self.SENT:
                session.get(server.url + text)
                session.open(urllib.request.Request(server.url + text)).close()

        targets = [parsed(request)[0].split(" ")[1] for request in server.requests]
        assert targets == [target for target in self.SENT.values() for _ in range(2)]

    @pytest.mark.parametrize("host, says", [
        ("stra\u00dfe.example", "xn--"), ("STRA\u1e9eE.example", "xn--"), ("\u03b2\u03cc\u03bb\u03bf\u03c2.example", "xn--"),
        ("a\u200db.example", "xn--"), ("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.example", "xn--"),
        ("\U0001f600.example", "xn--"), ("\u2603.example", "xn--"), ("auth.example\uff0f.evil.example", "xn--"),
        ("auth.example\uff20evil.example", "xn--"), ("auth.example\uff1a1.evil.example", "xn--"), ("auth.example\u2044x.example", "xn--"),
        ("user@auth.example", "user name"), ("user:s3cret@auth.example", "user name"), ("auth%2eexample", "%"),
        ("auth.example\\.evil.example", ""), ("auth example", ""), ("auth..example", ""), (".auth.example", ""), ("", ""),
        ("a" * 64 + ".example", ""), ("[::1", ""), ("::1", ""), ("[::1%25eth0]", ""), ("auth.example:0", "port"), ("auth.example:65536", "port"),
        ("auth.example:x", ""), ("auth.example:\u0661", ""), ("auth.example\n", "control"), ("auth.example/\r\nX: y", "control"), ("auth.example/\0", "control"),
        ("\ud800.example", ""),
    ], ids=ascii)  # fmt: skip
    @pytest.mark.parametrize("name", ["token_url", "base_url"])
    def test_a_host_that_two_readers_could_take_for_different_ones_is_refused(self, name, host, says):
        settings = {"client_id": CLIENT, "client_secret": SECRET, "token_url": "https://auth.example", name: "https://" + host}
        with pytest.raises(ValueError, match=name) as caught:
            OAuthSession(**settings)

        assert says in str(caught.value)
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("url, allowed", [
        ("https://auth.example", True), ("HTTPS://AUTH.example", True), ("http://auth.example", False), ("HTTP://auth.example", False),
        ("http://localhost", True), ("http://LOCALHOST:8080/x", True), ("http://127.0.0.1", True), ("http://127.255.1.2:1", True),
        ("http://[::1]:1/", True), ("http://localhost.", False), ("http://localhost.example", False), ("http://a.localhost", False),
        ("http://127.0.0.1.example", False), ("http://127.1", False), ("http://127.0.0.256", False), ("http://128.0.0.1", False),
        ("http://0.0.0.0", False), ("http://127.00.0.1", False), ("http://[::2]", False), ("http://[::ffff:127.0.0.1]", False), ("http://2130706433", False),
        ("http://\uff11\uff12\uff17.0.0.1", True),  # the digits are those of 127
    ], ids=ascii)  # fmt: skip
    def test_http_is_for_loopback_or_with_allow_http(self, url, allowed):
        OAuthSession(CLIENT, SECRET, None, url, allow_http=True)
        if allowed:
            OAuthSession(CLIENT, SECRET, None, url)
        else:
            with pytest.raises(ValueError, match="token_url must start with https"):
                OAuthSession(CLIENT, SECRET, None, url)

    def test_text_of_the_caller_goes_out_as_it_is(self):
        headers = {"X-Bytes": b"a\xe9", "X-Latin": "\xe9", "X-Enum": Word.VALUE, b"X-Name": "n", Word.VALUE: "k"}
        with Server(page()) as server, OAuthSession(source=TokenSource(lambda: Token("T0KEN"))) as session:
            for method in ("propfind", b"Purge", Word.PURGE):
                session.request(method, server.url, headers=headers)

        seen = [parsed(request) for request in server.requests]
        assert [first.split(" ")[0] for first, _, _ in seen] == ["PROPFIND", "PURGE", "PURGE"]
        names = ("x-bytes", "x-latin", "x-enum", "x-name", "value")
        assert [seen[0][1][name] for name in names] == ["a\xe9", "\xe9", "value", "n", "k"]

    @pytest.mark.parametrize("value", [5, 1.5, True, ["a"], ("a",), bytearray(b"a"), {"a": "b"}], ids=repr)
    def test_a_header_that_is_neither_str_nor_bytes_sends_nothing(self, value):
        fetched = []
        with Server(page()) as server, OAuthSession(source=TokenSource(lambda: fetched.append(1) or Token("t"))) as session:
            with pytest.raises(TypeError, match="headers"):
                session.get(server.url, headers={"X-A": value})

        assert (fetched, server.accepted) == ([], 0)


# -- Transport: kept-alive connections, strict framing ----------------------------------------------------------------

CHUNKED = HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = HEAD_200 + b"Content-Length: "
HELLO = page("200 OK", b"hello")
SECOND = page("200 OK", b"second")
SMUGGLED = page("200 OK", b"smuggled")


def padded(headers):
    return HELLO.replace(b"\r\n", b"\r\n" + headers, 1)


READ = {  # answer, status, content, connections that two calls take (None: either)
    "length": (HELLO, 200, b"hello", 1), "length twice": (LENGTH + b"5\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", 1),
    "length listed": (LENGTH + b"5, 5\r\n\r\nhello", 200, b"hello", 1), "length 0": (page(), 200, b"", 1),
    "chunks": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello", 1),
    "chunk size in hex": (CHUNKED + b"0a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", 200, b"0123456789" * 2, 1),
    "chunk extension": (CHUNKED + b'5;a="b"\r\nhello\r\n0;c\r\n\r\n', 200, b"hello", 1),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n", 200, b"hello", 1),
    "length and chunks": (HEAD_200 + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, b"hello", 2),
    "HTTP/1.0": (HELLO.replace(b"1.1", b"1.0", 1), 200, b"hello", 2),
    "HTTP/1.0 to the end": ((b"HTTP/1.0 200 OK\r\n\r\nhello",), 200, b"hello", 2),
    "HTTP/1.1 to the end": ((HEAD_200 + b"\r\nhello",), 200, b"hello", 2),
    "Connection: close": (page("200 OK", b"hello", "Connection: x, Close"), 200, b"hello", 2),
    "no reason": (HELLO.replace(b" OK", b"", 1), 200, b"hello", 1), "empty reason": (HELLO.replace(b"OK", b"", 1), 200, b"hello", 1),
    "status 999": (HELLO.replace(b"200 OK", b"999 Odd", 1), 999, b"hello", 1),
    "204": (b"HTTP/1.1 204 None\r\n\r\n", 204, b"", 1), "204 with length": (b"HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n", 204, b"", 2),
    "204 and more": (b"HTTP/1.1 204 None\r\n\r\n" + SMUGGLED, 204, b"", 2),
    "304": (b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", 304, b"", 1),
    "304 and more": (b"HTTP/1.1 304 Same\r\n\r\n" + SMUGGLED, 304, b"", 2),
    "100 before": (b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, 200, b"hello", 1),
    "103 before": (b"HTTP/1.1 103 Hints\r\nLink: x\r\nContent-Length: 9\r\n\r\n" * 3 + HELLO, 200, b"hello", 1),
    "folded header": (HEAD_200 + b"X: a\r\n\tb\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", None),
    "bare LF": (HELLO.replace(b"\r\n", b"\n"), 200, b"hello", None), "10000 headers": (padded(b"X: y\r\n" * 10000), 200, b"hello", 1),
    "a header of 250 KiB": (padded(b"X: %s\r\n" % (b"y" * (250 << 10))), 200, b"hello", 1),
    "identity": ((HEAD_200 + b"Transfer-Encoding: Identity\r\n\r\nhello",), 200, b"hello", 2),
    "identity and length": (HEAD_200 + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", None),
    "HTTP/1.0 kept alive": (page("200 OK", b"hello", "Connection: keep-alive").replace(b"1.1", b"1.0", 1), 200, b"hello", 2),
    "HTTP/1.0 in chunks": (CHUNKED.replace(b"1.1", b"1.0", 1) + b"5\r\nhello\r\n0\r\n\r\n", 200, b"hello", 2),
    "close among headers": (page("200 OK", b"hello", "Connection: x", "connection: CLOSE"), 200, b"hello", 2),
    "no body, then close": (page("200 OK", b"", "Connection: close"), 200, b"", 2),
    "204 in chunks": (b"HTTP/1.1 204 None\r\nTransfer-Encoding: chunked\r\n\r\n", 204, b"", 1),
    "20 interim": (b"HTTP/1.1 103 Hints\r\n\r\n" * 20 + HELLO, 200, b"hello", 1),
    "chunk of size 000": (CHUNKED + b"5\r\nhello\r\n000\r\n\r\n", 200, b"hello", 1),
    "blanks after a chunk size": (CHUNKED + b"5 \t\r\nhello\r\n0\r\n\r\n", 200, b"hello", 1),
    "second answer": (HELLO + SMUGGLED, 200, b"hello", 2), "one byte more": (HELLO + b"\n", 200, b"hello", 2),
    "second answer after chunks": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED, 200, b"hello", 2),
}
REFUSED = {
    **{f"length {value[:9]!r}": LENGTH + value.encode("latin-1") + b"\r\n\r\nhello" for value in (
        "+5", "-5", "0_5", "0x5", "5.0", "5 5", "5;", "", "5,", "5, 6", "five", "\xb2", "9" * 19, "9" * 5000)},
    "two lengths": LENGTH + b"5\r\nContent-Length: 6\r\n\r\nhello!",
    **{f"chunk size {size[:17]!r}": CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n" for size in (
        b"-5", b"+5", b"0x5", b"", b"0_5", b" 5", b"g", b";a", b"5 5", b"F" * 17, b"5" * 5000, b"\xb2")},
    "chunk too long": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n", "chunk too short": CHUNKED + b"7\r\nhello\r\n0\r\n\r\n",
    **{f"coding {value}": HEAD_200 + b"Transfer-Encoding: " + value.encode() + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n" for value in (
        "gzip", "gzip, chunked", "chunked, chunked", "identity, chunked", "xchunked", "chunked;a", "")},
    "coding and length": HEAD_200 + b"Transfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    "no coding and length": HEAD_200 + b"Transfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello",
    "chunked twice": HEAD_200 + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "length and bad length": HEAD_200 + b"Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "trailers over 256 KiB": CHUNKED + b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 50000 + b"\r\n",
    "chunk extension over 256 KiB": CHUNKED + b"5;" + b"x" * (256 << 10) + b"\r\nhello\r\n0\r\n\r\n",
    "only a 100": (b"HTTP/1.1 100 Continue\r\n\r\n",),
    "bad trailer": CHUNKED + b"5\r\nhello\r\n0\r\nno colon\r\n\r\n", "101": b"HTTP/1.1 101 Up\r\nUpgrade: x\r\n\r\n" + HELLO,
    "21 interim": b"HTTP/1.1 103 Hints\r\n\r\n" * 21 + HELLO, "headers over 256 KiB": padded(b"X: y\r\n" * 50000),
    "a header over 256 KiB": padded(b"X: %s\r\n" % (b"y" * (256 << 10))),
    "status line over 256 KiB": HELLO.replace(b"OK", b"a" * (256 << 10), 1),
    **{f"status line {line!r}": line + b"\r\nContent-Length: 5\r\n\r\nhello" for line in (
        b"HTTP/1.1 2000 OK", b"HTTP/1.1 99 OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 2_0 OK", b"HTTP/1.1  200 OK", b"HTTP/2 200 OK",
        b"HTTP/1.12 200 OK", b"ICY 200 OK", b"http/1.1 200 OK", b"HTTP/1.1", b"HTTP/1.1 \xb2\xb2\xb2 OK", b"", b"220 smtp")},
    **{f"header {line!r}": HEAD_200 + line + b"\r\nContent-Length: 5\r\n\r\nhello" for line in (
        b"no colon", b": no name", b"A B: c", b"Content-Length : 5", b"X: a\0b", b"X: a\rContent-Length: 3", b" X: y", b"\xe9: x")},
    "nothing": (b"",), "half a head": (HEAD_200,), "half a body": (LENGTH + b"9\r\n\r\nhello",),
    "half a chunk": (CHUNKED + b"9\r\nhello",), "no last chunk": (CHUNKED + b"5\r\nhello\r\n",), "no end of trailers": (
        CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n",), "no chunks": (CHUNKED,), "reset": reset,
}


def unchunked(body):
    """The content of a request's body that came in chunks, all of which must be well-formed."""
    content = b""
    while not body.startswith(b"0\r\n"):
        size, _, body = body.partition(b"\r\n")
        size = int(size, 16)
        assert body[size:size + 2] == b"\r\n"
        content, body = content + body[:size], body[size + 2:]
    assert body == b"0\r\n\r\n"
    return content


class Early(Server):
    """Answers as soon as it has the head of a request."""

    complete = staticmethod(lambda request: b"\r\n\r\n" in request)


def through(sock):
    """What a proxy does once it has CONNECTed two sockets."""
    def pump(source, target):
        with contextlib.suppress(OSError):
            for data in iter(lambda: source.recv(65536), b""):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    upstream = socket.create_connection(("127.0.0.1", through.port), PATIENCE)
    with upstream:
        sock.sendall(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
        other = threading.Thread(target=pump, args=(upstream, sock), daemon=True)
        other.start()
        pump(sock, upstream)
        other.join(PATIENCE)


class TestTransport:
    """Connections are kept where that is safe, and no byte of a server is taken for what it is not."""

    @pytest.fixture
    def session(self):
        with OAuthSession(source=TokenSource(lambda: Token("T0KEN"))) as one:
            yield one

    @pytest.mark.parametrize("answer, status, content, connections", READ.values(), ids=READ)
    def test_answer_is_read_and_the_next_one_is_its_own(self, session, answer, status, content, connections):
        with Server(answer, SECOND) as server:
            first = session.get(server.url)
            second = session.get(server.url)

        assert (first.status, first.content, second.content) == (status, content, b"second")
        assert connections in (None, server.accepted)
        assert len(server.requests) == 2

    @pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED)
    def test_answer_is_refused_and_its_connection_closed(self, session, answer):
        with Server(answer, SECOND) as server:
            with pytest.raises(urllib.error.URLError) as caught:
                session.get(server.url)
            second = session.get(server.url)

        assert not isinstance(caught.value, (urllib.error.HTTPError, OAuthError))
        assert_hidden(caught.value, "T0KEN")
        assert (second.content, server.accepted, len(server.requests)) == (b"second", 2, 2)

    @pytest.mark.parametrize("answer", [CHUNKED + b"5\nhello\n0\n\n", CHUNKED + b"6\r\nhello\r\n0\r\n\r\n",
                                        CHUNKED + b"5;\nhello\r\n0\r\n\r\n"], ids=["all", "after the data", "extension"])
    def test_chunks_with_bare_line_feeds_are_refused_or_end_their_connection(self, session, answer):
        with Server(answer, SECOND) as server:
            with contextlib.suppress(urllib.error.URLError):
                session.get(server.url)
            second = session.get(server.url)

        assert (second.content, server.accepted) == (b"second", 2)

    @pytest.mark.parametrize("name", ["half a body", "half a chunk", "bad trailer", "chunk too long"])
    def test_open_reports_a_broken_body_as_url_error_too(self, session, name):
        with Server(REFUSED[name]) as server, pytest.raises(urllib.error.URLError):
            with session.open(server.url) as answer:
                answer.read()

    def test_folded_header_is_one_value(self, session):
        with Server(READ["folded header"][0]) as server:
            assert session.get(server.url).headers["X"] == "a b"

    @pytest.mark.parametrize("answer, connections", [
        (LENGTH + b"5\r\n\r\n", 1), (HEAD_200 + b"\r\n", 1), (HELLO, 2), (CHUNKED, 1)], ids=["length", "none", "body", "chunked"])
    def test_head_has_no_body_and_what_follows_is_never_taken(self, session, answer, connections):
        with Server(answer, SECOND) as server:
            first, second = session.head(server.url), session.get(server.url)

        assert (first.content, second.content, server.accepted) == (b"", b"second", connections)

    def test_hundred_calls_use_one_connection(self, session):
        with Server(HELLO) as server:
            for _ in range(100):
                session.get(server.url)

        assert (server.accepted, len(server.requests)) == (1, 100)

    def test_threads_share_the_kept_connections(self, session):
        with Server(HELLO) as server:
            for _ in range(5):
                assert [one.content for one in Crowd(8, lambda: session.get(server.url)).finish()] == [b"hello"] * 8

        assert server.accepted <= 8
        assert len(server.requests) == 40

    def test_close_drops_the_connections_and_the_session_goes_on(self, session):
        with Server(HELLO) as server:
            session.get(server.url)
            session.close()
            session.get(server.url)

        assert server.accepted == 2

    def test_connection_in_use_outlives_a_minute(self, clock, session):
        with Server(HELLO) as server:
            for _ in range(4):
                session.get(server.url)
                clock.move(40, 40)

        assert server.accepted == 1

    @pytest.mark.parametrize("wall, steady, connections", [(59, 59, 1), (61, 0, 2), (0, 61, 2), (-3600, 61, 2)])
    def test_idle_connection_is_dropped_after_a_minute_by_either_clock(self, clock, session, wall, steady, connections):
        with Server(HELLO) as server:
            session.get(server.url)
            clock.move(wall, steady)
            session.get(server.url)

        assert server.accepted == connections

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_connection_that_the_server_closed_meanwhile_is_replaced(self, session, method):
        with Server((HELLO,), SECOND) as server:
            session.get(server.url)
            server.threads[-1].join(PATIENCE)
            second = session.request(method, server.url)

        assert (second.content, server.accepted, len(server.requests)) == (b"second", 2, 2)

    def test_answer_that_comes_unasked_on_an_idle_connection_is_never_taken(self, session):
        done, sent = threading.Event(), threading.Event()

        def answer(sock):
            sock.sendall(HELLO)
            assert done.wait(PATIENCE)
            sock.sendall(SMUGGLED)
            sent.set()
            return b""

        with Server(answer, SECOND) as server:
            session.get(server.url)
            done.set()
            assert sent.wait(PATIENCE)
            second = session.get(server.url)

        assert (second.content, server.accepted) == (b"second", 2)

    @pytest.mark.parametrize("method, data, again", [
        ("GET", None, True), ("HEAD", None, True), ("OPTIONS", None, True), ("DELETE", None, True), ("PUT", b"x", True),
        ("POST", b"x", False), ("PATCH", b"x", False), ("POST", None, False), ("PUT", iter([b"x"]), False)],
        ids=["GET", "HEAD", "OPTIONS", "DELETE", "PUT", "POST", "PATCH", "empty POST", "PUT of an iterator"])
    def test_hang_up_on_a_kept_connection_is_tried_once_more_if_idempotent(self, session, method, data, again):
        with Server(HELLO, None, page()) as server:
            session.get(server.url)
            if again:
                assert session.request(method, server.url, data=data).status == 200
            else:
                with pytest.raises(urllib.error.URLError):
                    session.request(method, server.url, data=data)

        assert (len(server.requests), server.accepted) == ((3, 2) if again else (2, 1))

    def test_hang_up_is_tried_only_once_more(self, session):
        with Server(HELLO, None) as server:
            session.get(server.url)
            with pytest.raises(urllib.error.URLError):
                session.get(server.url)

        assert (len(server.requests), server.accepted) == (3, 2)

    @pytest.mark.parametrize("answers", [[None], [HELLO, (b"H",)]], ids=["on a new connection", "after the first byte"])
    def test_hang_up_is_no_reason_to_ask_again(self, session, answers):
        with Server(*answers, HELLO) as server:
            for _ in answers[1:]:
                session.get(server.url)
            with pytest.raises(urllib.error.URLError):
                session.get(server.url)

        assert (len(server.requests), server.accepted) == (len(answers), 1)

    @pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
    @pytest.mark.parametrize("begun", [b"", HEAD_200, LENGTH + b"9\r\n\r\nhello", CHUNKED + b"9\r\nhel"],
                             ids=["no answer", "half a head", "half a body", "half a chunk"])
    def test_time_out_is_a_url_error_and_not_tried_again(self, session, kept, begun):
        def stall(sock):
            sock.sendall(begun)
            sock.recv(1)

        with Server(*[HELLO] * kept, stall) as server:
            for _ in range(kept):
                session.get(server.url)
            with pytest.raises(urllib.error.URLError) as caught:
                session.get(server.url, timeout=0.1)

        assert isinstance(caught.value.reason, socket.timeout)
        assert (len(server.requests), server.accepted) == (1 + kept, 1)

    def test_the_time_out_of_one_call_is_not_that_of_the_next(self, session):
        go = threading.Event()
        with Server(HELLO, lambda sock: go.wait(PATIENCE) and SECOND) as server:
            session.get(server.url, timeout=0.05)
            timer = threading.Timer(0.2, go.set)
            timer.start()
            second = session.get(server.url)
            timer.join(PATIENCE)

        assert (second.content, server.accepted) == (b"second", 1)

    def test_nobody_listening_is_a_url_error(self, session):
        with Server() as server:
            pass

        with pytest.raises(urllib.error.URLError) as caught:
            session.get(server.url)

        assert isinstance(caught.value.reason, ConnectionRefusedError)

    def test_body_left_unread_does_not_reach_the_next_answer(self, session):
        with Server(page("200 OK", b"x" * 100000), SECOND) as server:
            with session.open(server.url) as answer:
                assert answer.read(10) == b"x" * 10
            second = session.get(server.url)

        assert (second.content, server.accepted) == (b"second", 2)

    def test_body_read_to_its_end_by_open_gives_the_connection_back(self, session):
        with Server(HELLO, SECOND) as server:
            with session.open(server.url) as answer:
                assert answer.read() == b"hello"
            session.get(server.url)

        assert server.accepted == 1

    def test_open_gives_an_event_when_it_is_sent(self, session):
        seen = threading.Event()

        def events(sock):
            sock.sendall(CHUNKED + b"9\r\ndata: 1\n\n\r\n")
            assert seen.wait(PATIENCE), "the client waits for more than was sent"
            return b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"

        with Server(events) as server, session.open(server.url) as answer:
            first = answer.readline()
            seen.set()
            rest = answer.read()

        assert (first, rest) == (b"data: 1\n", b"\ndata: 2\n\n")

    def test_small_body_leaves_with_its_head_and_large_ones_arrive_whole(self, session):
        with Server(HELLO) as server:
            for data in (b"small", b"x" * 3000000, iter([b"ab", b"", b"c" * 70000])):
                session.post(server.url, data=data)
            bodies = [parsed(one)[2] for one in server.requests]

        assert bodies[:2] == [b"small", b"x" * 3000000]
        assert unchunked(bodies[2]) == b"ab" + b"c" * 70000
        assert server.accepted == 1

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a reset takes the answer away with it")
    def test_answer_that_comes_during_an_upload_is_found(self, session):
        with Early((page("413 Too Large", b"no"),), SECOND) as server:
            response = session.post(server.url, data=b"x" * (32 << 20))
            second = session.get(server.url)

        assert (response.status, response.content) == (413, b"no")
        assert (second.content, server.accepted) == (b"second", 2)

    def test_reset_during_an_upload_is_a_url_error(self, session):
        with Early(reset) as server, pytest.raises(urllib.error.URLError):
            session.post(server.url, data=b"x" * (32 << 20))

        assert server.accepted == 1

    def test_gzip_that_unpacks_to_more_than_64_mib_is_a_url_error(self, session):
        pack = zlib.compressobj(9, zlib.DEFLATED, 31)
        bomb = b"".join([pack.compress(bytes(1 << 20)) for _ in range(65)]) + pack.flush()
        with Server(page("200 OK", bomb, "Content-Encoding: gzip")) as server:
            with pytest.raises(urllib.error.URLError, match="open"):
                session.get(server.url)

    def test_https_goes_through_one_tunnel_which_never_sees_the_token(self, certificates):
        source = TokenSource(lambda: Token("T0KEN"))
        with Server(HELLO, tls=certificates.server("good")) as api, Server(through) as proxy:
            through.port = int(api.place.rpartition(":")[2])
            handler = urllib.request.ProxyHandler({"https": "http://user:pass@" + proxy.place})
            with OAuthSession(source=source, handlers=[handler], context=certificates.trusting("good")) as session:
                contents = [session.get(api.url).content for _ in range(2)]

        first, headers, _ = parsed(proxy.requests[0])
        assert contents == [b"hello"] * 2
        assert (first, proxy.accepted, api.accepted) == (f"CONNECT {api.place} HTTP/1.1", 1, 1)
        assert headers["proxy-authorization"] == "Basic " + base64.b64encode(b"user:pass").decode()
        assert b"T0KEN" not in proxy.requests[0] and b"roxy" not in api.requests[0]
        assert parsed(api.requests[0])[1]["authorization"] == "Bearer T0KEN"

    @pytest.mark.parametrize("early", [page("413 Large", b"too large"), page("413 Large"), b""],
                             ids=["answers", "answers without a body", "is silent"])
    def test_server_that_stops_reading_is_asked_once_for_an_early_answer(self, session, early):
        def stall(sock):
            sock.sendall(early)
            server.closing.wait(PATIENCE)

        with Early(stall, SECOND) as server:
            try:
                seen = session.post(server.url, data=bytes(32 << 20), timeout=0.5).content
            except urllib.error.URLError as error:
                seen = str(error)
            second = session.get(server.url, timeout=PATIENCE / 2)

        silent = f"{server.url} took no more of the request: timed out"
        assert seen == (early.partition(b"\r\n\r\n")[2] if early else silent)
        assert (second.content, server.accepted) == (b"second", 2)  # half a body was sent on the first

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the reset may arrive before the alert")
    @pytest.mark.parametrize("size", [10, 200000])
    def test_alert_of_tls_is_what_the_error_says_however_much_was_being_sent(self, certificates, size):
        context = certificates.server("good")
        context.verify_mode = ssl.CERT_REQUIRED
        with Server(HELLO, tls=context) as server:
            with OAuthSession(source=TokenSource(lambda: Token("T0KEN")), context=certificates.trusting("good")) as session:
                with pytest.raises(urllib.error.URLError, match=r"(?i)alert|certificate required"):
                    session.post(server.url, data=bytes(size))

    @pytest.mark.parametrize("answer", [
        HELLO, page(), CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"HTTP/1.1 204 None\r\n\r\n", b"HTTP/1.1 304 Same\r\n\r\n",
    ], ids=["length", "length 0", "chunked", "204", "304"])  # fmt: skip
    def test_connection_that_the_caller_closes_is_not_used_again(self, session, answer):
        with Server(answer, SECOND) as server:
            session.get(server.url, headers={"connection": "Close"})
            second = session.post(server.url)

        assert parsed(server.requests[0])[1]["connection"] == "Close"
        assert (second.content, server.accepted) == (b"second", 2)

    WAYS = {  # of reading what open() returns
        "read": lambda answer: answer.read(), "read 3": lambda answer: list(iter(lambda: answer.read(3), b"")),
        "read1": lambda answer: list(iter(answer.read1, b"")), "readinto": lambda answer: list(iter(lambda: answer.readinto(bytearray(3)), 0)),
        "lines": list, "copy": lambda answer: shutil.copyfileobj(answer, io.BytesIO()),
    }  # fmt: skip

    @pytest.mark.parametrize("answer", [
        (LENGTH + b"9\r\n\r\nhello",), (CHUNKED + b"9\r\nhello",), (CHUNKED + b"5\r\nhello",), (CHUNKED + b"5\r\nhello\r\n",),
        (CHUNKED + b"5\r\nhello\r\n0\r\n",), CHUNKED + b"5\r\nhello\r\nx\r\n", CHUNKED + b"5\r\nhelloxx0\r\n\r\n",
    ], ids=["length", "chunk", "chunk without its end", "no last chunk", "trailers", "bad size", "bad end"])  # fmt: skip
    @pytest.mark.parametrize("way", WAYS)
    def test_body_that_is_cut_off_is_a_url_error_however_it_is_read(self, session, way, answer):
        with Server(answer) as server, session.open(server.url) as opened:
            with pytest.raises(urllib.error.URLError):
                self.WAYS[way](opened)

    @pytest.mark.parametrize("way", WAYS)
    def test_body_that_is_whole_ends_however_it_is_read(self, session, way):
        bodies = (LENGTH + b"6\r\n\r\nhel\nlo", CHUNKED + b"4\r\nhel\n\r\n2\r\nlo\r\n0\r\n\r\n")
        with Server(*bodies, SECOND) as server:
            for _ in bodies:
                with session.open(server.url) as opened:
                    self.WAYS[way](opened)
            second = session.get(server.url)

        assert (second.content, server.accepted) == (b"second", 1)

    @staticmethod
    def make_body(kind, path):
        """A body that sends b"hello"; None for a pipe's writing end."""
        (path / "file").write_bytes(b"12hello")
        with gzip.open(str(path / "packed"), "wb") as packed:
            packed.write(b"hello")
        if kind == "pipe":
            reading, writing = os.pipe()
            os.write(writing, b"hello")
            os.close(writing)
            return os.fdopen(reading, "rb")
        body = {
            "bytes": lambda: b"hello", "bytearray": lambda: bytearray(b"hello"), "memoryview": lambda: memoryview(b"hello"),
            "BytesIO": lambda: io.BytesIO(b"12hello"), "file": lambda: open(str(path / "file"), "rb"),
            "unbuffered file": lambda: open(str(path / "file"), "rb", 0), "file for both": lambda: open(str(path / "file"), "r+b"),
            "generator": lambda: (b"%c" % letter for letter in b"hello"), "list": lambda: [b"hel", b"", b"lo"],
            "GzipFile": lambda: gzip.open(str(path / "packed")),
        }[kind]()  # fmt: skip
        if hasattr(body, "seek") and kind != "GzipFile":
            body.seek(2)
        return body

    @pytest.mark.parametrize("kind, known", [
        ("bytes", True), ("bytearray", True), ("memoryview", True), ("BytesIO", True), ("file", True), ("unbuffered file", True), ("file for both", True),
        ("generator", False), ("list", False), ("GzipFile", False), ("pipe", False),
    ])  # fmt: skip
    @pytest.mark.parametrize("said", [None, "5", "3", "9"], ids=["nothing said", "said", "said too little", "said too much"])
    def test_content_length_is_that_of_the_body_where_it_is_known(self, session, tmp_path, kind, known, said):
        body, headers = self.make_body(kind, tmp_path), {"Content-Length": said} if said else {}
        wrong = not known and said in ("3", "9")
        with Server(page()) as server, contextlib.ExitStack() as stack:
            if hasattr(body, "close"):
                stack.callback(body.close)
            request = urllib.request.Request(server.url, body, headers)
            if wrong:
                with pytest.raises(ValueError, match="Content-Length"):
                    session.open(request)
                assert server.requests == [] or said == "3"  # so much of it may have been sent
                assert session.get(server.url).status == 200
                assert server.accepted == 2
                return
            session.open(request).close()

        _, headers, content = parsed(server.requests[0])
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        assert (length, coding) == (("5", None) if known or said else (None, "chunked"))
        assert (unchunked(content) if coding else content) == b"hello"

    @pytest.mark.parametrize("method, length", [("GET", None), ("DELETE", None), ("POST", "0"), ("PUT", "0"), ("PATCH", "0")])
    def test_no_body_has_a_length_where_a_method_expects_one(self, session, method, length):
        with Server(page()) as server:
            session.request(method, server.url)

        headers = parsed(server.requests[0])[1]
        assert (headers.get("content-length"), headers.get("transfer-encoding")) == (length, None)

    @pytest.mark.parametrize("usable", [True, False], ids=["another works", "none works"])
    def test_an_address_family_that_this_machine_lacks_is_skipped_and_names_are_str(self, session, monkeypatch, usable):
        real, asked = socket.getaddrinfo, []

        def getaddrinfo(host, port, *more):
            asked.append(host)
            strange = (250, socket.SOCK_STREAM, 0, "", ("?", 1))  # no system has this family
            return [strange, *(real("127.0.0.1", port, *more) if usable else [])]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with Server(HELLO) as server:
            url = server.url.replace("127.0.0.1", "localhost")
            if usable:
                assert session.get(url).content == b"hello"
            else:
                with pytest.raises(urllib.error.URLError, match="localhost"):
                    session.get(url)

        assert [(type(host), host) for host in asked] == [(str, "localhost")]

    def test_a_dead_address_is_followed_by_the_next_one(self, session, monkeypatch):
        real = socket.getaddrinfo
        with Server() as dead:
            pass
        dead_port = int(dead.place.rpartition(":")[2])
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *more: [*real(host, dead_port, *more), *real(host, port, *more)])
        with Server(HELLO) as server:
            assert session.get(server.url).content == b"hello"

    # Proxies

    def through_proxy(self, proxy, how, monkeypatch, call):
        """The error of a call through a proxy, which is one of the environment or of a handler."""
        settings = {"allow_http": True, "timeout": 1.0}  # only a silent server makes a call last that long
        if how == "environment":
            monkeypatch.setenv("https_proxy", proxy)
            monkeypatch.setenv("http_proxy", proxy)
        else:
            settings["handlers"] = [urllib.request.ProxyHandler({"https": proxy, "http": proxy})]
        if call == "token":
            settings.update(client_id=CLIENT, client_secret=SECRET, token_url="https://127.0.0.1:1/token")
        else:
            settings["source"] = TokenSource(lambda: Token("T0KEN"))
        with OAuthSession(**settings) as session, pytest.raises(urllib.error.URLError) as caught:
            session.source.token()
            session.get("http://api.example/" if call == "http" else "https://127.0.0.1:1/")
        assert isinstance(caught.value, oauth_session.OAuthTransportError) == (call == "token")
        assert not isinstance(caught.value, urllib.error.HTTPError)
        assert_hidden(caught.value, "T0KEN", SECRET, "pr0xy-pass", base64.b64encode(b"user:pr0xy-pass").decode())
        return str(caught.value)

    @pytest.mark.parametrize("call", ["API", "http", "token"])
    @pytest.mark.parametrize("how", ["environment", "handler"])
    @pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS4", "https"])
    def test_proxy_that_is_not_spoken_to_in_http_is_refused_before_a_byte_is_sent(self, monkeypatch, scheme, how, call):
        with Server(page("502 No")) as proxy:
            text = self.through_proxy(f"{scheme}://user:pr0xy-pass@{proxy.place}", how, monkeypatch, call)

        assert proxy.accepted == 0
        assert f"the proxy {scheme}://{proxy.place} cannot be used" in text and "http://host:port" in text

    @pytest.mark.parametrize("call", ["API", "http", "token"])
    @pytest.mark.parametrize("answer, says", [
        ("dead", "gave no answer: "), (lambda sock: sock.recv(1) and None, "gave no answer: timed out"), (None, "gave no answer: "),
    ], ids=["dead", "silent", "hanging up"])  # fmt: skip
    def test_proxy_that_gives_no_answer_is_named(self, monkeypatch, clock_of_retries, answer, says, call):
        with Server(answer) as proxy:
            if answer == "dead":
                proxy.__exit__()
            text = self.through_proxy(f"http://user:pr0xy-pass@{proxy.place}", "environment", monkeypatch, call)

        assert f"the proxy http://{proxy.place} {says}" in text
        assert not any(b"T0KEN" in one for one in proxy.requests if one.startswith(b"CONNECT"))

    @pytest.mark.parametrize("call", ["API", "token"])
    @pytest.mark.parametrize("answer, says", [
        (page("407 Who?"), "it answered 407 Proxy Authentication Required to CONNECT 127.0.0.1:1; if it asks for a password"),
        (page("407 Who?", b"page"), "it answered 407 "), (page("502 No"), "it answered 502 Bad Gateway to CONNECT 127.0.0.1:1"),
        (page("302 Go", b"", "Location: http://evil.example/"), "it answered 302 Found"),
        (b"HTTP/1.1 200 OK\r\n\r\nsmuggled", "it answered 200 OK"), (b"nonsense\r\n\r\n", "it does not begin as HTTP/1.1 does"),
        (HEAD_200 + b"no colon\r\n\r\n", "a header line that is none"),
    ], ids=["407", "407 with a page", "502", "302", "more than asked", "nonsense", "bad header"])  # fmt: skip
    def test_proxy_that_gives_no_tunnel_is_named_with_its_answer(self, monkeypatch, clock_of_retries, answer, says, call):
        with Server(answer) as proxy:
            text = self.through_proxy(f"http://user:pr0xy-pass@{proxy.place}", "environment", monkeypatch, call)

        assert f"the proxy http://{proxy.place} cannot be used: {says}" in text
        assert all(one.startswith(b"CONNECT 127.0.0.1:1 ") and b"T0KEN" not in one for one in proxy.requests)

    @pytest.fixture
    def clock_of_retries(self, monkeypatch):
        """Let the pauses between tries of a token request last no time."""
        monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def test_server_behind_a_proxy_that_hangs_up_is_named_and_not_the_proxy(self, monkeypatch):
        with Server(None) as server, Server(through) as proxy:
            server.complete = bool  # whatever has come of a handshake
            through.port = int(server.place.rpartition(":")[2])
            text = self.through_proxy("http://" + proxy.place, "environment", monkeypatch, "API")

        assert "https://127.0.0.1:1 gave no answer" in text and "the proxy" not in text

    def test_proxy_that_no_url_can_name_is_a_value_error(self):
        handler = urllib.request.ProxyHandler({"https": "http://127.0.0.1:port"})
        with OAuthSession(source=TokenSource(lambda: Token("T0KEN")), handlers=[handler]) as session:
            with pytest.raises(ValueError, match="the proxy"):
                session.get("https://127.0.0.1:1/")

    def test_demo_api_challenges_the_token_that_it_refuses_whatever_the_method(self):
        with oauth_session.DemoServer() as server:
            with OAuthSession(source=TokenSource(lambda: Token("T0KEN"))) as session:
                for method in ("GET", "POST"):
                    with pytest.raises(OAuthInvalidToken):
                        session.request(method, server.url).raise_for_status()

    def test_session_that_is_dropped_without_close_warns_of_nothing(self):
        done = program("""
            import gc
            from oauth_session import DemoServer, OAuthSession
            with DemoServer() as server:
                def use():
                    session = OAuthSession(server.client_id, server.client_secret, "read", server.token_url)
                    print(session.get(server.url).status)
                    session._again = session  # a cycle, for the garbage collector
                use()
                gc.collect()
                kept = OAuthSession(server.client_id, server.client_secret, "read", server.token_url)
                print(kept.get(server.url).status)
        """)

        assert done == (0, b"200\n200\n", b"")

    @needs_fork
    @pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
    def test_child_of_a_fork_shares_no_connection(self, request, tls):
        certificates = request.getfixturevalue("certificates") if tls else None
        context = certificates.trusting("good") if tls else None
        with Server(HELLO, tls=certificates.server("good") if tls else None) as server:
            with OAuthSession(source=TokenSource(lambda: Token("T0KEN")), context=context) as session:
                session.get(server.url)
                status = forked(lambda: session.get(server.url).content == b"hello")
                after = session.get(server.url).content

        assert (status, after, server.accepted, len(server.requests)) == (0, b"hello", 2, 3)

    @needs_fork
    def test_child_of_a_fork_in_the_middle_of_a_call_works(self, session):
        gate = Gate(HELLO)
        with Server(lambda sock: gate(), SECOND) as server:
            crowd = Crowd(1, lambda: session.get(server.url).content)
            gate.reached()
            status = forked(lambda: session.get(server.url).content == b"second")
            gate.go.set()

            assert crowd.finish() == [b"hello"]
            assert session.get(server.url).content == b"second"

        assert (status, server.accepted) == (0, 2)


# -- TLS: one context, the hashed directory first, the API's connection opened ahead ----------------------------------

NAMES = "DNS:api.test,DNS:auth.test,DNS:localhost,IP:127.0.0.1"


class Authorities(Certificates):
    """Three authorities: `hashed` is in the directory, `bundle` in the bundle only, `unknown` in neither."""

    def __init__(self, path):
        super().__init__(path)
        self.directory, self.bundle = path / "directory", path / "bundle-ca.pem"
        self.directory.mkdir()
        for name in ("hashed", "bundle", "unknown"):
            (path / "extensions").write_text(
                "basicConstraints=critical,CA:true\nsubjectKeyIdentifier=hash\nkeyUsage=critical,keyCertSign\n")
            self._run(f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.req -config ca.cnf -subj /CN={name}")
            self._run(f"ca -batch -selfsign -config ca.cnf -in {name}.req -keyfile {name}.key -notext -out {name}-ca.pem "
                      "-startdate 20200101000000Z -enddate 20490101000000Z -extfile extensions")
        for name, issuer, host, end in [
                ("hashed", "hashed", NAMES, "2049"),
                ("bundle", "bundle", NAMES, "2049"),
                ("unknown", "unknown", "IP:127.0.0.1", "2049"), ("past", "hashed", "IP:127.0.0.1", "2021"),
                ("other-name", "hashed", "DNS:other.example", "2049")]:
            (path / "extensions").write_text(f"subjectAltName={host}\nauthorityKeyIdentifier=keyid\n")
            self._run(f"ca -batch -config ca.cnf -in request.pem -cert {issuer}-ca.pem -keyfile {issuer}.key -notext "
                      f"-out {name}.pem -startdate 20200101000000Z -enddate {end}0101000000Z -extfile extensions")
        found = subprocess.run(["openssl", "x509", "-subject_hash", "-noout", "-in", str(path / "hashed-ca.pem")],
                               check=True, stdout=subprocess.PIPE, timeout=60).stdout.decode().strip()
        shutil.copy(str(path / "hashed-ca.pem"), str(self.directory / (found + ".0")))


@pytest.fixture(scope="session")
def authorities(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is missing: no certificates")
    return Authorities(tmp_path_factory.mktemp("authorities"))


@pytest.fixture
def system(authorities, monkeypatch):
    """A system with a hashed directory and a default bundle; also what is done with contexts on the client's side."""
    monkeypatch.setenv("SSL_CERT_DIR", str(authorities.directory))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    os.putenv("SSL_CERT_FILE", str(authorities.bundle))  # OpenSSL sees it, os.environ does not: as a built-in default
    authorities.used, authorities.loads, authorities.made = [], [], []
    wrap, load, make = ssl.SSLContext.wrap_socket, ssl.SSLContext.load_default_certs, ssl.create_default_context

    def wrap_socket(context, sock, server_side=False, **options):
        if not server_side:
            authorities.used.append(context)
        return wrap(context, sock, server_side=server_side, **options)

    def create_default_context(*arguments, **options):
        authorities.made.append(make(*arguments, **options))
        return authorities.made[-1]

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap_socket)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *a: (authorities.loads.append(a[0]), load(*a)))
    monkeypatch.setattr(ssl, "create_default_context", create_default_context)
    yield authorities
    os.unsetenv("SSL_CERT_FILE")


def static(**settings):
    return OAuthSession(source=TokenSource(lambda: Token("T0KEN")), timeout=PATIENCE, **settings)


def refusal(action):
    """The code with which OpenSSL refuses a certificate; None if it does not."""
    try:
        action()
        return None
    except OSError as error:
        while not isinstance(error, ssl.SSLCertVerificationError):
            error = error.__cause__
        return error.verify_code


def by_default(server):
    def connect():
        place = ("127.0.0.1", int(server.place.rpartition(":")[2]))
        with socket.create_connection(place, PATIENCE) as sock:
            ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1").close()
    return refusal(connect)


def by_api(server):
    with static() as session:
        return refusal(lambda: session.get(server.url))


class TestCertificates:
    """The verdict is that of Python's default context, whatever was loaded for it."""

    @pytest.mark.parametrize("call", [by_api, lambda server: refusal(credentials(server))], ids=["API", "token endpoint"])
    @pytest.mark.parametrize("name, code", [
        ("hashed", None), ("bundle", None), ("unknown", 20), ("past", 10), ("other-name", 64)], ids=str)
    def test_verdict_is_that_of_the_default_context(self, system, name, code, call):
        with Server(grant(), tls=system.server(name)) as server:
            assert by_default(server) == code
            system.loads.clear()
            assert call(server) == code

        assert len(system.loads) == (name != "hashed")
        assert len(server.requests) == (code is None)

    def test_hashed_directory_suffices_for_what_is_in_it(self, system):
        with Server(HELLO, tls=system.server("hashed")) as server, static() as session:
            assert session.get(server.url).content == b"hello"

        assert (system.loads, server.accepted) == ([], 1)
        assert [one.cert_store_stats()["x509"] for one in system.used] == [1]

    def test_default_certificates_are_loaded_once(self, system):
        with Server(HELLO, tls=system.server("unknown")) as bad, Server(HELLO, tls=system.server("bundle")) as good:
            with static() as session:
                assert [refusal(lambda: session.get(one.url)) for one in (bad, bad, good, bad)] == [20, 20, None, 20]

        assert (len(system.loads), len(system.made)) == (1, 1)
        assert (bad.accepted, good.accepted) == (4, 1)  # only the first is worth another try

    @pytest.mark.parametrize("content", [None, "notes.txt", "0123abcg.0"], ids=["missing", "no hashes", "no hash"])
    def test_without_hashed_directory_the_bundle_is_loaded_at_once(self, system, monkeypatch, tmp_path, content):
        (tmp_path / (content or "x")).write_text("x")
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path if content else tmp_path / "none"))
        with Server(HELLO, tls=system.server("bundle")) as server, static() as session:
            assert session.get(server.url).content == b"hello"

        assert (len(system.loads), server.accepted) == (1, 1)

    @pytest.mark.parametrize("variable, name, trusted", [
        ("SSL_CERT_FILE", "bundle", True), ("SSL_CERT_FILE", "unknown", False),
        ("SSL_CERT_DIR", "hashed", True), ("SSL_CERT_DIR", "unknown", False)])
    def test_the_environment_is_honoured(self, authorities, monkeypatch, variable, name, trusted):
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        monkeypatch.setenv("SSL_CERT_DIR", str(authorities.path / "none"))
        monkeypatch.setenv(variable, str(authorities.bundle if variable == "SSL_CERT_FILE" else authorities.directory))
        with Server(HELLO, tls=authorities.server(name)) as server:
            done = program(f"""
                import ssl, urllib.error
                from oauth_session import OAuthSession, Token, TokenSource
                with OAuthSession(source=TokenSource(lambda: Token("T0KEN")), timeout=30) as session:
                    try:
                        print(session.get("{server.url}").text)
                    except urllib.error.URLError as error:
                        print(error.reason.verify_code)
            """)

        assert done == (0, b"hello\n" if trusted else b"20\n", b"")

    def test_context_of_the_user_is_never_changed(self, system):
        given = ssl.create_default_context(capath=str(system.directory))
        given.minimum_version = ssl.TLSVersion.TLSv1_3
        names = ("minimum_version", "maximum_version", "options", "verify_flags", "verify_mode", "check_hostname")
        before = [getattr(given, name) for name in names]
        with Server(grant(), tls=system.server("bundle")) as server, static(context=given) as session:
            codes = [refusal(lambda: session.get(server.url)), refusal(credentials(server, context=given))]

        assert (codes, system.loads, server.accepted) == ([20, 20], [], 2)
        assert system.used == [given] * 2 and system.made == [given]
        assert [getattr(given, name) for name in names] == before
        assert given.cert_store_stats()["x509"] == 0

    @pytest.mark.parametrize("policy, minimum", [("MINIMUM_SUPPORTED", "TLSv1_2"), ("TLSv1_2", "TLSv1_2"), ("TLSv1_3", "TLSv1_3")])
    def test_tls_is_1_2_or_what_a_stricter_system_wants(self, system, monkeypatch, policy, minimum):
        make = ssl.create_default_context

        def create_default_context(*arguments, **options):
            context = make(*arguments, **options)
            context.minimum_version = ssl.TLSVersion[policy]
            return context

        monkeypatch.setattr(ssl, "create_default_context", create_default_context)
        with Server(HELLO, tls=system.server("hashed")) as server, static() as session:
            session.get(server.url)

        assert [one.minimum_version for one in system.used] == [ssl.TLSVersion[minimum]]

    def test_api_and_token_endpoint_share_one_context(self, system):
        tls = system.server("hashed")
        with Server(HELLO, tls=tls) as api, Server(grant(), tls=tls) as auth:
            with OAuthSession(CLIENT, SECRET, "read", auth.url + "/token", timeout=PATIENCE) as session:
                assert system.made == []
                assert session.get(api.url).content == b"hello"

        assert len(system.used) == 2 and len(set(system.used)) == len(system.made) == 1

    def test_threads_that_begin_at_once_are_both_served_and_leave_one_context(self, system, monkeypatch):
        make, both = ssl.create_default_context, threading.Barrier(2)

        def create_default_context(*arguments, **options):
            with contextlib.suppress(threading.BrokenBarrierError):  # broken where a second thread has to wait
                both.wait(0.5)
            return make(*arguments, **options)

        monkeypatch.setattr(ssl, "create_default_context", create_default_context)
        with Server(HELLO, tls=system.server("bundle")) as server, static() as session:
            session.source.token()
            contents = Crowd(2, lambda: session.get(server.url).content).finish()
            made = len(system.made)
            for _ in range(2):
                session.close()
                contents.append(session.get(server.url).content)

        assert contents == [b"hello"] * 4
        assert len(system.made) == made and len(set(system.used[-2:])) == 1

    ADVICE = [("expired", "has expired", "renew"), ("wrong-name", "not valid for '127.0.0.1'", "the host in the URL"),
              ("self-signed", "self", "load_verify_locations")]  # certificate, what OpenSSL says, what to check

    @pytest.mark.parametrize("call", ["API", "token endpoint"])
    @pytest.mark.parametrize("name, reason, advice", ADVICE, ids=["expired", "wrong host", "unknown CA"])
    def test_refused_certificate_is_told_with_its_reason_and_advice_that_fits_it(self, certificates, name, reason, advice, call):
        context = None if name == "self-signed" else certificates.trusting(name)
        with Server(grant(), tls=certificates.server(name)) as server:
            with static(context=context) as session, pytest.raises(urllib.error.URLError) as caught:
                session.get(server.url) if call == "API" else credentials(server, context=context)()

        text = str(caught.value)
        assert "certificate" in text and server.place in text and reason in text
        assert [other for _, _, other in self.ADVICE if other in text] == [advice]
        assert server.requests == []

    @pytest.mark.parametrize("call", ["API", "token endpoint"])
    def test_context_that_verifies_by_itself_needs_no_attributes_of_openssl(self, certificates, call):
        class Pinning(ssl.SSLContext):
            def wrap_socket(self, *arguments, **options):
                super().wrap_socket(*arguments, **options).close()
                raise ssl.CertificateError("the key is not the pinned one")

        context = Pinning(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(str(certificates.path / "good.pem"))
        with Server(grant(), tls=certificates.server("good")) as server:
            with static(context=context) as session, pytest.raises(urllib.error.URLError) as caught:
                session.get(server.url) if call == "API" else credentials(server, context=context)()

        assert isinstance(caught.value, oauth_session.OAuthTransportError) == (call == "token endpoint")
        assert "certificate" in str(caught.value) and "the key is not the pinned one" in str(caught.value)
        assert (server.accepted, server.requests) == (1, [])

    def test_trailing_dot_of_a_host_stays_out_of_sni_and_of_the_check(self, authorities, monkeypatch):
        real, asked, named = socket.getaddrinfo, [], []
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more: (asked.append(host), real("127.0.0.1", *more))[1])
        tls = authorities.server("hashed")
        tls.sni_callback = lambda sock, name, context: named.append(name)
        with Server(HELLO, tls=tls) as server, static(context=authorities.trusting("hashed-ca")) as session:
            for host in ("api.test.", "API.Test"):
                assert session.get(server.url.replace("127.0.0.1", host)).content == b"hello"

        assert named == ["api.test"] * 2
        assert [(type(host), host.lower()) for host in asked] == [(str, "api.test."), (str, "api.test")]

    def test_connection_that_has_session_tickets_to_read_is_used_again(self, certificates):
        with Server(HELLO, tls=certificates.server("good")) as server, static(context=certificates.trusting("good")) as session:
            contents = [session.get(server.url).content for _ in range(3)]

        assert (contents, server.accepted) == ([b"hello"] * 3, 1)

    def test_context_is_made_neither_at_import_nor_at_construction_nor_for_http(self):
        assert program("""
            import ssl
            make = ssl.create_default_context
            ssl.create_default_context = lambda *a, **k: (print("made"), make(*a, **k))[1]
            from urllib.error import URLError
            from oauth_session import DemoServer, OAuthSession
            OAuthSession("id", "secret", "read", "https://auth.test/token").close()
            with DemoServer() as server:
                with OAuthSession(server.client_id, server.client_secret, "read", server.token_url) as session:
                    print(session.get(server.url).status)
                    try:
                        session.get(server.url.replace("http", "https"))
                    except URLError:
                        print("no TLS")
        """) == (0, b"200\nmade\nno TLS\n", b"")


class Retry(urllib.request.BaseHandler):
    """A user's handler that opens a request again, as some do after a 503."""

    def http_error_503(self, request, fp, code, msg, headers):
        fp.close()
        return self.parent.open(request, timeout=request.timeout)


class TestHostile:
    """What was found by attacking the file, and must stay closed."""

    TOKEN = "tok-SECRET-1"

    def session(self, **settings):
        return OAuthSession(source=TokenSource(lambda: Token(self.TOKEN)), timeout=10.0, **settings)

    def test_what_a_tls_record_holds_beyond_an_answer_is_not_the_next_one(self, certificates):
        def first(sock):
            sock.sendall(LENGTH + b"5\r\n\r\n")
            threading.Event().wait(0.2)  # so that the body and what follows it share a record of their own
            return HELLO.partition(b"\r\n\r\n")[2] + SMUGGLED

        with Server(first, SECOND, tls=certificates.server("good")) as server:
            with self.session(context=certificates.trusting("good")) as session:
                texts = [session.get(server.url).text for _ in range(2)]

        assert (texts, server.accepted) == (["hello", "second"], 2)

    @pytest.mark.parametrize("handler", [
        urllib.request.HTTPRedirectHandler(), Retry(),
        urllib.request.ProxyBasicAuthHandler(urllib.request.HTTPPasswordMgrWithDefaultRealm()),
    ], ids=lambda handler: type(handler).__name__)
    def test_no_other_handler_takes_the_token_along(self, handler):
        if hasattr(handler, "passwd"):
            handler.passwd.add_password(None, "127.0.0.1", "user", "password")
        again = {"Retry": page("503 Busy"), "ProxyBasicAuthHandler": page("407 Who?", b"", 'Proxy-Authenticate: Basic realm="r"')}
        with Server(*filter(None, [again.get(type(handler).__name__)]), HELLO) as other:
            with Server(page("302 Found", b"", f"Location: {other.url}/")) as api, self.session(handlers=[handler]) as session:
                session.get(api.url)

        assert other.requests and not any(self.TOKEN.encode() in request for request in other.requests)
        assert self.TOKEN.encode() in api.requests[0]

    @pytest.mark.parametrize("answer", [
        TOKEN.encode() + b" hello\r\n\r\n",
        page("401 No", b"", f'WWW-Authenticate: Bearer error_description="{TOKEN}"', f"{TOKEN}: 1", f"X: {TOKEN}"),
        page("302 Found", b"", f"Location: ftp://x/{TOKEN}"),
    ], ids=["first line", "challenge", "location"])
    def test_an_echoed_token_is_in_no_exception(self, answer):
        with Server(answer) as api, self.session() as session, pytest.raises(urllib.error.URLError) as caught:
            session.open(api.url)

        assert_hidden(caught.value, self.TOKEN)
        assert self.TOKEN not in str(getattr(caught.value, "headers", ""))

    def test_a_token_from_before_the_replay_is_masked_too(self):
        names = itertools.count(1)
        source = TokenSource(lambda: Token(f"tok-{next(names)}-x"))
        refusal = page("401 No", b"", 'WWW-Authenticate: Bearer error="invalid_token", error_description="tok-1-x tok-2-x"')
        with Server(refusal) as api, OAuthSession(source=source) as session, pytest.raises(OAuthInvalidToken) as caught:
            session.get(api.url).raise_for_status()

        assert "error_description='*** ***'" in str(caught.value)
        assert len(api.requests) == 2

    @pytest.mark.parametrize("write", [
        str, str.upper, lambda text: urllib.parse.quote(text, ""), lambda text: urllib.parse.quote(text, "").lower(),
        urllib.parse.quote_plus, html.escape, lambda text: json.dumps(text)[1:-1], lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.b64encode(f"c:{urllib.parse.quote(text, '')}".encode()).decode().rstrip("="),
    ], ids=["as it is", "capitals", "percent", "percent in lower case", "form", "HTML", "JSON", "base64", "Basic"])  # fmt: skip
    def test_an_echoed_secret_is_masked_in_its_usual_spellings(self, write, caplog):
        caplog.set_level(logging.DEBUG)
        secret = "pa/ss <w>&o\"r'd é%+="
        echo = write(secret)
        fields = {"error_description": f"you sent {echo}!", "error_uri": f"https://x.example/?{echo}"}
        with Server(error_page("400 No", echo, **fields), grant(token_type=echo, scope=echo)) as server:
            fetch = ClientCredentials("c", secret, None, server.url, auth_method="client_secret_basic")
            with pytest.raises(OAuthResponseError) as caught:
                fetch()
            token = fetch()

        error = caught.value
        assert (error.error, error.error_description, error.error_uri) == ("***", "you sent ***!", "https://x.example/?***")
        assert_hidden(error, secret, echo, log=repr(token) + caplog.text)

    @pytest.mark.parametrize("body", [
        b"you sent s3cret-1", '{"msg": "s3cret-1"}'.encode("utf-16"), b'{"access_token": "s3cret-1\\ud800"}',
        b'{"access_token": ["s3cret-1"]}',
    ], ids=["text", "UTF-16", "half a character", "list"])  # fmt: skip
    @pytest.mark.parametrize("status", ["404 No", "200 OK"])
    def test_a_secret_is_in_no_message_whatever_the_body(self, status, body):
        with Server(page(status, body, "X-Echo: s3cret-1")) as server, pytest.raises(OAuthError) as caught:
            credentials(server, secret="s3cret" + "-1", auth_method="client_secret_post")()

        assert_hidden(caught.value, "s3cret-1", "s 3 c r e t - 1", "s\0003\000c")

    def test_folded_lines_cost_no_more_time_than_others(self):
        head = b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nX:" + b" " * 60_000 + b"y\r\nContent-Length: 0\r\n\r\n"
        with Server(head) as server, self.session() as session:
            begun = time.process_time()
            for _ in range(20):
                assert session.get(server.url).status == 200
            assert time.process_time() - begun < PATIENCE  # with a regular expression that goes back it was 80 s

    @pytest.mark.parametrize("settings", [
        {"method": 5}, {"headers": {"Content-Length": 5}}, {"headers": {"X-Number": 5}}, {"headers": {"X-None": None}},
    ], ids=str)
    def test_a_request_with_odd_types_is_refused(self, settings):
        with Server(HELLO) as server, self.session() as session:
            with pytest.raises(TypeError):
                session.open(urllib.request.Request(server.url, **settings))

        assert server.accepted == 0

    @pytest.mark.parametrize("call, words", [
        ({"params": 3}, "params must be"), ({"params": ["a", "b"]}, "params must be"),
        ({"data": [{"a": 1}]}, "data .*json=.*must be"), ({"data": ["a"]}, "data .*json=.*must be"), ({"parms": {}}, "parms"),
    ])  # fmt: skip
    def test_what_cannot_be_sent_is_said_before_a_token_is_fetched(self, call, words):
        fetched = []
        session = OAuthSession(source=TokenSource(lambda: fetched.append(1) or Token("t")))

        with pytest.raises(TypeError, match=words):
            session.request("POST", "http://127.0.0.1:1/", **call)

        assert fetched == []

    def test_a_changed_time_out_counts_for_the_next_token_request_too(self):
        with Server(lambda sock: sock.recv(1) and None) as silent:
            session = OAuthSession("c", "s", None, silent.url, timeout=60.0)
            session.timeout = 0.3
            begun = time.monotonic()
            with pytest.raises(oauth_session.OAuthTransportError):
                session.source.token()

        assert time.monotonic() - begun < PATIENCE

    def test_a_reason_that_echoes_tokens_is_replaced_by_the_standard_one(self):
        names = itertools.count(1)
        source = TokenSource(lambda: Token(f"tok-{next(names)}-x"))
        with Server(page("401 No"), page("404 tok-1-x tok-2-x")) as api, OAuthSession(source=source) as session:
            response = session.get(api.url)

        assert (response.status, response.reason) == (404, "Not Found")

    def test_a_token_as_content_type_is_not_in_the_error_of_json(self):
        with Server(page("200 OK", b"hello", f"Content-Type: text/{self.TOKEN}")) as api, self.session() as session:
            response = session.get(api.url)

        with pytest.raises(ValueError, match="5 bytes of no usual Content-Type") as caught:
            response.json()
        assert_hidden(caught.value, self.TOKEN)

    def test_a_tls_stream_that_is_cut_is_no_whole_body(self, certificates, monkeypatch):
        def cut(sock):
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf of i")
            with socket.socket(fileno=os.dup(sock.fileno())) as below:
                below.shutdown(socket.SHUT_RDWR)  # without the alert that ends TLS

        def end(sock):
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            sock.unwrap().close()

        tls = certificates.server("good")
        with Server(cut, tls=tls) as bad, Server(end, tls=tls) as good:
            monkeypatch.setenv("SSL_CERT_FILE", str(certificates.path / "good.pem"))
            with OAuthSession(source=source_of("t")[0]) as session:
                with pytest.raises(urllib.error.URLError):
                    session.get(bad.url)
                assert session.get(good.url).text == "all of it"

    @pytest.mark.parametrize("answer", [
        drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"), drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ], ids=["head", "size of a chunk"])
    def test_an_api_that_drips_lines_ends_with_the_time_out(self, answer):
        with Server(answer) as api, self.session() as session:
            begun = time.monotonic()
            with pytest.raises(urllib.error.URLError) as caught:
                session.get(api.url, timeout=0.5)

        assert isinstance(caught.value.reason, socket.timeout)
        assert time.monotonic() - begun < PATIENCE

    def test_a_slow_stream_may_take_longer_than_the_time_out(self):
        chunks = [b"2\r\n%d\n\r\n" % at for at in range(5)]

        def stream(sock):
            sock.sendall(CHUNKED)
            for chunk in [*chunks, b"0\r\n\r\n"]:
                threading.Event().wait(0.3)
                sock.sendall(chunk[:1])
                threading.Event().wait(0.05)
                sock.sendall(chunk[1:])
            return b""

        with Server(stream, HELLO) as api, self.session() as session:
            assert session.get(api.url, timeout=1).content == b"".join(chunk[3:5] for chunk in chunks)
            assert session.get(api.url).status == 200
            assert api.accepted == 1

    def test_an_error_whose_properties_raise_strands_no_waiter(self):
        class StrangeError(Exception):
            @property
            def retry_after(self):
                raise RuntimeError

        def fetch():
            raise StrangeError

        source = TokenSource(fetch)
        for _ in range(2):
            with pytest.raises(StrangeError):
                source.token()

    def test_what_a_token_answer_says_of_scope_and_life_shows_no_token(self, caplog):
        token = Token.from_response({"access_token": self.TOKEN, "scope": self.TOKEN, "expires_in": self.TOKEN})

        assert self.TOKEN not in repr(token) + caplog.text

    def test_a_strange_retry_after_strands_no_waiter(self):
        class StrangeError(Exception):
            retry_after = "120 s"

        entered, go = threading.Event(), threading.Event()

        def fetch():
            entered.set()
            assert go.wait(PATIENCE)
            raise StrangeError

        source, caught = TokenSource(fetch), []

        def call():
            try:
                source.token()
            except Exception as error:
                caught.append(type(error))

        threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert entered.wait(PATIENCE)
        go.set()
        for thread in threads:
            thread.join(PATIENCE)

        assert caught == [StrangeError] * 4

    def test_a_body_of_tiny_chunks_takes_memory_of_its_own_size(self):
        pytest.importorskip("_tracemalloc", reason="PyPy cannot count what it allocates")
        import tracemalloc

        body = b"2\r\nab\r\n" * 100_000
        with Server(CHUNKED + body + b"0\r\n\r\n") as api, self.session() as session:
            session.get(api.url)
            tracemalloc.start()
            size = len(session.get(api.url).content)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()

        assert size == 200_000
        assert peak < 6 * len(body)  # the server's own copy included

    @pytest.mark.parametrize("charset", ["idna", "punycode", "Punycode-", "undefined", "no-such", "unicode_escape", "utf-8;" + '";' * 9000])
    def test_no_charset_breaks_or_stops_text(self, charset):
        with Server(page("200 OK", "ä".encode(), f"Content-Type: text/plain; charset={charset}")) as api:
            with self.session() as session:
                assert session.get(api.url).text == "ä"

    def test_an_api_that_redirects_to_ever_new_places_leaves_few_sockets(self):
        with self.session() as session, contextlib.ExitStack() as stack:
            servers = [stack.enter_context(Server(HELLO)) for _ in range(70)]
            for server in servers:
                session.get(server.url)
            gc.collect()
            for server in servers[:6]:
                server.threads[1].join(PATIENCE)  # it ends with its connection
            kept = [server.threads[1].is_alive() for server in servers]

        assert kept == [False] * 6 + [True] * 64

    def test_headers_may_be_replaced_while_threads_call(self):
        with Server(HELLO) as api, self.session(headers={"X-A": "1"}) as session:
            failures, end = [], threading.Event()

            def call():
                try:
                    while not end.is_set():
                        session.get(api.url)
                except Exception as error:
                    failures.append(error)

            threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            for number in range(2000):
                session.headers = {"X-A": "1", **{f"X-{number}-{at}": "1" for at in range(number % 5)}}
            end.set()
            for thread in threads:
                thread.join(PATIENCE)

        assert failures == []
        assert all(b"\r\nX-A: 1\r\n" in request for request in api.requests)

    @pytest.mark.parametrize("call", [
        lambda session: session.request(None, "https://api.example"), lambda session: session.request(5, "https://api.example"),
        lambda session: session.get("https://api.example", headers={5: "x"}),
        lambda session: session.open(None),
        lambda session: session.get("https://.api.example/"), lambda session: session.get("https://api..example/"),
        lambda session: session.get("https://127.0.0.1:1\uff0f.api.example/"),
        lambda session: Token("t", expires_at="5"), lambda session: Token("t", expires_at=float("nan")), lambda session: Token("t", expires_at=float("inf")),
        lambda session: Token("t", expires_at=10**400),
    ])  # fmt: skip
    def test_a_wrong_argument_is_a_type_or_value_error(self, call):
        with self.session() as session, pytest.raises((TypeError, ValueError)) as caught:
            call(session)

        assert str(caught.value)

    def test_a_header_that_only_looks_harmless_stays_at_its_origin(self):
        with Server(HELLO) as other, Server(page("302 Found", b"", f"Location: {other.url}/")) as api:
            with self.session() as session:
                session.get(api.url, headers={"Accept-Key": "private", "Accept": "a/b"})

        assert b"private" not in other.requests[0] and b"\r\nAccept: a/b\r\n" in other.requests[0]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class TestDemoServer:
    """An authorisation server and an API on loopback, for --demo and for users' own tests."""

    @pytest.fixture
    def demo(self):
        with oauth_session.DemoServer() as server:
            yield server

    @pytest.fixture
    def client(self, demo):
        with OAuthSession(demo.client_id, demo.client_secret, "read", demo.token_url, base_url=demo.url) as session:
            yield session

    def test_any_path_answers_what_it_saw(self, client):
        response = client.post("/a/b?c=1", json={"d": 2})
        assert response.json() == {"method": "POST", "path": "/a/b?c=1", "scope": "read", "body": '{"d": 2}'}

    @pytest.mark.parametrize("value", [{"a": "ü"}, {"error": "e"}, ["error"], "an error", 5, None], ids=repr)
    @pytest.mark.parametrize("status", [200, 404])
    def test_a_path_answers_as_it_was_told(self, value, status, demo, client):
        demo.answer("/told", value, status, {"X-A": "1", "Content-Type": "application/problem+json"})

        told, head, other = client.get("/told?q=1"), client.head("/told"), client.get("/other")

        assert (told.json(), told.status, head.status, head.content) == (value, status, status, b"")
        assert [told.headers[name] for name in ("X-A", "Content-Type")] == ["1", "application/problem+json"]
        assert (other.json()["path"], other.headers["X-A"]) == ("/other", None)

    def test_what_is_told_needs_a_token_too_and_may_change(self, demo, client):
        demo.answer("/told", 1)
        first = client.get("/told").json()
        demo.answer("/told", 2)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(demo.url + "/told", timeout=5)
        with caught.value as error:
            assert (first, client.get("/told").json(), error.code) == (1, 2, 401)

    def test_the_requests_for_the_api_are_recorded_without_their_token(self, demo, client):
        client.post("/a?b=1", data=(b"%d" % n for n in range(3)), headers={"X-A": "1"})
        urllib.request.urlopen(urllib.request.Request(demo.url, headers={"authorization": "Bearer " + client.access_token})).close()

        first, second = demo.requests

        assert (first.method, first.path, first.body, second.method) == ("POST", "/a?b=1", "012", "GET")
        assert {name.lower(): value for name, value in first.headers.items()}["x-a"] == "1"
        assert client.access_token not in repr(demo.requests) and demo.token_requests == 1

    def test_a_revoked_token_costs_one_renewal(self, demo, client):
        client.get("/x")
        demo.revoke()
        assert client.get("/x").ok
        assert (demo.token_requests, len(demo.requests)) == (2, 3)

    def test_the_token_endpoint_fails_until_it_is_told_otherwise(self, demo, client):
        demo.fail(400)
        with pytest.raises(OAuthResponseError) as caught:
            client.get("/x")
        demo.fail(None)
        client.source.clear()
        assert (caught.value.status, client.get("/x").status, demo.token_requests) == (400, 200, 2)

    @pytest.mark.parametrize("settings, kind", [
        ({}, None), ({"auth_method": "client_secret_post"}, None), ({"scope": "read write"}, None),
        ({"client_secret": "other"}, oauth_session.OAuthInvalidClient),
        ({"client_id": "other"}, oauth_session.OAuthInvalidClient), ({"scope": "admin"}, oauth_session.OAuthInvalidScope),
    ], ids=str)  # fmt: skip
    def test_it_judges_client_and_scope(self, settings, kind, demo):
        given = {"client_id": demo.client_id, "client_secret": demo.client_secret, "token_url": demo.token_url, **settings}
        demo.expires_in = 60
        source = TokenSource(ClientCredentials(**given))
        if kind is None:
            assert source.token().expires_at - time.time() < 61
        else:
            with pytest.raises(kind):
                source.token()


class TestCommandLine:
    """python3 oauth_session.py ..."""

    @staticmethod
    def run(*arguments, stdin="", **environ):
        known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        result = subprocess.run(
            [sys.executable, oauth_session.__file__, *arguments], input=stdin.encode(), timeout=60, capture_output=True,
            env={**known, "PYTHONIOENCODING": "utf-8", **environ},
        )  # fmt: skip
        out, err = result.stdout.decode(), result.stderr.decode().replace("\r\n", "\n")
        return result.returncode, out, err

    @pytest.fixture
    def call(self, auth):
        settings = {"OAUTH_CLIENT_ID": CLIENT, "OAUTH_CLIENT_SECRET": SECRET, "OAUTH_TOKEN_URL": auth.url + "/token"}
        return lambda *arguments, **more: self.run(*arguments, **{**settings, **more})

    @staticmethod
    def assert_one_line(err, *words):
        assert (err.count("\n"), err.startswith("oauth_session: "), "Traceback" in err) == (1, True, False), err
        assert all(word in err for word in words), err
        assert_no_secret(err)

    def test_help_names_each_flag_and_variable_and_none_for_the_secret(self):
        status, out, err = self.run("--help")
        assert (status, err) == (0, "")
        words = "-X -d -H -i --fail --token --check --issuer --demo --version --client-id --client-secret-file --token-url OAUTH_SCOPE"
        assert [word for word in words.split() if word not in out] == []
        assert "--client-secret " not in out

    @staticmethod
    def steps(out):
        """The words before the colon of each step's line."""
        return [line.split(":")[0].split() for line in out.splitlines() if line[:2] in ("ok", "NO", "--")]

    def test_check_tells_each_step_and_no_secret(self, call, auth, api):
        status, out, err = call("--check", api.url + "/me?key=private", "--scope", "read")

        assert (status, err) == (0, "")
        assert self.steps(out) == [
            ["ok", "DNS", "127.0.0.1"], ["ok", "TCP", "127.0.0.1"], ["ok", "token", "endpoint"], ["ok", "clock"],
            ["ok", "token", "by", "client_secret_basic"], ["ok", "API"],
        ]  # fmt: skip
        assert "for 3600 s" in out or "for 3599 s" in out
        assert f"API: GET {api.url}/me answered 200 OK\n" in out and "private" not in out
        assert out.endswith("All is well.\n")
        assert_no_secret(out)
        assert len([one for one in auth.seen if one.method == "POST"]) == 1  # the call takes its token

    def test_check_shows_the_settings_that_count_and_where_they_come_from(self, call, auth, tmp_path):
        path = tmp_path / "secret"
        path.write_text(SECRET, encoding="utf-8")
        unused = {"OAUTH_ISSUER": "https://unused.example", "OAUTH_CLIENT_ASSERTION": "unused", "OAUTH_TOKEN_HEADERS": "unused"}

        with_file = call("--check", "--token-url", auth.url, "--client-secret-file", str(path), **unused)[1]
        with_variables = call("--check", OAUTH_AUDIENCE="aud")[1]

        shown = [[line.strip() for line in out.splitlines() if line.startswith("   ")] for out in (with_file, with_variables)]
        odd = ["id or secret have characters that servers decode in different ways"]
        assert sorted(shown[0]) == sorted([
            f"client_id: {CLIENT} (from OAUTH_CLIENT_ID)", f"client_secret_file: {path} (from --client-secret-file)",
            f"token_url: {auth.url} (from --token-url)", "scope: not set", "audience: not set", *odd,
        ])  # fmt: skip
        assert sorted(shown[1]) == sorted([
            f"client_id: {CLIENT} (from OAUTH_CLIENT_ID)", "client_secret: *** (from OAUTH_CLIENT_SECRET)",
            f"token_url: {auth.url}/token (from OAUTH_TOKEN_URL)", "scope: not set",
            "audience: aud (from OAUTH_AUDIENCE)", *odd,
        ])  # fmt: skip

    @pytest.mark.parametrize("environ, words", [
        ({"OAUTH_TOKEN_URL": "https://no-such-host.invalid/"}, "NO    DNS no-such-host.invalid"),
        ({"OAUTH_TOKEN_URL": "http://127.0.0.1:1/"}, "NO    TCP 127.0.0.1"),
        ({"OAUTH_TOKEN_URL": "https://auth.example/", "https_proxy": "http://me:proxy-word@127.0.0.1:1"}, "127.0.0.1:1"),
        ({"OAUTH_AUTH_METHOD": "client_secret_jwt"}, "NO    token by client_secret_jwt: "),
        ({}, "NO    token by client_secret_basic_raw: "),
        ({"OAUTH_TOKEN_URL": "", "OAUTH_ISSUER": "<auth>/nobody"}, "NO    discovery: "),
        ({"OAUTH_BASE_URL": "<api>"}, "NO    API: GET <api>/me answered 500 Internal Server Error"),
    ], ids="dns tcp proxy token tokens discovery api".split())  # fmt: skip
    def test_check_ends_with_the_step_that_fails(self, environ, words, call, auth, api):
        if "OAUTH_BASE_URL" not in environ:
            auth.always(401, {}, {"error": "invalid_client"})
        api.will(500)

        def filled(text):
            return text.replace("<auth>", auth.url).replace("<api>", api.url)

        environ = {name: filled(value) for name, value in environ.items()}
        status, out, err = call("--check", *(["/me"] if "OAUTH_BASE_URL" in environ else []), **environ)

        assert (status, err) == (1, "")
        assert [line for line in out.splitlines() if line.startswith("NO")] == out.splitlines()[-2:-1]
        assert filled(words) in out and out.endswith("Something is wrong: see the lines that begin with NO.\n")
        assert "proxy-word" not in out and "All is well" not in out
        assert_no_secret(out)

    def test_check_is_content_if_one_method_works(self, call, auth, api):
        auth.will(405)  # to the question for the time
        auth.will(401, {}, {"error": "invalid_client"})

        status, out, _ = call("--check", api.url)

        assert (status, out.splitlines()[-1]) == (0, "All is well.")
        assert self.steps(out)[4:] == [["--", "token", "by", "client_secret_basic"], ["ok", "token", "by", "client_secret_post"], ["ok", "API"]]
        assert not any(line.startswith("NO") for line in out.splitlines())

    @pytest.mark.parametrize("year, word", [(2001, "ahead of"), (2099, "behind")])
    def test_check_tells_of_a_clock_that_is_wrong_and_goes_on(self, year, word, call, api):
        with Server(page("405 No", b"", f"Date: Thu, 01 Jan {year} 00:00:00 GMT"), grant()) as auth:
            status, out, _ = call("--check", api.url, OAUTH_TOKEN_URL=auth.url)

        assert (status, self.steps(out)[3:]) == (1, [["NO", "clock"], ["ok", "token", "by", "client_secret_basic"], ["ok", "API"]])
        assert f"s {word} the server: set its clock" in out and "All is well" not in out

    def test_check_tells_whom_a_token_is_for(self, call, auth):
        payload = base64.urlsafe_b64encode(b'{"aud": ["https://api.example"], "sub": "not shown"}').decode().rstrip("=")
        auth.always(200, {}, {"access_token": f"head.{payload}.{TOKEN}", "scope": "granted", "expires_in": 60})

        out = call("--check")[1]

        assert "scope granted, aud ['https://api.example']" in out
        assert payload not in out and "not shown" not in out
        assert_no_secret(out)

    @pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "cp437:strict"])
    def test_what_a_server_says_is_printed_on_any_console(self, encoding, call, auth, api):
        auth.always(400, {}, {"error": "invalid_scope", "error_description": "нет → ✓ 語"})

        checked, out, _ = call("--check", api.url, PYTHONIOENCODING=encoding)
        called, _, err = call(api.url, PYTHONIOENCODING=encoding)
        auth.always(200, {}, {"access_token": TOKEN, "scope": "область"})
        granted, shown, _ = call("--check", PYTHONIOENCODING=encoding)

        description, scope = "нет → ✓ 語", "область"
        if encoding != "utf-8":
            description, scope = (ascii(text).strip("'") for text in (description, scope))
        assert (checked, called, granted) == (1, 1, 0)
        assert description in out and "Something is wrong" in out and description in err
        assert f"scope {scope}" in shown and shown.endswith("All is well.\n")

    CONSOLES = {
        "StringIO": io.StringIO, "ascii": lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
        "cp1252": lambda: io.TextIOWrapper(io.BytesIO(), "cp1252"),
    }  # fmt: skip

    @pytest.mark.parametrize("console", CONSOLES)
    def test_main_works_in_a_program_that_has_replaced_stdout(self, console, auth, api, monkeypatch):
        for name, value in (("CLIENT_ID", CLIENT), ("CLIENT_SECRET", SECRET), ("TOKEN_URL", auth.url), ("SCOPE", "→")):
            monkeypatch.setenv("OAUTH_" + name, value)
        api.always(200, {"X-A": "1"}, "grüße →".encode())

        outs, statuses = [], []
        for arguments in (["--token"], [api.url], ["-i", api.url], ["--check", api.url]):
            monkeypatch.setattr(sys, "stdout", self.CONSOLES[console]())
            statuses.append(oauth_session.main(arguments))
            sys.stdout.flush()
            file = getattr(sys.stdout, "buffer", sys.stdout)
            outs.append(file.getvalue() if console == "StringIO" else file.getvalue().decode().replace("\r\n", "\n"))
        monkeypatch.undo()

        arrow = "→" if console == "StringIO" else "\\u2192"
        assert statuses == [0, 0, 0, 0]
        assert outs[:2] == [f"{TOKEN}-1\n", "grüße →"]
        assert outs[2].startswith("HTTP/1.1 200 OK\n") and "X-A: 1\n" in outs[2] and outs[2].endswith("\n\ngrüße →")
        assert f"scope: {arrow} (from OAUTH_SCOPE)\n" in outs[3] and outs[3].endswith("All is well.\n")

    def test_check_with_an_issuer_and_tls(self, certificates):
        def found(server, _):
            return metadata_of(server)

        with Issuer(found, tls=certificates.server("good")) as server:
            status, out, _ = self.run(
                "--check", OAUTH_ISSUER=server.url, OAUTH_CLIENT_ID="c", OAUTH_CLIENT_SECRET="a-secret",
                SSL_CERT_FILE=str(certificates.path / "good.pem"),
            )  # fmt: skip
            refused, why, _ = self.run(
                "--check", OAUTH_ISSUER=server.url, OAUTH_CLIENT_ID="c", OAUTH_CLIENT_SECRET="a-secret",
            )  # fmt: skip

        assert (status, refused) == (0, 1)
        assert "ok    TLS 127.0.0.1: " in out and f"ok    discovery: the token endpoint is {server.url}/token" in out
        assert "NO    TLS 127.0.0.1: " in why and "certificate" in why
        assert "a-secret" not in out + why

    def test_version(self):
        assert [one.strip() for one in self.run("--version")[1:]] == [f"oauth_session {oauth_session.__version__}", ""]

    def test_the_demo_shows_each_event_and_no_secret(self):
        status, out, err = self.run("--demo")
        assert (status, err) == (0, "")
        marks = ["DemoServer", "1. ", "-> 200", "2. ", "-> 200", "3. ", "-> 200", "4. ", "-> 401 invalid_token", "-> 200", "5. "]
        marks += ["401 invalid_client", "OAuthInvalidClient", "6. ", "400 invalid_scope", "OAuthInvalidScope", "7 token requests"]
        assert re.search(".*".join(map(re.escape, marks)), out, re.S), out
        assert sum(1 + len(line) // 100 for line in out.splitlines()) <= 40  # one screen
        assert oauth_session.DemoServer.client_secret not in out and not re.search(r"demo-[\w-]{20}", out)

    def test_a_url_is_called_and_its_body_printed(self, call, auth, api):
        api.will(200, {}, "grüße\n".encode())
        assert call(api.url + "/x") == (0, "grüße\n", "")
        assert (api.lines, api.bearers, len(auth.seen)) == (["GET /x"], [f"Bearer {TOKEN}-1"], 1)

    def test_the_flags_of_curl_do_what_curl_does(self, call, api, tmp_path):
        path = tmp_path / "body"
        path.write_bytes(b"\0from a file\n")
        api.will(201, {"X-Answer": "yes"}, b"made")

        headers = ("-H", "X-A: 1", "-H", "content-type: text/plain")
        status, out, err = call("-i", "-X", "PUT", *headers, "-d", "a=1", api.url)
        call(api.url, "-d", f"@{path}")
        call(api.url, "--data", "@-", stdin="from stdin")

        assert (status, err) == (0, "")
        head, _, body = out.replace("\r\n", "\n").partition("\n\n")
        assert (head.split("\n")[0], "X-Answer: yes" in head, body) == ("HTTP/1.1 201 Created", True, "made")
        assert [one.method for one in api.seen] == ["PUT", "POST", "POST"]
        assert [one.get_data() for one in api.seen] == [b"a=1", b"\0from a file\n", b"from stdin"]
        assert [one.headers["Content-Type"] for one in api.seen] == ["text/plain", TestSession.FORM, TestSession.FORM]
        assert api.seen[0].headers["X-A"] == "1"

    def test_token_prints_the_token_and_nothing_else(self, call, auth):
        assert call("--token") == (0, f"{TOKEN}-1{os.linesep}", "")
        assert len(auth.seen) == 1

    def test_fail_exits_with_22_and_prints_no_body(self, call, api):
        api.always(404, {}, b"not here")
        assert call(api.url)[:2] == (0, "not here")
        status, out, err = call("--fail", api.url + "/x?key=private", "-X", "delete")
        assert (status, out) == (22, "")
        self.assert_one_line(err, f"DELETE {api.url}/x answered 404 Not Found\n")

    @pytest.mark.parametrize("text", [SECRET, SECRET + "\n", f"\ufeff{SECRET}\n"], ids=["bare", "line", "with a BOM"])
    @pytest.mark.parametrize("where", ["stdin", "file"])
    def test_the_secret_comes_from_stdin_or_a_file(self, where, text, auth, tmp_path):
        path = tmp_path / "secret"
        path.write_bytes(text.encode())
        source = ("--client-secret-file", str(path) if where == "file" else "-")
        flags = ("--client-id", CLIENT, "--token-url", auth.url, "--scope", "a b", "--audience", "aud")

        more = ("--auth-method", "client_secret_post", "--resource", "https://r.example")
        status, _, err = self.run("--token", *source, *flags, *more, stdin=text)

        assert (status, err) == (0, "")
        assert asked(auth.seen[0]) == {
            "grant_type": "client_credentials", "scope": "a b", "audience": "aud", "resource": "https://r.example",
            "client_id": CLIENT, "client_secret": SECRET,
        }  # fmt: skip

    def test_a_refusal_is_one_line_and_exit_1(self, call, auth, api):
        auth.always(401, {}, {"error": "invalid_client", "error_description": f"bad\n{SECRET}"})
        status, out, err = call(api.url)
        assert (status, out, api.seen) == (1, "", [])
        self.assert_one_line(err, "invalid_client", "client_secret")

    def test_no_answer_is_one_line_and_exit_1(self, call):
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        status, out, err = call(url)
        assert (status, out) == (1, "")
        self.assert_one_line(err)

    @pytest.mark.parametrize("arguments, environ, word", [
        (["https://a.example"], {"OAUTH_CLIENT_ID": ""}, "OAUTH_CLIENT_ID is not set"),
        (["https://a.example"], {"OAUTH_CLIENT_SECRET": ""}, "OAUTH_CLIENT_SECRET is not set"),
        (["--token"], {"OAUTH_TOKEN_URL": "http://a.example"}, "OAUTH_TOKEN_URL"),
        (["--token", "--token-url", "nonsense"], {}, "token_url"),
        (["--token"], {"OAUTH_CLIENT_SECRET": SECRET + "\n"}, "OAUTH_CLIENT_SECRET"),
        (["--token", "--client-secret-file", "/no/such"], {"OAUTH_CLIENT_SECRET": ""}, "/no/such"),
        (["--token", "--auth-method", "magic"], {}, "auth"), (["--token", "--timeout", "-1"], {}, "timeout"),
        (["/relative"], {}, "url"), (["http://a.example"], {}, "url"), (["file:///etc/hosts"], {}, "url"),
        (["https://a.example", "-H", "nonsense"], {}, "-H"), (["https://a.example", "-H", "X Y: 1"], {}, "header"),
        (["https://a.example", "-X", "GE T"], {}, "method"), (["https://a.example", "-d", "@/no/such"], {}, "/no/such"),
    ], ids=lambda value: str(value)[:40])  # fmt: skip
    def test_a_wrong_setting_is_one_line_and_exit_2(self, arguments, environ, word, call, auth):
        status, out, err = call(*arguments, **environ)
        assert (status, out, auth.seen) == (2, "", [])
        self.assert_one_line(err, word)

    @pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["--timeout", "x", "--token"]], ids=str)
    def test_a_wrong_flag_is_exit_2(self, arguments, call, auth):
        status, out, err = call(*arguments)
        assert (status, out, "Traceback" in err, auth.seen) == (2, "", False, [])


class TestVendoring:
    """The file works alone, wherever it is copied to; what the README shows is run."""

    HERE = os.path.dirname(os.path.abspath(__file__))

    def text_of(self, name):
        with open(os.path.join(self.HERE, name), encoding="utf-8") as file:
            return file.read()

    def alone(self, folder, program, *flags):
        shutil.copy(oauth_session.__file__, str(folder))
        program = f"import sys; sys.path.insert(0, {str(folder)!r})\n" + program
        return subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-W", "error", *flags, "-c", program],
            cwd=str(folder), env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, encoding="utf-8")

    def test_file_alone_works_and_leaves_nothing_behind(self, tmp_path):
        result = self.alone(tmp_path, """if True:
            from oauth_session import *
            with DemoServer() as server:
                session = OAuthSession(server.client_id, server.client_secret, "read", server.token_url)
                print(session.get(server.url + "/me").status)
                server.fail(400)
                session.source.clear()
                try:
                    session.get(server.url + "/me")
                except OAuthResponseError as error:
                    print(error.status)
            """)

        assert (result.stdout.split(), result.stderr, os.listdir(str(tmp_path))) == (["200", "400"], "", ["oauth_session.py"])

    def test_import_brings_in_nothing_that_a_cold_start_would_pay_for(self, tmp_path):
        heavy = "typing dataclasses logging argparse http.server concurrent.futures asyncio multiprocessing".split()
        result = self.alone(tmp_path, """if True:
            import urllib.request, json, ssl, threading
            before = set(sys.modules)
            import oauth_session
            print(*sorted(set(sys.modules) - before))
            """)

        assert (set(result.stdout.split()) & set(heavy), result.stderr) == (set(), "")

    def test_two_copies_in_one_process_do_not_disturb_each_other(self, tmp_path):
        result = self.alone(tmp_path, """if True:
            import shutil
            shutil.copy("oauth_session.py", "vendored.py")
            import oauth_session, vendored
            with oauth_session.DemoServer() as server:
                for module in (oauth_session, vendored):
                    session = module.OAuthSession(server.client_id, server.client_secret, "read", server.token_url)
                    print(session.get(server.url + "/me").status, type(session).__module__)
            """)

        assert (result.stdout.split(), result.stderr) == (["200", "oauth_session", "200", "vendored"], "")

    def test_readme_names_the_hash_of_the_file(self):
        with open(oauth_session.__file__, "rb") as file:
            found = hashlib.sha256(file.read().replace(b"\r\n", b"\n")).hexdigest()

        assert f"SHA-256 {found}\n" in self.text_of("README.md")

    def test_licence_travels_with_the_file(self):
        code = self.text_of("oauth_session.py")

        licence = "\n".join(line[2:] for line in code[code.index("# MIT License"):].splitlines())

        assert licence.split() == self.text_of("LICENSE").split()
        assert re.search(r'^__version__ = "[0-9.]+"$', code, re.M)
