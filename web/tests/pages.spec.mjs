// Every page has something to say, in both themes, without a serious violation of accessibility; keys, palette, unknown pages.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { accessible, browser, call, shop, spanId, traceId, until, waitFor } from './browser.mjs';

let b;
before(async () => {
  b = await browser();
});
after(() => b.finish());

test('without spans every page says why, and what to do', async () => {
  const p = await b.page('/hot');
  await p.getByText('No spans in this time range').waitFor();
  for (const path of ['/hot', '/explore', '/trace']) {
    await p.goto(new URL(path, p.url()).href);
    await p.waitForSelector('.empty .primary');
    assert.match(await p.textContent('.empty code'), /^klieg on/);
  }
  await p.context().close();
});

const pages = {
  hot: ['/hot?v=1', 'table.data tbody tr', /front.*POST \/checkout/s],
  explore: ['/explore?v=1&q=%7B+name+%3D+%22charge%22+%7D', '.heat canvas', /spans.*charge/s],
  trace: ['/trace?v=1', 'table.data tbody tr', /POST \/checkout/],
  waterfall: [`/trace?v=1&trace=${traceId(0)}&span=${spanId(1)}`, 'aside', /POST \/checkout.*charge.*card refused/s],
  toggles: ['/toggles?v=1', '.tree .vrow', /demo.*inner.*outer/s],
  audit: ['/audit?v=1&object=toggle:*', '[data-entry]', /api.*on.*demo:outer/s],
  processes: ['/processes?v=1', '.checks li', /demo.*live.*✓ yes.*Doctor/s],
};
test('every page shows what is there, in both themes', async (t) => {
  await shop();
  await call('POST', '/toggles', { selector: 'demo:outer', level: 'detail', ttl: '5m' });
  await waitFor(async () => (await call('GET', '/spans?limit=1&q=' + encodeURIComponent('{ name = "outer" }'))).matched > 0);
  for (const [name, [path, selector, text]] of Object.entries(pages))
    await t.test(name, async () => {
      const p = await b.page(path);
      await p.waitForSelector(selector);
      await waitFor(async () => text.test(await p.textContent('main')));
      await accessible(p, name);
      await p.context().close();
    });
});

test('the sheet and the dialogs are accessible too', async () => {
  const p = await b.page('/processes');
  await p.waitForSelector('table.data tbody tr');
  await p.keyboard.press('t');
  await p.waitForSelector('dialog[open]');
  await p.keyboard.type('demo:*');
  await p.waitForSelector('[data-cost]');
  await accessible(p, 'sheet');
  await p.keyboard.press('Escape');
  await until(p, () => !document.querySelector('dialog'));
  await p.keyboard.press('?');
  await p.waitForSelector('.keys');
  await accessible(p, 'keys');
  await p.context().close();
});

test('the palette goes anywhere; a theme that was chosen stays', async () => {
  const p = await b.page('/hot');
  await p.waitForSelector('h1');
  await p.keyboard.press('Control+K');
  await p.waitForSelector('dialog[open]');
  await p.keyboard.type('proc');
  await p.keyboard.press('Enter');
  await until(p, () => location.pathname === '/processes');
  await p.keyboard.press('Control+K');
  await p.waitForSelector('dialog[open]');
  await p.keyboard.type(traceId(0));
  await p.keyboard.press('Enter');
  await p.waitForSelector('.wrow');
  await p.getByLabel(/^Theme/).click();
  await p.getByLabel(/^Theme/).click();
  assert.equal(await p.getAttribute('html', 'data-theme'), 'dark');
  await p.reload();
  assert.equal(await p.getAttribute('html', 'data-theme'), 'dark');
  await p.context().close();
});

test('an address that is no page offers the way back', async () => {
  const p = await b.page('/nowhere');
  await p.getByText('No such page').waitFor();
  await p.getByRole('button', { name: 'Go to Hot' }).click();
  await until(p, () => location.pathname === '/hot');
  await p.context().close();
});
