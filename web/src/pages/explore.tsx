// Ask with TraceQL: a heatmap of time and latency, what is selected in it, and the spans themselves.
import { useEffect, useState } from 'preact/hooks';
import { api, type Heat, type Problem, type Span } from '../api';
import { clock, dur, num, shell } from '../format';
import { tick } from '../live';
import { go, historical, param, place, set, since, timeQuery } from '../url';
import { Copy, Dot, Empty, Trouble, VirtualRows } from '../parts/bits';
import { Heatmap, selParse, selText } from '../parts/heatmap';
import { openSheet } from '../parts/sheet';
import { useTitle } from '../parts/chrome';

/** The query narrowed to what is selected in the heatmap. */
function narrowed(q: string, min: number, max: number): string {
  const inner = (q.trim().match(/^\{([\s\S]*)\}$/)?.[1] ?? '').trim();
  return `{ ${inner ? `(${inner}) && ` : ''}duration > ${Math.round(min)}ns && duration <= ${Math.round(max)}ns }`;
}

export function Explore() {
  const q = param('q') || '{}', sel = selParse(param('sel'));
  useTitle(q === '{}' ? 'Explore' : q);
  const [text, setText] = useState(q), [heat, setHeat] = useState<Heat | null>(null), [found, setFound] = useState<{ spans: Span[]; matched: number; partial?: boolean } | null>(null), [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => setText(q), [q]);
  const slow = historical.value || sel ? 0 : Math.floor(tick.value / 2), range = place.value.params;
  useEffect(() => {
    const c = new AbortController();
    const time = timeQuery();
    Promise.all([api.heatmap({ q, ...time, columns: 120 }, c.signal),
      api.spans(sel ? { q: narrowed(q, sel.min, sel.max), from: Math.round(sel.from), to: Math.round(sel.to), limit: 1000 } : { q, ...time, limit: 1000 }, c.signal)])
      .then(([h, f]) => { setHeat(h); setFound(f); setProblem(null); }, (e) => { if (e.name !== 'AbortError') setProblem(e); });
    return () => c.abort();
  }, [q, slow, range.since, range.from, range.to, range.sel]);
  const run = (e?: Event) => { e?.preventDefault(); set({ q: text.trim() || '{}', sel: '' }, false); };
  const services = [...new Set(found?.spans.map((s) => s.service) ?? [])].slice(0, 8);
  const add = (cond: string) => { const inner = q.replace(/^\s*\{|\}\s*$/g, '').trim(); set({ q: `{ ${inner ? inner + ' && ' : ''}${cond} }` }, false); };
  return <section class="column">
    <form class="bar" onSubmit={run}><h1>Explore</h1><input data-main-field class={`query ${problem?.line ? 'bad' : ''}`} aria-label="TraceQL query" aria-invalid={!!problem} spellcheck={false} value={text} onInput={(e) => setText(e.currentTarget.value)} />
      <button class="primary">Run</button><button type="button" onClick={() => openSheet({ selector: services.length === 1 && found?.spans[0] ? `${services[0]}:*` : '*', where: q === '{}' ? '' : sel ? narrowed(q, sel.min, sel.max) : q, level: 'detail' })}>Trace this slice</button>
      <Copy command={`klieg query ${shell(q)} --since ${since.value}`} /></form>
    {problem && <><Trouble e={problem} />{problem.column > 0 && <pre class="caret" aria-hidden="true">{q}{'\n'}{' '.repeat(problem.column - 1)}^</pre>}</>}
    {services.length > 1 && <div class="chips" role="group" aria-label="Narrow to a service">{services.map((s) => <button key={s} onClick={() => add(`resource.service.name = ${JSON.stringify(s)}`)}><Dot of={s} />{s}</button>)}<button onClick={() => add('status = error')}>errors</button></div>}
    {heat && heat.matched > 0 && <Heatmap heat={heat} sel={sel} onSelect={(s) => set({ sel: selText(s) })} />}
    {found && <p class="summary" data-summary>{sel ? 'Selected: ' : ''}<b>{num(found.matched)}</b> span{found.matched === 1 ? '' : 's'}{found.spans.length < found.matched ? `, showing the newest ${num(found.spans.length)}` : ''}{found.partial ? ' (not all could be read in time)' : ''}
      {sel && <> between {dur(sel.min)} and {dur(sel.max)}, {clock(sel.from)} to {clock(sel.to)}</>}</p>}
    {found && !found.spans.length ? <Empty title="No span matches" why="Nothing in this time range satisfies the query; widen the range, loosen the query, or switch the sites on." command={`klieg on '*' --level span --ttl 5m`} action={{ label: 'Switch something on', run: () => openSheet({ selector: '*' }) }} /> :
      found && <VirtualRows class="spans" label="Spans, newest first" rows={found.spans} height={28} render={(s) => <div class="vrow" key={s.trace_id + s.span_id}>
        <span class="t">{clock(s.start_unix_nano)}</span><button class="link" onClick={() => go('trace', { trace: s.trace_id, span: s.span_id })}><Dot of={s.service} /><span class="dim">{s.service}</span> {s.name}</button>
        <span class={`n ${s.status === 'error' ? 'err' : ''}`}>{s.status === 'error' ? 'error ' : ''}{dur(s.duration_nano)}</span><span class="attrs">{Object.entries(s.attributes).slice(0, 6).map(([k, v]) => `${k}=${typeof v === 'object' ? '•••' : v}`).join('  ')}</span></div>} />}
  </section>;
}
