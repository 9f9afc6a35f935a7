// SPDX-License-Identifier: Apache-2.0
//
// Drives a server through hypeman's official client, as published: every operation that the server implements.
// One TAP line a check. Needs HYPEMAN_BASE_URL, HYPEMAN_API_KEY, HYPEMAN_LIMITED_KEY (a token whose only scope is
// instance:read) and HYPEMAN_TEST_IMAGE (an image that holds a shell).
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import Hypeman from '@onkernel/hypeman';
import { cpFromInstance, cpToInstance } from '@onkernel/hypeman/lib/cp';

type Instance = Hypeman.Instance;

function setting(name: string): string {
  const value = process.env[name];
  if (!value) {
    console.error(`${name} is not set`);
    process.exit(2);
  }
  return value;
}

const baseURL = setting('HYPEMAN_BASE_URL');
const apiKey = setting('HYPEMAN_API_KEY');
const limitedKey = setting('HYPEMAN_LIMITED_KEY');
const image = setting('HYPEMAN_TEST_IMAGE');

// Each request that leaves the client is counted, so that a retry shows.
let tries = 0;
const countingFetch: typeof fetch = (input, init) => {
  tries++;
  return fetch(input, init);
};

const client = new Hypeman({ baseURL, apiKey, fetch: countingFetch });
const limited = new Hypeman({ baseURL, apiKey: limitedKey, fetch: countingFetch });
const wrong = new Hypeman({ baseURL, apiKey: apiKey.slice(0, -8) + 'AAAAAAAA', fetch: countingFetch });

let passed = 0;
let failed = 0;

async function check(name: string, body: () => Promise<void>): Promise<void> {
  const began = performance.now();
  try {
    await body();
    passed++;
    console.log(`ok ${passed + failed} - ${name} # ${Math.round(performance.now() - began)} ms`);
  } catch (error) {
    failed++;
    console.log(`not ok ${passed + failed} - ${name}`);
    console.log(String(error instanceof Error ? error.stack : error).replace(/^/gm, '# '));
  }
}

interface Expected {
  status: number;
  code: string;
  retries?: boolean;
}

// The call must fail as told, in the API's error form, and the client must not have tried it again.
async function fails(
  kind: new (...args: any[]) => InstanceType<typeof Hypeman.APIError>,
  expected: Expected,
  call: () => PromiseLike<unknown>,
): Promise<InstanceType<typeof Hypeman.APIError>> {
  const before = tries;
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof kind, `not a ${kind.name}: ${error}`);
    assert.equal(error.status, expected.status);
    const body = error.error as { code?: unknown; message?: unknown };
    assert.equal(body.code, expected.code, `message: ${body.message}`);
    assert.equal(typeof body.message, 'string');
    assert.equal(tries - before, 1, 'the client retried');
    if (error.status === 409 || error.status! >= 500) {
      assert.equal(error.headers?.get('x-should-retry'), 'false');
    }
    return error;
  }
  assert.fail(`succeeded, ${kind.name} expected`);
}

async function lines(id: string, query: Hypeman.InstanceLogsParams, until?: string): Promise<string[]> {
  const stream = await client.instances.logs(id, query);
  const deadline = setTimeout(() => stream.controller.abort(), 30_000);
  const seen: string[] = [];
  try {
    for await (const line of stream) {
      assert.equal(typeof line, 'string');
      seen.push(line);
      if (until !== undefined && line.includes(until)) break;
    }
  } finally {
    clearTimeout(deadline);
  }
  return seen;
}

const ids = (list: Instance[]): string[] => list.map((one) => one.id);

const name = `sdk-${randomBytes(4).toString('hex')}`;
const missing = 'no-such-thing';
const workload = 'trap "exit 7" TERM; echo "hello $GREETING"; echo second; while :; do sleep 1 & wait $!; done';
// A gigabyte needs a larger disk.
const overlay = process.env['HYPEMAN_COPY_MB'] ? ['4GB', '4.0 GB'] : ['1GB', '1024.0 MB'];
let made: Instance;

await check('health.check', async () => {
  assert.deepEqual(await client.health.check(), { status: 'ok' });
});

await check('capabilities.get: the default runtime is among the runtimes, which are sorted', async () => {
  const caps = await client.capabilities.get();
  const names = caps.runtimes.map((one) => one.name);
  assert.ok(names.includes(caps.default_runtime.name));
  assert.deepEqual(names, [...names].sort());
  assert.equal(caps.default_runtime.available, true);
  assert.equal(caps.host.os, 'linux');
  assert.ok(caps.images.platforms.includes(caps.images.default_platform));
  for (const feature of ['instances', 'images', 'exec', 'logs']) assert.ok(caps.features.includes(feature));
});

await check('images.list holds the imported image', async () => {
  const found = (await client.images.list()).filter((one) => one.name === image);
  assert.equal(found.length, 1);
  assert.equal(found[0]!.status, 'ready');
  assert.equal(found[0]!.error, null);
  assert.ok(found[0]!.size_bytes! > 0);
});

await check('images.list by a tag that none has is empty', async () => {
  assert.deepEqual(await client.images.list({ tags: { none: name } }), []);
});

await check('images.get takes a name with slashes, and its short form', async () => {
  assert.ok(image.includes('/'));
  const whole = await client.images.get(image);
  const short = await client.images.get(image.replace(/^docker\.io\/library\//, '').replace(/:latest$/, ''));
  assert.equal(whole.name, image);
  assert.deepEqual(short, whole);
});

await check('images.get of an unknown image is a NotFoundError', async () => {
  await fails(Hypeman.NotFoundError, { status: 404, code: 'not_found' }, () => client.images.get(missing));
});

await check('instances.create', async () => {
  made = await client.instances.create({
    name,
    image,
    size: '256MB',
    overlay_size: overlay[0]!,
    vcpus: 1,
    env: { GREETING: 'from the "SDK" ä' },
    tags: { 'team/name': 'a b', run: name },
    entrypoint: ['/bin/sh', '-c'],
    cmd: [workload],
    skip_kernel_headers: true,
  });
  assert.match(made.id, /^[a-z][a-z0-9]{23}$/);
  assert.equal(made.name, name);
  assert.equal(made.image, image);
  assert.equal(made.size, '256.0 MB');
  assert.equal(made.hotplug_size, '0 B');
  assert.equal(made.overlay_size, overlay[1]);
  assert.equal(made.vcpus, 1);
  assert.equal(made.expires_at, null);
  assert.equal(made.exit_code, null);
  assert.equal(made.env!['GREETING'], 'from the "SDK" ä');
  assert.deepEqual(made.tags, { 'team/name': 'a b', run: name });
  assert.ok(['Created', 'Initializing', 'Running'].includes(made.state), made.state);
});

await check('instances.wait for Running', async () => {
  const answer = await client.instances.wait(made.id, { state: 'Running', timeout: '60s' });
  assert.deepEqual(answer, { state: 'Running', state_error: null, timed_out: false });
});

await check('instances.get by id, by name and by a prefix of the id', async () => {
  for (const key of [made.id, made.name, made.id.slice(0, 16)]) {
    const got = await client.instances.get(key);
    assert.equal(got.id, made.id);
    assert.equal(got.state, 'Running');
    assert.equal(got.current_phase, 'running');
    assert.ok(Date.parse(got.started_at!) >= Date.parse(got.created_at) - 1000);
    assert.ok(got.phase_durations_ms!['running']! >= 0);
  }
});

await check('instances.get of an unknown instance is a NotFoundError', async () => {
  await fails(Hypeman.NotFoundError, { status: 404, code: 'not_found' }, () => client.instances.get(missing));
});

await check('instances.list, whole and by state', async () => {
  assert.ok(ids(await client.instances.list()).includes(made.id));
  assert.ok(ids(await client.instances.list({ state: 'Running' })).includes(made.id));
  assert.ok(!ids(await client.instances.list({ state: 'Stopped' })).includes(made.id));
});

await check('instances.list by tags: all must match, exactly', async () => {
  assert.deepEqual(ids(await client.instances.list({ tags: { run: name } })), [made.id]);
  assert.deepEqual(ids(await client.instances.list({ tags: { run: name, 'team/name': 'a b' } })), [made.id]);
  assert.deepEqual(ids(await client.instances.list({ tags: { run: name, 'team/name': 'a' } })), []);
  assert.deepEqual(ids(await client.instances.list({ state: 'Running', tags: { other: name } })), []);
});

await check('instances.logs with follow brings what is printed', async () => {
  const seen = await lines(made.id, { follow: true }, 'second');
  assert.ok(seen.some((line) => line.includes('hello from the "SDK" ä')), seen.join('\n'));
});

await check('instances.logs without follow ends, and tail limits it', async () => {
  assert.ok((await lines(made.id, {})).length >= 2);
  assert.equal((await lines(made.id, { tail: 1, source: 'app' })).length, 1);
});

await check('instances.logs of an unknown instance is a NotFoundError', async () => {
  await fails(Hypeman.NotFoundError, { status: 404, code: 'not_found' }, () => client.instances.logs(missing));
});

await check('instances.wait answers in time when the state does not come', async () => {
  const answer = await client.instances.wait(made.id, { state: 'Stopped', timeout: '200ms' });
  assert.deepEqual(answer, { state: 'Running', state_error: null, timed_out: true });
});

await check('instances.wait with a bad duration is a BadRequestError', async () => {
  await fails(Hypeman.BadRequestError, { status: 400, code: 'invalid_timeout' }, () =>
    client.instances.wait(made.id, { state: 'Stopped', timeout: 'soon' }),
  );
});

await check('instances.start of a running one is a ConflictError, sent once', async () => {
  await fails(Hypeman.ConflictError, { status: 409, code: 'invalid_state' }, () => client.instances.start(made.id, {}));
});

await check('instances.create with a name that is taken is a ConflictError, sent once', async () => {
  await fails(Hypeman.ConflictError, { status: 409, code: 'name_conflict' }, () =>
    client.instances.create({ name, image }),
  );
});

await check('instances.create with a bad size is a BadRequestError', async () => {
  await fails(Hypeman.BadRequestError, { status: 400, code: 'invalid_size' }, () =>
    client.instances.create({ name: `${name}-b`, image, size: '1.5GB' }),
  );
});

await check('instances.create from an unknown image is a NotFoundError', async () => {
  await fails(Hypeman.NotFoundError, { status: 404, code: 'not_found' }, () =>
    client.instances.create({ name: `${name}-b`, image: missing }),
  );
});

await check('what failed left nothing in the list', async () => {
  assert.deepEqual(ids(await client.instances.list()), [made.id]);
});

await check('instances.stop ends the program, and its exit code is kept', async () => {
  const stopped = await client.instances.stop(made.id);
  assert.equal(stopped.state, 'Stopped');
  assert.equal(stopped.exit_code, 7);
  assert.ok(Date.parse(stopped.stopped_at!) >= Date.parse(stopped.started_at!));
});

await check('instances.stop of a stopped one is a ConflictError', async () => {
  await fails(Hypeman.ConflictError, { status: 409, code: 'invalid_state' }, () => client.instances.stop(made.id));
});

await check('instances.wait for another state ends at once on a stopped one', async () => {
  const answer = await client.instances.wait(made.id, { state: 'Running', timeout: '60s' });
  assert.deepEqual(answer, { state: 'Stopped', state_error: null, timed_out: false });
});

await check('instances.start with {} runs the same again', async () => {
  const started = await client.instances.start(made.id, {});
  assert.equal(started.id, made.id);
  const answer = await client.instances.wait(made.id, { state: 'Running', timeout: '60s' });
  assert.equal(answer.state, 'Running');
  assert.equal((await client.instances.get(made.id)).exit_code, null);
  await client.instances.stop(made.id);
});

await check('instances.start with another cmd, then wait for Stopped: the exit code is its own', async () => {
  await client.instances.start(made.id, { cmd: ['echo again; exit 3'] });
  const answer = await client.instances.wait(made.id, { state: 'Stopped', timeout: '60s' });
  assert.deepEqual(answer, { state: 'Stopped', state_error: null, timed_out: false });
  assert.equal((await client.instances.get(made.id)).exit_code, 3);
});

await check('instances.start keeps the cmd of the start before', async () => {
  await client.instances.start(made.id, {});
  await client.instances.wait(made.id, { state: 'Stopped', timeout: '60s' });
  assert.equal((await client.instances.get(made.id)).exit_code, 3);
});

await check('a wrong token is an AuthenticationError', async () => {
  await fails(Hypeman.AuthenticationError, { status: 401, code: 'Unauthorized' }, () => wrong.instances.list());
});

await check('health.check needs no token', async () => {
  assert.deepEqual(await wrong.health.check(), { status: 'ok' });
});

await check('a token that lacks the scope is a PermissionDeniedError', async () => {
  assert.deepEqual(ids(await limited.instances.list()), [made.id]);
  const error = await fails(Hypeman.PermissionDeniedError, { status: 403, code: 'Forbidden' }, () =>
    limited.instances.delete(made.id),
  );
  assert.match(error.message, /instance:delete/);
});

// --- the client's own copy helpers, over WebSockets ---

const here = fs.mkdtempSync(path.join(os.tmpdir(), 'hypeman-sdk-'));
const copying = { baseURL, apiKey };
const into = (srcPath: string, dstPath: string) => cpToInstance(copying, { instanceId: made.id, srcPath, dstPath });
const out = (srcPath: string, dstPath: string) => cpFromInstance(copying, { instanceId: made.id, srcPath, dstPath });

async function digest(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const part of fs.createReadStream(file)) hash.update(part);
  return hash.digest('hex');
}

// Every file of a tree by its relative path: mode and content.
function tree(root: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const one of fs.readdirSync(root, { recursive: true, withFileTypes: true })) {
    const at = path.join(one.parentPath ?? one.path, one.name);
    const mode = (fs.lstatSync(at).mode & 0o777).toString(8);
    found.set(path.relative(root, at), one.isFile() ? `${mode} ${fs.readFileSync(at, 'latin1')}` : `${mode}`);
  }
  return found;
}

// The client is done when its last file is written; those before it may be under way still.
async function becomes(root: string, wanted: Map<string, string>): Promise<void> {
  const until = Date.now() + 10_000;
  while (Date.now() < until && !isDeepStrictEqual(tree(root), wanted)) await new Promise((later) => setTimeout(later, 20));
  assert.deepEqual(tree(root), wanted);
}

await check('cpToInstance and cpFromInstance: a tree of 1,000 files comes back as it went', async () => {
  const source = path.join(here, 'many');
  for (let i = 0; i < 1000; i++) {
    const file = path.join(source, `${i % 10}`, `file ${i} ä`);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, randomBytes((i * 37) % 5000), { mode: 0o600 + (i % 64) });
  }
  await client.instances.start(made.id, { cmd: ['while :; do sleep 1; done'] });
  await client.instances.wait(made.id, { state: 'Running', timeout: '60s' });
  await into(source, '/tmp/many');
  await out('/tmp/many', path.join(here, 'back'));
  await becomes(path.join(here, 'back', 'many'), tree(source));
});

await check('copying: content that looks like the protocol, and every UTF-8 name', async () => {
  const source = path.join(here, 'odd');
  fs.mkdirSync(source);
  const contents = ['{"type":"end","final":true}', '{"type":"error","message":"x"}', '[[1],[2]]', '{}', '[1,2,3]', '', '['];
  contents.push('{"type":"header","path":"/etc/passwd","mode":420,"is_dir":false,"size":0,"mtime":0}');
  contents.push(JSON.stringify({ a: 'x'.repeat(100_000) }), '{"a":1}\n'.repeat(10_000));
  contents.forEach((text, i) => fs.writeFileSync(path.join(source, `${i}`), text));
  for (const odd of ['日本語', '🙂', 'new\nline', 'quo"te', 'back\\slash', '-rf', ' ', 'x'.repeat(255)]) {
    fs.writeFileSync(path.join(source, odd), odd);
  }
  await into(source, '/tmp/odd');
  await out('/tmp/odd', path.join(here, 'back'));
  await becomes(path.join(here, 'back', 'odd'), tree(source));
});

await check('copying: a large file, and its time', async () => {
  const source = path.join(here, 'large');
  const megabytes = Number(process.env['HYPEMAN_COPY_MB'] ?? 8);
  fs.writeFileSync(source, '', { mode: 0o640 });
  for (let i = 0; i < megabytes; i++) fs.appendFileSync(source, randomBytes(1 << 20));
  await into(source, '/tmp/large');
  await out('/tmp/large', path.join(here, 'back'));
  const back = path.join(here, 'back', 'large');
  assert.equal(await digest(back), await digest(source));
  assert.equal(fs.statSync(back).mode & 0o777, 0o640);
  assert.ok(Math.abs(fs.statSync(back).mtimeMs - Date.now()) < 120_000);
  const info = await client.instances.stat(made.id, { path: '/tmp/large' });
  assert.deepEqual([info.exists, info.is_file, info.size, info.mode, info.error], [true, true, megabytes * 2 ** 20, 0o640, null]);
});

await check('copying: what cannot be done is told as the client knows it', async () => {
  const file = path.join(here, 'back', 'large');
  await assert.rejects(into(file, '/tmp'), /Copy failed: cannot copy file: \/tmp is a directory/);
  await assert.rejects(into(path.join(here, 'odd'), '/tmp/large'), /Copy failed: cannot create directory/);
  await assert.rejects(out('/no/such/thing', here), /Copy error at/);
  const unknown = { instanceId: missing, srcPath: file, dstPath: '/tmp/x' };
  await assert.rejects(cpToInstance(copying, unknown), /Unexpected server response: 404/);
  await client.instances.stop(made.id);
  await assert.rejects(into(file, '/tmp/x'), /Unexpected server response: 409/);
  await fails(Hypeman.ConflictError, { status: 409, code: 'invalid_state' }, () =>
    client.instances.stat(made.id, { path: '/' }),
  );
  fs.rmSync(here, { recursive: true });
});

await check('what is planned is a 501, sent once', async () => {
  const planned = { status: 501, code: 'not_implemented' };
  await fails(Hypeman.InternalServerError, planned, () => client.snapshots.list());
  await fails(Hypeman.InternalServerError, planned, () => client.volumes.create({ name: 'v', size_gb: 1 }));
});

await check('instances.standby, fork, restore and wait', async () => {
  await client.instances.start(made.id, { cmd: ['while :; do sleep 1; done'] });
  await client.instances.wait(made.id, { state: 'Running', timeout: '60s' });
  const asleep = await client.instances.standby(made.id);
  assert.equal(asleep.state, 'Standby');
  assert.equal(asleep.has_snapshot, true);
  const fork = await client.instances.fork(made.id, { name: 'sdk-fork', target_state: 'Running' });
  assert.equal(fork.state, 'Running');
  assert.notEqual(fork.id, made.id);
  const awake = await client.instances.restore(made.id);
  assert.equal(awake.state, 'Running');
  const live = await client.instances.fork(made.id, { name: 'sdk-live', from_running: true });
  assert.equal(live.state, 'Running');
  const answer = await client.instances.wait(made.id, { state: 'Running', timeout: '10s' });
  assert.deepEqual(answer, { state: 'Running', state_error: null, timed_out: false });
  await fails(Hypeman.ConflictError, { status: 409, code: 'invalid_state' }, () => client.instances.restore(made.id));
  await client.instances.delete(fork.id);
  await client.instances.delete(live.id);
});

await check('instances.delete', async () => {
  await client.instances.delete(made.id);
  await fails(Hypeman.NotFoundError, { status: 404, code: 'not_found' }, () => client.instances.get(made.id));
  assert.deepEqual(await client.instances.list(), []);
});

await check('images.delete', async () => {
  await client.images.delete(image);
  await fails(Hypeman.NotFoundError, { status: 404, code: 'not_found' }, () => client.images.get(image));
});

console.log(`1..${passed + failed}`);
process.exitCode = failed ? 1 : 0;
