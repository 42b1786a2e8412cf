// What is always there: navigation, time range, overhead, toggles and their next expiry, drops, share, theme, the way out (All off); the
// palette, the list of keys, notices.
import { signal } from '@preact/signals';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { go, historical, href, link, nextState, pageName, param, paused, place, set, since, range } from '../url';
import { alerts, allOff, connected, drops, losses, notice, now, reasons, status, toggles, undoPanic } from '../live';
import { dur, num, parseDuration, pct } from '../format';
import { api } from '../api';
import { usePolled } from '../poll';
import { clock, fromMs, instant, toMs } from '../time';
import { Copy, Trouble } from './bits';
import { openAttach } from './attach';
import { openSheet } from './sheet';

const nav: [string, string, string][] = [
  ['overview', 'Overview', 'g v'],
  ['hot', 'Hot', 'g h'],
  ['graph', 'Graph', 'g g'],
  ['explore', 'Explore', 'g e'],
  ['trace', 'Trace', 'g t'],
  ['toggles', 'Toggles', 'g o'],
  ['policies', 'Policies', 'g l'],
  ['audit', 'Audit', 'g a'],
  ['processes', 'Processes', 'g p'],
];
const dialog = signal<'' | 'palette' | 'keys' | 'off' | 'overhead'>('');

function stored(): string {
  try {
    return localStorage.getItem('klieg-theme') || 'auto';
  } catch {
    return 'auto';
  } // storage may be forbidden
}
const theme = signal(stored());
function applyTheme() {
  document.documentElement.dataset.theme = theme.value;
  try {
    localStorage.setItem('klieg-theme', theme.value);
  } catch {
    /* then it lasts as long as the page */
  }
}
applyTheme();
const nextTheme = () => {
  theme.value = { auto: 'light', light: 'dark', dark: 'auto' }[theme.value] ?? 'auto';
  applyTheme();
};

/** A link to what is seen now: a live view is shared as the time range it shows at this moment. */
function shared(): string {
  if (historical.value) return location.href;
  const to = fromMs(Date.now());
  return (
    location.origin +
    href(place.value.page, { ...place.value.params, ...range(to - (parseDuration(since.value) ?? 900e9), to) })
  );
}
async function share() {
  const url = shared();
  try {
    await navigator.clipboard.writeText(url);
    notice.value = { text: 'The link to this view is in the clipboard.' };
  } catch {
    notice.value = { text: url, hint: 'Copy this link; the browser does not let us.' };
  }
}

export function Header() {
  const s = status.value;
  const lost = losses(s?.account?.dropped);
  const next = toggles.value.length ? Math.min(...toggles.value.map((t) => t.expires_unix_nano)) : null;
  const left = next !== null ? Math.max(0, toMs(next) - now.value) * 1e6 : 0;
  const over = s && s.budget_percent > 0 && s.overhead_percent > s.budget_percent;
  return (
    <header>
      <div class="top">
      <a
        class="brand"
        href={href('overview')}
        onClick={(e) => {
          e.preventDefault();
          go('overview');
        }}
      >
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d="M2 8 14 2v12z" />
        </svg>
        Klieg
      </a>
      <nav aria-label="Pages">
        {nav.map(([id, label]) => (
          <a
            key={id}
            href={link(id)}
            aria-current={pageName.value === id ? 'page' : undefined}
            onClick={(e) => {
              e.preventDefault();
              go(id);
            }}
          >
            {label}
            {id === 'overview' && alerts.value.length > 0 && (
              <span class="badge" title={alerts.value.map((a) => a.title).join('\n')}>
                {alerts.value.length}
                <span class="sr"> alerts</span>
              </span>
            )}
          </a>
        ))}
      </nav>
      <span class="grow" />
      <div class="range" role="group" aria-label="Time range">
        <button
          class={`state ${historical.value ? 'past' : paused.value ? 'paused' : 'live'}`}
          aria-label="Live, paused or historical"
          title="Space: pause"
          onClick={nextState}
        >
          <i />
          {historical.value ? 'HISTORICAL' : paused.value ? 'PAUSED' : 'LIVE'}
        </button>
        <select
          aria-label="Look back"
          value={since.value}
          disabled={historical.value}
          onChange={(e) => set({ since: e.currentTarget.value })}
        >
          {['30s', '1m', '5m', '15m', '1h', '6h', '1d'].map((v) => (
            <option key={v} value={v}>
              last {v}
            </option>
          ))}
        </select>
      </div>
      <button
        class={`meter ${over ? 'over' : ''}`}
        title="Measured cost of tracing on this host against its budget: what it is made of"
        onClick={() => {
          dialog.value = 'overhead';
        }}
      >
        <b>overhead</b> {s ? pct(s.overhead_percent) : '–'} <small class="budget">{s?.budget_percent === 0 ? 'no budget' : `of ${s ? pct(s.budget_percent) : '–'}`}</small>
        <meter min={0} max={s?.budget_percent || 1} value={s?.overhead_percent ?? 0} aria-label="Overhead against its budget" />
      </button>
      <a
        class="meter"
        href={href('toggles')}
        onClick={(e) => {
          e.preventDefault();
          go('toggles');
        }}
        title="Active toggles, and when the next one lapses"
      >
        <b>{toggles.value.length}</b> on{' '}
        {next !== null ? <small>off in {dur(left).replace(/\.\d+/, '').replace(/(\d\d m) \d+ s/, '$1')}</small> : <small>all quiet</small>}
      </a>
      <a
        class={`meter ${lost ? 'warn' : ''}`}
        href={link('processes')}
        onClick={(e) => {
          e.preventDefault();
          go('processes');
        }}
        title={
          drops(s?.account?.dropped)
            .map(([why, n]) => `${why}: ${n}, ${reasons[why] ?? ''}`)
            .join('\n') || 'nothing was lost'
        }
      >
        <b>{num(lost)}</b> dropped
      </a>
      <span class="tail">
      <button class="icon" onClick={share} title="Share this view" aria-label="Share this view">
        ⤴
      </button>
      <button class="icon" onClick={nextTheme} title={`Theme: ${theme.value}`} aria-label={`Theme: ${theme.value}`}>
        {{ auto: '◐', light: '☀', dark: '☾' }[theme.value]}
      </button>
      <button
        class="icon"
        onClick={() => {
          dialog.value = 'keys';
        }}
        title="Keys (?)"
        aria-label="Keys"
      >
        ?
      </button>
      <button
        class="danger"
        onClick={() => {
          dialog.value = 'off';
        }}
        title="Shift+O"
        disabled={!!s?.panic}
      >
        All off
      </button>
      </span>
      </div>
      {s?.panic && (
        <div class="banner" role="alert">
          Everything is off since {clock(instant(String(s.panic.at)) ?? 0).slice(0, 8)}, by {s.panic.owner}
          {s.panic.reason && `: ${s.panic.reason}`}. Policies are suspended. <button onClick={undoPanic}>Undo</button>{' '}
          <Copy command="klieg panic --undo" />
        </div>
      )}
      {!connected.value && (
        <div class="banner" role="alert">
          Disconnected: the server does not answer. Trying again…
        </div>
      )}
    </header>
  );
}

export function Modal({
  title,
  onClose,
  children,
  wide,
}: {
  title: string;
  onClose: () => void;
  children: preact.ComponentChildren;
  wide?: boolean;
}) {
  const ref = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => ref.current?.showModal(), []); // before the next key is typed
  return (
    <dialog
      ref={ref}
      class={wide ? 'wide' : ''}
      aria-label={title}
      onClose={onClose}
      onClick={(e) => {
        if (e.target === ref.current) onClose();
      }}
    >
      <div class="inside">
        <div class="head">
          <h2>{title}</h2>
          <button class="icon" aria-label="Close" onClick={onClose}>
            ✕
          </button>
        </div>
        {children}
      </div>
    </dialog>
  );
}

const help: [string, string][] = [
  ['Ctrl+K', 'go anywhere'],
  ['g v / h / g / e / t / o / l / a / p', 'Overview, Hot, Graph, Explore, Trace, Toggles, Policies, Audit, Processes'],
  ['t', 'switch something on'],
  ['a', 'attach to a running program'],
  ['Space', 'pause or go on'],
  ['/', 'to the query or filter'],
  ['Shift+O', 'everything off'],
  ['?', 'this list'],
  ['Esc', 'close'],
];

export function Dialogs() {
  const close = () => {
    dialog.value = '';
  };
  if (dialog.value === 'keys')
    return (
      <Modal title="Keys" onClose={close}>
        <dl class="keys">
          {help.map(([k, w]) => (
            <>
              <dt>
                <kbd>{k}</kbd>
              </dt>
              <dd>{w}</dd>
            </>
          ))}
        </dl>
      </Modal>
    );
  if (dialog.value === 'off')
    return (
      <Modal title="Switch everything off?" onClose={close}>
        <p>
          {toggles.value.length} toggle{toggles.value.length === 1 ? '' : 's'} of all people end, and policies are suspended, in every
          process that this server reaches. The same as <code>klieg panic</code>. You can undo it.
        </p>
        <div class="row end">
          <Copy command="klieg panic" />
          <span class="grow" />
          <button onClick={close}>Keep</button>
          <button
            class="danger"
            autofocus
            onClick={() => {
              close();
              allOff();
            }}
          >
            All off
          </button>
        </div>
      </Modal>
    );
  if (dialog.value === 'overhead')
    return (
      <Modal title="What tracing costs now" onClose={close} wide>
        <OverheadView />
      </Modal>
    );
  if (dialog.value === 'palette') return <Palette close={close} />;
  return null;
}

function OverheadView() {
  const { data: o, problem } = usePolled(() => api.overhead(), '', 1000);
  if (problem) return <Trouble e={problem} />;
  if (!o) return <p class="dim">Asking the agents…</p>;
  const shed = o.processes.flatMap((p) => (p.shed ?? []).map((x) => ({ ...x, p })));
  const budget = (o.budget_percent || status.value?.budget_percent) ?? 0;
  const name = (id: string) => toggles.value.find((t) => t.id === id)?.selector ?? id.replace(/^p:/, 'policy ').replace(/^l:/, 'limit of ');
  return (
    <>
      <p>
        Budget: {budget ? <><b>{pct(budget)}</b> of a process's CPU time.</> : <b>none, and no governor.</b>}{' '}
        {o.agent && o.agent.cpu_percent != null && `The agent itself uses ${pct(o.agent.cpu_percent)} of a core.`}
        {o.saturated && ' This host is busy: the agents hold back more.'} <Copy command="klieg overhead" />
      </p>
      {shed.length > 0 && (
        <>
          <h3>Held back by the governor</h3>
          <ul class="changes" aria-label="Shed sites">
            {shed.map((x, i) => (
              <li key={i}>
                {x.p.service} <b>{x.name}</b>{' '}
                <span class="dim">
                  {x.from} → {x.to}: process {x.p.pid} measured {pct(x.p.measured_percent)}, limit {pct(x.p.limit_percent || budget)}
                </span>
              </li>
            ))}
          </ul>
        </>
      )}
      <div class="scroll short" tabIndex={0} role="region" aria-label="Overhead">
        <table class="data" aria-label="Overhead of processes">
          <thead>
            <tr>
              <th>process</th>
              <th class="n">measured</th>
              <th class="n">limit</th>
              <th class="n">predicted</th>
            </tr>
          </thead>
          <tbody>
            {[...o.processes]
              .sort((a, b) => b.measured_percent - a.measured_percent)
              .slice(0, 50)
              .map((p) => (
                <tr key={`${p.host}${p.pid}`}>
                  <td>
                    {p.service} <small>{p.pid}</small>
                  </td>
                  <td class="n">{pct(p.measured_percent)}</td>
                  <td class="n">{pct(p.limit_percent || budget)}</td>
                  <td class="n">{pct(p.predicted_percent)}</td>
                </tr>
              ))}
          </tbody>
        </table>
        {o.rules.length > 0 && (
          <table class="data" aria-label="Overhead of rules">
            <thead>
              <tr>
                <th>toggle or rule</th>
                <th class="n">measured</th>
                <th class="n">predicted</th>
              </tr>
            </thead>
            <tbody>
              {o.rules.map((r) => (
                <tr key={r.id}>
                  <td>{name(r.id)}</td>
                  <td class="n">{pct(r.measured_percent)}</td>
                  <td class="n">{pct(r.predicted_percent)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
        {o.sites.length > 0 && (
          <table class="data" aria-label="Overhead of sites">
            <thead>
              <tr>
                <th>site</th>
                <th class="n">calls/s</th>
                <th class="n">ns a call</th>
                <th class="n">CPU</th>
              </tr>
            </thead>
            <tbody>
              {o.sites.slice(0, 20).map((x) => (
                <tr key={x.service + x.site}>
                  <td>
                    {x.service} {x.name}
                  </td>
                  <td class="n">{num(x.calls_per_s)}</td>
                  <td class="n">{num(x.ns_per_call)}</td>
                  <td class="n">{pct(x.percent)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </div>
    </>
  );
}

function commands(text: string): [string, () => void][] {
  const t = text.trim();
  const out: [string, () => void][] = nav.map(([id, label]) => [`Go to ${label}`, () => go(id)]);
  out.push(
    ['Switch something on…', () => openSheet({ selector: t })],
    ['Attach to a running program…', () => openAttach()],
    [
      'All off',
      () => {
        dialog.value = 'off';
      },
    ],
    ['Change the theme', nextTheme],
    ['Share this view', share],
  );
  const found = out.filter(([label]) => label.toLowerCase().includes(t.toLowerCase()));
  if (/^[0-9a-f]{32}$/.test(t)) return [[`Open trace ${t}`, () => go('trace', { trace: t })]];
  if (t.startsWith('{'))
    return [
      [`Explore ${t}`, () => go('explore', { q: t })],
      [`Switch on ${t}`, () => openSheet({ selector: t })],
    ];
  return found.length
    ? found
    : [
        [`Switch on ${t}`, () => openSheet({ selector: t })],
        [`Find sites that match ${t}`, () => go('toggles', { sel: t })],
      ];
}
function Palette({ close }: { close: () => void }) {
  const [text, setText] = useState('');
  const list = commands(text);
  const run = (f: () => void) => {
    close();
    f();
  };
  return (
    <Modal title="Go anywhere" onClose={close}>
      <input
        autofocus
        aria-label="What"
        placeholder="a page, a trace id, { a query }, a selector"
        value={text}
        onInput={(e) => setText(e.currentTarget.value)}
        onKeyDown={(e) => {
          if (e.key === 'Enter') {
            e.preventDefault();
            run(list[0][1]);
          }
        }}
      />
      <ul class="palette">
        {list.map(([label, f]) => (
          <li key={label}>
            <button onClick={() => run(f)}>{label}</button>
          </li>
        ))}
      </ul>
    </Modal>
  );
}

export function Notice() {
  const n = notice.value;
  useEffect(() => {
    if (!n || n.bad) return;
    const t = setTimeout(
      () => {
        if (notice.value === n) notice.value = null;
      },
      n.action ? 10000 : 4000,
    );
    return () => clearTimeout(t);
  }, [n]);
  return (
    <div class="notices" aria-live="polite">
      {n && (
        <div class={`notice ${n.bad ? 'bad' : ''}`}>
          <span>
            {n.text}
            {n.hint && <small>{n.hint}</small>}
          </span>
          {n.action && (
            <button
              onClick={() => {
                notice.value = null;
                n.action!.run();
              }}
            >
              {n.action.label}
            </button>
          )}
          <button
            class="icon"
            aria-label="Dismiss"
            onClick={() => {
              notice.value = null;
            }}
          >
            ✕
          </button>
        </div>
      )}
    </div>
  );
}

/** Keys that work everywhere but in fields. */
export function keys() {
  let g = 0;
  const on = (e: KeyboardEvent) => {
    if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === 'k') {
      e.preventDefault();
      dialog.value = 'palette';
      return;
    }
    const el = e.target as HTMLElement;
    if (
      e.ctrlKey ||
      e.metaKey ||
      e.altKey ||
      /^(INPUT|SELECT|TEXTAREA)$/.test(el.tagName) ||
      el.shadowRoot || // the editor
      document.querySelector('dialog[open]')
    )
      return;
    if (g && Date.now() - g < 1500) {
      const page = { v: 'overview', l: 'policies', h: 'hot', g: 'graph', e: 'explore', t: 'trace', o: 'toggles', a: 'audit', p: 'processes' }[e.key];
      g = 0;
      if (page) {
        go(page);
        return;
      }
    }
    if (e.key === 'g') g = Date.now();
    else if (e.key === '?') dialog.value = 'keys';
    else if (e.key === 'O' && e.shiftKey) dialog.value = 'off';
    else if (e.key === 't') {
      e.preventDefault();
      openSheet({ selector: pageName.value === 'toggles' ? param('sel') : '' });
    } else if (e.key === 'a') {
      e.preventDefault();
      openAttach();
    } else if (e.key === '/') {
      const f = document.querySelector<HTMLElement>('[data-main-field]');
      if (f) {
        e.preventDefault();
        f.focus();
      }
    } else if (e.key === ' ' && el === document.body) {
      e.preventDefault();
      nextState();
    }
  };
  addEventListener('keydown', on);
}

/** The title of the tab follows the place. */
export function useTitle(title: string) {
  useEffect(() => {
    document.title = `${title} · Klieg`;
  }, [title, place.value]);
}
