// The whole state of the dashboard is its URL, so that every view can be shared and Back works. Version 1 of its form:
//   /PAGE?v=1&q=&sel=&from=&to=&since=&trace=&span=...
import { signal, computed } from '@preact/signals';

export type Params = Record<string, string>;
export interface Place { page: string; params: Params }

function read(): Place {
  const page = location.pathname.replace(/^\/+|\/+$/g, '') || 'hot';
  return { page, params: Object.fromEntries(new URLSearchParams(location.search)) };
}
export const place = signal<Place>(read());
addEventListener('popstate', () => { place.value = read(); });

export const pageName = computed(() => place.value.page);
export const param = (name: string) => place.value.params[name] ?? '';

export function href(page: string, params: Params = {}): string {
  const kept = Object.entries({ v: '1', ...params }).filter(([, v]) => v !== '');
  return `/${page}?${new URLSearchParams(kept)}`;
}
/** Goes to another place; the time range travels along unless it is given. */
export function go(page: string, params: Params = {}, replace = false) {
  const keep: Params = {};
  for (const k of ['since', 'from', 'to']) if (place.value.params[k] && !('since' in params) && !('from' in params)) keep[k] = place.value.params[k];
  history[replace ? 'replaceState' : 'pushState'](null, '', href(page, { ...keep, ...params }));
  place.value = read();
}
/** Changes some parameters of this place; an empty string removes one. */
export function set(changes: Params, replace = true) {
  history[replace ? 'replaceState' : 'pushState'](null, '', href(place.value.page, { ...place.value.params, ...changes }));
  place.value = read();
}

// Time: LIVE (the last `since`), PAUSED (live, stopped), or HISTORICAL (from, to).
export const paused = signal(false);
export const historical = computed(() => !!place.value.params.from);
export const since = computed(() => place.value.params.since || '15m');
export function timeQuery(): Params {
  const p = place.value.params;
  return p.from ? { from: p.from, to: p.to || String(Date.now() * 1e6) } : { since: since.value };
}
