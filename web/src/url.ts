// The whole state of the dashboard is its URL, so that every view can be shared and Back works. Version 1 of its form:
//   /PAGE?v=1&since=15m | from=NS&to=NS &paused=1 &q= &sel= &trace= &span= &find= &sort=
// Times in it are absolute unix nanoseconds. What a person does on purpose makes a history entry; what they type replaces the last one.
import { signal, computed } from '@preact/signals';
import { absolute, fromMs, type Instant } from './time';

export type Params = Record<string, string>;
export interface Place {
  page: string;
  params: Params;
}

function read(): Place {
  const page = location.pathname.replace(/^\/+|\/+$/g, '') || 'overview';
  return { page, params: Object.fromEntries(new URLSearchParams(location.search)) };
}
export const place = signal<Place>(read());
addEventListener('popstate', () => {
  place.value = read();
});

export const pageName = computed(() => place.value.page);
export const param = (name: string) => place.value.params[name] ?? '';

export function href(page: string, params: Params = {}): string {
  const kept = Object.entries({ v: '1', ...params }).filter(([, v]) => v !== '');
  return `/${page}?${new URLSearchParams(kept)}`;
}
function move(to: string, replace: boolean) {
  if (to === location.pathname + location.search) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', to);
  place.value = read();
}
const TIME = ['since', 'from', 'to', 'paused'];
/** The link to a page; the time range travels along unless `params` has one of its own. */
export function link(page: string, params: Params = {}): string {
  const keep: Params = {};
  if (!TIME.some((k) => k in params)) for (const k of TIME) if (place.value.params[k]) keep[k] = place.value.params[k];
  return href(page, { ...keep, ...params });
}
export const go = (page: string, params: Params = {}) => move(link(page, params), false);
/** Changes some parameters of this place; an empty string removes one. */
export function set(changes: Params, how: 'push' | 'typing' = 'push') {
  move(href(place.value.page, { ...place.value.params, ...changes }), how === 'typing');
}

// Time: LIVE (the last `since`), PAUSED (live, stopped), or HISTORICAL (from, to).
export const paused = computed(() => place.value.params.paused === '1');
export const historical = computed(() => !!place.value.params.from);
export const since = computed(() => place.value.params.since || '15m');
export const rangeKey = computed(() => ['since', 'from', 'to'].map((k) => place.value.params[k] ?? '').join());
/** One step of live, paused, live; from the past back to now. */
export const nextState = () =>
  set(
    historical.value
      ? { from: '', to: '', paused: '', ...(pageName.value === 'explore' ? { sel: '' } : {}) }
      : { paused: paused.value ? '' : '1' },
  );
export function timeQuery(): Params {
  const p = place.value.params;
  return p.from ? { from: p.from, to: p.to || absolute(fromMs(Date.now())) } : { since: since.value };
}
/** The same for a command line. */
export const timeFlags = () =>
  place.value.params.from ? `--from ${timeQuery().from} --to ${timeQuery().to}` : `--since ${since.value}`;
export const range = (from: Instant, to: Instant): Params => ({
  from: absolute(from),
  to: absolute(to),
  since: '',
  paused: '',
});
