// Time x latency, log-spaced: a canvas to look at and brush, four inputs for the same selection by keyboard, and a table of the same numbers.
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Heat } from '../api';
import { clock, dur, num, parseDuration } from '../format';

export interface Selection { from: number; to: number; min: number; max: number }
export const selText = (s: Selection | null) => (s ? [s.from, s.to, s.min, s.max].map((x) => Math.round(x)).join('_') : '');
export function selParse(t: string): Selection | null {
  const p = t.split('_').map(Number);
  return p.length === 4 && p.every(isFinite) ? { from: p[0], to: p[1], min: p[2], max: p[3] } : null;
}

const H = 220, LEFT = 64, BOTTOM = 20;

export function Heatmap({ heat, sel, onSelect }: { heat: Heat; sel: Selection | null; onSelect: (s: Selection | null) => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(900), [drag, setDrag] = useState<{ x: number; y: number; x2: number; y2: number } | null>(null), [hover, setHover] = useState('');
  const rows = heat.bounds.length, cols = heat.columns.length;
  const cw = (width - LEFT) / Math.max(1, cols), ch = (H - BOTTOM) / Math.max(1, rows);
  const lower = (i: number) => (i <= 0 ? 0 : heat.bounds[i - 1]);
  const toX = (t: number) => LEFT + ((t - heat.from) / heat.step_nano) * cw;
  const toY = (ns: number) => { // position on the log scale between bounds
    let i = heat.bounds.findIndex((b) => ns <= b);
    if (i < 0) i = rows - 1;
    return (rows - i - 1) * ch + ch / 2;
  };
  useEffect(() => {
    const ro = new ResizeObserver(() => setWidth(Math.max(300, canvas.current!.parentElement!.clientWidth)));
    ro.observe(canvas.current!.parentElement!);
    return () => ro.disconnect();
  }, []);
  useEffect(() => {
    const c = canvas.current!, scale = devicePixelRatio || 1, css = getComputedStyle(document.documentElement);
    c.width = width * scale; c.height = H * scale; c.style.width = `${width}px`; c.style.height = `${H}px`;
    const g = c.getContext('2d')!;
    g.scale(scale, scale);
    g.clearRect(0, 0, width, H);
    const heatColour = css.getPropertyValue('--heat').trim(), ink = css.getPropertyValue('--dim').trim(), line = css.getPropertyValue('--line').trim();
    g.font = '11px system-ui, sans-serif';
    for (let y = 0; y < rows; y += Math.max(1, Math.ceil(rows / 7))) {
      const py = (rows - y - 1) * ch;
      g.fillStyle = line; g.fillRect(LEFT, Math.round(py + ch), width - LEFT, 1);
      g.fillStyle = ink; g.textAlign = 'right'; g.textBaseline = 'middle'; g.fillText(dur(heat.bounds[y]), LEFT - 6, Math.max(7, py));
    }
    const max = Math.log1p(heat.max || 1);
    heat.columns.forEach((col, x) => col.forEach((n, y) => {
      if (!n) return;
      g.globalAlpha = 0.18 + 0.82 * (Math.log1p(n) / max);
      g.fillStyle = heatColour;
      g.fillRect(LEFT + x * cw, (rows - y - 1) * ch, Math.max(1, cw - 0.5), Math.max(1, ch - 0.5));
    }));
    g.globalAlpha = 1;
    g.fillStyle = ink; g.textBaseline = 'bottom';
    for (let i = 0; i <= 4; i++) {
      g.textAlign = i === 0 ? 'left' : i === 4 ? 'right' : 'center';
      g.fillText(clock(heat.from + ((heat.to - heat.from) * i) / 4).slice(0, 8), LEFT + ((width - LEFT) * i) / 4, H - 2);
    }
    const s = drag ? null : sel;
    g.strokeStyle = css.getPropertyValue('--accent').trim(); g.lineWidth = 2;
    if (drag) g.strokeRect(Math.min(drag.x, drag.x2), Math.min(drag.y, drag.y2), Math.abs(drag.x2 - drag.x), Math.abs(drag.y2 - drag.y));
    else if (s) g.strokeRect(toX(s.from), toY(s.max) - ch / 2, Math.max(3, toX(s.to) - toX(s.from)), Math.max(3, toY(s.min) - toY(s.max) + ch));
  }, [heat, width, drag, selText(sel), document.documentElement.dataset.theme]);

  const at = (e: PointerEvent) => { const r = canvas.current!.getBoundingClientRect(); return { x: Math.max(LEFT, Math.min(width, e.clientX - r.left)), y: Math.max(0, Math.min(H - BOTTOM, e.clientY - r.top)) }; };
  const cell = (p: { x: number; y: number }) => ({ col: Math.min(cols - 1, Math.floor((p.x - LEFT) / cw)), row: Math.max(0, rows - 1 - Math.floor(p.y / ch)) });
  const field = (label: string, value: string, parse: (s: string) => number | null, put: (n: number) => Selection) => <label>{label}<input value={value} spellcheck={false} onChange={(e) => {
    const n = parse(e.currentTarget.value);
    if (n == null) { e.currentTarget.setCustomValidity('like 12:34:56 or 10ms'); e.currentTarget.reportValidity(); } else { e.currentTarget.setCustomValidity(''); onSelect(put(n)); }
  }} /></label>;
  const s = sel ?? { from: heat.from, to: heat.to, min: 0, max: heat.bounds[rows - 1] ?? 0 };
  const parseClock = (t: string) => { const m = /^(\d\d):(\d\d):(\d\d(?:\.\d+)?)$/.exec(t.trim()); if (!m) return null; const d = new Date(heat.from / 1e6); return (Date.UTC(d.getUTCFullYear(), d.getUTCMonth(), d.getUTCDate(), +m[1], +m[2]) + Number(m[3]) * 1000) * 1e6; };
  return <div class="heat">
    <canvas ref={canvas} role="img" aria-label={`Latency over time, ${heat.matched} spans; the table below has the numbers`} title={hover}
      onPointerDown={(e) => { const p = at(e); canvas.current!.setPointerCapture(e.pointerId); setDrag({ ...p, x2: p.x, y2: p.y }); }}
      onPointerMove={(e) => {
        const p = at(e), k = cell(p);
        setHover(`${num(heat.columns[k.col]?.[k.row] ?? 0)} spans, ${dur(lower(k.row))} to ${dur(heat.bounds[k.row])}, ${clock(heat.from + k.col * heat.step_nano)}`);
        if (drag) setDrag({ ...drag, x2: p.x, y2: p.y });
      }}
      onPointerUp={() => {
        if (!drag) return;
        const a = cell({ x: Math.min(drag.x, drag.x2), y: Math.max(drag.y, drag.y2) }), b = cell({ x: Math.max(drag.x, drag.x2), y: Math.min(drag.y, drag.y2) });
        const moved = Math.abs(drag.x - drag.x2) + Math.abs(drag.y - drag.y2) > 4;
        setDrag(null);
        onSelect(moved ? { from: heat.from + a.col * heat.step_nano, to: heat.from + (b.col + 1) * heat.step_nano, min: lower(a.row), max: heat.bounds[b.row] } : null);
      }} />
    <div class="row bounds">{field('from', clock(s.from), parseClock, (n) => ({ ...s, from: n }))}{field('to', clock(s.to), parseClock, (n) => ({ ...s, to: n }))}
      {field('slower than', dur(s.min).replace(' ', ''), parseDuration, (n) => ({ ...s, min: n }))}{field('up to', dur(s.max).replace(' ', ''), parseDuration, (n) => ({ ...s, max: n }))}
      {sel && <button onClick={() => onSelect(null)}>Clear selection</button>}</div>
    <details><summary>The same as a table</summary><div class="scroll short"><table class="data"><thead><tr><th>time</th><th class="n">spans</th><th class="n">slowest up to</th></tr></thead>
      <tbody>{heat.columns.map((col, x) => { const n = col.reduce((a, b) => a + b, 0); let top = -1; col.forEach((v, y) => { if (v) top = y; }); return n ? <tr key={x}><td>{clock(heat.from + x * heat.step_nano)}</td><td class="n">{num(n)}</td><td class="n">{dur(heat.bounds[top])}</td></tr> : null; })}</tbody></table></div></details>
  </div>;
}
