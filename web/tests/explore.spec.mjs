// From a spike to its spans: the query, the heatmap's brush and its four inputs, Back, reload, and the link for somebody else.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { browser, shop, until } from './browser.mjs';

let b;
before(async () => {
  await shop();
  b = await browser();
});
after(() => b.finish());

const params = (p) => new URL(p.url()).searchParams;
const summary = (p) => p.textContent('[data-summary]');
const settled = (p, text) => until(p, (t) => document.querySelector('[data-summary]')?.textContent.includes(t), text);

async function explore(query = '') {
  const p = await b.page(`/explore?v=1&since=5m${query}`);
  await p.waitForSelector('.heat canvas');
  await settled(p, 'span');
  return p;
}
/** Drags over the upper part of the map: what is slow. */
async function brush(p) {
  const box = await p.locator('.heat canvas').boundingBox();
  await p.mouse.move(box.x + 70, box.y + 2);
  await p.mouse.down();
  await p.mouse.move(box.x + box.width / 2, box.y + 10);
  await p.mouse.move(box.x + box.width - 2, box.y + 20);
  await p.mouse.up();
  await settled(p, 'Selected');
}

test('a brush on the heatmap selects; the four inputs say and do the same; Back, reload and another browser too', async () => {
  const p = await explore();
  assert.match(await summary(p), /^400 spans/);
  const canvas = await p.locator('.heat canvas').boundingBox(),
    frame = await p.locator('.heat').boundingBox();
  assert.ok(canvas.x + canvas.width <= frame.x + frame.width - 8, 'the map stays inside of its frame');
  await brush(p);
  const sel = params(p).get('sel'),
    [from, to] = sel.split('_');
  assert.match(sel, /^\d{19}_\d{19}_\d+_\d+$/);
  assert.ok(BigInt(from) >= BigInt(params(p).get('from')) && BigInt(to) <= BigInt(params(p).get('to')) + 1000000n);
  assert.match(await summary(p), /^Selected: 40 spans/); // each tenth request, two spans each
  const selected = await summary(p),
    rows = await p.locator('.spans .vrow').allTextContents();

  // The same by keyboard, on a view without a selection.
  const fields = await p.locator('.bounds input').evaluateAll((all) => all.map((i) => i.value));
  await p.goBack();
  await settled(p, '400 spans');
  assert.equal(params(p).get('sel'), null);
  await p.goForward();
  await settled(p, 'Selected');
  await p.getByRole('button', { name: 'Clear selection' }).click();
  await settled(p, '400 spans');
  for (const [i, label] of ['from', 'to', 'slower than', 'up to'].entries()) {
    await p.getByLabel(label, { exact: true }).fill(fields[i]);
    await p.keyboard.press('Enter');
  }
  await until(p, (s) => new URL(location.href).searchParams.get('sel') === s, sel);
  await settled(p, selected);

  await p.reload();
  await settled(p, 'Selected');
  assert.equal(await summary(p), selected);
  const other = await b.page(p.url().slice(new URL(p.url()).origin.length), { colorScheme: 'dark' });
  await settled(other, 'Selected');
  assert.equal(await summary(other), selected);
  assert.deepEqual(await other.locator('.spans .vrow').allTextContents(), rows);
  assert.equal(await other.title(), await p.title());
  await p.context().close();
  await other.context().close();
});

test('a drag that is faster than the page is drawn selects where it ended', async () => {
  const p = await explore();
  const box = await p.locator('.heat canvas').boundingBox();
  await p.mouse.move(box.x + 70, box.y + 2);
  await p.locator('.heat canvas').evaluate((c, width) => {
    const { x, y } = c.getBoundingClientRect();
    const send = (type, dx, dy) =>
      c.dispatchEvent(new PointerEvent(type, { pointerId: 1, bubbles: true, clientX: x + dx, clientY: y + dy }));
    send('pointerdown', 70, 2);
    send('pointermove', width / 2, 10);
    send('pointermove', width - 2, 20);
    send('pointerup', width - 2, 20);
  }, box.width);
  await settled(p, 'Selected: 40 spans');
  await p.context().close();
});

test('a bound that is none is refused where it was typed', async () => {
  const p = await explore();
  await p.getByLabel('slower than', { exact: true }).fill('soon');
  await p.keyboard.press('Enter');
  assert.ok(await p.getByLabel('slower than', { exact: true }).evaluate((i) => i.validity.customError));
  assert.equal(params(p).get('sel'), null);
  await p.context().close();
});

test('a query narrows, chips add to it, Back takes it away again', async () => {
  const p = await explore();
  await p.getByLabel('TraceQL query').fill('{ name = "charge" }');
  await p.keyboard.press('Enter');
  await settled(p, '200 spans');
  await p.goBack();
  await settled(p, '400 spans');
  await p.getByRole('button', { name: 'errors' }).click();
  await settled(p, '4 spans');
  await p.locator('.spans .vrow .link').first().click();
  await p.waitForSelector('.wrow.on');
  assert.match(await p.textContent('aside'), /error card refused/);
  await p.goBack();
  await settled(p, '4 spans');
  await p.context().close();
});

test('a mistake in a query is shown at its column', async () => {
  const p = await b.page('/explore?v=1&q=' + encodeURIComponent('{ .a = "é" && durationx > 1 }'));
  await p.waitForSelector('.trouble');
  assert.match(await p.textContent('.trouble'), /error\[E201\].*durationx.*column 15/);
  const [query, caret] = (await p.textContent('.caret')).split('\n');
  assert.equal(query[caret.indexOf('^')], 'd');
  b.forgive(/400/);
  await p.context().close();
});

test('the slowest trace of a cell opens on double click, that of the selection with a button', async () => {
  const p = await explore();
  await brush(p);
  await p.getByRole('button', { name: /^Slowest trace, 80/ }).click();
  await p.waitForSelector('.wrow');
  assert.match(await p.textContent('.wrow'), /POST \/checkout.*80\.0 ms/);
  await p.goBack();
  await settled(p, 'Selected');
  await p.getByRole('button', { name: 'Clear selection' }).click();
  await settled(p, '400 spans');
  // Look for a cell of the slow ones with the pointer, as a person would.
  const canvas = p.locator('.heat canvas'),
    box = await canvas.boundingBox();
  let x = box.width - 2;
  for (; x > 66; x -= 4) {
    await p.mouse.move(box.x + x, box.y + 3);
    await until(p, () => document.querySelector('.heat canvas').title);
    if (/double click/.test(await canvas.getAttribute('title'))) break;
  }
  await p.mouse.dblclick(box.x + x, box.y + 3);
  await p.waitForSelector('.wrow');
  assert.match(await p.textContent('.wrow'), /80\.0 ms/);
  await p.context().close();
});

test('Trace this slice takes the query along as where', async () => {
  const p = await explore('&q=' + encodeURIComponent('{ .tenant = "7" }'));
  await p.getByRole('button', { name: 'Trace this slice' }).click();
  assert.equal(await p.getByLabel('Keep only spans where (optional)').inputValue(), '{ .tenant = "7" }');
  await p.keyboard.press('Escape');
  await until(p, () => !document.querySelector('dialog'));
  await p.context().close();
});

test('LIVE, PAUSED and back; a shared link holds the time range', async () => {
  const p = await explore();
  const state = p.getByLabel('Live, paused or historical');
  await state.click();
  await p.getByText('PAUSED').waitFor();
  assert.equal(params(p).get('paused'), '1');
  await p.goBack();
  await p.getByText('LIVE').waitFor();
  await p.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await p.getByLabel('Share this view').click();
  await p.getByText('The link to this view is in the clipboard.').waitFor();
  const shared = new URL(await p.evaluate(() => navigator.clipboard.readText()));
  assert.match(shared.searchParams.get('from'), /^\d{19}$/);
  await p.goto(shared.href);
  await p.getByText('HISTORICAL').waitFor();
  await settled(p, '400 spans');
  await p.context().close();
});
