// Exact time. A unix time in nanoseconds (1.8e18) does not fit a JavaScript number, which is exact up to 9e15 only; so every `*_unix_nano`
// of the server becomes an Instant, nanoseconds since the start of the UTC day in which the page was opened: exact for 104 days both ways.
// Wherever a time leaves the page (query, URL), it is absolute again, as text.

/** Nanoseconds since the page's epoch. */
export type Instant = number;

const DAY_MS = 86400000;
const epochMs = Math.floor(Date.now() / DAY_MS) * DAY_MS;
const epoch = BigInt(epochMs) * 1000000n;

export const fromMs = (unixMs: number): Instant => (unixMs - epochMs) * 1e6;
export const toMs = (t: Instant) => epochMs + t / 1e6;
/** Absolute unix nanoseconds, as text. */
export const absolute = (t: Instant) => (epoch + BigInt(Math.round(t))).toString();
/** The Instant of absolute unix nanoseconds in text; null if it is not a whole number. */
export const instant = (unixNano: string): Instant | null =>
  /^-?\d{1,19}$/.test(unixNano) ? Number(BigInt(unixNano) - epoch) : null;

const TIMES = /"((?:start|time|end|expires|next_expiry|started|attached|ended|exited|created|updated|at|since)_unix_nano)":(\d+)/g;
const RANGE = /"(from|to)":(\d{16,})/g;
const LONG = /[:,[]-?\d{16,}[,}\]]/;
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|(?<![\d.])-?\d{16,}(?![\d.eE])/g;

/**
 * JSON.parse that loses no digit: times become Instants, other integers too large for a number become text.
 * A key inside of a string has an escaped quote before its colon, so it is never taken for a time.
 */
export function parseExact(text: string, range = false): any {
  const shift = (_: string, key: string, digits: string) => {
    const t = Number(BigInt(digits) - epoch);
    return `"${key}":${Number.isSafeInteger(t) ? t : t.toExponential()}`; // beyond 104 days there is no exactness to keep
  };
  let t = text.replace(TIMES, shift);
  if (range) t = t.replace(RANGE, shift);
  if (LONG.test(t)) t = t.replace(TOKENS, (m) => (m[0] === '"' || Number.isSafeInteger(Number(m)) ? m : `"${m}"`));
  return JSON.parse(t);
}

/** Time of day in UTC, to the millisecond. */
export const clock = (t: Instant) => new Date(Math.floor(toMs(t))).toISOString().slice(11, 23);

/** Time of day to the last nanosecond that matters: 12:34:56 or 12:34:56.000123. */
export function clockExact(t: Instant): string {
  const ns = ((Math.round(t) % 864e11) + 864e11) % 864e11;
  const whole = new Date(Math.floor(ns / 1e9) * 1000).toISOString().slice(11, 19);
  const rest = String(ns % 1e9)
    .padStart(9, '0')
    .replace(/0+$/, '');
  return rest ? `${whole}.${rest}` : whole;
}

/** Reads a time of day, on whichever day brings it nearest to `near`. */
export function parseClock(s: string, near: Instant): Instant | null {
  const m = /^(\d\d?):(\d\d):(\d\d)(?:\.(\d{1,9}))?$/.exec(s.trim());
  if (!m || +m[1] > 23 || +m[2] > 59 || +m[3] > 59) return null;
  const ofDay = (+m[1] * 3600 + +m[2] * 60 + +m[3]) * 1e9 + Number((m[4] ?? '').padEnd(9, '0'));
  return ofDay + Math.round((near - ofDay) / 864e11) * 864e11;
}
