// Ask with TraceQL: a heatmap of time and latency, what is selected in it, and the spans themselves.
import { useEffect, useState } from 'preact/hooks';
import { api, type Heat, type Span } from '../api';
import { dur, num, shell } from '../format';
import { absolute, clock } from '../time';
import { usePolled } from '../poll';
import { go, historical, param, range, rangeKey, set, timeFlags, timeQuery } from '../url';
import { Copy, Dot, Empty, Trouble, VirtualRows } from '../parts/bits';
import { Heatmap, selParse, selText, type Selection } from '../parts/heatmap';
import { openSheet } from '../parts/sheet';
import { useTitle } from '../parts/chrome';

/** What is inside the braces of a query. */
const inner = (q: string) => (/^\s*\{([\s\S]*)\}\s*$/.exec(q)?.[1] ?? '').trim();
/** The query with one more condition. */
const and = (q: string, condition: string) => `{ ${inner(q) ? `(${inner(q)}) && ` : ''}${condition} }`;
/** The query narrowed to the latencies selected in the heatmap. */
const narrowed = (q: string, s: Selection) => and(q, `duration > ${Math.round(s.min)}ns && duration <= ${Math.round(s.max)}ns`);
const value = (v: unknown) => (v && typeof v === 'object' ? ((v as any).masked ? '•••' : JSON.stringify(v)) : String(v));

interface Found {
  spans: Span[];
  matched: number;
  partial?: boolean;
  sel: Selection | null; // what it was asked with
}

interface View {
  heat: Heat;
  found: Found;
}

export function Explore() {
  const q = param('q') || '{}',
    sel = selParse(param('sel'));
  useTitle(q === '{}' ? 'Explore' : q);
  const [text, setText] = useState(q);
  useEffect(() => setText(q), [q]);
  const look = async (signal: AbortSignal): Promise<View> => {
    const time = timeQuery();
    const slice: Record<string, string> = sel
      ? { q: narrowed(q, sel), from: absolute(sel.from), to: absolute(sel.to) }
      : { q, ...time };
    // The map first: if the query is wrong, its message is about the text that was typed, not about the narrowed one.
    const heat = await api.heatmap({ q, ...time, columns: 120 }, signal);
    return { heat, found: { ...(await api.spans({ ...slice, limit: 1000 }, signal)), sel } };
  };
  const { data, problem } = usePolled(look, [q, rangeKey.value, param('sel')].join('\0'), historical.value ? 0 : 2000);
  const heat = data?.heat,
    found = data?.found;
  const run = (e: Event) => {
    e.preventDefault();
    set({ q: text.trim() || '{}', sel: '' });
  };
  const add = (condition: string) => set({ q: and(q, condition) });
  // A selection is about one stretch of time: the view stands still while it lasts.
  const select = (s: Selection | null) =>
    set({ sel: selText(s), ...(s && heat && !historical.value ? range(heat.from, heat.to) : {}) });
  const services = [...new Set(found?.spans.map((s) => s.service) ?? [])].sort();
  const slice = () =>
    openSheet({
      selector: services.length === 1 ? `${services[0]}:*` : '*',
      level: 'detail',
      where: sel ? narrowed(q, sel) : q === '{}' ? '' : q,
    });
  const bad = problem?.line === 1 ? problem.column : 0;
  return (
    <section class="column">
      <form class="bar" onSubmit={run}>
        <h1>Explore</h1>
        <input
          data-main-field
          class={`query ${bad ? 'bad' : ''}`}
          aria-label="TraceQL query"
          aria-invalid={!!bad}
          spellcheck={false}
          value={text}
          onInput={(e) => setText(e.currentTarget.value)}
        />
        <button class="primary">Run</button>
        <button type="button" onClick={slice}>
          Trace this slice
        </button>
        <Copy command={`klieg query ${shell(q)} ${timeFlags()}`} />
      </form>
      {problem && <Trouble e={problem} />}
      {bad > 0 && (
        <pre class="caret" aria-hidden="true">
          {q}
          {'\n'}
          {' '.repeat(bad - 1)}^
        </pre>
      )}
      {/* Always there: what is below must not move when the services are known. */}
      <div class="chips" role="group" aria-label="Narrow the query">
        {services.length > 1 &&
          services.slice(0, 12).map((s) => (
            <button key={s} onClick={() => add(`resource.service.name = ${JSON.stringify(s)}`)}>
              <Dot of={s} />
              {s}
            </button>
          ))}
        <button onClick={() => add('status = error')}>errors</button>
      </div>
      {heat && heat.matched > 0 && (
        <Heatmap heat={heat} sel={sel} onSelect={select} onOpen={(trace) => go('trace', { trace })} />
      )}
      {found && (
        <p class="summary" data-summary>
          {found.sel ? 'Selected: ' : ''}
          <b>{num(found.matched)}</b> span{found.matched === 1 ? '' : 's'}
          {found.spans.length < found.matched ? `, showing the newest ${num(found.spans.length)}` : ''}
          {found.partial ? ' (not all could be read in time)' : ''}
          {found.sel && (
            <>
              {' '}
              between {dur(found.sel.min)} and {dur(found.sel.max)}, {clock(found.sel.from)} to {clock(found.sel.to)}
            </>
          )}
        </p>
      )}
      {found && !found.spans.length ? (
        <Empty
          title="No span matches"
          command="klieg on '*' --level span --ttl 5m"
          action={{ label: 'Switch something on', run: () => openSheet({ selector: '*' }) }}
          why="Nothing in this time range satisfies the query; widen the range, loosen the query, or switch the sites on."
        />
      ) : (
        found && (
          <VirtualRows
            class="spans"
            label="Spans, newest first"
            rows={found.spans}
            height={28}
            render={(s) => <SpanRow key={s.trace_id + s.span_id} s={s} />}
          />
        )
      )}
    </section>
  );
}

function SpanRow({ s }: { s: Span }) {
  const attributes = Object.entries(s.attributes)
    .slice(0, 6)
    .map(([k, v]) => `${k}=${value(v)}`)
    .join('  ');
  return (
    <div class="vrow">
      <span class="t">{clock(s.start_unix_nano)}</span>
      <button class="link" onClick={() => go('trace', { trace: s.trace_id, span: s.span_id })}>
        <Dot of={s.service} />
        <span class="dim">{s.service}</span> {s.name}
      </button>
      <span class={`n ${s.status === 'error' ? 'err' : ''}`}>
        {s.status === 'error' ? 'error ' : ''}
        {dur(s.duration_nano)}
      </span>
      <span class="attrs">{attributes}</span>
    </div>
  );
}
