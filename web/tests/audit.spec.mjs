// The audit log: what is different is readable, and what can be undone is undone from there, with a reason.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { accessible, browser, call, until, waitFor } from './browser.mjs';

let b;
before(async () => {
  b = await browser();
});
after(() => b.finish());

const rows = (p) => p.getByRole('table', { name: 'Changes' }).locator('tbody tr');
async function revert(p, row, reason) {
  await row.getByRole('button', { name: /^Revert/ }).click();
  const dialog = p.getByRole('dialog');
  await dialog.getByLabel('Reason').fill(reason);
  await dialog.getByRole('button', { name: 'Revert', exact: true }).click();
  await until(p, () => !document.querySelector('dialog[open]'));
  await waitFor(async () => /Undone/.test(await p.textContent('.notices')));
}

test('a toggle that was changed is as it was again, one that was switched off is on again', async () => {
  const { toggle } = await call('POST', '/toggles', { selector: 'demo:inner', level: 'count', ttl: '10m', estimate: '0s', hosts: ['*'], owner: 'ann' });
  await call('PATCH', `/toggles/${toggle.id}`, { level: 'span', hosts: ['*', 'web-*'], owner: 'ben', reason: 'deeper' });
  const p = await b.page(`/audit?object=${toggle.id}`);
  await waitFor(async () => (await rows(p).count()) === 2);
  const changed = rows(p).first();
  assert.match(await changed.textContent(), /ben.*change.*level count → span.*hosts \+web-\*/s);
  assert.doesNotMatch(await changed.textContent(), /selector/);
  await changed.getByRole('button', { name: /^Revert/ }).click();
  assert.match(await p.textContent('dialog'), /As it was before.*level span → count.*hosts −web-\*/s);
  await accessible(p, 'revert');
  await p.keyboard.press('Escape');
  await until(p, () => !document.querySelector('dialog[open]'));
  await revert(p, changed, 'was not it');
  const now = (await call('GET', '/toggles')).toggles[0];
  assert.deepEqual([now.level, now.hosts], ['count', ['*']]);
  await waitFor(async () => /dashboard.*change.*was not it/s.test(await rows(p).first().textContent()));
  await call('DELETE', `/toggles/${toggle.id}?owner=ann`);
  await waitFor(async () => /ann.*off/s.test(await rows(p).first().textContent()));
  await revert(p, rows(p).first(), 'still needed');
  await waitFor(async () => (await call('GET', '/toggles')).toggles.some((t) => t.selector === 'demo:inner' && t.level === 'count' && t.reason === 'still needed'));
  await call('DELETE', '/toggles?all=true');
  await p.context().close();
});

test('a policy goes back to what was in force before that entry; what is undone offers nothing any more', async () => {
  const text = (level) => `policy: calm\nrules:\n  - name: all\n    match: '{ resource.service.name = "demo" }'\n    level: ${level}\n`;
  await call('PUT', '/policies/calm', { text: text('count'), expected_version: 0, author: 'ann' });
  await call('PUT', '/policies/calm', { text: text('span'), expected_version: 1, author: 'ben' });
  const p = await b.page('/audit?object=policy%3Acalm');
  await waitFor(async () => (await rows(p).count()) === 2);
  await rows(p).first().getByRole('button', { name: /^Revert/ }).click();
  await p.getByRole('dialog').getByLabel('Reason').fill("it's too much");
  assert.equal(await p.locator('dialog .copy').getAttribute('data-command'), `klieg policy rollback calm --to 1 --reason 'it'\\''s too much'`);
  await p.getByRole('dialog').getByRole('button', { name: 'Revert', exact: true }).click();
  await waitFor(async () => (await rows(p).count()) === 3);
  assert.match(await rows(p).first().textContent(), /dashboard.*rollback.*it's too much/s);
  assert.equal((await call('GET', '/policies/calm')).text, text('count'));
  await waitFor(async () => !(await rows(p).nth(1).getByRole('button', { name: /^Revert/ }).count()));
  await revert(p, rows(p).last(), 'all of it');
  assert.equal((await call('GET', '/policies/calm')).state, 'off');
  await p.context().close();
});
