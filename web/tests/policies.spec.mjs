// Policies as code, with undo: what is wrong is said at its place, what would happen before it does; two people never overwrite each other.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { accessible, browser, call, until, waitFor } from './browser.mjs';

let b;
before(async () => {
  b = await browser();
});
afterEach(async () => {
  for (const p of (await call('GET', '/policies')).policies) if (p.in_force) await call('DELETE', `/policies/${p.name}?author=spec`);
});
after(() => b.finish());

const text = (name, level = 'count', more = '') => `policy: ${name}
rules:
  - name: all
    match: '{ resource.service.name = "demo" }'
    level: ${level}
${more}`;
const content = (p) => p.locator('.code .cm-content');
async function write(p, what) {
  await content(p).click();
  await p.keyboard.press('Control+A');
  await content(p).evaluate((el, text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData('text/plain', text);
    el.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
  }, what);
}
const put = (name, body) => call('PUT', `/policies/${name}`, { author: 'ann', rollout: 'now', ...body });

test('the overview tells who is traced, by what, and until when; alerts open what they are about', async () => {
  const p = await b.page('/');
  await p.getByRole('heading', { name: 'Overview' }).waitFor();
  await p.getByText('Nothing is counted yet').waitFor();
  await accessible(p, 'empty overview');
  await p.getByRole('link', { name: 'Policies' }).click();
  await p.getByText('No policies yet').waitFor();
  await accessible(p, 'no policies');
  await p.goBack();
  await put('watch', { text: text('watch', 'count', '    escalate:\n      when: \'{ name = "outer" } | rate() > 1\'\n      over: 1s\n      to: span\n      decay: 5m\n'), expected_version: 0 });
  await call('POST', '/toggles', { selector: 'demo:inner', ttl: '5m', reason: 'looking' });
  await waitFor(async () => /inner.*looking/s.test(await p.textContent('main')));
  await waitFor(async () => /policy watch\/all.*no end/s.test(await p.textContent('main')));
  await p.getByRole('table', { name: /Services/ }).waitFor();
  const card = p.locator('.cards li', { hasText: 'trigger' });
  await card.waitFor();
  await p.getByRole('table', { name: 'Firings' }).waitFor();
  await accessible(p, 'overview');
  await card.getByRole('button').first().click();
  await until(p, () => location.pathname === '/explore' && ['from', 'to', 'q'].every((k) => new URLSearchParams(location.search).get(k)));
  await p.locator('.heat canvas').waitFor();
  await p.goBack();
  await p.getByRole('heading', { name: 'Overview' }).waitFor();
  await call('DELETE', '/toggles?all=true');
  await p.context().close();
});

test('what is wrong is shown on its line, as klieg policy check says it', async () => {
  const p = await b.page('/policies?new=1');
  await content(p).waitFor();
  const bad = text('wrong').replace('level: count', 'level: cuont');
  await write(p, bad);
  const item = p.locator('.diags li').first();
  await item.waitFor();
  const { diagnostics } = await call('POST', '/policies/check', { text: bad });
  assert.equal(diagnostics[0].line, 5);
  assert.equal(await item.getAttribute('data-line'), '5');
  const said = await item.textContent();
  for (const part of [diagnostics[0].code, diagnostics[0].message]) assert.ok(said.includes(part), `${part} in ${said}`);
  await p.locator('.code .cm-lintRange-error').first().waitFor();
  assert.match(await p.locator('.code .cm-line:has(.cm-lintRange-error)').first().textContent(), /cuont/);
  assert.ok(await p.getByRole('button', { name: 'Apply…' }).isDisabled());
  await item.getByRole('button').click();
  await accessible(p, 'diagnostics');
  await p.context().close();
});

test('keys and values are completed from the schema', async () => {
  const p = await b.page('/policies?new=1');
  await content(p).waitFor();
  await write(p, "policy: x\nrules:\n  - name: a\n    match: '{ }'\n    lev");
  await p.keyboard.press('Control+Space');
  await p.locator('.cm-tooltip-autocomplete li', { hasText: 'level' }).click();
  await until(p, () => /level:/.test(document.querySelector('.code').shadowRoot.textContent));
  await p.context().close();
});

test('plan, apply, history, differences, roll back; Back goes the same way', async () => {
  const p = await b.page('/policies');
  await p.getByRole('button', { name: 'New policy…' }).click();
  await content(p).waitFor();
  await write(p, text('first'));
  await p.locator('[data-plan]').waitFor();
  await waitFor(async () => /Matches 3 sites in 1 process/.test(await p.textContent('[data-plan]')));
  assert.match(await p.textContent('[data-plan]'), /\+all/);
  assert.ok((await p.locator('.changes li[data-op="+"]').count()) > 0);
  await accessible(p, 'editor and plan');
  await p.getByRole('button', { name: 'Apply…' }).click();
  await p.getByLabel('Reason').fill('numbers of everything');
  await p.getByLabel('Rollout').selectOption('now');
  await p.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
  await p.getByText(/Policy first is version 1, acknowledged in/).waitFor();
  await until(p, () => new URL(location.href).searchParams.get('name') === 'first');
  await put('first', { text: text('first', 'span'), expected_version: 1, reason: 'and spans' });

  await p.getByRole('link', { name: 'History' }).click();
  const rows = p.getByRole('table', { name: 'Versions' }).locator('tbody tr');
  await waitFor(async () => (await rows.count()) === 2);
  assert.match(await rows.first().textContent(), /2.*in force.*ann.*and spans/s);
  await accessible(p, 'history');
  await p.getByLabel('Differences of version 2').click();
  await p.locator('.lines .plus').waitFor();
  assert.match(await p.locator('.lines .minus').textContent(), /level: count/);
  assert.match(await p.getByRole('table', { name: 'Rules that differ' }).textContent(), /level.*count.*span/s);
  await accessible(p, 'differences');
  await p.goBack();
  await waitFor(async () => (await rows.count()) === 2);
  await p.getByLabel('Roll back to version 1').click();
  await p.getByRole('dialog').getByRole('button', { name: 'Roll back', exact: true }).click();
  await p.getByText('Version 1 is in force again, as version 3.').waitFor();
  await waitFor(async () => (await rows.count()) === 3);
  const list = (await call('GET', '/policies')).policies.find((x) => x.name === 'first');
  assert.equal(list.rules[0].level, 'count');
  await p.getByRole('button', { name: 'Policies', exact: true }).click();
  await p.getByRole('table', { name: 'Policies' }).waitFor();
  await accessible(p, 'policies');
  await p.context().close();
});

test('who saves later sees who changed what, loses nothing, and merges', async () => {
  await put('both', { text: text('both'), expected_version: 0 });
  const p = await b.page('/policies?name=both');
  await content(p).waitFor();
  await until(p, () => /demo/.test(document.querySelector('.code').shadowRoot.textContent));
  await write(p, text('both').replace('- name: all', '- name: mine'));
  await p.locator('[data-plan]').waitFor();
  await put('both', { text: text('both', 'count', 'limits:\n  - match: "{ }"\n    level: span\n'), expected_version: 1, reason: 'a limit' });
  await until(p, () => !document.querySelector('.below .primary').disabled);
  await p.getByRole('button', { name: 'Apply…' }).click();
  await p.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
  const stale = p.locator('.stale');
  await stale.waitFor();
  assert.match(await stale.textContent(), /changed by ann.*a limit.*nothing was applied/s);
  assert.match(await stale.locator('.plus').first().textContent(), /limits:/);
  assert.match(await content(p).textContent(), /mine/);
  assert.equal((await call('GET', '/policies/both')).version, 2);
  await accessible(p, 'stale');
  await stale.getByRole('button', { name: 'Merge both' }).click();
  await until(p, () => /mine.*limits:/s.test(document.querySelector('.code').shadowRoot.textContent));
  await p.reload();
  await content(p).waitFor();
  await until(p, () => /mine.*limits:/s.test(document.querySelector('.code').shadowRoot.textContent)); // not yet applied, not lost
  await until(p, () => !document.querySelector('.below .primary').disabled);
  await p.getByRole('button', { name: 'Apply…' }).click();
  await p.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
  await p.getByText(/Policy both is version 3/).waitFor();
  b.forgive(/412/);
  await p.context().close();
});

test('a rollout that does harm goes back by itself; the page and the audit log say why', { timeout: 90000 }, async () => {
  await waitFor(async () => (await call('GET', '/processes')).processes.filter((x) => x.service === 'harm' && x.state === 'live').length === 2);
  const harm = (level) => text('harm', level).replace('service.name = "demo"', 'service.name = "harm" && name = "step"');
  const base = text('harm').replace('"demo"', '"harm" && name = "request"');
  await put('harm', { text: base, expected_version: 0 });
  const p = await b.page('/policies?name=harm');
  await content(p).waitFor();
  await until(p, () => /harm/.test(document.querySelector('.code').shadowRoot.textContent));
  await write(p, harm('span').trimEnd() + '\n    rollout: [1 process, 100%]\n');
  await until(p, () => !document.querySelector('.below .primary').disabled);
  await p.getByRole('button', { name: 'Apply…' }).click();
  await p.getByLabel('Watch each step for').fill('10m');
  await p.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
  await p.locator('.steps li[aria-current]').waitFor();
  await p.locator('[data-rollout="rolled_back"]').waitFor({ timeout: 60000 });
  const { versions } = await call('GET', '/policies/harm/versions');
  assert.equal(versions[0].change, 'auto_rollback');
  assert.ok(versions[0].evidence.some((x) => x.verdict === 'breach'));
  assert.equal((await call('GET', '/policies/harm')).text, base);
  await p.getByRole('link', { name: 'History' }).click();
  await p.getByRole('table', { name: 'Versions' }).getByText('auto rollback').waitFor();
  await p.goto(new URL('/audit?object=policy%3Aharm', p.url()).href);
  const row = p.getByRole('table', { name: 'Changes' }).locator('tbody tr', { hasText: 'system:guardrail' });
  await row.waitFor();
  assert.match(await row.textContent(), /auto rollback.*policy harm.*slower.*requests.*done/s);
  await row.locator('[data-evidence]').waitFor();
  await accessible(p, 'audit');
  await p.context().close();
});

test('a rollout goes by steps, is seen live, and can be taken back', async () => {
  await put('slow', { text: text('slow'), expected_version: 0 });
  const stepped = text('slow', 'span').trimEnd() + '\n    rollout: [50%, 100%]\n';
  const p = await b.page('/policies?name=slow');
  await content(p).waitFor();
  await until(p, () => /demo/.test(document.querySelector('.code').shadowRoot.textContent));
  await write(p, stepped);
  await until(p, () => !document.querySelector('.below .primary').disabled);
  await p.getByRole('button', { name: 'Apply…' }).click();
  await p.getByLabel('Watch each step for').fill('10m');
  await p.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
  await p.locator('.steps li[aria-current]').waitFor();
  assert.match(await p.textContent('.steps'), /50.*watched.*100.*pending/s);
  await accessible(p, 'rollout');
  await p.getByRole('button', { name: 'Roll back', exact: true }).last().click();
  await p.locator('[data-rollout="rolled_back"]').waitFor();
  assert.equal((await call('GET', '/policies')).policies.find((x) => x.name === 'slow').rules[0].level, 'count');
  await p.context().close();
});

test('a step that nobody watches any more is shown as interrupted, and why; also in the audit log', async () => {
  const live = async () => (await call('GET', '/processes')).processes.filter((x) => x.service === 'harm' && x.state === 'live');
  const what = text('cut', 'count').replace('service.name = "demo"', 'service.name = "harm" && name = "request"');
  await put('cut', { text: what.trimEnd() + '\n    rollout: [1 process, 100%]\n', expected_version: 0, soak: '1h', rollout: 'steps' });
  const p = await b.page('/policies?name=cut&tab=rollout');
  await p.locator('.steps li.running').waitFor();
  for (const { pid } of await live()) process.kill(pid, 'SIGKILL');
  await p.locator('.steps li.interrupted[aria-current]').waitFor();
  await waitFor(async () => /no process has a site that matches: the step begins when there is one/.test(await p.textContent('[data-rollout=running]')));
  assert.match(await p.textContent('.steps'), /1 process.*interrupted.*100.*pending/s);
  assert.doesNotMatch(await p.textContent('.steps'), /left/);
  await accessible(p, 'interrupted');
  await p.goto(new URL('/audit?object=policy%3Acut&what=interrupted', p.url()).href);
  await p.getByRole('table', { name: 'Changes' }).getByText(/of the canary is gone|no process has a site/).first().waitFor();
  await call('POST', '/policies/cut/rollout', { action: 'rollback', author: 'ann' });
  await p.goto(new URL('/policies?name=cut&tab=rollout', p.url()).href);
  await p.locator('[data-rollout="rolled_back"]').waitFor();
  assert.match(await p.textContent('.steps'), /rolled back.*not reached/s);
  await p.context().close();
});
