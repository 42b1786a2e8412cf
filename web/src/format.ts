// Numbers as people read them.
export function dur(ns: number | undefined | null): string {
  if (ns == null || !isFinite(ns)) return '–';
  const a = Math.abs(ns);
  if (a < 1e3) return `${Math.round(ns)} ns`;
  if (a < 1e6) return `${(ns / 1e3).toPrecision(3)} µs`;
  if (a < 1e9) return `${(ns / 1e6).toPrecision(3)} ms`;
  if (a < 60e9) return `${(ns / 1e9).toPrecision(3)} s`;
  return a < 3600e9 ? `${Math.floor(ns / 60e9)} m ${Math.round((ns % 60e9) / 1e9)} s` : `${Math.floor(ns / 3600e9)} h ${Math.round((ns % 3600e9) / 60e9)} m`;
}
export function num(n: number | undefined | null): string {
  if (n == null || !isFinite(n)) return '–';
  const a = Math.abs(n);
  if (a >= 1e9) return `${(n / 1e9).toPrecision(3)} G`;
  if (a >= 1e6) return `${(n / 1e6).toPrecision(3)} M`;
  if (a >= 1e4) return `${(n / 1e3).toPrecision(3)} k`;
  return Number.isInteger(n) ? String(n) : n.toPrecision(3);
}
export const pct = (x: number | undefined | null) => (x == null || !isFinite(x) ? '–' : x === 0 ? '0 %' : x < 0.01 ? '<0.01 %' : `${x.toPrecision(2)} %`);
export const clock = (unixNano: number) => new Date(unixNano / 1e6).toISOString().slice(11, 23);
export function parseDuration(s: string): number | null {
  const units: Record<string, number> = { ns: 1, us: 1e3, 'µs': 1e3, ms: 1e6, s: 1e9, m: 60e9, h: 3600e9, d: 86400e9 };
  const parts = [...s.trim().matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)/g)];
  return parts.length && parts.map((p) => p[0]).join('') === s.trim().replace(/\s+/g, '') ? parts.reduce((t, p) => t + Number(p[1]) * units[p[2]], 0) : null;
}
/** A steady colour per service, readable on both themes. */
export function hue(text: string): number {
  let h = 2166136261;
  for (const c of text) h = Math.imul(h ^ c.charCodeAt(0), 16777619);
  return (h >>> 0) % 360;
}
export const shell = (s: string) => (/^[\w:.\/%=-]+$/.test(s) ? s : `'${s.replace(/'/g, `'\\''`)}'`);
