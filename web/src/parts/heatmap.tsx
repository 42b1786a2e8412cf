// Time x latency, log-spaced: a canvas to look at and brush, four inputs for the same selection by keyboard, and a table of the same numbers.
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Exemplar, Heat } from '../api';
import { dur, durExact, num, parseDuration } from '../format';
import { absolute, clock, clockExact, instant, parseClock, type Instant } from '../time';

export interface Selection {
  from: Instant;
  to: Instant;
  min: number;
  max: number;
}
/** As in the URL: FROM_TO_MIN_MAX, all whole nanoseconds, the times absolute. */
export const selText = (s: Selection | null) =>
  s ? [absolute(s.from), absolute(s.to), Math.round(s.min), Math.round(s.max)].join('_') : '';
export function selParse(text: string): Selection | null {
  const [from, to, min, max] = text.split('_');
  const a = instant(from ?? ''),
    b = instant(to ?? ''),
    lo = Number(min),
    hi = Number(max);
  return a === null || b === null || !(lo >= 0) || !(hi > lo) || b <= a ? null : { from: a, to: b, min: lo, max: hi };
}

const H = 220,
  LEFT = 64,
  BOTTOM = 20;
const lower = (heat: Heat, row: number) => (row <= 0 ? 0 : heat.bounds[row - 1]);
/** The last row may have no bound; the server writes the largest exact number then. */
const boundText = (ns: number) => (ns >= Number.MAX_SAFE_INTEGER ? '∞' : dur(ns));

/** The slowest trace the server remembers in the selection, or in all of the map. */
export function slowest(heat: Heat, sel: Selection | null): Exemplar | undefined {
  const inside = (e: Exemplar) => {
    const t = heat.from + e.column * heat.step_nano;
    return !sel || (t + heat.step_nano > sel.from && t < sel.to && e.duration_nano > sel.min && e.duration_nano <= sel.max);
  };
  return (heat.exemplars ?? [])
    .filter(inside)
    .reduce<Exemplar | undefined>((a, e) => (!a || e.duration_nano > a.duration_nano ? e : a), undefined);
}

interface Box {
  x: number;
  y: number;
  x2: number;
  y2: number;
}
interface Grid {
  width: number;
  cw: number;
  ch: number;
  cols: number;
  rows: number;
}

function paint(c: HTMLCanvasElement, heat: Heat, g: Grid, sel: Selection | null, drag: Box | null) {
  const { width, cw, ch, cols, rows } = g,
    scale = devicePixelRatio || 1,
    css = getComputedStyle(document.documentElement);
  const token = (name: string) => css.getPropertyValue(name).trim();
  c.width = width * scale;
  c.height = H * scale;
  const p = c.getContext('2d')!;
  p.scale(scale, scale);
  p.font = '11px system-ui, sans-serif';
  for (let y = 0; y < rows; y += Math.max(1, Math.ceil(rows / 7))) {
    const py = (rows - y - 1) * ch;
    p.fillStyle = token('--line');
    p.fillRect(LEFT, Math.round(py), width - LEFT, 1);
    p.fillStyle = token('--dim');
    p.textAlign = 'right';
    p.textBaseline = 'middle';
    p.fillText(boundText(heat.bounds[y]), LEFT - 6, Math.max(7, py));
  }
  const max = Math.log1p(heat.max || 1);
  p.fillStyle = token('--heat');
  heat.columns.forEach((col, x) =>
    col.forEach((n, y) => {
      if (!n) return;
      p.globalAlpha = 0.18 + 0.82 * (Math.log1p(n) / max);
      p.fillRect(LEFT + x * cw, (rows - y - 1) * ch, Math.max(1, cw - 0.5), Math.max(1, ch - 0.5));
    }),
  );
  p.globalAlpha = 1;
  p.fillStyle = token('--dim');
  p.textBaseline = 'bottom';
  for (let i = 0; i <= 4; i++) {
    p.textAlign = i === 0 ? 'left' : i === 4 ? 'right' : 'center';
    p.fillText(clock(heat.from + (cols * heat.step_nano * i) / 4).slice(0, 8), LEFT + ((width - LEFT) * i) / 4, H - 2);
  }
  p.strokeStyle = token('--accent');
  p.lineWidth = 2;
  if (drag)
    p.strokeRect(Math.min(drag.x, drag.x2), Math.min(drag.y, drag.y2), Math.abs(drag.x2 - drag.x), Math.abs(drag.y2 - drag.y));
  else if (sel) {
    const toX = (t: Instant) => Math.max(LEFT, Math.min(width, LEFT + ((t - heat.from) / heat.step_nano) * cw));
    const edge = (ns: number) => {
      // of the row whose upper bound is the first one at or above
      const i = heat.bounds.findIndex((b) => ns <= b);
      return ns <= 0 ? rows * ch : (rows - (i < 0 ? rows : i + 1)) * ch;
    };
    const x = toX(sel.from),
      top = edge(sel.max);
    p.strokeRect(x, Math.max(1, top), Math.max(3, toX(sel.to) - x), Math.max(3, edge(sel.min) - top));
  }
}

interface Props {
  heat: Heat;
  sel: Selection | null;
  onSelect: (s: Selection | null) => void;
  onOpen: (trace: string) => void;
}

export function Heatmap({ heat, sel, onSelect, onOpen }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(900),
    [drag, draw] = useState<Box | null>(null),
    [hover, setHover] = useState('');
  // What is true now, for events that come faster than the page is drawn: a quick drag must not end where the last frame was.
  const dragging = useRef<Box | null>(null);
  const setDrag = (box: Box | null) => draw((dragging.current = box));
  const rows = heat.bounds.length,
    cols = heat.columns.length;
  const grid: Grid = { width, cols, rows, cw: (width - LEFT) / Math.max(1, cols), ch: (H - BOTTOM) / Math.max(1, rows) };
  useEffect(() => {
    const ro = new ResizeObserver(([box]) => setWidth(Math.max(300, Math.floor(box.contentRect.width)))); // without the padding
    ro.observe(canvas.current!.parentElement!);
    return () => ro.disconnect();
  }, []);
  const theme = document.documentElement.dataset.theme;
  useEffect(() => paint(canvas.current!, heat, grid, sel, drag), [heat, width, drag, selText(sel), theme]);

  const at = (e: MouseEvent) => {
    const r = canvas.current!.getBoundingClientRect();
    // By what is on the screen: the map may be drawn for another width, a frame after it was given this one.
    return { x: Math.max(LEFT, Math.min(width, ((e.clientX - r.left) * width) / r.width)), y: Math.max(0, Math.min(H - BOTTOM, e.clientY - r.top)) };
  };
  const cell = (p: { x: number; y: number }) => ({
    col: Math.max(0, Math.min(cols - 1, Math.floor((p.x - LEFT) / grid.cw))),
    row: Math.max(0, Math.min(rows - 1, rows - 1 - Math.floor(p.y / grid.ch))),
  });
  const exemplar = (col: number, row: number) => heat.exemplars?.find((e) => e.column === col && e.row === row);
  const move = (e: PointerEvent) => {
    const p = at(e),
      { col, row } = cell(p),
      n = heat.columns[col]?.[row] ?? 0;
    const bounds = `${dur(lower(heat, row))} to ${boundText(heat.bounds[row])}, ${clock(heat.from + col * heat.step_nano)}`;
    setHover(`${num(n)} spans, ${bounds}${n ? '; double click opens the slowest' : ''}`);
    if (dragging.current) setDrag({ ...dragging.current, x2: p.x, y2: p.y });
  };
  const release = (e: PointerEvent) => {
    const begun = dragging.current,
      end = at(e);
    if (!begun) return;
    setDrag(null);
    const moved = Math.abs(begun.x - end.x) + Math.abs(begun.y - end.y) > 4;
    if (!moved) return;
    const a = cell({ x: Math.min(begun.x, end.x), y: Math.max(begun.y, end.y) }),
      b = cell({ x: Math.max(begun.x, end.x), y: Math.min(begun.y, end.y) });
    onSelect({
      from: heat.from + a.col * heat.step_nano,
      to: heat.from + (b.col + 1) * heat.step_nano,
      min: lower(heat, a.row),
      max: heat.bounds[b.row],
    });
  };
  const press = (e: PointerEvent) => {
    if (e.button) return;
    const p = at(e);
    canvas.current!.setPointerCapture(e.pointerId);
    setDrag({ ...p, x2: p.x, y2: p.y });
  };
  const open = (e: MouseEvent) => {
    const { col, row } = cell(at(e)),
      found = exemplar(col, row);
    if (found) onOpen(found.trace_id);
  };

  const s = sel ?? { from: heat.from, to: heat.from + cols * heat.step_nano, min: 0, max: heat.bounds[rows - 1] ?? 0 };
  const field = (label: string, value: string, parse: (s: string) => number | null, put: (n: number) => Selection) => (
    <label>
      {label}
      <input
        value={value}
        spellcheck={false}
        onChange={(e) => {
          const box = e.currentTarget,
            n = parse(box.value),
            next = n === null ? null : put(n);
          const wrong =
            n === null
              ? 'like 12:34:56.789 or 10ms'
              : next!.from >= next!.to || next!.min >= next!.max
                ? 'the lower bound must be below the upper'
                : '';
          box.setCustomValidity(wrong);
          if (wrong) box.reportValidity();
          else onSelect(next);
        }}
      />
    </label>
  );
  const time = (t: string) => parseClock(t, heat.from);
  const worst = slowest(heat, sel);
  return (
    <div class="heat">
      <canvas
        ref={canvas}
        role="img"
        style={{ height: H }}
        aria-label={`Latency over time, ${heat.matched} spans; the table below has the numbers`}
        title={hover}
        onPointerDown={press}
        onPointerMove={move}
        onPointerUp={release}
        onPointerCancel={() => setDrag(null)}
        onDblClick={open}
      />
      <div class="row bounds">
        {field('from', clockExact(s.from), time, (n) => ({ ...s, from: n }))}
        {field('to', clockExact(s.to), time, (n) => ({ ...s, to: n }))}
        {field('slower than', durExact(s.min), parseDuration, (n) => ({ ...s, min: n }))}
        {field('up to', durExact(s.max), parseDuration, (n) => ({ ...s, max: n }))}
        {worst && (
          <button type="button" onClick={() => onOpen(worst.trace_id)}>
            Slowest trace, {dur(worst.duration_nano)}
          </button>
        )}
        {sel && (
          <button type="button" onClick={() => onSelect(null)}>
            Clear selection
          </button>
        )}
      </div>
      <details>
        <summary>The same as a table</summary>
        <div class="scroll short" tabIndex={0} role="region" aria-label="Spans over time">
          <table class="data">
            <thead>
              <tr>
                <th>time</th>
                <th class="n">spans</th>
                <th class="n">slowest up to</th>
                <th>slowest trace</th>
              </tr>
            </thead>
            <tbody>
              {heat.columns.map((col, x) => {
                const n = col.reduce((a, b) => a + b, 0),
                  top = col.findLastIndex((v) => v > 0),
                  e = top < 0 ? undefined : exemplar(x, top);
                return top < 0 ? null : (
                  <tr key={x}>
                    <td>{clock(heat.from + x * heat.step_nano)}</td>
                    <td class="n">{num(n)}</td>
                    <td class="n">{boundText(heat.bounds[top])}</td>
                    <td>
                      {e && (
                        <button class="link" onClick={() => onOpen(e.trace_id)}>
                          {dur(e.duration_nano)}
                        </button>
                      )}
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      </details>
    </div>
  );
}
