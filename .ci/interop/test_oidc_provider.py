# SPDX-License-Identifier: MIT
"""oauth_session.py against oidc-provider, a certified authorisation server, over https on loopback.

    python -m pytest .ci/interop

Needs node, npm and openssl; without them all cases are skipped, and say so. The packages go to a cache folder,
`OAUTH_SESSION_CI_CACHE` or `~/.cache/oauth_session-ci`. The counts are the server's own, and exact.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
import traceback
import urllib.parse

import pytest
from peers import WAIT_LIMIT

import oauth_session

# --- helpers ----------------------------------------------------------------------------------------------------------


def assert_no_secret(error, client_id, secret):
    """Look for the secret in any form it takes on the wire, in all that a log or a traceback would show."""
    encoded = urllib.parse.quote(secret, safe="")
    pairs = [f"{client_id}:{secret}", f"{client_id}:{encoded}", f"{client_id}:{urllib.parse.quote_plus(secret)}"]
    forms = [secret, encoded, urllib.parse.quote_plus(secret)]
    forms += [base64.b64encode(pair.encode()).decode() for pair in pairs]
    shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    for text in (str(error), repr(error), repr(error.args), repr(vars(error)), shown):
        assert [form for form in forms if form in text] == []


# --- a token, and how long it serves ----------------------------------------------------------------------------------


def test_first_call_fetches_a_token_that_the_api_accepts(server, connect):
    session = connect("basic")

    response = session.get(server.api + "/me")

    assert response.status == 200
    assert response.json()["client_id"] == "basic"
    assert response.json()["scope"] == "read"
    assert server.token_answers == {"basic": ["basic 200"]}
    assert server.api_answers == {"/me": [200]}


def test_two_scopes_are_asked_for_and_granted(server, connect):
    session = connect("basic", scope=["read", "write"])

    response = session.get(server.api + "/me")

    assert response.json()["scope"] == "read write"
    assert server.token_answers == {"basic": ["basic 200"]}


def test_without_scope_no_scope_is_asked_for(server, connect):
    session = connect("basic", scope=[])

    response = session.get(server.api + "/me")

    assert response.json()["scope"] is None
    assert server.token_answers == {"basic": ["basic 200"]}


def test_twenty_calls_share_one_token(server, connect):
    session = connect("basic")

    statuses = [session.get(server.api + "/me").status for _ in range(20)]

    assert statuses == [200] * 20
    assert server.token_answers == {"basic": ["basic 200"]}
    assert server.api_answers == {"/me": [200] * 20}


def test_sixteen_threads_start_with_one_token_request(server, connect):
    session = connect("basic")
    start = threading.Barrier(16, timeout=WAIT_LIMIT)
    statuses = queue.Queue()

    def call():
        start.wait()
        statuses.put(session.get(server.api + "/me").status)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_LIMIT)

    assert [statuses.get(timeout=WAIT_LIMIT) for _ in threads] == [200] * 16
    assert server.token_answers == {"basic": ["basic 200"]}
    assert server.api_answers == {"/me": [200] * 16}


def test_short_tokens_are_renewed_before_a_call_fails(server, connect):
    life = server.lifetimes["short"]
    due_window = life / 2
    session = connect("short")
    statuses = []

    begin = time.monotonic()
    while server.token_requests.get("short", 0) < 3:
        assert time.monotonic() - begin < WAIT_LIMIT * life, "it is not renewed"
        statuses.append(session.get(server.api + "/me").status)
        time.sleep(0.02)
    elapsed = time.monotonic() - begin

    assert statuses == [200] * len(statuses)
    assert server.api_answers == {"/me": statuses}, "a token was refused, and the call replayed"
    assert server.token_requests["short"] <= elapsed / (life - due_window) + 2


def test_revoked_token_costs_one_token_request_and_one_replay(server, connect):
    session = connect("basic")
    session.get(server.api + "/me")
    server.revoke()

    response = session.get(server.api + "/me")

    assert response.status == 200
    assert server.token_answers == {"basic": ["basic 200"] * 2}
    assert server.api_answers == {"/me": [200, 401, 200]}


def test_replay_after_revocation_sends_the_whole_body_again(server, connect):
    session = connect("basic")
    session.get(server.api + "/me")
    server.revoke()

    response = session.post(server.api + "/me", json={"name": "Zoë"})

    assert response.json()["method"] == "POST"
    assert json.loads(response.json()["body"]) == {"name": "Zoë"}
    assert server.token_answers == {"basic": ["basic 200"] * 2}
    assert server.api_answers == {"/me": [200, 401, 200]}


def test_api_that_refuses_every_token_costs_one_replay_and_one_more_token(server, connect):
    session = connect("basic")

    statuses = [session.get(server.api + "/refuse").status for _ in range(3)]

    assert statuses == [401, 401, 401]
    assert server.token_answers == {"basic": ["basic 200"] * 2}
    assert server.api_answers == {"/refuse": [401] * 4}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "answers"),
    [
        pytest.param(
            {}, ["basic 401 invalid_client", "post 401 invalid_client", "basic 400 invalid_request"], id="automatic"
        ),
        pytest.param({"auth_method": "client_secret_basic"}, ["basic 401 invalid_client"], id="basic"),
        pytest.param({"auth_method": "client_secret_post"}, ["post 401 invalid_client"], id="post"),
    ],
)
def test_wrong_secret_is_an_invalid_client(server, connect, settings, answers):
    wrong = "wrong: s3cret %/+ &=~"
    session = connect("basic", wrong, **settings)

    with pytest.raises(oauth_session.OAuthInvalidClient) as caught:
        session.get(server.api + "/me")

    assert caught.value.error == "invalid_client"
    assert caught.value.error_description == "client authentication failed"
    assert caught.value.status == 401
    # Only a refusal of Basic carries a challenge: it tells the first error from the second.
    first_was_basic = answers[0].startswith("basic")
    assert (caught.value.headers.get("WWW-Authenticate") or "").startswith("Basic ") is first_was_basic
    assert_no_secret(caught.value, "basic", wrong)
    assert server.token_answers == {"basic": answers}
    assert server.api_answers == {}


def test_unknown_client_is_an_invalid_client(server, connect):
    session = connect("nobody", "some secret", auth_method="client_secret_basic")

    with pytest.raises(oauth_session.OAuthInvalidClient):
        session.get(server.api + "/me")

    assert server.token_answers == {"nobody": ["basic 401 invalid_client"]}


def test_scope_that_the_client_may_not_have_is_an_invalid_scope(server, connect):
    session = connect("basic", scope=["admin"])

    with pytest.raises(oauth_session.OAuthInvalidScope) as caught:
        session.get(server.api + "/me")

    assert (caught.value.error, caught.value.status) == ("invalid_scope", 400)
    assert caught.value.error_description == "requested scope is not allowed"
    assert server.token_answers == {"basic": ["basic 400 invalid_scope"]}
    assert server.api_answers == {}


# --- redirects --------------------------------------------------------------------------------------------------------


def test_redirect_on_the_same_origin_keeps_the_token(server, connect):
    session = connect("basic")

    response = session.get(server.api + "/redirect-here")

    assert response.status == 200
    assert response.url == server.api + "/me"
    assert server.token_answers == {"basic": ["basic 200"]}
    assert server.api_answers == {"/redirect-here": [302], "/me": [200]}


def test_redirect_to_another_origin_arrives_without_token_and_private_headers(server, connect):
    session = connect("basic")

    response = session.get(server.api + "/redirect-away", headers={"X-Api-Key": "private"})

    assert response.status == 200
    assert {"authorization", "x-api-key", "cookie"}.isdisjoint(response.json()["headers"])
    assert server.token_answers == {"basic": ["basic 200"]}
    assert server.api_answers == {"/redirect-away": [302]}
    assert server.elsewhere_answers == {"/echo": [200]}


def test_redirect_that_comes_back_comes_without_the_token(server, connect):
    session = connect("basic")

    response = session.get(server.api + "/redirect-away-and-back")

    assert response.url == server.api + "/echo"
    assert "authorization" not in response.json()["headers"]
    assert server.token_answers == {"basic": ["basic 200"]}
    assert server.api_answers == {"/redirect-away-and-back": [302], "/echo": [200]}
    assert server.elsewhere_answers == {"/back": [200]}


# --- how the client proves itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"auth_method": "client_secret_basic"}], ids=["automatic", "named"])
def test_reserved_characters_in_id_and_secret_survive_basic(server, connect, settings):
    session = connect("urn:reserved/id %+&", **settings)

    response = session.get(server.api + "/me")

    assert response.json()["client_id"] == "urn:reserved/id %+&"
    assert server.token_answers == {"urn:reserved/id %+&": ["basic 200"]}


def test_basic_is_not_encoded_where_that_is_asked_for(server, connect):
    session = connect("basic", auth_method="client_secret_basic_raw")

    response = session.get(server.api + "/me")

    assert response.json()["client_id"] == "basic"
    assert server.token_answers == {"basic": ["basic 200"]}


@pytest.mark.parametrize("client_id", ["post", "post-only"])
def test_secret_in_the_body_is_accepted(server, connect, client_id):
    session = connect(client_id, auth_method="client_secret_post")

    response = session.get(server.api + "/me")

    assert response.json()["client_id"] == client_id
    assert server.token_answers == {client_id: ["post 200"]}


def test_automatic_method_finds_the_body_and_remembers_it(server, connect):
    session = connect("post-only")

    first = session.get(server.api + "/me")
    answers_at_first = server.token_answers
    session.source.clear()
    second = session.get(server.api + "/me")

    assert (first.status, second.status) == (200, 200)
    assert answers_at_first == {"post-only": ["basic 401 invalid_client", "post 200"]}
    assert server.token_answers == {"post-only": ["basic 401 invalid_client", "post 200", "post 200"]}


def test_where_basic_is_named_nothing_else_is_tried(server, connect):
    session = connect("post-only", auth_method="client_secret_basic")

    with pytest.raises(oauth_session.OAuthInvalidClient):
        session.get(server.api + "/me")

    assert server.token_answers == {"post-only": ["basic 401 invalid_client"]}


def test_certificate_proves_the_client_and_binds_the_token(server, connect):
    session = connect("mtls", auth_method="tls_client_auth", context=server.context(server.client_certificate))

    response = session.get(server.api + "/me")

    assert response.json()["client_id"] == "mtls"
    assert response.json()["bound"] is not None
    assert server.token_answers == {"mtls": ["id 200"]}
    assert server.api_answers == {"/me": [200]}


@pytest.mark.parametrize("certificate", ["stranger_certificate", None], ids=["another certificate", "none"])
def test_wrong_certificate_is_an_invalid_client(server, connect, certificate):
    context = server.context(certificate and getattr(server, certificate))
    session = connect("mtls", auth_method="tls_client_auth", context=context)

    with pytest.raises(oauth_session.OAuthInvalidClient):
        session.get(server.api + "/me")

    assert server.token_answers == {"mtls": ["id 401 invalid_client"]}
    assert server.api_answers == {}


# --- resource indicators ----------------------------------------------------------------------------------------------


def test_resource_becomes_the_audience_of_each_token(server, connect):
    session = connect("basic", resource=server.resource)

    first = session.get(server.api + "/me")
    session.source.clear()
    second = session.get(server.api + "/me")

    assert [first.json()["aud"], second.json()["aud"]] == [server.resource] * 2
    assert server.token_answers == {"basic": ["basic 200"] * 2}


def test_unknown_resource_is_an_invalid_target(server, connect):
    session = connect("basic", resource="https://unknown.example/api")

    with pytest.raises(oauth_session.OAuthInvalidTarget) as caught:
        session.get(server.api + "/me")

    assert (caught.value.error, caught.value.status) == ("invalid_target", 400)
    assert server.token_answers == {"basic": ["basic 400 invalid_target"]}
