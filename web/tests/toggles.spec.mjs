// Switching on and off: the sheet by mouse and by keyboard, the countdown, the end by itself, All off and its undo. The program is a real one.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { accessible, browser, call, until, waitFor } from './browser.mjs';

let b;
before(async () => {
  b = await browser();
});
afterEach(() => call('DELETE', '/toggles?all=true'));
after(() => b.finish());

const active = async () => (await call('GET', '/toggles')).toggles;
const predicted = (p) => p.waitForSelector('.plan [data-cost]');
const submit = (p) => p.getByRole('dialog').getByRole('button', { name: 'Switch on' });

test('by mouse: from the tree to spans, with a prediction before and a countdown after', async () => {
  const p = await b.page('/toggles?sel=demo:*');
  await p.getByLabel('Switch on inner').click();
  assert.equal(await p.getByLabel('Selector', { exact: true }).last().inputValue(), 'demo:inner');
  await predicted(p);
  assert.match(await p.textContent('.plan'), /1 site in 1 process of demo.*Predicted/);
  await p.getByLabel('Reason').fill('spec');
  const inner = '/spans?limit=1&q=' + encodeURIComponent('{ name = "inner" }');
  const before = (await call('GET', inner)).matched;
  await submit(p).click();
  await waitFor(async () => (await call('GET', inner)).matched > before); // set in the browser, and seen
  await p.getByText(/On: 1 site in 1 process, acknowledged in/).waitFor();
  const row = p.getByRole('table', { name: 'Active toggles' }).locator('tbody tr');
  assert.match(await row.textContent(), /demo:inner.*span.*dashboard, spec/);
  const left = await row.locator('[data-left]').textContent();
  assert.match(left, /^(5 m 0|4 m \d+) s$/);
  await until(p, (t) => document.querySelector('[data-left]').textContent !== t, left);
  await p.waitForSelector('.tree .level.span');
  await row.getByRole('button', { name: 'Off' }).click();
  await until(p, () => !document.querySelector('[data-left]'));
  assert.deepEqual(await active(), []);
  await p.goto(new URL('/audit?who=dashboard', p.url()).href);
  const entries = p.getByRole('table', { name: 'Changes' }).locator('tbody tr');
  await waitFor(async () => (await entries.count()) === 2);
  assert.match(await entries.first().textContent(), /dashboard.*off.*toggle t-.*demo:inner.*done/s);
  assert.match(await entries.last().textContent(), /dashboard.*on.*demo:inner.*level.*span.*spec.*done/s);
  await p.context().close();
});

test('by keyboard alone: t, a selector, a time of 2 s, Enter; and it ends by itself', async () => {
  const p = await b.page('/hot');
  await p.waitForSelector('h1, h2');
  await p.keyboard.press('t');
  await p.waitForSelector('dialog[open]');
  assert.ok(await submit(p).isDisabled(), 'nothing is said yet, so nothing can be switched on');
  assert.match(await p.textContent('.plan'), /Say what to switch on/);
  await p.keyboard.type('demo:*');
  for (let i = 0; i < 3; i++) await p.keyboard.press('Tab');
  await p.keyboard.press('Control+A');
  await p.keyboard.type('2');
  assert.ok(await submit(p).isDisabled(), 'a time needs a unit');
  await p.keyboard.type('s');
  await predicted(p);
  await until(p, () => !document.querySelector('dialog .primary').disabled);
  await p.keyboard.press('Enter');
  await p.getByText(/On: 3 sites in 1 process/).waitFor();
  await p.keyboard.press('g');
  await p.keyboard.press('o');
  await until(p, () => location.pathname === '/toggles');
  await until(
    p,
    () => !document.querySelector('[data-left]') && document.querySelector('header').textContent.includes('all quiet'),
  );
  assert.deepEqual(await active(), []);
  const ended = (await call('GET', '/toggles?all=true')).toggles;
  assert.ok(ended.some((t) => t.state === 'expired'));
  await p.goto(new URL('/audit?who=system%3Attl', p.url()).href);
  await p.getByRole('table', { name: 'Changes' }).getByText('expire', { exact: true }).first().waitFor();
  await p.context().close();
});

test('what would cost more than the budget cannot be switched on', async () => {
  const p = await b.page('/toggles?sel=busy:*');
  await p.getByLabel('Switch on spin').click();
  await p.waitForSelector('.plan .over');
  assert.match(
    await p.textContent('.plan'),
    /\d % CPU of 1\.0 % budget.*over the budget.*(Keep .* % instead|choose fewer sites)/s,
  );
  assert.ok(await submit(p).isDisabled());
  const offer = p.getByRole('dialog').getByRole('button', { name: /^Keep .* instead$/ });
  if (await offer.count()) {
    await offer.click();
    await until(p, () => !document.querySelector('dialog .primary').disabled); // what is offered fits
  }
  await p.context().close();
});

test('what turns out too dear is held back by the guard, and the row says what was measured against which limit', async () => {
  const p = await b.page('/toggles');
  await p.waitForSelector('.tree .vrow');
  await call('POST', '/toggles', { selector: 'busy:spin', level: 'detail', ttl: '5m', reason: 'a storm' });
  const row = p.getByRole('table', { name: 'Active toggles' }).locator('tbody tr', { hasText: 'a storm' });
  await row.locator('[data-tripped]').waitFor({ timeout: 20000 });
  assert.match(await row.locator('[data-tripped]').textContent(), /guard: (off|count|span), measured .* % of .* % limit/);
  await p.locator('button.meter').click();
  await p.getByRole('list', { name: 'Shed sites' }).getByText('spin').waitFor();
  await accessible(p, 'overhead');
  await p.keyboard.press('Escape');
  await p.goto(new URL('/audit?who=system%3Agovernor', p.url()).href);
  await p.locator('[data-measured]').first().waitFor();
  assert.match(await p.locator('[data-measured]').first().textContent(), /measured .* % of CPU, limit .* %/);
  await p.context().close();
});

test('a toggle is narrowed and widened in place', async () => {
  const { toggle } = await call('POST', '/toggles', { selector: 'demo:*', ttl: '5m' });
  const p = await b.page('/toggles');
  await p.getByRole('button', { name: 'Reach…' }).click();
  const dialog = p.getByRole('dialog');
  await dialog.getByLabel('Selector').fill('demo:inner');
  // which processes a share takes goes by a number that each of them has
  const { instance } = (await call('GET', '/processes')).processes.find((x) => String(x.pid) === process.env.KLIEG_PID);
  const below = (instance * 99).toFixed(4),
    above = (instance * 99 + 1).toFixed(4);
  await dialog.getByLabel('Share of processes, %').fill(below);
  await dialog.getByRole('button', { name: 'Narrow' }).click();
  await dialog.getByText(/'demo:inner' is in 1 process, none of them in that share/).waitFor();
  b.forgive(/404/);
  await dialog.getByLabel('Share of processes, %').fill(above);
  assert.equal(await dialog.getByText('Copy as CLI').getAttribute('data-command'), `klieg narrow ${toggle.id} demo:inner --share ${Number(above)}%`);
  await dialog.getByRole('button', { name: 'Narrow' }).click();
  await p.getByText(/in [\d.]+ % of processes/).waitFor();
  const [now] = await active();
  assert.deepEqual([now.id, now.selector, now.share], [toggle.id, 'demo:inner', Number(above) / 100]);
  await p.getByRole('button', { name: 'Reach…' }).click();
  await dialog.getByLabel('Share of processes, %').fill('100');
  await dialog.getByRole('button', { name: 'Widen' }).click();
  await until(p, () => !document.querySelector('dialog') && !/of processes/.test(document.querySelector('[aria-label="Active toggles"]').textContent));
  await p.context().close();
});

test('All off asks, says its command, and can be undone', async () => {
  await call('POST', '/toggles', { selector: 'demo:outer', ttl: '5m' });
  await call('POST', '/toggles', { selector: 'demo:inner', ttl: '5m' });
  const p = await b.page('/hot');
  await until(p, () => document.querySelector('header').textContent.includes('2 on'));
  await p.keyboard.press('Shift+O');
  const dialog = p.getByRole('dialog');
  await dialog.waitFor();
  assert.match(await dialog.textContent(), /2 toggles/);
  assert.equal(await dialog.getByText('Copy as CLI').getAttribute('data-command'), 'klieg panic');
  await dialog.getByRole('button', { name: 'All off' }).click();
  await p.getByText('Everything is off (2 toggles, 0 policies).').waitFor();
  assert.deepEqual(await active(), []);
  await p.getByRole('alert').getByText(/Everything is off since .* by dashboard/).waitFor(); // and stays, until it is undone
  await accessible(p, 'panic');
  await p.getByRole('alert').getByRole('button', { name: 'Undo' }).click();
  await p.getByText(/Restored: 2 toggles with the time that was left/).waitFor();
  await until(p, () => !document.querySelector('header .banner'));
  assert.equal((await active()).length, 2);
  await p.context().close();
});

test('a selector that matches nothing is refused with the nearest name, and nothing can be submitted', async () => {
  const p = await b.page('/toggles');
  await p.getByRole('button', { name: 'Switch on…' }).click();
  await p.getByLabel('Selector', { exact: true }).last().fill('demo:iner');
  await p.waitForSelector('.plan .trouble');
  assert.match(await p.textContent('.plan'), /E204.*inner/s);
  assert.ok(await submit(p).isDisabled());
  assert.match(
    await p.getByRole('dialog').getByText('Copy as CLI').getAttribute('data-command'),
    /^klieg on demo:iner --level span --ttl 5m$/,
  );
  b.forgive(/404/);
  await p.context().close();
});

test('a toggle of somebody else appears without a reload, and so does its end', async () => {
  const p = await b.page('/toggles');
  await p.waitForSelector('.tree .vrow');
  const { toggle } = await call('POST', '/toggles', { selector: 'demo:outer', ttl: '1m', reason: 'another person' });
  await p.getByText('another person').waitFor();
  await call('DELETE', `/toggles/${toggle.id}`);
  await until(p, () => !document.querySelector('[data-left]'));
  await p.context().close();
});
