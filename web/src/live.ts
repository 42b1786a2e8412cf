// What changes by itself: the server's event stream, with reconnection, and the state that several pages show.
import { signal } from '@preact/signals';
import { api, type Status, type Toggle, Problem } from './api';
import { paused } from './url';

export const status = signal<Status | null>(null);
export const toggles = signal<Toggle[]>([]);
export const connected = signal(true);
/** Counts up with every second in which live views should look again. */
export const tick = signal(0);
export const now = signal(Date.now());
export const notice = signal<{ text: string; hint?: string; bad?: boolean; action?: { label: string; run: () => void } } | null>(null);

let wait = 500;
let source: EventSource | null = null;

export async function refreshToggles() {
  try { toggles.value = (await api.toggles()).toggles; } catch { /* the banner says that the server is away */ }
}
async function refreshStatus() {
  try { status.value = await api.status(); } catch { /* likewise */ }
}

function connect() {
  source = new EventSource('/api/v1/events');
  source.onopen = () => { connected.value = true; wait = 500; refreshToggles(); refreshStatus(); };
  source.addEventListener('status', (e) => { try { status.value = { ...status.value, ...JSON.parse((e as MessageEvent).data) }; } catch { /* next one */ } });
  source.addEventListener('toggle', () => refreshToggles());
  source.onerror = () => {
    connected.value = false;
    source?.close();
    setTimeout(connect, wait);
    wait = Math.min(wait * 2, 10000);
  };
}

export function start() {
  connect();
  refreshToggles();
  refreshStatus();
  setInterval(() => {
    now.value = Date.now();
    if (toggles.value.some((t) => t.expires_unix_nano / 1e6 < now.value)) refreshToggles();
  }, 500);
  setInterval(() => { if (!paused.value && !document.hidden && connected.value) tick.value++; }, 1000);
}

export function fail(e: unknown) {
  if ((e as Error)?.name === 'AbortError') return;
  const p = e as Problem;
  notice.value = { text: p.message, hint: p.hint, bad: true };
}

export async function allOff() {
  try {
    const r = await api.allOff();
    await refreshToggles();
    notice.value = { text: `Everything is off (${r.removed.length} toggle${r.removed.length === 1 ? '' : 's'}).`, action: { label: 'Undo', run: async () => {
      try { await api.undo(); await refreshToggles(); notice.value = { text: 'Restored with the time that was left.' }; } catch (e) { fail(e); }
    } } };
  } catch (e) { fail(e); }
}
