# SPDX-License-Identifier: MIT
"""Authlib's authorisation server on Flask, and an API that its tokens open, over plain http on loopback.

    python authlib_server.py      needs Authlib and Flask

When it listens, one line of JSON on stdout names its URLs. The end of stdin ends it, so that nothing survives a test
run that was killed. Each assertion is accepted once: Authlib asks for a `jti`, and a second use of one is refused.

There is an issuer for each path in ISSUERS; they share the clients, which tests register. A path that is none of them
is a token endpoint too, so that one can have the shape that a certain provider has.
"""

import json
import logging
import os
import secrets
import sys
import threading
import time
from urllib.parse import unquote

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector, current_token
from authlib.oauth2.rfc6749 import ClientMixin, InvalidClientError, TokenMixin, grants, scope_to_list
from authlib.oauth2.rfc6750 import BearerTokenGenerator, BearerTokenValidator
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url
from flask import Flask, abort, g, request
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey, import_key
from werkzeug.serving import make_server

METHODS = ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "none"]
ISSUERS = {  # path: what its metadata list, and which algorithms it therefore accepts
    "": (METHODS, ["HS256", "RS256", "ES256"]),
    "/tenant/one": (METHODS, ["RS256", "ES256", "HS256"]),
    "/post": (["client_secret_post"], None),
    "/jwt": (["client_secret_jwt"], ["HS256"]),
    "/oidc": (METHODS, ["HS256", "RS256", "ES256"]),  # has no metadata but those of OpenID Connect discovery
    "/liar": (METHODS, ["HS256"]),  # says that it is another issuer
}
CLIENTS, TOKENS, USED, COUNTS = {}, {}, set(), {}
LOCK = threading.Lock()  # guards COUNTS, and that a jti is taken once


def reset():
    COUNTS.update(token_answers={}, assertions={}, discovery=[], api=[], failing=0)


class Client(ClientMixin):
    """auth_method, secret, public_key (PEM), scope, expires_in; federated: the iss, sub and aud of a foreign JWT."""

    def __init__(self, client_id, auth_method, secret="", public_key="", scope="read write", expires_in=3600, **rest):
        self.client_id, self.auth_method, self.secret = client_id, auth_method, secret
        self.scope, self.expires_in, self.federated = scope, expires_in, rest.get("federated")
        if auth_method == "private_key_jwt":
            self.key = import_key(public_key, "EC" if rest["alg"].startswith("ES") else "RSA")
        elif auth_method == "client_secret_jwt":
            self.key = OctKey.import_key(secret)

    def get_client_id(self):
        return self.client_id

    def get_allowed_scope(self, scope):
        return " ".join(one for one in scope_to_list(scope or "") if one in self.scope.split())

    def check_client_secret(self, client_secret):
        return secrets.compare_digest(self.secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method, endpoint):
        if method == JWTBearerClientAssertion.CLIENT_AUTH_METHOD:  # Authlib's one name for two methods
            return self.auth_method.endswith("_jwt")
        return self.auth_method == method

    def check_grant_type(self, grant_type):
        return grant_type == "client_credentials"


class Token(TokenMixin):
    def __init__(self, fields, asked):
        self.fields, self.client_id = fields, asked.client.client_id
        self.expires_at = time.monotonic() + fields["expires_in"]

    def get_scope(self):
        return self.fields.get("scope", "")

    def is_expired(self):
        return time.monotonic() >= self.expires_at

    def is_revoked(self):
        return False


class Assertions(JWTBearerClientAssertion):
    def get_audiences(self):
        return [request.base_url, request.base_url[: -len("/token")]]  # the token URL and the issuer

    def resolve_client_public_key(self, client):
        return client.key

    def validate_jti(self, claims, jti):
        with LOCK:
            is_new = (claims["sub"], jti) not in USED
            USED.add((claims["sub"], jti))
        return is_new

    def process_assertion_claims(self, assertion, resolve_key):
        """Let each issuer accept what its metadata list: Authlib by itself knows HS256, RS256 and ES256 only."""
        _, algorithms = ISSUERS.get(request.path[: -len("/token")], ISSUERS[""])
        try:
            found = jwt.decode(assertion, resolve_key, algorithms=algorithms)
        except JoseError as error:
            raise InvalidClientError(description=error.description) from error
        self.verify_claims(found.claims)
        g.assertion = {**found.header, **found.claims}
        return found.claims

    def verify_claims(self, claims):
        federated = CLIENTS[claims["sub"]].federated
        if federated is None:
            super().verify_claims(claims)
            return
        # The token of another issuer, whom the client trusts: its subject is not the client, and it may come again.
        expected = {name: {"essential": True, "value": value} for name, value in federated.items()}
        try:
            jwt.JWTClaimsRegistry(leeway=self.leeway, exp={"essential": True}, **expected).validate(claims)
        except JoseError as error:
            raise InvalidClientError(description=error.description) from error


class ClientCredentials(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = (
        "client_secret_basic", "client_secret_post", Assertions.CLIENT_AUTH_METHOD, "none",
    )  # fmt: skip


class Validator(BearerTokenValidator):
    def authenticate_token(self, token_string):
        return TOKENS.get(token_string)


app = Flask(__name__)
server = AuthorizationServer(
    app, CLIENTS.get, lambda fields, asked: TOKENS.update({fields["access_token"]: Token(fields, asked)})
)
server.register_token_generator(
    "default",
    BearerTokenGenerator(lambda **_: secrets.token_urlsafe(), None, lambda client, grant_type: client.expires_in),
)
server.register_client_auth_method(Assertions.CLIENT_AUTH_METHOD, Assertions())
server.register_grant(ClientCredentials)
protected = ResourceProtector()
protected.register_token_validator(Validator())


@app.post("/token")
@app.post("/<path:prefix>/token")
def token(prefix=""):
    form, client_id, how = request.form, request.form.get("client_id"), "id"
    if request.authorization is not None:
        client_id, how = unquote(request.authorization.username), "basic"
    elif "client_assertion" in form or "client_secret" in form:
        how = "assertion" if "client_assertion" in form else "post"
    response = server.create_token_response()
    with LOCK:
        if "assertion" in g:
            COUNTS["assertions"].setdefault(client_id, []).append(g.assertion)
        if COUNTS["failing"]:  # the assertion is used up, the token made, and only then something fails
            COUNTS["failing"] -= 1
            response = app.response_class("try again", 503)
        error = (response.get_json(silent=True) or {}).get("error", "")
        COUNTS["token_answers"].setdefault(client_id, []).append(f"{how} {response.status_code} {error}".rstrip())
    return response


@app.get("/.well-known/oauth-authorization-server")
@app.get("/.well-known/oauth-authorization-server/<path:prefix>")
@app.get("/<path:prefix>/.well-known/openid-configuration")
def metadata(prefix=""):
    with LOCK:
        COUNTS["discovery"].append(request.path)
    path = f"/{prefix}" if prefix else ""
    issuer = request.host_url.rstrip("/") + path
    expected = f"{path}/.well-known/openid-configuration" if path == "/oidc" else get_well_known_url(issuer)
    if path not in ISSUERS or request.path != expected:
        abort(404)
    methods, algorithms = ISSUERS[path]
    found = AuthorizationServerMetadata(
        issuer=issuer + "/another" if path == "/liar" else issuer,
        token_endpoint=issuer + "/token",
        response_types_supported=["none"],
        grant_types_supported=["client_credentials"],
        token_endpoint_auth_methods_supported=methods,
        **({"token_endpoint_auth_signing_alg_values_supported": algorithms} if algorithms else {}),
    )
    found.validate()
    return found


@app.get("/me")
@protected()
def me():
    return {"client_id": current_token.client_id, "scope": current_token.get_scope()}


@app.after_request
def count(response):
    if request.path == "/me":
        COUNTS["api"].append(response.status_code)
    return response


# --- what the tests steer ---------------------------------------------------------------------------------------------


@app.post("/control/<action>")
def control(action):
    if action == "register":
        client = Client(**request.get_json())
        CLIENTS[client.client_id] = client
        if client.federated is not None:
            CLIENTS[client.federated["sub"]] = client  # Authlib looks a client up by the assertion's `sub`
    elif action == "fail":
        COUNTS["failing"] = request.get_json()["times"]
    elif action == "revoke":
        TOKENS.clear()
    elif action == "reset":
        reset()
    return COUNTS


if __name__ == "__main__":
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # http is enough on loopback
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    reset()
    listener = make_server("127.0.0.1", 0, app, threaded=True)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.server_port}"}), flush=True)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    sys.stdin.read()
