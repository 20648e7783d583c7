// An authorization server that others wrote: npm's oidc-provider, with what our sources ask of one.
//
// `node server.js CONFIG`, a file of JSON; see `AuthorizationServer` in __init__.py. Once it listens it writes one line
// of JSON, its ports. It ends when its stdin is closed, so that none is left behind by tests that were killed.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';

import { createLocalJWKSet, exportJWK, generateKeyPair, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';

const config = JSON.parse(readFileSync(process.argv[2], 'utf-8'));
const TYPE = 'urn:ietf:params:oauth:token-type:';

// Three issuers, by path. One has its metadata where OpenID Connect Discovery says, one where RFC 8414 says.
const ISSUERS = ['', '/openid', '/oauth'];
const RFC8414 = '/.well-known/oauth-authorization-server';

const signing = await Promise.all(['RS256', 'ES256'].map(async (alg) => {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...await exportJWK(privateKey), alg, use: 'sig', kid: alg };
}));
const published = signing.map(({ d, p, q, dp, dq, qi, ...key }) => key);
// Whose tokens may be exchanged: our own ones, and those of a platform.
const trusted = createLocalJWKSet({ keys: [...published, ...config.platform.keys] });

function resourceServer(ctx, resource) {
  const scope = config.resources[resource];
  if (scope === undefined) throw new errors.InvalidTarget('no such resource');
  return { scope, audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 3600, jwt: { sign: { alg: 'ES256' } } };
}

function configuration(issuer, mtls) {
  return {
    clients: config.clients,
    jwks: { keys: signing },
    cookies: { keys: ['of no value'] },
    scopes: ['openid', 'offline_access', 'read', 'write'],
    rotateRefreshToken: true,
    issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (ctx) => ctx.oidc.exchanged,
    clientAuthMethods: ['none', 'client_secret_basic', 'client_secret_post', 'private_key_jwt', 'tls_client_auth'],
    discovery: {
      mtls_endpoint_aliases: {
        token_endpoint: `${mtls}/token`, device_authorization_endpoint: `${mtls}/device/auth`,
      },
    },
    features: {
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: { enabled: true, getResourceServerInfo: resourceServer, useGrantedResource: () => true },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        certificateBoundAccessTokens: true,
        getCertificate: ({ socket }) => socket.getPeerX509Certificate?.()?.toString(),
        certificateAuthorized: ({ socket }) => socket.authorized,
        certificateSubjectMatches: ({ socket }, property, expected) => property === 'tls_client_auth_san_dns'
          && socket.getPeerX509Certificate().subjectAltName.split(', ').includes(`DNS:${expected}`),
      },
    },
  };
}

// The two grants that oidc-provider leaves to whoever runs it.

async function verified(ctx, token, options = {}) {
  try {
    return (await jwtVerify(token, trusted, options)).payload;
  } catch (error) {
    // Only trusted parties read it: the tests, when something is wrong.
    throw new errors.InvalidGrant(`the token is not good: ${error.message}`);
  }
}

async function issued(ctx, claims, more = {}) {
  const { client, params, provider } = ctx.oidc;
  const [resource, ...others] = [params.resource ?? params.audience ?? []].flat();
  if (others.length) throw new errors.InvalidTarget('one at a time');
  const token = new provider.ClientCredentials({ client, scope: params.scope });
  if (resource) token.resourceServer = new provider.ResourceServer(resource, resourceServer(ctx, resource));
  ctx.oidc.exchanged = claims;
  ctx.oidc.entity('ClientCredentials', token);
  ctx.body = {
    access_token: await token.save(), expires_in: token.expiration, token_type: token.tokenType, ...more,
  };
}

/** RFC 8693. */
async function tokenExchange(ctx) {
  const { params } = ctx.oidc;
  if (![`${TYPE}jwt`, `${TYPE}access_token`, `${TYPE}id_token`].includes(params.subject_token_type)) {
    throw new errors.InvalidRequest('subject_token_type');
  }
  const requested = params.requested_token_type ?? `${TYPE}access_token`;
  if (![`${TYPE}jwt`, `${TYPE}access_token`].includes(requested)) throw new errors.InvalidRequest('requested_token_type');
  const subject = await verified(ctx, params.subject_token);
  const actor = params.actor_token && await verified(ctx, params.actor_token);
  // Who acts, and for whom, stays in the tokens along a chain.
  const act = actor ? { sub: actor.sub, ...(subject.act && { act: subject.act }) } : subject.act;
  await issued(ctx, { subject: subject.subject ?? subject.sub, ...(act && { act }) }, { issued_token_type: requested });
}

/** RFC 7523 section 2.1. An assertion is taken once. */
async function jwtBearer(ctx) {
  const { provider, params } = ctx.oidc;
  const audience = [provider.issuer, ctx.oidc.urlFor('token')];
  const requiredClaims = ['iss', 'sub', 'exp', 'jti'];
  const claims = await verified(ctx, params.assertion, { audience, requiredClaims });
  if (!await provider.ReplayDetection.unique(claims.iss, claims.jti, claims.exp)) {
    throw new errors.InvalidGrant('an assertion is taken once');
  }
  await issued(ctx, { subject: claims.sub });
}

function provider(issuer, mtls) {
  const made = new Provider(issuer, configuration(issuer, mtls));
  const exchanged = ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type'];
  const targets = ['audience', 'resource', 'scope'];
  made.registerGrantType('urn:ietf:params:oauth:grant-type:token-exchange', tokenExchange, [...exchanged, ...targets], [
    'audience', 'resource',
  ]);
  made.registerGrantType('urn:ietf:params:oauth:grant-type:jwt-bearer', jwtBearer, ['assertion', ...targets], ['resource']);
  // Into the log, for whoever looks why a test fails.
  for (const endpoint of ['grant', 'device_authorization', 'server']) {
    made.on(endpoint === 'server' ? 'server_error' : `${endpoint}.error`, (ctx, error) => {
      console.error(`${ctx.path}: ${error.error}: ${error.error_detail ?? error.error_description ?? error.stack}`);
    });
  }
  return made.callback();
}

function dispatch(request, response) {
  if (request.url === `${RFC8414}/oauth`) {
    request.url = `/oauth${RFC8414}`;
  } else if (request.url.startsWith('/oauth/.well-known/') || request.url === `/openid${RFC8414}`) {
    response.writeHead(404).end();
    return;
  }
  const path = ISSUERS.find((each) => each && request.url.startsWith(`${each}/`)) ?? '';
  request.originalUrl = request.url; // by which oidc-provider knows where it is mounted
  request.url = request.url.slice(path.length);
  issuers[path](request, response);
}

function listening(options) {
  const { key, cert, ca } = config;
  const server = createServer({ key, cert, ca, ...options }, dispatch);
  return new Promise((resolve) => { server.listen(0, '127.0.0.1', () => resolve(server.address().port)); });
}

const issuers = {};
const port = await listening({});
// Only here a client is asked for its certificate, since browsers would ask their users which one (RFC 8705 section 5).
const mtls = await listening({ requestCert: true, rejectUnauthorized: false });
for (const path of ISSUERS) {
  issuers[path] = provider(`https://localhost:${port}${path}`, `https://localhost:${mtls}${path}`);
}

process.stdin.on('close', () => process.exit()).resume();
console.log(JSON.stringify({ port, mtls, node: process.version }));
