// Small things several pages use: copying a command, empty states, a list that draws only what is visible.
import { Component, type ComponentChildren, type FunctionComponent, type RefObject } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { notice, now } from '../live';
import { colour } from '../format';
import { clock, toMs, type Instant } from '../time';
import { go, link, type Params } from '../url';
import type { Problem } from '../api';

export function Copy({ command }: { command: string }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(command);
      notice.value = { text: `Copied: ${command}` };
    } catch {
      notice.value = { text: command, hint: 'Copy this; the browser does not let us.' };
    }
  };
  return (
    <button type="button" class="copy" title={command} data-command={command} onClick={copy}>
      Copy as CLI
    </button>
  );
}

interface EmptyProps {
  title: string;
  why: ComponentChildren;
  command?: string;
  action?: { label: string; run: () => void };
}
export function Empty({ title, why, command, action }: EmptyProps) {
  return (
    <div class="empty">
      <h2>{title}</h2>
      <p>{why}</p>
      {action && (
        <button class="primary" onClick={action.run}>
          {action.label}
        </button>
      )}
      {command && (
        <p>
          <code>{command}</code> <Copy command={command} />
        </p>
      )}
    </div>
  );
}

export const Trouble = ({ e }: { e: Problem }) => (
  <div class="trouble" role="alert">
    <b>{e.code ? `error[${e.code}]` : 'Error'}</b> {e.message}
    {e.line ? ` (line ${e.line}, column ${e.column})` : ''}
    {e.hint && <small>hint: {e.hint}</small>}
  </div>
);

const day = (t: Instant) => new Date(toMs(t)).toISOString().slice(0, 10);
/** Today the time of day, else the day too. */
export const When = ({ t }: { t: Instant }) => (
  <span class="t" title={new Date(toMs(t)).toISOString()}>
    {day(t) === new Date(now.value).toISOString().slice(0, 10) ? clock(t).slice(0, 8) : `${day(t)} ${clock(t).slice(0, 5)}`}
  </span>
);

/** A link to a place in the dashboard, which a click goes to without loading the page again. */
export const Link = ({ page, params, children }: { page: string; params?: Params; children: ComponentChildren }) => (
  <a
    href={link(page, params)}
    onClick={(e) => {
      e.preventDefault();
      go(page, params);
    }}
  >
    {children}
  </a>
);

/** A dot in the service's colour; the name beside it carries the meaning. */
export const Dot = ({ of }: { of: string }) => (
  <svg class="dot" viewBox="0 0 8 8" aria-hidden="true">
    <circle cx="4" cy="4" r="4" fill={colour(of)} />
  </svg>
);

/** A component that draws again only when one of its properties is another one. */
export function memo<P extends object>(draw: FunctionComponent<P>) {
  return class extends Component<P> {
    shouldComponentUpdate(next: Readonly<P>) {
      const a = this.props as Record<string, unknown>,
        b = next as Record<string, unknown>;
      return Object.keys(b).length !== Object.keys(a).length || Object.keys(b).some((k) => a[k] !== b[k]);
    }
    render() {
      return draw(this.props as any) as any;
    }
  };
}

export interface Scroller {
  to: (row: number) => void;
}
interface VirtualProps<T> {
  rows: T[];
  height: number;
  label: string;
  class?: string;
  render: (row: T, i: number) => preact.JSX.Element;
  focus?: number; // scrolls to this row whenever it is another one
  scroller?: RefObject<Scroller>;
  onView?: (first: number, last: number) => void;
}
/** Draws only the rows in view; every row has the same height. */
export function VirtualRows<T>({ rows, height, render, label, class: cls, focus, scroller, onView }: VirtualProps<T>) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, h: 800 });
  useEffect(() => {
    const b = box.current!;
    const update = () => setView({ top: b.scrollTop, h: b.clientHeight });
    const ro = new ResizeObserver(update);
    ro.observe(b);
    b.addEventListener('scroll', update, { passive: true });
    return () => {
      ro.disconnect();
      b.removeEventListener('scroll', update);
    };
  }, []);
  const to = (row: number) => {
    const b = box.current!,
      y = row * height;
    if (y < b.scrollTop || y > b.scrollTop + b.clientHeight - height) b.scrollTop = y - b.clientHeight / 2;
  };
  if (scroller) scroller.current = { to };
  useEffect(() => {
    if (focus != null && focus >= 0) to(focus);
  }, [focus]);
  const from = Math.floor(view.top / height),
    upto = Math.ceil((view.top + view.h) / height);
  const last = Math.min(rows.length, upto + 5),
    first = Math.max(0, Math.min(from - 5, last - 1));
  useEffect(() => onView?.(from, Math.min(upto, rows.length)), [from, upto, rows.length]);
  const size = (el: HTMLDivElement | null) => {
    if (el) el.style.height = `${rows.length * height}px`;
  };
  const shift = (el: HTMLDivElement | null) => {
    if (el) el.style.transform = `translateY(${first * height}px)`;
  };
  return (
    <div ref={box} class={`virtual ${cls ?? ''}`} tabIndex={0} role="region" aria-label={label}>
      <div ref={size}>
        <div ref={shift}>{rows.slice(first, last).map((r, i) => render(r, first + i))}</div>
      </div>
    </div>
  );
}
