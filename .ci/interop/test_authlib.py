# SPDX-License-Identifier: MIT
"""oauth_session.py against Authlib's authorisation server on Flask: each way in which a client can prove itself.

    python -m pytest .ci/interop/test_authlib.py

Needs the packages Authlib and Flask; without them all cases are skipped, and say so. The counts are the server's own, and
exact. It takes each assertion once, and tells what was in it.
"""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import threading
import time
import traceback
import uuid

import pytest
from peers import WAIT_LIMIT

import oauth_session

SECRET = "a-plain-secret-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLM-0123456789"
RESERVED = 's3cr:et%/+ &=?#"\\~%41€'
BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture
def connect(authlib, make_session):
    """Make sessions of a client that is registered."""

    def session_of(client_id, secret=None, **settings):
        return make_session(authlib, client_id, secret, **settings)

    return session_of


@pytest.fixture
def signer(authlib, keys):
    """Make functions that return assertions signed with RS256, each with a jti of its own."""

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    def signer_of(client_id, key=None, **other):
        def assertion():
            now = int(time.time())
            claims = {"iss": client_id, "sub": client_id, "aud": authlib.token_url, "iat": now, "exp": now + 60}
            claims.update({"jti": uuid.uuid4().hex, **other})
            message = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "RS256"}, claims))
            command = ["openssl", "dgst", "-sha256", "-sign", key or keys.rsa]
            signature = subprocess.run(command, input=message, stdout=subprocess.PIPE, check=True).stdout
            return (message + b"." + encode(signature)).decode()

        return assertion

    return signer_of


def fetch(session, server, times=3):
    """Fetch so many tokens, and show each to the API; return the clients and scopes that the API saw."""
    seen = []
    for _ in range(times):
        session.source.clear()
        seen.append(tuple(session.get(server.api + "/me").json().values()))
    return seen


def assert_each_its_own(assertions, times):
    """So many assertions, and no jti twice."""
    assert len(assertions) == len({one["jti"] for one in assertions}) == times


def assert_not_shown(error, *secrets):
    """None of these texts is in what a log or a traceback would show, nor are the parts of a JWT."""
    shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    parts = [part for secret in secrets for part in secret.split(".")]
    for text in (str(error), repr(error), repr(error.args), repr(vars(error)), shown):
        assert [part for part in parts if part in text] == []


# --- each method, three times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        pytest.param("client_secret_basic", "basic 200", id="basic"),
        pytest.param("client_secret_basic_raw", "basic 200", id="raw basic"),
        pytest.param("client_secret_post", "post 200", id="post"),
        pytest.param("client_secret_jwt", "assertion 200", id="jwt"),
    ],
)
def test_secret_is_accepted_by(authlib, connect, method, answer):
    authlib.register("client", method.replace("_raw", ""), secret=SECRET)
    session = connect("client", SECRET, auth_method=method)

    seen = fetch(session, authlib)

    assert seen == [("client", "read")] * 3
    assert authlib.token_answers == {"client": [answer] * 3}
    assert authlib.api_answers == [200] * 3


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_reserved_characters_in_id_and_secret_are_accepted_by(authlib, connect, method):
    client_id = "urn:id %+&é"
    authlib.register(client_id, method, secret=RESERVED)
    session = connect(client_id, RESERVED, auth_method=method)

    seen = fetch(session, authlib)

    assert seen == [(client_id, "read")] * 3
    assert authlib.token_answers == {client_id: [f"{method.rpartition('_')[2]} 200"] * 3}


def test_secret_is_sent_by_whichever_method_works(authlib, connect):
    authlib.register("client", "client_secret_post", secret=SECRET)
    session = connect("client", SECRET)

    seen = fetch(session, authlib)

    assert seen == [("client", "read")] * 3
    assert authlib.token_answers == {"client": ["basic 401 invalid_client"] + ["post 200"] * 3}


def test_client_without_a_secret_gets_tokens(authlib, connect):
    authlib.register("client", "none")
    session = connect("client", auth_method="none")

    seen = fetch(session, authlib)

    assert seen == [("client", "read")] * 3
    assert authlib.token_answers == {"client": ["id 200"] * 3}


def test_client_secret_jwt_says_what_rfc_7523_asks_for(authlib, connect):
    authlib.register("client", "client_secret_jwt", secret=SECRET)
    session = connect("client", SECRET, auth_method="client_secret_jwt")
    before = int(time.time())

    fetch(session, authlib)

    assertions = authlib.assertions["client"]
    assert_each_its_own(assertions, 3)
    for one in assertions:
        assert one["alg"] == "HS256"
        assert (one["iss"], one["sub"], one["aud"]) == ("client", "client", authlib.token_url)
        assert before <= one["iat"] <= time.time() < one["exp"] <= one["iat"] + 600


@pytest.mark.parametrize("named", [{}, {"auth_method": "private_key_jwt"}], ids=["inferred", "named"])
def test_assertion_of_a_callable_is_accepted_where_the_method_is(authlib, connect, keys, signer, named):
    authlib.register("client", "private_key_jwt", alg="RS256", public_key=keys.public(keys.rsa))
    session = connect("client", client_assertion=signer("client"), **named)

    seen = fetch(session, authlib)

    assert seen == [("client", "read")] * 3
    assert authlib.token_answers == {"client": ["assertion 200"] * 3}
    assert_each_its_own(authlib.assertions["client"], 3)


# --- how often an assertion is made -----------------------------------------------------------------------------------


@pytest.fixture(params=["client_secret_jwt", "private_key_jwt"])
def by_jwt(request, authlib, connect, keys, signer):
    """A session that proves itself by assertions, of either kind."""
    if request.param == "client_secret_jwt":
        authlib.register("client", "client_secret_jwt", secret=SECRET)
        return connect("client", SECRET, auth_method="client_secret_jwt")
    authlib.register("client", "private_key_jwt", alg="RS256", public_key=keys.public(keys.rsa))
    return connect("client", client_assertion=signer("client"))


def test_request_that_is_tried_again_has_a_new_assertion(authlib, by_jwt):
    authlib.fail(times=2)

    response = by_jwt.get(authlib.api + "/me")

    assert response.status == 200
    assert authlib.token_answers == {"client": ["assertion 503", "assertion 503", "assertion 200"]}
    assert_each_its_own(authlib.assertions["client"], 3)


def test_token_that_the_api_refuses_is_replaced_by_a_new_assertion(authlib, by_jwt):
    by_jwt.get(authlib.api + "/me")
    authlib.revoke()

    response = by_jwt.get(authlib.api + "/me")

    assert response.status == 200
    assert authlib.token_answers == {"client": ["assertion 200"] * 2}
    assert_each_its_own(authlib.assertions["client"], 2)
    assert authlib.api_answers == [200, 401, 200]


def test_sixteen_threads_start_with_one_assertion(authlib, by_jwt):
    start = threading.Barrier(16, timeout=WAIT_LIMIT)
    statuses = queue.Queue()

    def call():
        start.wait()
        statuses.put(by_jwt.get(authlib.api + "/me").status)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_LIMIT)

    assert [statuses.get(timeout=WAIT_LIMIT) for _ in threads] == [200] * 16
    assert authlib.token_answers == {"client": ["assertion 200"]}
    assert_each_its_own(authlib.assertions["client"], 1)


def test_text_that_is_given_as_assertion_serves_once(authlib, connect, keys, signer):
    authlib.register("client", "private_key_jwt", alg="RS256", public_key=keys.public(keys.rsa))
    text = signer("client")()
    session = connect("client", client_assertion=text)
    fetch(session, authlib, times=1)
    session.source.clear()

    with pytest.raises(oauth_session.OAuthInvalidClient) as caught:
        session.get(authlib.api + "/me")

    assert caught.value.error_description == "JWT ID is used before."
    assert_not_shown(caught.value, text)
    assert authlib.token_answers == {"client": ["assertion 200", "assertion 400 invalid_client"]}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "answers"),
    [
        ("client_secret_basic", {}, ["basic 401 invalid_client", "post 401 invalid_client"]),
        ("client_secret_basic", {"auth_method": "client_secret_basic"}, ["basic 401 invalid_client"]),
        ("client_secret_basic", {"auth_method": "client_secret_basic_raw"}, ["basic 401 invalid_client"]),
        ("client_secret_post", {"auth_method": "client_secret_post"}, ["post 401 invalid_client"]),
        ("client_secret_jwt", {"auth_method": "client_secret_jwt"}, ["assertion 400 invalid_client"]),
    ],
    ids=["automatic", "basic", "raw basic", "post", "client_secret_jwt"],
)
def test_wrong_secret_is_an_invalid_client(authlib, connect, method, settings, answers):
    wrong = SECRET[::-1]
    authlib.register("client", method, secret=SECRET)
    session = connect("client", wrong, **settings)

    with pytest.raises(oauth_session.OAuthInvalidClient) as caught:
        session.get(authlib.api + "/me")

    assert caught.value.error == "invalid_client"
    assert caught.value.status == int(answers[0].split()[1])
    assert_not_shown(caught.value, wrong)
    assert authlib.token_answers == {"client": answers}
    assert authlib.api_answers == []


@pytest.mark.parametrize(
    ("claims", "description"),
    [
        ({"aud": "https://elsewhere.example/token"}, "Invalid claim: 'aud'"),
        ({"exp": 1}, "The token is expired"),
        ({"iat": 2**33}, "The token was issued in the future"),
        ({"iss": "another"}, "Issuer and Subject MUST match."),
    ],
    ids=["aud", "exp", "iat", "iss"],
)
def test_wrong_claim_is_an_invalid_client(authlib, connect, keys, signer, claims, description):
    authlib.register("client", "private_key_jwt", alg="RS256", public_key=keys.public(keys.rsa))
    made = []

    def assertion():
        made.append(signer("client", **claims)())
        return made[-1]

    session = connect("client", client_assertion=assertion)

    with pytest.raises(oauth_session.OAuthInvalidClient) as caught:
        session.get(authlib.api + "/me")

    assert (caught.value.status, caught.value.error_description) == (400, description)
    assert_not_shown(caught.value, *made)
    assert authlib.token_answers == {"client": ["assertion 400 invalid_client"] * 2}  # a callable is asked again


def test_wrong_key_is_an_invalid_client(authlib, connect, keys, signer):
    authlib.register("client", "private_key_jwt", alg="RS256", public_key=keys.public(keys.rsa))
    session = connect("client", client_assertion=signer("client", keys.stranger))

    with pytest.raises(oauth_session.OAuthInvalidClient):
        session.get(authlib.api + "/me")

    assert authlib.token_answers == {"client": ["assertion 400 invalid_client"] * 2}  # a callable is asked again


def test_wrong_assertion_audience_is_an_invalid_client(authlib, connect):
    authlib.register("client", "client_secret_jwt", secret=SECRET)
    wrong = "https://elsewhere.example/token"
    session = connect("client", SECRET, auth_method="client_secret_jwt", assertion_audience=wrong)

    with pytest.raises(oauth_session.OAuthInvalidClient):
        session.get(authlib.api + "/me")

    assert authlib.token_answers == {"client": ["assertion 400 invalid_client"]}


def test_assertion_audience_goes_before_the_token_url(authlib, connect):
    authlib.register("client", "client_secret_jwt", secret=SECRET)
    session = connect("client", SECRET, auth_method="client_secret_jwt", assertion_audience=authlib.issuer)

    fetch(session, authlib, times=2)

    assert authlib.token_answers == {"client": ["assertion 200"] * 2}
    assert [one["aud"] for one in authlib.assertions["client"]] == [authlib.issuer] * 2


# --- discovery --------------------------------------------------------------------------------------------------------

OAUTH, OPENID = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("path", "discovery"),
    [
        pytest.param("", [OAUTH], id="no path"),
        pytest.param("/tenant/one", [OAUTH + "/tenant/one"], id="path inserted"),
        pytest.param("/oidc", [OAUTH + "/oidc", "/oidc" + OPENID], id="OpenID Connect"),
    ],
)
def test_issuer_leads_to_the_token_endpoint_and_is_the_audience(authlib, connect, path, discovery):
    issuer = authlib.url + path
    authlib.register("client", "client_secret_jwt", secret=SECRET)
    session = connect("client", SECRET, auth_method="client_secret_jwt", issuer=issuer)

    seen = fetch(session, authlib)

    assert seen == [("client", "read")] * 3
    assert authlib.discovery == discovery
    assert authlib.token_answers == {"client": ["assertion 200"] * 3}
    assert [(one["alg"], one["aud"]) for one in authlib.assertions["client"]] == [("HS256", issuer)] * 3
    assert_each_its_own(authlib.assertions["client"], 3)


@pytest.mark.parametrize(
    ("path", "method", "answer"),
    [("/post", "client_secret_post", "post 200"), ("/jwt", "client_secret_jwt", "assertion 200")],
    ids=["post", "client_secret_jwt"],
)
def test_list_of_the_issuer_decides_how_a_secret_is_used(authlib, connect, path, method, answer):
    authlib.register("client", method, secret=SECRET)
    session = connect("client", SECRET, issuer=authlib.url + path)

    seen = fetch(session, authlib)

    assert seen == [("client", "read")] * 3
    assert authlib.discovery == [OAUTH + path]
    assert authlib.token_answers == {"client": [answer] * 3}


def test_issuer_leads_an_assertion_of_ones_own_to_the_token_endpoint(authlib, connect, keys, signer):
    authlib.register("client", "private_key_jwt", alg="RS256", public_key=keys.public(keys.rsa))
    session = connect("client", client_assertion=signer("client", aud=authlib.issuer), issuer=authlib.issuer)

    seen = fetch(session, authlib)

    assert seen == [("client", "read")] * 3
    assert authlib.discovery == [OAUTH]
    assert authlib.token_answers == {"client": ["assertion 200"] * 3}


def test_metadata_of_another_issuer_are_refused(authlib, connect):
    issuer = authlib.url + "/liar"
    authlib.register("client", "client_secret_jwt", secret=SECRET)
    session = connect("client", SECRET, auth_method="client_secret_jwt", issuer=issuer)

    with pytest.raises(oauth_session.OAuthMalformedResponse) as caught:
        session.get(authlib.api + "/me")

    assert issuer + "/another" in str(caught.value)
    assert authlib.token_answers == {}


def test_issuer_without_metadata_is_told_with_the_urls_tried(authlib, connect):
    issuer = authlib.url + "/nobody"
    session = connect("client", SECRET, issuer=issuer)

    with pytest.raises(oauth_session.OAuthError) as caught:
        session.get(authlib.api + "/me")

    assert OAUTH in str(caught.value) or OPENID in str(caught.value)
    assert authlib.discovery == [OAUTH + "/nobody", "/nobody" + OPENID]
    assert authlib.token_answers == {}
