# SPDX-License-Identifier: MIT
"""oauth_session.py against oidc-provider: assertions, certificates, resource indicators and discovery.

    python -m pytest .ci/interop/test_oidc_methods.py

It takes each assertion once, so that each fetch after the first proves that a new one was made.
"""

from __future__ import annotations

import time

import pytest
from peers import run_recipe

import oauth_session

OAUTH, OPENID = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"


def assertions_of(server, client_id, **other):
    """The README's function that signs with the openssl command, for a client of server.mjs.

    other: {text: text instead}, after the placeholders have got their values.
    """
    kind = {"rs256": "An RSA key", "es256": "An elliptic curve key"}[client_id]
    placeholders = {
        "https://auth.example.com/oauth/token": server.token_url,
        "/etc/my-client/key.pem": server.signing_keys[client_id],
        "my-client": client_id,
        "my-key": client_id,
        **other,
    }
    made = run_recipe("Sign it yourself", f"{kind} in a file, and the openssl command", placeholders=placeholders)
    return made["assertion"]


def fetch(session, server, times=3):
    """Fetch so many tokens, and show each to the API; return what the API saw of each."""
    seen = []
    for _ in range(times):
        session.source.clear()
        seen.append(session.get(server.api + "/me").json())
    return seen


def assert_each_its_own(server, client_id, times):
    """So many assertions, and no jti twice."""
    jtis = [one["jti"] for one in server.assertions[client_id]]
    assert len(jtis) == len(set(jtis)) == times


# --- assertions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client_id", ["rs256", "es256"])
def test_assertion_signed_with_the_openssl_command_is_accepted(server, connect, client_id):
    session = connect(client_id, client_assertion=assertions_of(server, client_id))

    seen = fetch(session, server)

    assert [one["client_id"] for one in seen] == [client_id] * 3
    assert server.token_answers == {client_id: ["assertion 200"] * 3}
    assert {one["alg"] for one in server.assertions[client_id]} == {client_id.upper()}
    assert_each_its_own(server, client_id, 3)


def test_client_secret_jwt_says_what_rfc_7523_asks_for(server, connect):
    session = connect("hs256", auth_method="client_secret_jwt")
    before = int(time.time())

    seen = fetch(session, server)

    assert [one["client_id"] for one in seen] == ["hs256"] * 3
    assert server.token_answers == {"hs256": ["assertion 200"] * 3}
    assert_each_its_own(server, "hs256", 3)
    for one in server.assertions["hs256"]:
        assert one["alg"] == "HS256"
        assert (one["iss"], one["sub"], one["aud"]) == ("hs256", "hs256", server.token_url)
        assert before <= one["iat"] <= time.time() < one["exp"] <= one["iat"] + 600


def test_revoked_token_is_replaced_by_a_new_assertion(server, connect):
    session = connect("hs256", auth_method="client_secret_jwt")
    session.get(server.api + "/me")
    server.revoke()

    response = session.get(server.api + "/me")

    assert response.status == 200
    assert server.token_answers == {"hs256": ["assertion 200"] * 2}
    assert_each_its_own(server, "hs256", 2)
    assert server.api_answers == {"/me": [200, 401, 200]}


def test_text_that_is_given_as_assertion_serves_once(server, connect):
    text = assertions_of(server, "rs256")()
    session = connect("rs256", client_assertion=text)
    fetch(session, server, times=1)
    session.source.clear()

    with pytest.raises(oauth_session.OAuthInvalidClient) as caught:
        session.get(server.api + "/me")

    assert (caught.value.error, caught.value.status) == ("invalid_client", 401)
    assert [part for part in text.split(".") if part in str(caught.value) + repr(vars(caught.value))] == []
    assert server.token_answers == {"rs256": ["assertion 200", "assertion 401 invalid_client"]}


def test_wrong_secret_of_an_assertion_is_an_invalid_client(server, connect):
    wrong = "a-wrong-secret-0123456789-abcdefghijkl"
    session = connect("hs256", wrong, auth_method="client_secret_jwt")

    with pytest.raises(oauth_session.OAuthInvalidClient) as caught:
        session.get(server.api + "/me")

    assert wrong not in str(caught.value) + repr(vars(caught.value))
    assert server.token_answers == {"hs256": ["assertion 401 invalid_client"]}


def test_wrong_key_is_an_invalid_client(server, connect, keys):
    stranger = {server.signing_keys["rs256"]: keys.stranger}
    session = connect("rs256", client_assertion=assertions_of(server, "rs256", **stranger))

    with pytest.raises(oauth_session.OAuthInvalidClient):
        session.get(server.api + "/me")

    assert server.token_answers == {"rs256": ["assertion 401 invalid_client"] * 2}  # a callable is asked again


def test_wrong_audience_is_an_invalid_client(server, connect):
    wrong = "https://elsewhere.example/token"
    session = connect("hs256", auth_method="client_secret_jwt", assertion_audience=wrong)

    with pytest.raises(oauth_session.OAuthInvalidClient):
        session.get(server.api + "/me")

    assert server.token_answers == {"hs256": ["assertion 401 invalid_client"]}


# --- discovery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "discovery"),
    [(None, [OAUTH]), ("openid-configuration", [OAUTH]), ("oauth-authorization-server", [OAUTH, OPENID])],
    ids=["both", "only RFC 8414", "only OpenID Connect"],
)
def test_issuer_leads_to_the_token_endpoint_and_is_the_audience(server, connect, hidden, discovery):
    if hidden:
        server.hide(hidden)
    session = connect("hs256", auth_method="client_secret_jwt", issuer=server.issuer)

    seen = fetch(session, server)

    assert [one["client_id"] for one in seen] == ["hs256"] * 3
    assert server.discovery == discovery
    assert server.token_answers == {"hs256": ["assertion 200"] * 3}
    assert [one["aud"] for one in server.assertions["hs256"]] == [server.issuer] * 3
    assert_each_its_own(server, "hs256", 3)


@pytest.mark.parametrize("client_id", ["rs256", "es256"])
def test_issuer_leads_an_assertion_of_ones_own_to_the_token_endpoint(server, connect, client_id):
    assertion = assertions_of(server, client_id, **{server.token_url: server.issuer})
    session = connect(client_id, client_assertion=assertion, issuer=server.issuer)

    seen = fetch(session, server)

    assert [one["client_id"] for one in seen] == [client_id] * 3
    assert server.discovery == [OAUTH]
    assert server.token_answers == {client_id: ["assertion 200"] * 3}


def test_issuer_leads_a_secret_to_the_token_endpoint(server, connect):
    session = connect("basic", issuer=server.issuer)

    seen = fetch(session, server)

    assert [one["client_id"] for one in seen] == ["basic"] * 3
    assert server.discovery == [OAUTH]
    assert server.token_answers == {"basic": ["basic 200"] * 3}
    assert server.mtls_requests == {}


# --- certificates and resource indicators -----------------------------------------------------------------------------


def test_certificate_goes_to_the_endpoint_that_discovery_names_for_it(server, connect):
    context = server.context(server.client_certificate)
    session = connect("mtls", auth_method="tls_client_auth", issuer=server.issuer, context=context)

    seen = fetch(session, server)

    assert [one["client_id"] for one in seen] == ["mtls"] * 3
    assert None not in [one["bound"] for one in seen]
    assert server.discovery == [OAUTH]
    assert server.token_answers == {"mtls": ["id 200"] * 3}
    assert server.mtls_requests == {"mtls": 3}
    assert server.api_answers == {"/me": [200] * 3}


def test_bound_token_is_worth_nothing_without_its_certificate(server, connect):
    context = server.context(server.client_certificate)
    session = connect("mtls", auth_method="tls_client_auth", issuer=server.issuer, context=context)
    bare = connect("basic")
    headers = {"Authorization": "Bearer " + session.access_token}

    statuses = [session.get(server.api + "/me").status, bare.get(server.api + "/me", headers=headers).status]

    assert statuses == [200, 401]
    assert server.token_answers == {"mtls": ["id 200"]}


def test_wrong_certificate_is_an_invalid_client_also_by_discovery(server, connect):
    context = server.context(server.stranger_certificate)
    session = connect("mtls", auth_method="tls_client_auth", issuer=server.issuer, context=context)

    with pytest.raises(oauth_session.OAuthInvalidClient):
        session.get(server.api + "/me")

    assert server.token_answers == {"mtls": ["id 401 invalid_client"]}
    assert server.mtls_requests == {"mtls": 1}


@pytest.mark.parametrize("client_id", ["basic", "rs256", "hs256", "mtls"])
def test_resource_becomes_the_audience_of_each_token_by_discovery(server, connect, client_id):
    settings = {
        "basic": {},
        "rs256": {"client_assertion": assertions_of(server, "rs256")},
        "hs256": {"auth_method": "client_secret_jwt"},
        "mtls": {"auth_method": "tls_client_auth", "context": server.context(server.client_certificate)},
    }[client_id]
    session = connect(client_id, issuer=server.issuer, resource=server.resource, **settings)

    seen = fetch(session, server)

    assert [one["aud"] for one in seen] == [server.resource] * 3
    how = {"basic": "basic", "mtls": "id"}.get(client_id, "assertion")
    assert server.token_answers == {client_id: [how + " 200"] * 3}
