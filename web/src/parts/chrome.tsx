// What is always there: navigation, time range, overhead, toggles and their next expiry, drops, share, theme, the way out (All off); the
// palette, the list of keys, notices.
import { signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { go, href, historical, pageName, param, paused, place, set, since } from '../url';
import { allOff, connected, notice, now, status, toggles } from '../live';
import { dur, num, pct } from '../format';
import { openSheet } from './sheet';

const nav: [string, string, string][] = [['hot', 'Hot', 'g h'], ['explore', 'Explore', 'g e'], ['trace', 'Trace', 'g t'], ['toggles', 'Toggles', 'g o'], ['processes', 'Processes', 'g p']];
const dialog = signal<'' | 'palette' | 'keys' | 'off'>('');

const theme = signal(localStorage.getItem('klieg-theme') || 'auto');
function applyTheme() {
  document.documentElement.dataset.theme = theme.value;
  localStorage.setItem('klieg-theme', theme.value);
}
applyTheme();
const nextTheme = () => { theme.value = { auto: 'light', light: 'dark', dark: 'auto' }[theme.value] ?? 'auto'; applyTheme(); };

async function share() {
  try {
    await navigator.clipboard.writeText(location.href);
    notice.value = { text: 'The link to this view is in the clipboard.' };
  } catch { notice.value = { text: location.href, hint: 'Copy this link; the browser does not let us.' }; }
}

export function Header() {
  const s = status.value;
  const drops = Object.values(s?.account?.dropped ?? {}).reduce((a, b) => a + b, 0);
  const next = toggles.value.length ? Math.min(...toggles.value.map((t) => t.expires_unix_nano)) : null;
  const left = next ? Math.max(0, next / 1e6 - now.value) * 1e6 : 0;
  const over = s && s.overhead_percent > s.budget_percent;
  return <header>
    <a class="brand" href={href('hot')} onClick={(e) => { e.preventDefault(); go('hot'); }}><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M2 8 14 2v12z" /></svg>Klieg</a>
    <nav aria-label="Pages">{nav.map(([id, label]) =>
      <a key={id} href={href(id)} aria-current={pageName.value === id ? 'page' : undefined} onClick={(e) => { e.preventDefault(); go(id); }}>{label}</a>)}</nav>
    <span class="grow" />
    <div class="range" role="group" aria-label="Time range">
      <button class={`state ${historical.value ? 'past' : paused.value ? 'paused' : 'live'}`} aria-label="Live, paused or historical" title="Space: pause"
        onClick={() => { if (historical.value) set({ from: '', to: '' }); else paused.value = !paused.value; }}>
        <i />{historical.value ? 'HISTORICAL' : paused.value ? 'PAUSED' : 'LIVE'}</button>
      <select aria-label="Look back" value={since.value} disabled={historical.value} onChange={(e) => set({ since: e.currentTarget.value })}>
        {['30s', '1m', '5m', '15m', '1h', '6h', '1d'].map((v) => <option key={v} value={v}>last {v}</option>)}</select>
    </div>
    <span class={`meter ${over ? 'over' : ''}`} title="Measured cost of tracing on this host against its budget">
      <b>overhead</b> {s ? pct(s.overhead_percent) : '–'} <small>of {s ? pct(s.budget_percent) : '–'}</small>
      <meter min={0} max={s?.budget_percent || 1} value={s?.overhead_percent ?? 0} aria-label="Overhead against its budget" /></span>
    <a class="meter" href={href('toggles')} onClick={(e) => { e.preventDefault(); go('toggles'); }} title="Active toggles, and when the next one lapses">
      <b>{toggles.value.length}</b> on {next ? <small>next off in {dur(left).replace(/\.\d+/, '')}</small> : <small>all quiet</small>}</a>
    <span class={`meter ${drops ? 'warn' : ''}`} title={Object.entries(s?.account?.dropped ?? {}).map(([k, v]) => `${k}: ${v}`).join('\n') || 'nothing was dropped'}><b>{num(drops)}</b> dropped</span>
    <button class="icon" onClick={share} title="Share this view" aria-label="Share this view">⤴</button>
    <button class="icon" onClick={nextTheme} title={`Theme: ${theme.value}`} aria-label={`Theme: ${theme.value}`}>{{ auto: '◐', light: '☀', dark: '☾' }[theme.value]}</button>
    <button class="icon" onClick={() => { dialog.value = 'keys'; }} title="Keys (?)" aria-label="Keys">?</button>
    <button class="danger" onClick={() => { dialog.value = 'off'; }} title="Shift+O" disabled={!toggles.value.length}>All off</button>
    {!connected.value && <div class="banner" role="alert">Disconnected: the server does not answer. Trying again…</div>}
  </header>;
}

export function Modal({ title, onClose, children, wide }: { title: string; onClose: () => void; children: preact.ComponentChildren; wide?: boolean }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => { ref.current?.showModal(); }, []);
  return <dialog ref={ref} class={wide ? 'wide' : ''} aria-label={title} onClose={onClose} onClick={(e) => { if (e.target === ref.current) onClose(); }}>
    <div class="inside"><div class="head"><h2>{title}</h2><button class="icon" aria-label="Close" onClick={onClose}>✕</button></div>{children}</div>
  </dialog>;
}

const help: [string, string][] = [['Ctrl+K', 'go anywhere'], ['g h / e / t / o / p', 'Hot, Explore, Trace, Toggles, Processes'], ['t', 'switch something on'], ['Space', 'pause or go on'], ['/', 'to the query or filter'],
  ['Shift+O', 'everything off'], ['?', 'this list'], ['Esc', 'close']];

export function Dialogs() {
  const close = () => { dialog.value = ''; };
  if (dialog.value === 'keys') return <Modal title="Keys" onClose={close}><dl class="keys">{help.map(([k, w]) => <><dt><kbd>{k}</kbd></dt><dd>{w}</dd></>)}</dl></Modal>;
  if (dialog.value === 'off') return <Modal title="Switch everything off?" onClose={close}>
    <p>{toggles.value.length} toggle{toggles.value.length === 1 ? '' : 's'} of all people on this host. The same as <code>klieg off --all</code>. You can undo it.</p>
    <div class="row end"><button onClick={close}>Keep</button><button class="danger" autofocus onClick={() => { close(); allOff(); }}>All off</button></div></Modal>;
  if (dialog.value === 'palette') return <Palette close={close} />;
  return null;
}

function Palette({ close }: { close: () => void }) {
  const text = useRef('');
  const list = signal<[string, () => void][]>([]);
  const all = (): [string, () => void][] => {
    const t = text.current.trim();
    const out: [string, () => void][] = nav.map(([id, label]) => [`Go to ${label}`, () => go(id)]);
    out.push(['Switch something on…', () => openSheet({ selector: t })], ['All off', () => { dialog.value = 'off'; }], ['Change the theme', nextTheme], ['Share this view', share]);
    if (/^[0-9a-f]{16,32}$/.test(t)) out.unshift([`Open trace ${t}`, () => go('trace', { trace: t })]);
    if (t.startsWith('{')) out.unshift([`Explore ${t}`, () => go('explore', { q: t })]);
    return out.filter(([l], i) => !t || l.toLowerCase().includes(t.toLowerCase()) || i === 0);
  };
  list.value = all();
  return <Modal title="Go anywhere" onClose={close}>
    <input autofocus aria-label="What" placeholder="a page, a trace id, { a query }" onInput={(e) => { text.current = e.currentTarget.value; list.value = all(); }}
      onKeyDown={(e) => { if (e.key === 'Enter' && list.value[0]) { close(); list.value[0][1](); } }} />
    <PaletteList list={list} close={close} /></Modal>;
}
const PaletteList = ({ list, close }: { list: { value: [string, () => void][] }; close: () => void }) =>
  <ul class="palette">{list.value.map(([l, run]) => <li key={l}><button onClick={() => { close(); run(); }}>{l}</button></li>)}</ul>;

export function Notice() {
  const n = notice.value;
  useEffect(() => {
    if (!n || n.bad) return;
    const t = setTimeout(() => { if (notice.value === n) notice.value = null; }, n.action ? 10000 : 4000);
    return () => clearTimeout(t);
  }, [n]);
  return <div class="notices" aria-live="polite">{n && <div class={`notice ${n.bad ? 'bad' : ''}`}><span>{n.text}{n.hint && <small>{n.hint}</small>}</span>
    {n.action && <button onClick={() => { notice.value = null; n.action!.run(); }}>{n.action.label}</button>}
    <button class="icon" aria-label="Dismiss" onClick={() => { notice.value = null; }}>✕</button></div>}</div>;
}

/** Keys that work everywhere but in fields. */
export function keys() {
  let g = 0;
  const on = (e: KeyboardEvent) => {
    if ((e.ctrlKey || e.metaKey) && e.key === 'k') { e.preventDefault(); dialog.value = 'palette'; return; }
    const el = e.target as HTMLElement;
    if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(el.tagName) || document.querySelector('dialog[open]')) return;
    if (g && Date.now() - g < 1500) {
      const page = { h: 'hot', e: 'explore', t: 'trace', o: 'toggles', p: 'processes' }[e.key];
      g = 0;
      if (page) { go(page); return; }
    }
    if (e.key === 'g') g = Date.now();
    else if (e.key === '?') dialog.value = 'keys';
    else if (e.key === 'O' && e.shiftKey) dialog.value = 'off';
    else if (e.key === 't') openSheet({ selector: param('sel') });
    else if (e.key === '/') { const f = document.querySelector<HTMLElement>('[data-main-field]'); if (f) { e.preventDefault(); f.focus(); } }
    else if (e.key === ' ' && el === document.body) { e.preventDefault(); paused.value = !paused.value; }
  };
  addEventListener('keydown', on);
  return () => removeEventListener('keydown', on);
}

/** The title of the tab follows the place. */
export function useTitle(title: string) {
  useEffect(() => { document.title = `${title} · Klieg`; }, [title, place.value]);
}
