// The toggle sheet: what to switch on, how deep, for how long, why, and what it will cost before it is switched on.
import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { api, type Plan, type Problem } from '../api';
import { fail, notice, refreshToggles } from '../live';
import { dur, num, pct, shell } from '../format';
import { Copy, Trouble } from './bits';
import { Modal } from './chrome';

interface Draft { selector: string; level: string; keep: string; ttl: string; reason: string; where: string }
const draft = signal<Draft | null>(null);
const plan = signal<{ plan?: Plan; problem?: Problem; busy: boolean }>({ busy: false });
let asked = 0;

export function openSheet(from: Partial<Draft>) {
  draft.value = { selector: '', level: 'span', keep: '100', ttl: '5m', reason: '', where: '', ...from };
  plan.value = { busy: false };
}

const body = (d: Draft) => ({ selector: d.selector || '*', level: d.level, keep: Number(d.keep) / 100, ttl: d.ttl, reason: d.reason, owner: 'dashboard', ...(d.where ? { where: d.where } : {}) });
const command = (d: Draft) => ['klieg on', shell(d.selector || '*'), `--level ${d.level}`, d.keep !== '100' ? `--keep ${d.keep}%` : '', `--ttl ${d.ttl}`, d.where ? `--where ${shell(d.where)}` : '', d.reason ? `--reason ${shell(d.reason)}` : ''].filter(Boolean).join(' ');

export function ToggleSheet() {
  const d = draft.value;
  const key = d && JSON.stringify([d.selector, d.level, d.keep, d.where]);
  useEffect(() => {
    if (!d) return;
    const my = ++asked;
    plan.value = { ...plan.value, busy: true };
    const t = setTimeout(async () => {
      try {
        const r = await api.on({ ...body(d), dry_run: true, estimate: '250ms' });
        if (my === asked) plan.value = { plan: r.plan, busy: false };
      } catch (e) { if (my === asked) plan.value = { problem: e as Problem, busy: false }; }
    }, 300);
    return () => clearTimeout(t);
  }, [key]);
  if (!d) return null;
  const close = () => { draft.value = null; };
  const field = (k: keyof Draft) => ({ value: d[k], onInput: (e: Event) => { draft.value = { ...d, [k]: (e.currentTarget as HTMLInputElement).value }; } });
  const p = plan.value.plan, c = p?.predicted, over = c?.known && (c.cpu_percent ?? 0) > 1;
  const fits = over ? Math.max(0.1, Number((Number(d.keep) / (c!.cpu_percent! || 1)).toPrecision(1))) : 0;
  const submit = async (e: Event) => {
    e.preventDefault();
    try {
      const r = await api.on(body(d));
      close();
      await refreshToggles();
      notice.value = { text: `On: ${num(r.plan.sites)} site${r.plan.sites === 1 ? '' : 's'} in ${num(r.plan.processes)} process${r.plan.processes === 1 ? '' : 'es'}, acknowledged in ${dur(r.ack_nano)}.`,
        action: r.toggle ? { label: 'Off again', run: () => api.off(r.toggle!.id).then(refreshToggles, fail) } : undefined };
    } catch (err) { plan.value = { problem: err as Problem, busy: false }; }
  };
  return <Modal title="Switch on" onClose={close}>
    <form class="sheet" onSubmit={submit}>
      <label>Selector<input autofocus spellcheck={false} placeholder="payment:* or { name =~ &quot;db.*&quot; }" {...field('selector')} /></label>
      <div class="row">
        <label>Level<select {...field('level')}><option value="count">count: numbers only</option><option value="span">span: timed spans</option><option value="detail">detail: and attributes</option></select></label>
        <label>Keep, % of traces<input type="number" min="0.01" max="100" step="any" {...field('keep')} /></label>
        <label>For (TTL)<input required pattern="\d+(ms|s|m|h)(\d+(ms|s|m))?" title="like 5m or 1h" {...field('ttl')} /></label>
      </div>
      <label>Keep only spans where <small>(optional)</small><input spellcheck={false} placeholder="{ .tenant = &quot;7&quot; }" {...field('where')} /></label>
      <label>Reason<input placeholder="checkout is slow since 14:02" {...field('reason')} /></label>
      <div class="plan" aria-live="polite">
        {plan.value.problem ? <Trouble e={plan.value.problem} /> : !p ? <p>Asking what this matches…</p> : <>
          <p><b>{num(p.sites)}</b> site{p.sites === 1 ? '' : 's'} in <b>{num(p.processes)}</b> process{p.processes === 1 ? '' : 'es'}{p.services?.length ? ` of ${p.services.join(', ')}` : ''}</p>
          <p data-cost>{c?.known ? <>Predicted: ~{num(c.spans_per_s ?? c.calls_per_s)} {d.level === 'count' ? 'calls' : 'spans'}/s, {pct(c.cpu_percent)} CPU, {num(c.bytes_per_s)}B/s <small>({c.basis})</small></> : <>Predicted cost unknown <small>({c?.basis ?? 'these sites have not been seen running'})</small></>}</p>
          {over && <p class="over">Over the budget of 1 %. <button type="button" onClick={() => { draft.value = { ...d, keep: String(fits) }; }}>Keep {fits} % instead</button></p>}
        </>}
      </div>
      <div class="row end"><Copy command={command(d)} /><span class="grow" /><button type="button" onClick={close}>Cancel</button>
        <button class="primary" disabled={!!plan.value.problem || plan.value.busy && !p || !!over}>Switch on</button></div>
    </form></Modal>;
}
