// Small things several pages use: copying a command, empty states, a list that draws only what is visible.
import { useEffect, useRef, useState } from 'preact/hooks';
import { notice } from '../live';
import { hue } from '../format';
import type { Problem } from '../api';

export function Copy({ command }: { command: string }) {
  return <button class="copy" title={command} onClick={async () => {
    try { await navigator.clipboard.writeText(command); notice.value = { text: `Copied: ${command}` }; } catch { notice.value = { text: command, hint: 'Copy this; the browser does not let us.' }; }
  }}>Copy as CLI</button>;
}

export function Empty({ title, why, command, action }: { title: string; why: preact.ComponentChildren; command?: string; action?: { label: string; run: () => void } }) {
  return <div class="empty"><h2>{title}</h2><p>{why}</p>{action && <button class="primary" onClick={action.run}>{action.label}</button>}{command && <p><code>{command}</code> <Copy command={command} /></p>}</div>;
}

export const Trouble = ({ e }: { e: Problem }) => <div class="trouble" role="alert"><b>{e.code ? `error[${e.code}]` : 'Error'}</b> {e.message}{e.line ? ` (line ${e.line}, column ${e.column})` : ''}{e.hint && <small>hint: {e.hint}</small>}</div>;

/** A dot in the service's colour; the name beside it carries the meaning. */
export const Dot = ({ of }: { of: string }) => <svg class="dot" viewBox="0 0 8 8" aria-hidden="true"><circle cx="4" cy="4" r="4" fill={`hsl(${hue(of)} 55% 55%)`} /></svg>;

/** Draws only the rows in view; every row has the same height. */
export function VirtualRows<T>({ rows, height, render, label, class: cls, focus }: { rows: T[]; height: number; render: (row: T, i: number) => preact.JSX.Element; label: string; class?: string; focus?: number }) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, h: 800 });
  useEffect(() => {
    const b = box.current!;
    const update = () => setView({ top: b.scrollTop, h: b.clientHeight });
    const ro = new ResizeObserver(update);
    ro.observe(b);
    b.addEventListener('scroll', update, { passive: true });
    return () => { ro.disconnect(); b.removeEventListener('scroll', update); };
  }, []);
  useEffect(() => {
    const b = box.current!;
    if (focus == null || focus < 0) return;
    const y = focus * height;
    if (y < b.scrollTop || y > b.scrollTop + b.clientHeight - height) b.scrollTop = y - b.clientHeight / 2;
  }, [focus]);
  const first = Math.max(0, Math.floor(view.top / height) - 5), last = Math.min(rows.length, Math.ceil((view.top + view.h) / height) + 5);
  const ref = (el: HTMLDivElement | null) => { if (el) el.style.height = `${rows.length * height}px`; };
  const at = (el: HTMLDivElement | null) => { if (el) el.style.transform = `translateY(${first * height}px)`; };
  return <div ref={box} class={`virtual ${cls ?? ''}`} tabIndex={0} role="region" aria-label={label}><div ref={ref}><div ref={at}>{rows.slice(first, last).map((r, i) => render(r, first + i))}</div></div></div>;
}
