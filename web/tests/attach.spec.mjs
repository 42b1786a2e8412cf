// Attaching to a program that knows nothing of Klieg, its functions, the call graph of one of them, and leaving it again.
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { accessible, browser, call, send, span, stored, until, waitFor } from './browser.mjs';

const PID = process.env.KLIEG_TARGET;
let b;
before(async () => {
  b = await browser();
});
after(() => b.finish());

test('the call graph: paths, bars, what is small, keys, links that can be shared', async () => {
  const now = BigInt(Date.now()) * 1000000n,
    spans = [];
  for (let i = 0; i < 50; i++) {
    const at = now - BigInt(20000 - i * 100) * 1000000n;
    spans.push(span(i, 0, null, 'processCommand', at, 1e6), span(i, 1, 0, 'call', at + 1000n, 8e5));
    spans.push(span(i, 2, 1, 'lookupKey', at + 2000n, 2e5), span(i, 3, 0, 'tiny', at + 900000n, 100));
  }
  await send('shop', spans);
  await stored(49, 4);
  const p = await b.page('/graph?v=1&q=' + encodeURIComponent('{ resource.service.name = "shop" }'));
  const rows = () => p.locator('[role=treegrid] tbody tr').allTextContents();
  await waitFor(async () => (await rows()).length === 4);
  const text = await rows();
  assert.match(text[0], /processCommand.*100\.0 %.*50\.0 ms/);
  assert.match(text[1], /call.*80\.0 %.*40\.0 ms.*30\.0 ms/);
  assert.match(text[2], /lookupKey.*25\.0 %/);
  assert.match(text[3], /1 more with little time/);
  assert.match(await p.textContent('main'), /1 under 1 % of their callers are counted, not shown/);
  await accessible(p, 'graph');
  await p.getByLabel('callees under 1 %').check();
  await waitFor(async () => (await rows()).some((r) => /tiny/.test(r)));
  await p.getByRole('region', { name: 'Call graph' }).focus();
  for (const key of ['ArrowDown', 'ArrowDown']) await p.keyboard.press(key);
  await until(p, () => /:call$/.test(new URLSearchParams(location.search).get('at')));
  await p.keyboard.press('ArrowLeft');
  await waitFor(async () => !(await rows()).some((r) => /lookupKey/.test(r)));
  await p.keyboard.press('ArrowRight');
  await waitFor(async () => (await rows()).some((r) => /lookupKey/.test(r)));
  const shared = await b.page(new URL(p.url()).pathname + new URL(p.url()).search);
  await waitFor(async () => /call/.test(await shared.locator('tr[aria-selected=true]').textContent()));
  await shared.getByRole('button', { name: 'Begin at call' }).click();
  await waitFor(async () => /^\s*▾?shop call/.test((await shared.locator('[role=treegrid] tbody tr').allTextContents())[0]));
  await shared.goBack();
  await waitFor(async () => /processCommand/.test((await shared.locator('[role=treegrid] tbody tr').allTextContents())[0]));
  await shared.context().close();
  await p.context().close();
});

test('attach by searching, illuminate a function, see its callees, detach, take that back', async () => {
  const p = await b.page('/processes?v=1');
  await p.getByRole('button', { name: 'Attach…' }).click();
  await p.getByPlaceholder('4711 or redis-server').fill('plain-target');
  await p.getByRole('button', { name: `Choose plain-target ${PID}` }).click();
  assert.equal(await p.locator('dialog .copy').getAttribute('data-command'), `klieg attach ${PID}`);
  await accessible(p, 'attach');
  await p.locator('dialog').getByRole('button', { name: 'Attach', exact: true }).click();
  await until(p, () => location.pathname === '/toggles');
  await waitFor(async () => /Attached to plain-target.*functions/.test(await p.textContent('.notices')));
  await p.getByLabel('Selector').fill('*:handle_*');
  await p.getByLabel('Selector').press('Enter');
  await p.getByRole('button', { name: 'Illuminate handle_request' }).click();
  await p.waitForSelector('dialog [data-cost]');
  await p.locator('dialog').getByRole('button', { name: 'Switch on' }).click();
  await until(p, () => location.pathname === '/graph');
  await waitFor(async () => /handle_request.*parse_request/s.test(await p.locator('[role=treegrid] tbody').textContent()), 20000);
  // What it calls through a pointer is not in its code, but is seen.
  await waitFor(async () => /send_reply observed/.test(await p.locator('[role=treegrid] tbody').textContent()), 20000);
  assert.equal((await call('GET', '/toggles')).toggles[0].level, 'deep');
  await p.goto(new URL('/processes?v=1', p.url()).href);
  await p.getByRole('button', { name: `Detach from plain-target ${PID}` }).click();
  await waitFor(async () => /Detached from plain-target.*put back/.test(await p.textContent('.notices')));
  assert.match(await p.textContent('.notices'), /text is what it was before/);
  assert.deepEqual((await call('GET', '/attachments')).attachments, []);
  await p.getByRole('button', { name: 'Attach again' }).click();
  await waitFor(async () => (await call('GET', '/attachments')).attachments.length === 1);
  await call('DELETE', '/attachments?all=true');
  await call('DELETE', '/toggles?all=true');
  await p.context().close();
});

/** What redis-server answers to some commands, one line each. */
const redis = (...commands) =>
  new Promise((done, failed) => {
    let text = '';
    const s = connect(process.env.KLIEG_REDIS_SOCKET, () => s.write(commands.map((c) => c + '\r\n').join('')));
    s.on('error', failed);
    s.on('data', (d) => {
      text += d;
      if (text.split('\r\n').length > commands.length) s.end();
    });
    s.on('close', () => done(text.trim().split('\r\n')));
  });

test('an instrumentor is added to a server that runs: its requests are spans, with what they were about', async () => {
  const pid = Number(process.env.KLIEG_REDIS);
  assert.deepEqual(await redis('PING'), ['+PONG']);
  await call('POST', '/attachments', { pid });
  const p = await b.page('/processes?v=1');
  const row = p.locator('table.data tbody tr', { hasText: String(pid) });
  const add = row.getByLabel(`Add an instrumentor to redis-server ${pid}`);
  await add.waitFor();
  assert.ok((await add.locator('option').allTextContents()).includes('redis-server'));
  await add.selectOption('redis-server');
  await waitFor(async () => /redis-server knows \d+ functions? of redis-server/.test(await p.textContent('.notices')));
  await waitFor(async () => (await row.locator('.plugs .level').allTextContents()).includes('redis-server'));
  assert.ok(!(await add.locator('option').allTextContents()).includes('redis-server'), 'what it has is not offered again');
  await accessible(p, 'instrumentors');
  // From the notice to its sites, and one of them on: what is asked of the server now is seen.
  await p.locator('.notices').getByRole('button', { name: 'Show them' }).click();
  await until(p, () => location.pathname === '/toggles');
  await p.getByLabel('Switch on redis.command').click();
  await p.waitForSelector('dialog .plan');
  await p.getByRole('dialog').getByLabel('Level').selectOption('detail');
  await until(p, () => !document.querySelector('dialog .primary').disabled);
  await p.getByRole('dialog').getByRole('button', { name: 'Switch on' }).click();
  await until(p, () => !document.querySelector('dialog[open]'));
  assert.deepEqual(await redis('SET cart 7', 'GET cart'), ['+OK', '$1', '7']);
  const set = '/spans?limit=5&q=' + encodeURIComponent('{ name = "redis.command" && .db.operation.name = "SET" }');
  const { spans } = await waitFor(async () => { const r = await call('GET', set); return r.matched > 0 && r; });
  assert.equal(spans[0].kind, 'server');
  await call('DELETE', '/attachments?all=true');
  await call('DELETE', '/toggles?all=true');
  assert.deepEqual(await redis('GET cart'), ['$1', '7']);
  await p.context().close();
});

test('what cannot be attached to says why, where the person is', async () => {
  const p = await b.page('/processes?v=1');
  await p.waitForSelector('table.data tbody tr');
  await p.keyboard.press('a');
  await p.getByPlaceholder('4711 or redis-server').fill('4194303');
  await p.locator('dialog').getByRole('button', { name: 'Attach', exact: true }).click();
  await p.locator('dialog .trouble').waitFor();
  assert.match(await p.textContent('dialog .trouble'), /error\[E301\].*4194303/);
  b.forgive(/404/);
  await p.context().close();
});
