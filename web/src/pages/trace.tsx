// One trace: a waterfall that draws only the rows in view (50,000 spans are fine), with self times, collapse, search and the span's details.
import { useEffect, useMemo, useState } from 'preact/hooks';
import { api, type Problem, type Span } from '../api';
import { clock, dur, hue, num } from '../format';
import { go, param, set } from '../url';
import { Copy, Dot, Empty, Trouble, VirtualRows } from '../parts/bits';
import { openSheet } from '../parts/sheet';
import { useTitle } from '../parts/chrome';

interface Row { s: Span; depth: number; kids: number; self: number; critical: boolean }

/** Depth-first order without recursion (traces can be deeper than the stack), self times, and the critical path from the root backwards. */
function arrange(spans: Span[], closed: Set<string>): { rows: Row[]; start: number; length: number; missing: number } {
  const by = new Map(spans.map((s) => [s.span_id, s])), kids = new Map<string, Span[]>(), roots: Span[] = [];
  let missing = 0;
  for (const s of spans) {
    const p = s.parent_span_id && by.has(s.parent_span_id) && s.parent_span_id !== s.span_id ? s.parent_span_id : '';
    if (s.parent_span_id && !p) missing++;
    if (p) (kids.get(p) ?? kids.set(p, []).get(p)!).push(s); else roots.push(s);
  }
  const order = (a: Span, b: Span) => a.start_unix_nano - b.start_unix_nano;
  const critical = new Set<string>();
  const first = [...roots].sort(order)[0];
  for (let s: Span | undefined = first; s && !critical.has(s.span_id);) {
    critical.add(s.span_id);
    s = (kids.get(s.span_id) ?? []).reduce<Span | undefined>((a, b) => (!a || b.start_unix_nano + b.duration_nano > a.start_unix_nano + a.duration_nano ? b : a), undefined);
  }
  const rows: Row[] = [], stack = roots.sort(order).reverse().map((s) => ({ s, depth: 0 })), seen = new Set<string>();
  while (stack.length) {
    const { s, depth } = stack.pop()!;
    if (seen.has(s.span_id)) continue;
    seen.add(s.span_id);
    const k = (kids.get(s.span_id) ?? []).sort(order);
    let covered = 0, upto = s.start_unix_nano;
    const end = s.start_unix_nano + s.duration_nano;
    for (const c of k) {
      const a = Math.max(upto, c.start_unix_nano), b = Math.min(end, c.start_unix_nano + c.duration_nano);
      if (b > a) { covered += b - a; upto = b; }
    }
    rows.push({ s, depth, kids: k.length, self: s.duration_nano - covered, critical: critical.has(s.span_id) });
    if (!closed.has(s.span_id)) for (let i = k.length - 1; i >= 0; i--) stack.push({ s: k[i], depth: depth + 1 });
  }
  const start = Math.min(...[spans[0]?.start_unix_nano ?? 0], ...roots.map((r) => r.start_unix_nano));
  let end = start;
  for (const s of spans) end = Math.max(end, s.start_unix_nano + s.duration_nano);
  return { rows, start, length: Math.max(1, end - start), missing };
}

export function TracePage() {
  const id = param('trace'), chosen = param('span'), find = param('find').toLowerCase();
  useTitle(id ? `Trace ${id.slice(0, 8)}` : 'Trace');
  const [spans, setSpans] = useState<Span[] | null>(null), [problem, setProblem] = useState<Problem | null>(null), [closed, setClosed] = useState(new Set<string>()), [recent, setRecent] = useState<Span[] | null>(null);
  useEffect(() => {
    setSpans(null); setProblem(null); setClosed(new Set());
    if (!id) { api.spans({ q: '{}', since: '15m', limit: 400 }).then((r) => setRecent(r.spans), setProblem); return; }
    let again = 0;
    const load = () => api.trace(id).then((t) => { setSpans(t.spans); if (again++ < 1) setTimeout(load, 1500); }, setProblem); // the last spans of a live trace are still on their way
    load();
    return () => { again = 9; };
  }, [id]);
  const { rows, start, length, missing } = useMemo(() => arrange(spans ?? [], closed), [spans, closed]);
  if (!id) {
    const seen = new Map<string, Span>();
    for (const s of recent ?? []) if (!seen.has(s.trace_id) || s.duration_nano > seen.get(s.trace_id)!.duration_nano) seen.set(s.trace_id, s);
    const list = [...seen.values()].sort((a, b) => b.duration_nano - a.duration_nano).slice(0, 100);
    return <section><div class="bar"><h1>Trace</h1><form onSubmit={(e) => { e.preventDefault(); const v = (e.currentTarget.elements.namedItem('id') as HTMLInputElement).value.trim(); if (v) go('trace', { trace: v }); }}><input name="id" data-main-field aria-label="Trace id" placeholder="trace id" spellcheck={false} /> <button class="primary">Open</button></form></div>
      {problem && <Trouble e={problem} />}
      {recent && !list.length ? <Empty title="No trace yet" why="No spans were recorded in the last 15 minutes." command="klieg on '*' --level span --ttl 5m" action={{ label: 'Switch something on', run: () => openSheet({ selector: '*' }) }} /> :
        <><h2>Slowest of the recent ones</h2><table class="data"><tbody>{list.map((s) => <tr key={s.trace_id}><td><button class="link" onClick={() => go('trace', { trace: s.trace_id })}><Dot of={s.service} /><span class="dim">{s.service}</span> {s.name}</button></td><td class="n">{dur(s.duration_nano)}</td><td class={s.status === 'error' ? 'err' : ''}>{s.status === 'error' ? 'error' : ''}</td><td class="t">{clock(s.start_unix_nano)}</td></tr>)}</tbody></table></>}</section>;
  }
  if (problem) return <section><div class="bar"><h1>Trace {id}</h1></div><Trouble e={problem} /><Empty title="This trace is not here" why="It may have expired, may not have been sampled, or its spans are still on their way." command={`klieg trace ${id}`} action={{ label: 'Explore', run: () => go('explore') }} /></section>;
  const span = spans?.find((s) => s.span_id === chosen), at = rows.findIndex((r) => r.s.span_id === chosen), root = rows[0]?.s;
  const services = [...new Set(spans?.map((s) => s.service) ?? [])];
  const hits = find ? rows.filter((r) => `${r.s.service} ${r.s.name}`.toLowerCase().includes(find)) : [];
  const step = (d: number) => { const n = rows[Math.max(0, Math.min(rows.length - 1, at + d))]; if (n) set({ span: n.s.span_id }); };
  return <section class="column">
    <div class="bar"><h1>{root ? <><Dot of={root.service} />{root.service} · {root.name}</> : 'Trace'}</h1>{spans && <span class="dim" data-summary>{dur(length)}, {num(spans.length)} spans of {services.length} service{services.length === 1 ? '' : 's'}, {root && clock(root.start_unix_nano)}</span>}
      <span class="grow" /><input data-main-field aria-label="Find in this trace" placeholder="find" value={param('find')} onInput={(e) => set({ find: e.currentTarget.value })} />{find && <button onClick={() => { const i = hits.findIndex((r) => r.s.span_id === chosen); const n = hits[(i + 1) % hits.length]; if (n) set({ span: n.s.span_id }); }} disabled={!hits.length}>{hits.length} found</button>}
      <button onClick={() => setClosed(closed.size ? new Set() : new Set(rows.filter((r) => r.kids && r.depth > 0).map((r) => r.s.span_id)))}>{closed.size ? 'Expand all' : 'Collapse'}</button><Copy command={`klieg trace ${id}`} /></div>
    {missing > 0 && <p class="quality" role="note">{missing} span{missing === 1 ? ' has a parent that is' : 's have parents that are'} not stored; they are shown at the top level.</p>}
    {spans && <Minimap rows={rows} start={start} length={length} />}
    <div class={`split ${span ? 'open' : ''}`} onKeyDown={(e) => { if ((e.target as HTMLElement).tagName === 'INPUT') return; if (e.key === 'ArrowDown' || e.key === 'j') { e.preventDefault(); step(1); } if (e.key === 'ArrowUp' || e.key === 'k') { e.preventDefault(); step(-1); } if (e.key === 'Escape') set({ span: '' }); }}>
      {spans ? <VirtualRows class="waterfall" label="Waterfall; arrow keys move" rows={rows} height={24} focus={at} render={(r) => <WaterRow key={r.s.span_id} r={r} start={start} length={length} on={r.s.span_id === chosen} hit={!!find && hits.includes(r)} closed={closed.has(r.s.span_id)}
        toggle={() => { const n = new Set(closed); if (!n.delete(r.s.span_id)) n.add(r.s.span_id); setClosed(n); }} />} /> : <p class="dim">Loading…</p>}
      {span && <Detail s={span} row={rows[at]} start={start} />}
    </div>
  </section>;
}

function WaterRow({ r, start, length, on, hit, closed, toggle }: { r: Row; start: number; length: number; on: boolean; hit: boolean; closed: boolean; toggle: () => void }) {
  const x = (100 * (r.s.start_unix_nano - start)) / length, w = Math.max(0.1, (100 * r.s.duration_nano) / length), depth = Math.min(r.depth, 24);
  const bar = (el: HTMLElement | null) => { if (el) { el.style.left = `${x}%`; el.style.width = `${Math.min(w, 100 - x)}%`; el.style.background = r.s.status === 'error' ? 'var(--bad)' : `hsl(${hue(r.s.service)} 50% 52%)`; } };
  const label = (el: HTMLElement | null) => { if (el) { if (x + w > 75) { el.style.right = `${Math.max(0, 100 - x)}%`; el.style.left = 'auto'; if (x < 25) { el.style.right = 'auto'; el.style.left = '4px'; } } else { el.style.left = `${x + w}%`; el.style.right = 'auto'; } } };
  return <div class={`wrow ${on ? 'on' : ''} ${hit ? 'hit' : ''}`} onClick={() => set({ span: on ? '' : r.s.span_id })}>
    <span class="wname" ref={(el) => { if (el) el.style.paddingLeft = `${depth * 12 + 4}px`; }}>{r.kids ? <button class="fold" aria-label={closed ? 'Expand' : 'Collapse'} aria-expanded={!closed} onClick={(e) => { e.stopPropagation(); toggle(); }}>{closed ? '▸' : '▾'}</button> : <span class="fold" />}
      <Dot of={r.s.service} /><button class="link name" aria-pressed={on}>{r.s.name}</button>{r.s.status === 'error' && <span class="err"> error</span>}</span>
    <span class="wbar"><i ref={bar} class={r.critical ? 'critical' : ''} /><em ref={label}>{dur(r.s.duration_nano)}</em></span></div>;
}

function Minimap({ rows, start, length }: { rows: Row[]; start: number; length: number }) {
  const draw = (c: HTMLCanvasElement | null) => {
    if (!c) return;
    const w = c.clientWidth || 1000, h = 36;
    c.width = w; c.height = h;
    const g = c.getContext('2d')!, step = Math.max(1, Math.floor(rows.length / 5000));
    for (let i = 0; i < rows.length; i += step) {
      const r = rows[i];
      g.fillStyle = r.s.status === 'error' ? getComputedStyle(c).getPropertyValue('--bad') : `hsl(${hue(r.s.service)} 50% 52%)`;
      g.fillRect(((r.s.start_unix_nano - start) / length) * w, (i / rows.length) * h, Math.max(1, (r.s.duration_nano / length) * w), Math.max(1, h / rows.length));
    }
  };
  return <canvas class="minimap" ref={draw} role="img" aria-label="The whole trace at a glance" />;
}

function Detail({ s, row, start }: { s: Span; row?: Row; start: number }) {
  const table = (o: Record<string, unknown> | undefined) => o && Object.keys(o).length ? <dl class="kv">{Object.entries(o).map(([k, v]) => <><dt>{k}</dt><dd>{v && typeof v === 'object' && (v as any).masked ? <span class="dim" title="Marked sensitive in the site's schema: it was never recorded">masked</span> : typeof v === 'object' ? JSON.stringify(v) : String(v)}</dd></>)}</dl> : <p class="dim">none</p>;
  return <aside aria-label="Span">
    <div class="head"><h2><Dot of={s.service} />{s.name}</h2><button class="icon" aria-label="Close" onClick={() => set({ span: '' })}>✕</button></div>
    <p>{s.service} · {s.kind} · {s.status === 'error' ? <span class="err">error {s.status_message}</span> : s.status}</p>
    <dl class="kv"><dt>duration</dt><dd>{dur(s.duration_nano)}</dd>{row && <><dt>self</dt><dd>{dur(row.self)}</dd></>}<dt>starts at</dt><dd>+{dur(s.start_unix_nano - start)}</dd><dt>span id</dt><dd><code>{s.span_id}</code></dd></dl>
    <div class="row"><button class="primary" onClick={() => openSheet({ selector: `${s.service}:${s.name}`, level: 'detail' })}>Trace deeper here</button><button onClick={() => go('explore', { q: `{ resource.service.name = ${JSON.stringify(s.service)} && name = ${JSON.stringify(s.name)} }` })}>Others like it</button></div>
    <h3>Attributes</h3>{table(s.attributes)}
    {!!s.events?.length && <><h3>Events</h3>{s.events.map((e) => <div class="event"><b>{e.name}</b> <span class="dim">+{dur(e.time_unix_nano - s.start_unix_nano)}</span>{Object.keys(e.attributes).length ? table(e.attributes) : null}</div>)}</>}
    {!!s.links?.length && <><h3>Links</h3>{s.links.map((l) => <p><button class="link" onClick={() => go('trace', { trace: l.trace_id, span: l.span_id })}>{l.trace_id}</button></p>)}</>}
    <h3>Resource</h3>{table(s.resource)}
  </aside>;
}
