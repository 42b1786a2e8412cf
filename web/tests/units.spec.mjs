// The parts that need no browser: exact times, durations that are read back as they were written, the order of a trace.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { build } from 'esbuild';

async function load(name) {
  const entry = new URL(`../src/${name}.ts`, import.meta.url).pathname;
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, write: false, format: 'esm' });
  return import('data:text/javascript;base64,' + Buffer.from(outputFiles[0].contents).toString('base64'));
}
const { parseExact, absolute, instant, clockExact, parseClock } = await load('time');
const { bytes, colour, dur, durExact, num, parseDuration, pct } = await load('format');
const { buildTree, listRows } = await load('waterfall');

test('a unix time keeps every nanosecond, in and out', () => {
  const unix = String(BigInt(Date.now()) * 1000000n + 123457n);
  const { start_unix_nano: t } = parseExact(`{"start_unix_nano":${unix}}`);
  assert.ok(Number.isSafeInteger(t));
  assert.equal(absolute(t), unix);
  assert.equal(instant(unix), t);
  assert.equal(instant('tomorrow'), null);
  assert.equal(parseClock(clockExact(t), t), t);
});

test('what only looks like a time is left alone; long integers become text', () => {
  const inside = JSON.stringify({ text: '"start_unix_nano":1795399478546804786, [9007199254740993]' });
  assert.deepEqual(parseExact(inside), JSON.parse(inside));
  assert.deepEqual(
    parseExact('{"a":9007199254740993,"b":[-9223372036854775808],"c":9007199254740991,"d":1.2345678901234567890}'),
    {
      a: '9007199254740993',
      b: ['-9223372036854775808'],
      c: 9007199254740991,
      d: 1.2345678901234568,
    },
  );
  assert.ok(parseExact('{"start_unix_nano":0}').start_unix_nano < -1e18); // far away: a number still, if not an exact one
});

test('a time of day is read on the nearest day', () => {
  const day = 864e11;
  assert.equal(parseClock('23:59:59.5', 10), -5e8);
  assert.equal(parseClock('00:00:01', day - 10), day + 1e9);
  for (const bad of ['24:00:00', '1:2:3', 'noon', '12:34']) assert.equal(parseClock(bad, 0), null);
});

test('durations', () => {
  for (const ns of [0, 1, 999, 1000, 1048576, 1500000000, 90000000001, 9007199254740991])
    assert.equal(parseDuration(durExact(ns)), ns);
  assert.equal(parseDuration('1h30m'), 5400e9);
  for (const bad of ['', '5', 'm', '5 parsecs', '-1s']) assert.equal(parseDuration(bad), null);
});

test('numbers for people have no exponents and no 60 seconds', () => {
  assert.deepEqual([0, 999, 999999, 59.9e9, 299.7e9, 3599.9e9, 7199e9].map(dur), [
    '0 ns',
    '999 ns',
    '1000 µs',
    '59.9 s',
    '5 m 0 s',
    '1 h 0 m',
    '2 h 0 m',
  ]);
  assert.deepEqual([8170.4, 1234, 12345, 0.5, 999999].map(num), ['8170', '1234', '12.3 k', '0.500', '1000 k']);
  assert.deepEqual([12, 8170, 14286848].map(bytes), ['12 B', '8.17 kB', '14.3 MB']);
  assert.deepEqual([0, 0.001, 1.1, 110].map(pct), ['0 %', '<0.01 %', '1.1 %', '110 %']);
});

test('twelve services have twelve colours', () => {
  const names = [...'abcdefghijkl'].map((c) => `service-${c}`);
  assert.equal(new Set(names.map(colour)).size, 12);
  assert.deepEqual(names.map(colour), names.map(colour));
});

const span = (span_id, parent_span_id, start_unix_nano, duration_nano) => ({
  span_id,
  parent_span_id,
  start_unix_nano,
  duration_nano,
  service: 's',
  name: span_id,
});
test('a trace is listed depth first, with self times, whatever its shape', () => {
  const t = buildTree([
    span('c', 'a', 50, 30),
    span('b', 'a', 10, 50),
    span('a', '', 0, 100),
    span('lost', 'gone', 5, 1),
    span('x', 'y', 1, 1),
    span('y', 'x', 2, 1),
  ]);
  const rows = listRows(t, new Set());
  assert.deepEqual(
    rows.map((r) => `${r.s.span_id}${r.depth}`),
    ['a0', 'b1', 'c1', 'x0', 'y1', 'lost0'],
  );
  assert.equal(rows[0].self, 30); // the children overlap: 10 to 80 is covered
  assert.equal(t.missing, 2);
  assert.deepEqual(
    rows.filter((r) => r.critical).map((r) => r.s.span_id),
    ['a', 'c'],
  );
  assert.equal(listRows(t, new Set(['a'])).length, 4);
  assert.deepEqual(listRows(buildTree([]), new Set()), []);
});
