// What changes by itself: the server's event stream, with reconnection, and the state that several pages show.
import { signal } from '@preact/signals';
import { api, type Alert, type Status, type Toggle, Problem } from './api';
import { toMs, parseExact } from './time';

export const status = signal<Status | null>(null);
export const toggles = signal<Toggle[]>([]);
export const alerts = signal<Alert[]>([]);
/** Counts up whenever a policy, a rollout, a trigger or the governor did something. */
export const steering = signal(0);
export const connected = signal(true);
/** Counts up whenever processes or their sites come, go or change. */
export const changes = signal(0);
export const now = signal(Date.now());

export interface Notice {
  text: string;
  hint?: string;
  bad?: boolean;
  action?: { label: string; run: () => void };
}
export const notice = signal<Notice | null>(null);

let wait = 500;

export async function refreshToggles() {
  try {
    toggles.value = (await api.toggles()).toggles;
  } catch {
    /* the banner says that the server is away */
  }
}
async function refreshAlerts() {
  try {
    alerts.value = (await api.alerts()).alerts;
  } catch {
    /* likewise */
  }
}
async function refreshStatus() {
  try {
    status.value = await api.status();
  } catch {
    /* likewise */
  }
}

function connect() {
  const source = new EventSource('/api/v1/events');
  source.onopen = () => {
    connected.value = true;
    wait = 500;
    refreshToggles();
    refreshStatus();
    refreshAlerts();
    changes.value++;
    steering.value++;
  };
  source.addEventListener('status', (e) => {
    try {
      status.value = { ...status.value, ...parseExact((e as MessageEvent).data) };
    } catch {
      /* the next one comes in a second */
    }
  });
  source.addEventListener('toggle', () => {
    refreshToggles();
    changes.value++;
  });
  source.addEventListener('alert', refreshAlerts);
  source.addEventListener('panic', () => {
    refreshStatus();
    refreshToggles();
    steering.value++;
  });
  for (const kind of ['policy', 'rollout', 'trigger', 'guard'])
    source.addEventListener(kind, () => {
      steering.value++;
    });
  for (const kind of ['process', 'sites', 'stats'])
    source.addEventListener(kind, () => {
      changes.value++;
    });
  source.onerror = () => {
    connected.value = false;
    source.close();
    setTimeout(connect, wait);
    wait = Math.min(wait * 2, 10000);
  };
}

export function start() {
  connect();
  setInterval(() => {
    now.value = Date.now();
    if (toggles.value.some((t) => toMs(t.expires_unix_nano) < now.value)) refreshToggles();
  }, 500);
}

export function fail(e: unknown) {
  if ((e as Error)?.name === 'AbortError') return;
  const p = e as Problem;
  notice.value = { text: p.message, hint: p.hint, bad: true };
}

const several = (n: number, one: string, more = one + 's') => `${n} ${n === 1 ? one : more}`;
export async function undoPanic() {
  try {
    const { toggles: back, policies, warning } = await api.undoPanic();
    await Promise.all([refreshToggles(), refreshStatus()]);
    notice.value = {
      text: `Restored: ${several(back.length, 'toggle')} with the time that was left, ${several(policies, 'policy', 'policies')}.`,
      hint: warning,
    };
  } catch (e) {
    fail(e);
  }
}
/** Everything off everywhere: toggles end, policies are suspended. */
export async function allOff() {
  try {
    const r = await api.panic();
    await Promise.all([refreshToggles(), refreshStatus()]);
    notice.value = {
      text: `Everything is off (${several(r.toggles, 'toggle')}, ${several(r.policies, 'policy', 'policies')}).`,
      hint: r.warning,
      action: { label: 'Undo', run: undoPanic },
    };
  } catch (e) {
    fail(e);
  }
}

// Why a span was not kept. `where` is what a toggle asked to leave out; the others are losses.
export const reasons: Record<string, string> = {
  ring_full: 'the process made spans faster than the agent read them',
  depth: 'nested deeper than a thread can hold',
  reentrant: 'made inside of the recorder itself, by a signal handler',
  abandoned: 'still open when its thread or process ended',
  no_slot: 'more threads than the process has rings for',
  corrupt: 'damaged in shared memory',
  where: 'did not satisfy the where of its toggle (not a loss)',
  spool_full: 'waited for the store longer than the spool can hold',
  store_failed: 'the store could not write it',
  rejected: 'arrived over OTLP and was not valid',
};
export const drops = (d: Record<string, number> | undefined) => Object.entries(d ?? {}).filter(([, n]) => n > 0);
export const losses = (d: Record<string, number> | undefined) =>
  drops(d).reduce((sum, [why, n]) => sum + (why === 'where' ? 0 : n), 0);
