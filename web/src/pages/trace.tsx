// One trace: a waterfall that draws only the rows in view (50,000 spans are fine), with self times, collapse, search and the span's details.
import { useCallback, useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { api, type Problem, type Span } from '../api';
import { colour, dur, num } from '../format';
import { clock, fromMs, type Instant } from '../time';
import { go, historical, param, set, timeQuery, rangeKey } from '../url';
import { Copy, Dot, Empty, memo, Trouble, VirtualRows, type Scroller } from '../parts/bits';
import { openSheet } from '../parts/sheet';
import { useTitle } from '../parts/chrome';
import { buildTree, listRows, type Row } from '../waterfall';

export const TracePage = () => (param('trace') ? <Trace key={param('trace')} id={param('trace')} /> : <Recent />);

/** Spans of the slowest traces: the heatmap remembers the slowest of each of its cells, so it knows how slow one must be to count. */
async function slowest(): Promise<Span[]> {
  const { exemplars = [] } = await api.heatmap({ q: '{}', ...timeQuery(), columns: 60 });
  const durations = exemplars.map((e) => e.duration_nano).sort((a, b) => b - a);
  const least = Math.max(0, (durations[Math.min(49, durations.length - 1)] ?? 0) - 1);
  return (await api.spans({ q: `{ duration > ${least}ns }`, ...timeQuery(), limit: 1000 })).spans;
}

/** Something to open: the slowest traces of the time range. */
function Recent() {
  useTitle('Trace');
  const [recent, setRecent] = useState<Span[] | null>(null),
    [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    slowest().then((spans) => {
      setRecent(spans);
      setProblem(null);
    }, setProblem);
  }, [rangeKey.value]);
  const longest = new Map<string, Span>();
  for (const s of recent ?? [])
    if (!longest.has(s.trace_id) || s.duration_nano > longest.get(s.trace_id)!.duration_nano) longest.set(s.trace_id, s);
  const list = [...longest.values()].sort((a, b) => b.duration_nano - a.duration_nano).slice(0, 50);
  const open = (e: Event) => {
    e.preventDefault();
    const id = ((e.currentTarget as HTMLFormElement).elements.namedItem('id') as HTMLInputElement).value.trim().toLowerCase();
    if (id) go('trace', { trace: id });
  };
  return (
    <section>
      <div class="bar">
        <h1>Trace</h1>
        <form onSubmit={open}>
          <input name="id" data-main-field aria-label="Trace id" placeholder="trace id" spellcheck={false} />{' '}
          <button class="primary">Open</button>
        </form>
      </div>
      {problem && <Trouble e={problem} />}
      {recent && !list.length ? (
        <Empty
          title="No trace yet"
          why={historical.value ? 'No spans are stored of this time range.' : 'No spans were recorded in this time range.'}
          command="klieg on '*' --level span --ttl 5m"
          action={{ label: 'Switch something on', run: () => openSheet({ selector: '*' }) }}
        />
      ) : (
        <>
          <h2>Slowest in this time range</h2>
          <table class="data">
            <tbody>
              {list.map((s) => (
                <tr key={s.trace_id}>
                  <td>
                    <button class="link" onClick={() => go('trace', { trace: s.trace_id })}>
                      <Dot of={s.service} />
                      <span class="dim">{s.service}</span> {s.name}
                    </button>
                  </td>
                  <td class="n">{dur(s.duration_nano)}</td>
                  <td class={s.status === 'error' ? 'err' : ''}>{s.status === 'error' ? 'error' : ''}</td>
                  <td class="t">{clock(s.start_unix_nano)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </>
      )}
    </section>
  );
}

/** Loads a trace; one that has just ended is looked at once more, as its last spans may still be on their way. */
function useTrace(id: string) {
  const [spans, setSpans] = useState<Span[] | null>(null),
    [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    let gone = false,
      timer = 0;
    const load = (again: boolean) =>
      api.trace(id).then(
        (t) => {
          if (gone) return;
          setSpans((old) => (old && old.length === t.spans.length ? old : t.spans));
          const newest = t.spans.reduce((a, s) => Math.max(a, s.start_unix_nano + s.duration_nano), -Infinity);
          if (again && newest > fromMs(Date.now() - 10000)) timer = window.setTimeout(() => load(false), 1500);
        },
        (e) => {
          if (!gone) setProblem(e);
        },
      );
    load(true);
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [id]);
  return { spans, problem };
}

function useDebounced(value: string, ms: number): string {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const t = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(t);
  }, [value]);
  return settled;
}

function Trace({ id }: { id: string }) {
  const { spans, problem } = useTrace(id);
  const chosen = param('span'),
    [text, setText] = useState(param('find')),
    find = useDebounced(text, 150).trim().toLowerCase();
  const [closed, setClosed] = useState<ReadonlySet<string>>(new Set()),
    [view, setView] = useState<[number, number]>([0, 0]);
  const scroller = useRef<Scroller>(null),
    walked = useRef(0),
    onKey = useRef<(e: KeyboardEvent) => void>(() => {});
  const tree = useMemo(() => buildTree(spans ?? []), [spans]);
  const rows = useMemo(() => listRows(tree, closed), [tree, closed]);
  const index = useMemo(() => new Map(rows.map((r, i) => [r.s.span_id, i])), [rows]);
  const hits = useMemo(
    () => (find ? rows.filter((r) => `${r.s.service} ${r.s.name}`.toLowerCase().includes(find)) : []),
    [rows, find],
  );
  const hit = useMemo(() => new Set(hits.map((r) => r.s.span_id)), [hits]);
  const services = useMemo(() => new Set(spans?.map((s) => s.service)).size, [spans]);
  useEffect(() => set({ find: text }, 'typing'), [find]);
  useEffect(() => {
    const on = (e: KeyboardEvent) => onKey.current(e); // wherever the focus is: the waterfall is what this page is about
    addEventListener('keydown', on);
    return () => removeEventListener('keydown', on);
  }, []);
  const root = tree.roots[0];
  useTitle(root ? `${root.service} ${root.name}, trace ${id.slice(0, 8)}` : `Trace ${id.slice(0, 8)}`);
  const fold = useCallback(
    (span: string) =>
      setClosed((old) => {
        const n = new Set(old);
        if (!n.delete(span)) n.add(span);
        return n;
      }),
    [],
  );
  const seen = useCallback((first: number, last: number) => setView([first, last]), []);

  if (problem)
    return (
      <section>
        <div class="bar">
          <h1>Trace {id}</h1>
        </div>
        <Trouble e={problem} />
        <Empty
          title="This trace is not here"
          why="It may have expired, may not have been sampled, or its spans are still on their way."
          command={`klieg trace ${id}`}
          action={{ label: 'Explore', run: () => go('explore') }}
        />
      </section>
    );
  const at = index.get(chosen) ?? -1,
    span = at >= 0 ? rows[at].s : spans?.find((s) => s.span_id === chosen);
  // A walk with the arrow keys is one step back in history, not one per row.
  const step = (d: number) => {
    const n = rows[Math.max(0, Math.min(rows.length - 1, at + d))];
    if (n) set({ span: n.s.span_id }, Date.now() - walked.current < 2000 ? 'typing' : 'push');
    walked.current = Date.now();
  };
  const keys = (e: KeyboardEvent) => {
    if (/^(INPUT|SELECT)$/.test((e.target as HTMLElement).tagName) || document.querySelector('dialog[open]')) return;
    const d = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[e.key];
    if (d) {
      e.preventDefault();
      step(d);
    } else if (e.key === 'Escape') set({ span: '' });
    else if (
      (e.key === 'ArrowLeft' || e.key === 'ArrowRight') &&
      at >= 0 &&
      rows[at].kids &&
      closed.has(chosen) === (e.key === 'ArrowRight')
    )
      fold(chosen);
  };
  onKey.current = keys;
  const next = () => {
    const n = hits[(hits.findIndex((r) => r.s.span_id === chosen) + 1) % hits.length];
    if (n) set({ span: n.s.span_id });
  };
  const collapse = () =>
    setClosed(closed.size ? new Set() : new Set(rows.filter((r) => r.kids && r.depth > 0).map((r) => r.s.span_id)));
  return (
    <section class="column">
      <div class="bar">
        <h1>
          {root ? (
            <>
              <Dot of={root.service} />
              {root.service} · {root.name}
            </>
          ) : (
            'Trace'
          )}
        </h1>
        {spans && (
          <span class="dim" data-summary>
            {dur(tree.length)}, {num(spans.length)} spans of {services} service{services === 1 ? '' : 's'}
            {root && `, ${clock(root.start_unix_nano)}`}
          </span>
        )}
        <span class="grow" />
        <input
          data-main-field
          aria-label="Find in this trace"
          placeholder="find"
          value={text}
          onInput={(e) => setText(e.currentTarget.value)}
          onKeyDown={(e) => {
            if (e.key === 'Enter') next();
          }}
        />
        {find && (
          <button onClick={next} disabled={!hits.length}>
            {num(hits.length)} found
          </button>
        )}
        <button onClick={collapse}>{closed.size ? 'Expand all' : 'Collapse'}</button>
        <Copy command={`klieg trace ${id}`} />
      </div>
      {tree.missing > 0 && (
        <p class="quality" role="note">
          {num(tree.missing)} span{tree.missing === 1 ? ' has a parent that is' : 's have parents that are'} not stored; shown
          at the top level.
        </p>
      )}
      {spans && (
        <Minimap rows={rows} start={tree.start} length={tree.length} view={view} jump={(row) => scroller.current?.to(row)} />
      )}
      <div class={`split ${span ? 'open' : ''}`}>
        {spans ? (
          <VirtualRows
            class="waterfall"
            label="Waterfall; arrow keys move"
            rows={rows}
            height={24}
            focus={at}
            scroller={scroller}
            onView={seen}
            render={(r) => (
              <WaterRow
                key={r.s.span_id}
                r={r}
                start={tree.start}
                length={tree.length}
                on={r.s.span_id === chosen}
                hit={hit.has(r.s.span_id)}
                closed={closed.has(r.s.span_id)}
                fold={fold}
              />
            )}
          />
        ) : (
          <p class="dim">Loading…</p>
        )}
        {span && <Detail s={span} self={tree.self.get(span.span_id)} start={tree.start} />}
      </div>
    </section>
  );
}

interface WaterProps {
  r: Row;
  start: Instant;
  length: number;
  on: boolean;
  hit: boolean;
  closed: boolean;
  fold: (span: string) => void;
}
const DEEPEST = 24; // beyond this the indentation stops and the depth is written instead

const WaterRow = memo(({ r, start, length, on, hit, closed, fold }: WaterProps) => {
  const x = (100 * (r.s.start_unix_nano - start)) / length,
    w = Math.max(0.1, (100 * r.s.duration_nano) / length),
    failed = r.s.status === 'error';
  // The label stands where there is room: after the bar, before it, or on a plate inside of it.
  const room = x + w <= 85 ? 'after' : x >= 15 ? 'before' : 'in';
  const indent = (el: HTMLElement | null) => {
    if (el) el.style.paddingLeft = `${Math.min(r.depth, DEEPEST) * 12 + 4}px`;
  };
  const bar = (el: HTMLElement | null) => {
    if (!el) return;
    el.style.left = `${Math.min(x, 99.8)}%`;
    el.style.width = `${Math.min(w, 100 - x)}%`;
    el.style.background = failed ? 'var(--bad)' : colour(r.s.service);
  };
  const label = (el: HTMLElement | null) => {
    if (!el) return;
    el.style.left = room === 'after' ? `${x + w}%` : room === 'in' ? `calc(${x}% + 6px)` : 'auto';
    el.style.right = room === 'before' ? `${100 - x}%` : 'auto';
  };
  return (
    <div
      class={`wrow ${on ? 'on' : ''} ${hit ? 'hit' : ''}`}
      data-span={r.s.span_id}
      onClick={() => set({ span: on ? '' : r.s.span_id })}
    >
      <span class="wname" ref={indent}>
        {r.kids ? (
          <button
            class="fold"
            aria-label={closed ? 'Expand' : 'Collapse'}
            aria-expanded={!closed}
            onClick={(e) => {
              e.stopPropagation();
              fold(r.s.span_id);
            }}
          >
            {closed ? '▸' : '▾'}
          </button>
        ) : (
          <span class="fold" />
        )}
        <Dot of={r.s.service} />
        {r.depth > DEEPEST && <small>{r.depth}· </small>}
        <button class="link name" aria-pressed={on}>
          {r.s.name}
        </button>
        {failed && <span class="err">&nbsp;error</span>}
      </span>
      <span class="wbar">
        <i ref={bar} class={r.critical ? 'critical' : ''} />
        <em ref={label} class={room}>
          {dur(r.s.duration_nano)}
        </em>
      </span>
    </div>
  );
});

const MAP = 36;
interface MinimapProps {
  rows: Row[];
  start: Instant;
  length: number;
  view: [number, number];
  jump: (row: number) => void;
}
/** All rows at once, one above the other, with a frame around those in view; a click scrolls there. */
function Minimap({ rows, start, length, view: [first, last], jump }: MinimapProps) {
  const canvas = useRef<HTMLCanvasElement>(null),
    frame = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0),
    theme = document.documentElement.dataset.theme;
  useEffect(() => {
    const ro = new ResizeObserver(([box]) => setWidth(Math.floor(box.contentRect.width)));
    ro.observe(canvas.current!);
    return () => ro.disconnect();
  }, []);
  useEffect(() => {
    const c = canvas.current!;
    c.width = width || 1000;
    c.height = MAP;
    const g = c.getContext('2d')!,
      bad = getComputedStyle(c).getPropertyValue('--bad'),
      step = Math.max(1, Math.floor(rows.length / 5000));
    for (let i = 0; i < rows.length; i += step) {
      const { s } = rows[i];
      g.fillStyle = s.status === 'error' ? bad : colour(s.service);
      g.fillRect(
        ((s.start_unix_nano - start) / length) * c.width,
        (i / rows.length) * MAP,
        Math.max(1, (s.duration_nano / length) * c.width),
        Math.max(1, MAP / rows.length),
      );
    }
  }, [rows, width, theme]);
  useEffect(() => {
    const f = frame.current!,
      n = Math.max(1, rows.length);
    f.style.top = `${(first / n) * MAP}px`;
    f.style.height = `${Math.max(2, ((last - first) / n) * MAP)}px`;
  }, [first, last, rows]);
  const click = (e: MouseEvent) => {
    const box = canvas.current!.getBoundingClientRect();
    jump(Math.min(rows.length - 1, Math.floor(((e.clientY - box.top) / box.height) * rows.length)));
  };
  return (
    <div class="minimap" onClick={click}>
      <canvas ref={canvas} role="img" aria-label="The whole trace at a glance" />
      <div ref={frame} class="frame" />
    </div>
  );
}

function Table({ of }: { of: Record<string, unknown> | undefined }) {
  if (!of || !Object.keys(of).length) return <p class="dim">none</p>;
  const text = (v: unknown) =>
    v && typeof v === 'object' ? (
      (v as any).masked ? (
        <span class="dim" title="Marked sensitive in the site's schema: it was never recorded">
          masked
        </span>
      ) : (
        JSON.stringify(v)
      )
    ) : (
      String(v)
    );
  return (
    <dl class="kv">
      {Object.entries(of).map(([k, v]) => (
        <>
          <dt>{k}</dt>
          <dd>{text(v)}</dd>
        </>
      ))}
    </dl>
  );
}

function Detail({ s, self, start }: { s: Span; self?: number; start: Instant }) {
  const quote = JSON.stringify;
  return (
    <aside aria-label="Span" tabIndex={0}>
      <div class="head">
        <h2>
          <Dot of={s.service} />
          {s.name}
        </h2>
        <button class="icon" aria-label="Close" onClick={() => set({ span: '' })}>
          ✕
        </button>
      </div>
      <p>
        {s.service} · {s.kind} · {s.status === 'error' ? <span class="err">error {s.status_message}</span> : s.status}
      </p>
      <dl class="kv">
        <dt>duration</dt>
        <dd>{dur(s.duration_nano)}</dd>
        {self !== undefined && (
          <>
            <dt>self</dt>
            <dd>{dur(self)}</dd>
          </>
        )}
        <dt>starts at</dt>
        <dd>+{dur(s.start_unix_nano - start)}</dd>
        <dt>span id</dt>
        <dd>
          <code>{s.span_id}</code>
        </dd>
        {(s.adjusted_count ?? 1) > 1 && (
          <>
            <dt>stands for</dt>
            <dd>{num(s.adjusted_count)} spans</dd>
          </>
        )}
      </dl>
      <div class="row">
        <button class="primary" onClick={() => openSheet({ selector: `${s.service}:${s.name}`, level: 'detail' })}>
          Trace deeper here
        </button>
        <button
          onClick={() => go('explore', { q: `{ resource.service.name = ${quote(s.service)} && name = ${quote(s.name)} }` })}
        >
          Others like it
        </button>
      </div>
      <h3>Attributes</h3>
      <Table of={s.attributes} />
      {!!s.events?.length && (
        <>
          <h3>Events</h3>
          {s.events.map((e, i) => (
            <div class="event" key={i}>
              <b>{e.name}</b> <span class="dim">+{dur(e.time_unix_nano - s.start_unix_nano)}</span>
              {Object.keys(e.attributes).length > 0 && <Table of={e.attributes} />}
            </div>
          ))}
        </>
      )}
      {!!s.links?.length && (
        <>
          <h3>Links</h3>
          {s.links.map((l) => (
            <p>
              <button class="link" onClick={() => go('trace', { trace: l.trace_id, span: l.span_id })}>
                {l.trace_id}
              </button>
            </p>
          ))}
        </>
      )}
      <h3>Resource</h3>
      <Table of={s.resource} />
    </aside>
  );
}
