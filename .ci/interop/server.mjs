// An oidc-provider, an API that its tokens open, and a second origin, all https on loopback, for the interop tests.
//
//     node server.mjs DIRECTORY      in a folder where `npm ci` has run; keys and certificates go to DIRECTORY
//
// When all are listening, one line of JSON on stdout names URLs, files and clients. The end of stdin ends the process,
// so that nothing survives a test run that was killed.

import { execFileSync } from 'node:child_process';
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const directory = path.resolve(process.argv[2] ?? '.');
const file = (name) => path.join(directory, name);

process.stdin.on('end', () => process.exit(0)).on('error', () => process.exit(0)).resume();

// stdout carries the one line; the provider's notices would stand before it.
console.info = console.log = console.error;

// Resolved from the working directory: the packages are installed in a cache, not beside this file.
const resolved = createRequire(path.join(process.cwd(), 'package.json')).resolve('oidc-provider');
const { default: Provider, errors } = await import(pathToFileURL(resolved));

// --- certificates and keys -------------------------------------------------------------------------------------------

// Python 3.13 verifies strictly (RFC 5280): hence the key identifiers and the critical key usage. An own configuration,
// since the system's one may add extensions of its own, or be missing.
writeFileSync(file('openssl.cnf'), `
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1,DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
subjectAltName = DNS:client.example
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[stranger]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
subjectAltName = DNS:stranger.example
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
`);

const openssl = (...args) => execFileSync('openssl', args, { cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] });
const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-config', 'openssl.cnf'];

openssl('req', '-x509', ...newKey, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2',
  '-subj', '/CN=interop CA', '-extensions', 'ca');
for (const name of ['server', 'client', 'stranger']) {
  openssl('req', '-new', ...newKey, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=interop ${name}`);
  openssl('x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.pem', '-CAkey', 'ca.key', '-days', '2', '-sha256',
    '-set_serial', `0x01${randomBytes(8).toString('hex')}`,
    '-extfile', 'openssl.cnf', '-extensions', name, '-out', `${name}.pem`);
}

const tls = { key: readFileSync(file('server.key')), cert: readFileSync(file('server.pem')) };
// Asked for, but not enforced by TLS: whether a certificate is needed depends on the client, and oidc-provider decides.
const mutualTls = { ...tls, ca: readFileSync(file('ca.pem')), requestCert: true, rejectUnauthorized: false };

function signingKey(name, type, options, alg) {
  const { publicKey, privateKey } = generateKeyPairSync(type, options);
  writeFileSync(file(`${name}.key`), privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
  return { keys: [{ ...publicKey.export({ format: 'jwk' }), alg, use: 'sig', kid: name }] };
}
const rs256 = signingKey('rs256', 'rsa', { modulusLength: 2048 }, 'RS256');
const es256 = signingKey('es256', 'ec', { namedCurve: 'P-256' }, 'ES256');

// --- clients ---------------------------------------------------------------------------------------------------------

// Every printable ASCII character that form encoding, base64 user-pass or a percent decoder can trip over. Not more:
// RFC 6749 appendix A.2 allows a secret %x20-7E only, and oidc-provider keeps to it.
const reserved = 's3cr:et%/+ &=?#"\\~%41';
const plain = 'a-plain-secret-0123456789-abcdefghijkl'; // 32 bytes or more, since HS256 makes it a key

const registered = [
  { client_id: 'basic', client_secret: plain },
  { client_id: 'urn:reserved/id %+&', client_secret: reserved },
  { client_id: 'short', client_secret: plain },
  { client_id: 'post', client_secret: plain, token_endpoint_auth_method: 'client_secret_post' },
  { client_id: 'post-only', client_secret: reserved, token_endpoint_auth_method: 'client_secret_post' },
  { client_id: 'hs256', client_secret: plain, token_endpoint_auth_method: 'client_secret_jwt' },
  { client_id: 'rs256', jwks: rs256, token_endpoint_auth_method: 'private_key_jwt' },
  { client_id: 'es256', jwks: es256, token_endpoint_auth_method: 'private_key_jwt' },
  {
    client_id: 'mtls',
    token_endpoint_auth_method: 'tls_client_auth',
    tls_client_auth_san_dns: 'client.example',
    tls_client_certificate_bound_access_tokens: true,
  },
].map((client) => ({
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  scope: 'read write',
  ...client,
}));

const LIFETIMES = { short: 3 }; // seconds
const RESOURCE = 'https://resource.example/api';

// --- the authorisation server ----------------------------------------------------------------------------------------

const listen = (server) => new Promise((done, failed) => {
  server.once('error', failed);
  server.listen(0, '127.0.0.1', () => done(server.address().port));
});

const authServer = https.createServer(mutualTls);
const issuer = `https://127.0.0.1:${await listen(authServer)}`; // the port is part of the issuer, so it comes first
// Where clients with a certificate are sent by discovery (RFC 8705 section 5). The first one takes them as well.
const aliasServer = https.createServer(mutualTls);
const aliasPort = await listen(aliasServer);
const mtlsTokenUrl = `https://127.0.0.1:${aliasPort}/token`;

const provider = new Provider(issuer, {
  clients: registered,
  clientAuthMethods: [
    'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'tls_client_auth',
  ],
  cookies: { keys: [randomBytes(16).toString('hex')] },
  discovery: { mtls_endpoint_aliases: { token_endpoint: mtlsTokenUrl } },
  jwks: { keys: [generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' })] },
  // "admin" exists and no client may have it. A scope that does not exist at all is dropped silently, not refused.
  scopes: ['read', 'write', 'admin'],
  ttl: { ClientCredentials: (ctx, token, client) => LIFETIMES[client.clientId] ?? 3600 },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
    mTLS: {
      enabled: true,
      tlsClientAuth: true,
      certificateBoundAccessTokens: true,
      getCertificate: (ctx) => ctx.socket.getPeerX509Certificate()?.toString(),
      certificateAuthorized: (ctx) => ctx.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_san_dns'
        && ctx.socket.getPeerX509Certificate().subjectAltName === `DNS:${expected}`,
    },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo(ctx, indicator) {
        if (indicator !== RESOURCE) throw new errors.InvalidTarget();
        return { scope: 'read write', audience: indicator, accessTokenFormat: 'opaque' };
      },
    },
  },
});

// oidc-provider takes Basic and post from any client that is registered for one of the two; other servers do not. One
// client is made strict where the secret is compared, so that the refusal itself is still oidc-provider's own answer.
const { compareClientSecret } = provider.Client.prototype;
provider.Client.prototype.compareClientSecret = function compare(secret) {
  return (this.clientId !== 'post-only' || Provider.ctx.headers.authorization === undefined)
    && compareClientSecret.call(this, secret);
};

const issued = new Set();
provider.on('client_credentials.saved', (token) => issued.add(token));

let counts;
let hidden; // of the two forms of discovery
function reset() {
  counts = {
    token_requests: {}, token_answers: {}, mtls_requests: {}, assertions: {}, discovery: [], api: {}, elsewhere: {},
  };
  hidden = new Set();
}
reset();

const push = (object, key, value) => (Object.hasOwn(object, key) ? object[key].push(value) : object[key] = [value]);

function basicId(authorization) {
  const user = Buffer.from(authorization.slice('Basic '.length), 'base64').toString().split(':')[0];
  try {
    return decodeURIComponent(user);
  } catch {
    return user; // sent without encoding
  }
}

function decodeAssertion(assertion) {
  try {
    const [header, claims] = assertion.split('.').map((part) => Buffer.from(part, 'base64url'));
    return { ...JSON.parse(header), ...JSON.parse(claims) };
  } catch {
    return {};
  }
}

// Counted after the provider has answered, and before the answer leaves: whoever has it finds it counted.
provider.use(async (ctx, next) => {
  if (hidden.has(ctx.path)) ctx.status = 404;
  else await next();
  if (ctx.path.startsWith('/.well-known/')) counts.discovery.push(ctx.path);
  if (ctx.path !== '/token') return;
  const { params = {} } = ctx.oidc ?? {};
  const { authorization } = ctx.headers;
  const [how, id] = authorization !== undefined ? ['basic', basicId(authorization)]
    : params.client_assertion !== undefined ? ['assertion', params.client_id]
      : [params.client_secret !== undefined ? 'post' : 'id', params.client_id];
  counts.token_requests[id] = (counts.token_requests[id] ?? 0) + 1;
  if (ctx.socket.localPort === aliasPort) counts.mtls_requests[id] = (counts.mtls_requests[id] ?? 0) + 1;
  if (how === 'assertion') push(counts.assertions, id, decodeAssertion(params.client_assertion));
  push(counts.token_answers, id, `${how} ${ctx.status}${ctx.body?.error ? ` ${ctx.body.error}` : ''}`);
});
authServer.on('request', provider.callback());
aliasServer.on('request', provider.callback());

// --- the API, and another origin -------------------------------------------------------------------------------------

const send = (response, status, body, headers = {}) => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
};

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

const thumbprint = (socket) => {
  const certificate = socket.getPeerX509Certificate?.();
  return certificate && createHash('sha256').update(certificate.raw).digest('base64url');
};

async function tokenOf(request) {
  const [, value] = /^Bearer ([\w.~+/=-]+)$/i.exec(request.headers.authorization ?? '') ?? [];
  const token = value && await provider.ClientCredentials.find(value);
  if (!token || token.isExpired) return undefined;
  // RFC 8705 section 3: a bound token is worth nothing without its certificate.
  const bound = token['x5t#S256'];
  return bound === undefined || bound === thumbprint(request.socket) ? token : undefined;
}

const elsewhereServer = https.createServer(tls, async (request, response) => {
  const body = await bodyOf(request);
  push(counts.elsewhere, request.url, 200);
  if (request.url === '/back') {
    response.writeHead(302, { location: `${api}/echo` }).end();
  } else {
    send(response, 200, { method: request.method, headers: request.headers, body });
  }
});
const elsewhere = `https://127.0.0.1:${await listen(elsewhereServer)}`;

// /echo is open: a redirect that comes back to it must be seen to come without a token, instead of being refused.
const answers = {
  '/echo': (request) => [200, { method: request.method, headers: request.headers }],
  '/refuse': () => [401, {}, { 'www-authenticate': 'Bearer error="invalid_token"' }],
  '/redirect-here': () => [302, {}, { location: '/me' }],
  '/redirect-away': () => [302, {}, { location: `${elsewhere}/echo` }],
  '/redirect-away-and-back': () => [302, {}, { location: `${elsewhere}/back` }],
  '/me': (request, token, body) => [200, {
    method: request.method,
    body,
    client_id: token.clientId,
    scope: token.scope ?? null,
    aud: token.aud ?? null,
    bound: token['x5t#S256'] ?? null,
    seconds_left: token.remainingTTL,
  }],
};

const apiServer = https.createServer(mutualTls, async (request, response) => {
  const body = await bodyOf(request);
  const answer = answers[request.url];
  const token = await tokenOf(request);
  const [status, json, headers] = !answer ? [404, {}]
    : !token && request.url !== '/echo' ? [401, {}, { 'www-authenticate': 'Bearer error="invalid_token"' }]
      : answer(request, token, body);
  push(counts.api, request.url, status);
  send(response, status, json, headers);
});
const api = `https://127.0.0.1:${await listen(apiServer)}`;

// --- what the tests steer --------------------------------------------------------------------------------------------

const controls = {
  'GET /counts': () => counts,
  'POST /reset': () => reset(),
  'POST /hide/oauth-authorization-server': () => { hidden.add('/.well-known/oauth-authorization-server'); },
  'POST /hide/openid-configuration': () => { hidden.add('/.well-known/openid-configuration'); },
  'POST /revoke': async () => {
    const tokens = [...issued];
    issued.clear();
    await Promise.all(tokens.map((token) => token.destroy()));
    return { revoked: tokens.length };
  },
};

const controlServer = http.createServer(async (request, response) => {
  const control = controls[`${request.method} ${request.url}`];
  if (control) send(response, 200, await control() ?? {});
  else send(response, 404, {});
});
const control = `http://127.0.0.1:${await listen(controlServer)}`;

process.stdout.write(`${JSON.stringify({
  issuer,
  token_url: `${issuer}/token`,
  mtls_token_url: mtlsTokenUrl,
  api,
  elsewhere,
  control,
  resource: RESOURCE,
  ca: file('ca.pem'),
  client_certificate: [file('client.pem'), file('client.key')],
  stranger_certificate: [file('stranger.pem'), file('stranger.key')],
  signing_keys: { rs256: file('rs256.key'), es256: file('es256.key') },
  secrets: Object.fromEntries(registered.filter((c) => c.client_secret).map((c) => [c.client_id, c.client_secret])),
  lifetimes: LIFETIMES,
})}\n`);
