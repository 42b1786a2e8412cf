// A trace of 50,000 spans, a deep one, and times to the nanosecond.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { browser, send, span, spanId, stored, traceId, until } from './browser.mjs';

const BIG = 50000,
  DEEP = 3000,
  GROUPS = 99, // children of the root; the others take turns to be theirs
  LAST = 2 * GROUPS + GROUPS * Math.floor((BIG - 1 - 2 * GROUPS) / GROUPS); // the last child of the last group
const parent = (i) => (i <= GROUPS ? 0 : 1 + ((i - 1) % GROUPS));
let b;
before(async () => {
  const now = BigInt(Date.now()) * 1000000n - 60000000000n;
  const big = [span(1, 0, null, 'root', now, BIG * 1000)];
  for (let i = 1; i < BIG; i++)
    big.push(span(1, i, parent(i), i === LAST ? 'the last one' : `step ${i % 7}`, now + BigInt(i * 1000), 900));
  await send('big', big);
  const deep = [];
  for (let i = 0; i < DEEP; i++) deep.push(span(2, i, i ? i - 1 : null, `level ${i}`, now + BigInt(i), 2 * DEEP - 2 * i));
  await send('deep', deep);
  // Neighbours 10 ns apart: 1.8e18 as a JavaScript number would round them to the same 256 ns.
  await send('exact', [
    span(3, 0, null, 'whole', now, 100, { attributes: { big: 9007199254740993n } }),
    span(3, 1, 0, 'first', now + 10n, 10),
    span(3, 2, 0, 'second', now + 30n, 40),
  ]);
  await Promise.all([stored(1, BIG), stored(2, DEEP), stored(3, 3)]);
  b = await browser();
});
after(() => b.finish());

const nodes = (p) => p.evaluate(() => document.querySelectorAll('*').length);
const scroll = (p, share) =>
  p.evaluate((s) => {
    const v = document.querySelector('.waterfall');
    v.scrollTop = s * v.scrollHeight;
  }, share);

test('50,000 spans scroll to the end with fewer than 2,000 nodes', async () => {
  const p = await b.page(`/trace?v=1&trace=${traceId(1)}`);
  await p.waitForSelector('.wrow', { timeout: 20000 });
  assert.match(await p.textContent('[data-summary]'), /50\.0 k spans of 1 service/);
  for (const share of [0.25, 0.5, 0.75, 1]) {
    const before = await p.textContent('.wrow .name');
    const first = await p.getAttribute('.wrow', 'data-span');
    await scroll(p, share);
    await until(p, (f) => document.querySelector('.wrow')?.dataset.span !== f, first);
    assert.ok(before && (await nodes(p)) < 2000);
  }
  // Depth first, the last row is the last child of the last parent that has any: LAST.
  const last = p.locator('.wrow').last();
  await until(p, (id) => [...document.querySelectorAll('.wrow')].at(-1)?.dataset.span === id, spanId(LAST));
  assert.match(await last.textContent(), /the last one.*900 ns/);
  assert.ok(await last.isVisible());

  await last.click();
  await p.waitForSelector('aside');
  assert.equal(new URL(p.url()).searchParams.get('span'), spanId(LAST));
  await p.reload();
  await p.waitForSelector(`.wrow.on[data-span="${spanId(LAST)}"]`, { timeout: 20000 });
  assert.match(await p.textContent('aside'), /\+50\.0 ms|\+49\.9 ms/);

  await p.click('.minimap', { position: { x: 300, y: 2 } });
  await until(p, () => document.querySelector('.minimap .frame').offsetTop <= 3);
  assert.ok((await nodes(p)) < 2000);
  await p.fill('[aria-label="Find in this trace"]', 'the last');
  await p.getByRole('button', { name: '1 found' }).waitFor();
  await p.context().close();
});

test('a trace deeper than the stack is shown to its deepest span', async () => {
  const p = await b.page(`/trace?v=1&trace=${traceId(2)}`);
  await p.waitForSelector('.wrow');
  await scroll(p, 1);
  await p.waitForSelector(`.wrow[data-span="${spanId(DEEP - 1)}"]`);
  assert.match(await p.textContent(`.wrow[data-span="${spanId(DEEP - 1)}"]`), /2999· level 2999/);
  await p.context().close();
});

test('spans stand where they were to the nanosecond, and no digit of a long number is lost', async () => {
  const p = await b.page(`/trace?v=1&trace=${traceId(3)}&span=${spanId(2)}`);
  await p.waitForSelector('aside');
  assert.match(await p.textContent('aside'), /starts at\+30 ns/);
  const bars = await p.$$eval('.wbar i', (all) => all.map((i) => [i.style.left, i.style.width]));
  assert.deepEqual(bars, [
    ['0%', '100%'],
    ['10%', '10%'],
    ['30%', '40%'],
  ]);
  await p.keyboard.press('Escape');
  await p.click(`.wrow[data-span="${spanId(0)}"] .name`);
  await until(p, () => document.querySelector('aside')?.textContent.includes('9007199254740993'));
  assert.match(await p.textContent('aside'), /self50 ns/);
  await p.goBack();
  await until(p, () => !document.querySelector('aside'));
  await p.context().close();
});

test('collapse, arrow keys, and a trace that is not there', async () => {
  const p = await b.page(`/trace?v=1&trace=${traceId(3)}`);
  await p.waitForSelector('.wrow');
  await p.focus('.waterfall');
  await p.keyboard.press('ArrowDown');
  await p.keyboard.press('ArrowDown');
  await p.waitForSelector(`.wrow.on[data-span="${spanId(1)}"]`);
  await p.goBack(); // a walk is one step of history
  await until(p, () => !document.querySelector('.wrow.on'));
  await p.click('.wrow .fold');
  await until(p, () => document.querySelectorAll('.wrow').length === 1);

  await p.goto(`${new URL(p.url()).origin}/trace?v=1&trace=${traceId(999)}`);
  await p.getByText('This trace is not here').waitFor();
  b.forgive(/404/); // the browser logs every answer of that kind
  await p.context().close();
});
