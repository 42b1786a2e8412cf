// Numbers as people read them.
/** Three digits, never an exponent. */
const three = (x: number) => (Math.abs(x) >= 999.5 ? String(Math.round(x)) : x.toPrecision(3));

export function dur(ns: number | undefined | null): string {
  if (ns == null || !isFinite(ns)) return '–';
  const a = Math.abs(ns);
  if (a < 1e3) return `${Math.round(ns)} ns`;
  if (a < 1e6) return `${three(ns / 1e3)} µs`;
  if (a < 1e9) return `${three(ns / 1e6)} ms`;
  if (a < 60e9) return `${three(ns / 1e9)} s`;
  const s = Math.round(ns / 1e9),
    m = Math.round(ns / 60e9);
  return s < 3600 ? `${Math.floor(s / 60)} m ${s % 60} s` : `${Math.floor(m / 60)} h ${m % 60} m`;
}
export function num(n: number | undefined | null): string {
  if (n == null || !isFinite(n)) return '–';
  const a = Math.abs(n);
  if (a >= 1e9) return `${three(n / 1e9)} G`;
  if (a >= 1e6) return `${three(n / 1e6)} M`;
  if (a >= 1e4) return `${three(n / 1e3)} k`;
  return Number.isInteger(n) ? String(n) : three(n);
}
export function bytes(n: number | undefined | null): string {
  if (n == null || !isFinite(n)) return '–';
  return n < 1e3
    ? `${Math.round(n)} B`
    : n < 1e6
      ? `${three(n / 1e3)} kB`
      : n < 1e9
        ? `${three(n / 1e6)} MB`
        : `${three(n / 1e9)} GB`;
}
export const pct = (x: number | undefined | null) =>
  x == null || !isFinite(x)
    ? '–'
    : x === 0
      ? '0 %'
      : x < 0.01
        ? '<0.01 %'
        : `${x >= 99.5 ? Math.round(x) : x.toPrecision(2)} %`;
export function parseDuration(s: string): number | null {
  const units: Record<string, number> = { ns: 1, us: 1e3, µs: 1e3, ms: 1e6, s: 1e9, m: 60e9, h: 3600e9, d: 86400e9 };
  const parts = [...s.trim().matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)/g)];
  return parts.length && parts.map((p) => p[0]).join('') === s.trim().replace(/\s+/g, '')
    ? Math.round(parts.reduce((t, p) => t + Number(p[1]) * units[p[2]], 0))
    : null;
}
/** A duration that parseDuration reads back to the same nanosecond: 1.048576ms. */
export function durExact(ns: number): string {
  const n = Math.round(ns);
  const [size, unit] = (
    [
      [1e9, 's'],
      [1e6, 'ms'],
      [1e3, 'us'],
    ] as [number, string][]
  ).find(([u]) => n >= u) ?? [1, 'ns'];
  const rest = String(n % size)
    .padStart(String(size).length - 1, '0')
    .replace(/0+$/, '');
  return `${Math.floor(n / size)}${size > 1 && rest ? `.${rest}` : ''}${unit}`;
}

// Twelve colours that keep 3:1 on both themes. A service starts at the hash of its name and takes the next free colour, so that services
// which are on screen together differ; the name beside it carries the meaning.
const palette = [
  '#3b7dd8',
  '#d06a1c',
  '#2f9150',
  '#c5485f',
  '#8a63c9',
  '#a0703f',
  '#d1559f',
  '#6b7c8f',
  '#948713',
  '#14929b',
  '#5c6ee0',
  '#6f9327',
];
const taken = new Map<string, number>();
export function colour(service: string): string {
  let at = taken.get(service);
  if (at === undefined) {
    let h = 2166136261;
    for (const c of service) h = Math.imul(h ^ c.codePointAt(0)!, 16777619);
    at = (h >>> 0) % palette.length;
    const used = new Set(taken.values());
    if (used.size < palette.length) while (used.has(at)) at = (at + 1) % palette.length;
    taken.set(service, at);
  }
  return palette[at];
}
export const shell = (s: string) => (/^[\w:.\/%=-]+$/.test(s) ? s : `'${s.replace(/'/g, `'\\''`)}'`);
