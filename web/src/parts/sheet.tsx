// The toggle sheet: what to switch on, how deep, for how long, why, and what it will cost before it is switched on.
import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { api, type Cost, type Plan, type Problem } from '../api';
import { fail, notice, refreshToggles, status } from '../live';
import { bytes, dur, num, parseDuration, pct, shell } from '../format';
import { go } from '../url';
import { Copy, Trouble } from './bits';
import { Modal } from './chrome';

interface Draft {
  selector: string;
  level: string;
  keep: string;
  ttl: string;
  reason: string;
  where: string;
  depth: string;
  endpoint: string;
  tenant: string;
  hosts: string;
  share: string;
  rate: string;
}
const draft = signal<Draft | null>(null);
/** The server's answer to the draft; fits: the share to keep that it would not find too expensive (0: none). */
const plan = signal<{ plan?: Plan; fits?: number; problem?: Problem; busy: boolean }>({ busy: false });
const NARROW = { endpoint: '', tenant: '', hosts: '', share: '', rate: '' };
let asked = 0;

export function openSheet(from: Partial<Draft>) {
  draft.value = { selector: '', level: 'span', keep: '100', ttl: '5m', reason: '', where: '', depth: '1', ...NARROW, ...from };
  plan.value = { busy: false };
}

const hosts = (d: Draft) => d.hosts.split(/[\s,]+/).filter(Boolean);
/** The selector with what the fields add to it; endpoint and tenant are decided when a request starts. */
function selectorOf(d: Draft): string {
  const more = [
    d.endpoint.trim() && `.endpoint = ${JSON.stringify(d.endpoint.trim())}`,
    d.tenant.trim() && `.tenant = ${JSON.stringify(d.tenant.trim())}`,
  ].filter(Boolean);
  const s = d.selector.trim();
  if (!more.length) return s;
  if (s.startsWith('{')) {
    const inner = s.replace(/^\{\s*|\s*\}$/g, '');
    return `{ ${[inner && (/\|\|/.test(inner) ? `(${inner})` : inner), ...more].filter(Boolean).join(' && ')} }`;
  }
  const [service, name] = s.includes(':') ? [s.slice(0, s.indexOf(':')), s.slice(s.indexOf(':') + 1)] : ['*', s];
  const glob = (key: string, g: string) =>
    g === '*' || !g
      ? ''
      : /[*?]/.test(g)
        ? `${key} =~ ${JSON.stringify(g.replace(/[.+^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '.*').replace(/\?/g, '.'))}`
        : `${key} = ${JSON.stringify(g)}`;
  return `{ ${[glob('resource.service.name', service), glob('name', name), ...more].filter(Boolean).join(' && ')} }`;
}
const body = (d: Draft) => ({
  selector: selectorOf(d),
  level: d.level,
  keep: Number(d.keep) / 100,
  ttl: d.ttl.trim(),
  reason: d.reason,
  owner: 'dashboard',
  ...(d.level === 'deep' ? { depth: Number(d.depth) } : {}),
  ...(d.where.trim() ? { where: d.where.trim() } : {}),
  ...(hosts(d).length ? { hosts: hosts(d) } : {}),
  ...(d.share ? { share: Number(d.share) / 100 } : {}),
  ...(d.rate ? { rate: Number(d.rate) } : {}),
});
const command = (d: Draft) =>
  [
    'klieg on',
    shell(selectorOf(d) || 'SELECTOR'),
    `--level ${d.level}`,
    d.level === 'deep' ? `--depth ${d.depth}` : '',
    d.keep !== '100' ? `--keep ${d.keep}%` : '',
    `--ttl ${d.ttl.trim()}`,
    d.where.trim() ? `--where ${shell(d.where.trim())}` : '',
    ...hosts(d).map((h) => `--host ${shell(h)}`),
    d.share ? `--share ${d.share}%` : '',
    d.rate ? `--rate ${d.rate}/s` : '',
    d.reason ? `--reason ${shell(d.reason)}` : '',
  ]
    .filter(Boolean)
    .join(' ');

/** What is missing in the draft, in words; '' if the server may be asked. */
function incomplete(d: Draft): string {
  if (!d.selector.trim()) return 'Say what to switch on; * is everything.';
  if (!(Number(d.keep) > 0 && Number(d.keep) <= 100)) return 'Keep between 0 and 100 % of the traces.';
  if (d.level === 'deep' && !/^(\d|1[0-6])$/.test(d.depth)) return 'From 0 to 16 calls deep.';
  if (d.share && !(Number(d.share) > 0 && Number(d.share) <= 100)) return 'Between 0 and 100 % of the processes.';
  if (d.rate && !(Number(d.rate) > 0)) return 'A rate is a number of spans per second, above 0.';
  const ttl = parseDuration(d.ttl);
  if (ttl === null || ttl < 1e9 || ttl > 86400e9) return 'It must end by itself: a time from 1s to 24h, like 5m.';
  return '';
}
const isOver = (c: Cost | undefined) => !!c?.known && (c.cpu_percent ?? 0) > ((status.value?.budget_percent ?? 1) || Infinity); // 0: no agent has one
const ask = async (d: Draft) => (await api.on({ ...body(d), dry_run: true, estimate: '250ms' })).plan;

/** A share of the traces whose cost, as the server predicts it, fits the budget; 0 if fewer traces do not help. */
async function fitting(d: Draft, cost: Cost): Promise<number> {
  const exact = (Number(d.keep) * (status.value?.budget_percent ?? 1)) / cost.cpu_percent!;
  const unit = 10 ** (Math.floor(Math.log10(exact)) - 1),
    keep = Number((Math.floor(exact / unit) * unit).toPrecision(2));
  return keep >= 0.01 && !isOver((await ask({ ...d, keep: String(keep) })).predicted) ? keep : 0;
}

function Prediction({ d, p, over, fits, budget }: { d: Draft; p: Plan; over: boolean; fits?: number; budget: number }) {
  const c = p.predicted;
  return (
    <>
      <p>
        <b>{num(p.sites)}</b> site{p.sites === 1 ? '' : 's'} in <b>{num(p.processes)}</b> process{p.processes === 1 ? '' : 'es'}
        {p.services?.length ? ` of ${p.services.join(', ')}` : ''}
      </p>
      {p.warning && <p class="over">{p.warning}</p>}
      <p data-cost>
        {c?.known ? (
          <>
            Predicted: ~{num(d.level === 'count' ? c.calls_per_s : (c.spans_per_s ?? c.calls_per_s))}{' '}
            {d.level === 'count' ? 'calls' : 'spans'}/s, {pct(c.cpu_percent)} CPU{budget > 0 && ` of ${pct(budget)} budget`},{' '}
            {bytes(c.bytes_per_s)}/s <small>({c.basis})</small>
          </>
        ) : (
          <>
            Predicted cost unknown <small>({c?.basis ?? 'these sites have not been seen running'})</small>
          </>
        )}
      </p>
      {over && (
        <p class="over">
          That is over the budget of {pct(budget)}.{' '}
          {fits ? (
            <button
              type="button"
              onClick={() => {
                draft.value = { ...d, keep: String(fits) };
              }}
            >
              Keep {fits} % instead
            </button>
          ) : (
            'Keeping fewer traces would not help, the calls alone cost that much: choose fewer sites.'
          )}
        </p>
      )}
    </>
  );
}

export function ToggleSheet() {
  const d = draft.value;
  const key = d && JSON.stringify([selectorOf(d), d.level, d.depth, d.keep, d.where.trim(), d.hosts, d.share, d.rate]);
  const missing = d ? incomplete(d) : '';
  const dry = d && !missing;
  useEffect(() => {
    if (!dry) return;
    const my = ++asked;
    plan.value = { ...plan.value, busy: true };
    const t = setTimeout(async () => {
      try {
        const p = await ask(d),
          fits = isOver(p.predicted) ? await fitting(d, p.predicted!) : undefined;
        if (my === asked) plan.value = { plan: p, fits, busy: false };
      } catch (e) {
        if (my === asked) plan.value = { problem: e as Problem, busy: false };
      }
    }, 300);
    return () => clearTimeout(t);
  }, [key, dry]);
  if (!d) return null;
  const close = () => {
    asked++;
    draft.value = null;
  };
  const field = (k: keyof Draft) => ({
    value: d[k],
    onInput: (e: Event) => {
      draft.value = { ...d, [k]: (e.currentTarget as HTMLInputElement).value };
    },
  });
  const { plan: p, fits, problem, busy } = plan.value,
    budget = status.value?.budget_percent ?? 1;
  const over = isOver(p?.predicted);
  const why =
    missing ||
    (problem
      ? 'The server refuses this; see above.'
      : !p || busy
        ? 'Asking what this matches…'
        : over
          ? 'Over the budget.'
          : '');
  const submit = async (e: Event) => {
    e.preventDefault();
    if (why) return;
    try {
      const r = await api.on(body(d));
      close();
      await refreshToggles();
      const { sites, processes, pause_nano: pause, warning } = r.plan;
      if (d.level === 'deep') go('graph', { root: d.selector.trim() });
      notice.value = {
        text:
          `On: ${num(sites)} site${sites === 1 ? '' : 's'} in ${num(processes)} process${processes === 1 ? '' : 'es'}, ` +
          `acknowledged in ${dur(r.ack_nano)}${pause ? `, paused for ${dur(pause)}` : ''}.`,
        hint: warning,
        action: r.toggle ? { label: 'Off again', run: () => api.off(r.toggle!.id).then(refreshToggles, fail) } : undefined,
      };
    } catch (err) {
      plan.value = { problem: err as Problem, busy: false };
    }
  };
  return (
    <Modal title="Switch on" onClose={close}>
      <form class="sheet" onSubmit={submit} noValidate>
        <label>
          Selector
          <input
            autofocus
            spellcheck={false}
            placeholder='payment:* or { name =~ "db.*" }; * is everything'
            {...field('selector')}
          />
        </label>
        <div class="row">
          <label>
            Level
            <select {...field('level')}>
              <option value="count">count: numbers only</option>
              <option value="span">span: timed spans</option>
              <option value="detail">detail: and attributes</option>
              <option value="deep">deep: and what they call</option>
            </select>
          </label>
          {d.level === 'deep' && (
            <label>
              Calls deep
              <input type="number" min="0" max="16" {...field('depth')} />
            </label>
          )}
          <label>
            Keep, % of traces
            <input type="number" min="0.01" max="100" step="any" {...field('keep')} />
          </label>
          <label>
            For (TTL)
            <input required title="like 5m or 1h" {...field('ttl')} />
          </label>
        </div>
        <label>
          Keep only spans where (optional)
          <input spellcheck={false} placeholder='{ .tenant = "7" }; of functions: arg.2 > 4096' {...field('where')} />
        </label>
        <details class="narrow" open={!!(d.endpoint || d.tenant || d.hosts || d.share || d.rate)}>
          <summary>Narrower: endpoint, tenant, hosts, share of processes, rate</summary>
          <div class="row">
            <label>
              Endpoint
              <input spellcheck={false} placeholder="/checkout" {...field('endpoint')} />
            </label>
            <label>
              Tenant
              <input spellcheck={false} placeholder="7" {...field('tenant')} />
            </label>
            <label>
              Hosts
              <input spellcheck={false} placeholder="web-*, db-1" {...field('hosts')} />
            </label>
          </div>
          <div class="row">
            <label>
              Share of processes, %
              <input type="number" min="0.01" max="100" step="any" placeholder="100" {...field('share')} />
            </label>
            <label>
              At most spans/s, a process
              <input type="number" min="0.001" step="any" placeholder="no limit" {...field('rate')} />
            </label>
          </div>
        </details>
        <label>
          Reason
          <input placeholder="checkout is slow since 14:02" {...field('reason')} />
        </label>
        <div class="plan" aria-live="polite">
          {missing ? (
            <p>{missing}</p>
          ) : problem ? (
            <Trouble e={problem} />
          ) : p ? (
            <Prediction d={d} p={p} over={over} fits={fits} budget={budget} />
          ) : (
            <p>Asking what this matches…</p>
          )}
        </div>
        <div class="row end">
          <Copy command={command(d)} />
          <span class="grow" />
          <button type="button" onClick={close}>
            Cancel
          </button>
          <button class="primary" disabled={!!why} title={why || undefined}>
            Switch on
          </button>
        </div>
      </form>
    </Modal>
  );
}
