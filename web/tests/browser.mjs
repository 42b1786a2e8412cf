// What the specs share: a real browser on a real `klieg up` (KLIEG_HTTP, KLIEG_OTLP), real spans over OTLP, and a watch for anything the
// page complains about. Every wait is for a condition and has a bound.
import assert from 'node:assert/strict';
import { AxeBuilder } from '@axe-core/playwright';
import { chromium } from 'playwright-core';

export const HTTP = process.env.KLIEG_HTTP,
  OTLP = process.env.KLIEG_OTLP;
assert.ok(HTTP && OTLP, 'KLIEG_HTTP and KLIEG_OTLP say where klieg up listens; tests/flow/test_dashboard.py sets them');

const quiet = [
  'disable-gpu',
  'no-sandbox',
  'no-first-run',
  'disable-background-networking',
  'disable-component-update',
  'disable-sync',
];

/** A browser whose pages collect their errors; finish() closes it and fails if there were any. */
export async function browser() {
  const b = await chromium.launch({ executablePath: '/usr/bin/chromium', args: quiet.map((f) => `--${f}`) });
  const complaints = [];
  return {
    async page(path = '/', options = {}) {
      const context = await b.newContext({ viewport: { width: 1400, height: 850 }, ...options });
      const p = await context.newPage();
      p.setDefaultTimeout(10000);
      p.complaints = [];
      const add = (text) => [complaints, p.complaints].forEach((list) => list.push(`${p.url()}: ${text}`));
      p.on('console', (m) => m.type() === 'error' && add(m.text())); // violations of the content security policy come here too
      p.on('pageerror', (e) => add(e.stack ?? e.message));
      await p.goto(HTTP + path);
      return p;
    },
    /** Complaints that a test provoked on purpose and has looked at. */
    forgive(pattern) {
      for (let i = complaints.length - 1; i >= 0; i--) if (pattern.test(complaints[i])) complaints.splice(i, 1);
    },
    async finish() {
      await b.close();
      assert.deepEqual(complaints, []);
    },
  };
}

export async function call(method, path, body) {
  const r = await fetch(`${HTTP}/api/v1${path}`, {
    method,
    headers: body ? { 'Content-Type': 'application/json' } : undefined,
    body: body && JSON.stringify(body),
  });
  const answer = await r.json();
  assert.ok(r.ok, `${method} ${path}: ${r.status} ${JSON.stringify(answer)}`);
  return answer;
}

export async function waitFor(what, bound = 10000) {
  const end = Date.now() + bound;
  for (let last; ;) {
    last = await what();
    if (last) return last;
    assert.ok(Date.now() < end, `not within ${bound} ms: ${what}`);
    await new Promise((r) => setTimeout(r, 30));
  }
}

/** Waits until `holds` is true in the page. Playwright's own waitForFunction evaluates text, which the page's policy rightly forbids. */
export const until = (page, holds, arg) => waitFor(async () => page.evaluate(holds, arg));

const hex = (n, digits) => n.toString(16).padStart(digits, '0');
export const traceId = (n) => hex(0xabcdef00 + n, 32);
export const spanId = (n) => hex(n + 1, 16);

/** An OTLP span; times are BigInt unix nanoseconds. `parent` is the number of another span of the trace, or null. */
export function span(trace, n, parent, name, start, length, more = {}) {
  const { attributes = {}, error } = more;
  const wrap = (v) =>
    typeof v === 'bigint' ? { intValue: String(v) } : Number.isInteger(v) ? { intValue: String(v) } : { stringValue: v };
  return {
    traceId: traceId(trace),
    spanId: spanId(n),
    ...(parent === null ? {} : { parentSpanId: spanId(parent) }),
    name,
    kind: 2,
    startTimeUnixNano: String(start),
    endTimeUnixNano: String(start + BigInt(length)),
    attributes: Object.entries(attributes).map(([key, v]) => ({ key, value: wrap(v) })),
    ...(error ? { status: { code: 2, message: error } } : {}),
  };
}
/** Sends spans of one service and waits until all of `trace` can be read back. */
export async function send(service, spans) {
  for (let i = 0; i < spans.length; i += 5000) {
    const resource = { attributes: [{ key: 'service.name', value: { stringValue: service } }] };
    const body = { resourceSpans: [{ resource, scopeSpans: [{ scope: { name: 'spec' }, spans: spans.slice(i, i + 5000) }] }] };
    const r = await fetch(`${OTLP}/v1/traces`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    });
    assert.equal(r.status, 200, await r.text());
  }
}
export const stored = (trace, count) =>
  waitFor(async () => {
    const r = await fetch(`${HTTP}/api/v1/traces/${traceId(trace)}`);
    return r.ok && (await r.json()).spans.length === count;
  });

/** A few hundred requests over the last half minute: a shop whose checkouts for one tenant are slow. */
export async function shop(count = 200) {
  const now = BigInt(Date.now()) * 1000000n,
    front = [],
    back = [];
  for (let i = 0; i < count; i++) {
    const slow = i % 10 === 0,
      start = now - BigInt(30000 - i * 100) * 1000000n + BigInt(i),
      length = slow ? 80e6 : 2e6 + i * 1e3;
    front.push(span(i, 0, null, 'POST /checkout', start, length, { attributes: { tenant: slow ? '7' : '1' } }));
    back.push(
      span(i, 1, 0, 'charge', start + 100000n, length - 200000, {
        attributes: { tenant: slow ? '7' : '1', attempt: i },
        error: i % 50 === 0 ? 'card refused' : undefined,
      }),
    );
  }
  await send('front', front);
  await send('payment', back);
  await stored(count - 1, 2);
}

/** No serious or critical violation, in neither theme. What the theme changes is colours: the rest is looked at once. */
export async function accessible(page, what) {
  await check(page, `${what}, light`, new AxeBuilder({ page }));
  await page.emulateMedia({ colorScheme: 'dark' });
  await check(page, `${what}, dark`, new AxeBuilder({ page }).withRules(['color-contrast', 'link-in-text-block']));
}
async function check(page, what, axe) {
  const { violations } = await axe
    .setLegacyMode()
    .options({ resultTypes: ['violations'] })
    .analyze();
  const bad = violations
    .filter((v) => ['serious', 'critical'].includes(v.impact))
    .map((v) => `${what}: ${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(' | ')}`);
  assert.deepEqual(bad, []);
}
