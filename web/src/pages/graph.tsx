// The call graph: spans added up by the path of calls that led to them, as a table that is a tree. Live. Where it begins (`root`), what it is
// restricted to (`q`) and the chosen row (`at`) are in the URL.
import { useEffect, useRef, useState } from 'preact/hooks';
import { api, type CallNode } from '../api';
import { dur, num, shell } from '../format';
import { refreshToggles, toggles } from '../live';
import { usePolled } from '../poll';
import { go, historical, param, rangeKey, set, timeQuery } from '../url';
import { Copy, Dot, Empty, Trouble } from '../parts/bits';
import { openSheet } from '../parts/sheet';
import { useTitle } from '../parts/chrome';
import { exact } from './hot';

interface Row {
  key: string; // the path: what `at` has
  depth: number;
  node?: CallNode;
  parent?: CallNode;
  other?: CallNode['other'];
  open: boolean;
}

/** Depth first without recursion over the visible nodes; what is folded stays away. */
function flatten(roots: CallNode[], other: CallNode['other'], folded: Set<string>): Row[] {
  const out: Row[] = [],
    todo: Row[] = [];
  const push = (nodes: CallNode[], rest: CallNode['other'], depth: number, path: string, parent?: CallNode) => {
    if (rest?.calls) todo.push({ key: `${path}/…`, depth, other: rest, parent, open: false });
    for (let i = nodes.length; i--; ) {
      const key = `${path}/${encodeURIComponent(nodes[i].service)}:${encodeURIComponent(nodes[i].name)}`;
      todo.push({ key, depth, node: nodes[i], parent, open: !folded.has(key) });
    }
  };
  push(roots, other, 0, '');
  for (let r; (r = todo.pop()); ) {
    out.push(r);
    if (r.node && r.open) push(r.node.children, r.node.other, r.depth + 1, r.key, r.node);
  }
  return out;
}

/** How much of the whole: its own time darker, its callees' lighter. */
const Bar = ({ node, whole }: { node: CallNode; whole: number }) => (
  <svg class="cbar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
    <rect class="total" width={whole ? Math.min(100, (100 * node.total_nano) / whole) : 0} height="8" />
    <rect class="self" width={whole ? Math.min(100, (100 * node.self_nano) / whole) : 0} height="8" />
  </svg>
);

export function Graph() {
  useTitle('Graph');
  const q = param('q'),
    root = param('root'),
    at = param('at'),
    all = param('all') === '1';
  const look = (signal: AbortSignal) =>
    api.callgraph({ q, root, ...timeQuery(), min_share: all ? 0 : 0.01, limit: 2000 }, signal);
  // Which functions are called through pointers is found out bit by bit, and no event tells of it.
  const lit = toggles.value.some((t) => t.level === 'deep');
  usePolled(() => (lit ? refreshToggles() : Promise.resolve()), String(lit), historical.value ? 0 : 2000);
  const { data, problem } = usePolled(look, [q, root, all, rangeKey.value].join('\0'), historical.value ? 0 : 2000);
  const [folded, setFolded] = useState<Set<string>>(new Set());
  const body = useRef<HTMLTableSectionElement>(null);
  const rows = data ? flatten(data.roots, data.other, folded) : [];
  const chosen = rows.findIndex((r) => r.key === at);
  const fold = (key: string, closed: boolean) => {
    const n = new Set(folded);
    if (closed) n.add(key);
    else n.delete(key);
    setFolded(n);
  };
  const choose = (i: number) => {
    const r = rows[Math.max(0, Math.min(rows.length - 1, i))];
    if (r) set({ at: r.key }, 'typing');
  };
  useEffect(() => {
    if (chosen >= 0) body.current?.children[chosen]?.scrollIntoView({ block: 'nearest' });
  }, [at]);
  const keys = (e: KeyboardEvent) => {
    if (e.target instanceof HTMLButtonElement || e.ctrlKey || e.metaKey || e.altKey) return;
    const r = rows[chosen];
    if (e.key === 'ArrowDown') choose(chosen + 1);
    else if (e.key === 'ArrowUp') choose(chosen < 0 ? 0 : chosen - 1);
    else if (e.key === 'Home') choose(0);
    else if (e.key === 'End') choose(rows.length - 1);
    else if (e.key === 'ArrowRight' && r?.node?.children.length) {
      if (r.open) choose(chosen + 1);
      else fold(r.key, false);
    } else if (e.key === 'ArrowLeft' && r) {
      if (r.node?.children.length && r.open) fold(r.key, true);
      else choose(rows.findIndex((x) => x.key === r.key.slice(0, r.key.lastIndexOf('/'))));
    } else if (e.key === 'Enter' && r?.node?.example_trace_id) go('trace', { trace: r.node.example_trace_id });
    else return;
    e.preventDefault();
  };
  const pick = rows[chosen]?.node,
    observed = new Set(toggles.value.flatMap((t) => t.observed ?? []));
  return (
    <section>
      <div class="bar">
        <h1>Graph</h1>
        <input
          data-main-field
          aria-label="Paths begin at"
          spellcheck={false}
          placeholder="begin at: a function, service:function or { ... }; empty: the roots of traces"
          value={root}
          onChange={(e) => set({ root: e.currentTarget.value, at: '' })}
        />
        <input
          aria-label="Only where"
          spellcheck={false}
          placeholder='only where { .tenant = "7" }'
          value={q}
          onChange={(e) => set({ q: e.currentTarget.value, at: '' })}
        />
        <label class="check">
          <input type="checkbox" checked={all} onChange={(e) => set({ all: e.currentTarget.checked ? '1' : '' })} />
          callees under 1 %
        </label>
        <button class="primary" onClick={() => openSheet({ selector: root, level: 'deep', ttl: '1m' })}>
          Illuminate…
        </button>
        <Copy command={`klieg illuminate ${shell(root || 'FUNC')}`} />
      </div>
      {problem && <Trouble e={problem} />}
      {data && !rows.length && !problem ? (
        <Empty
          title={root ? 'No call of it has ended in this time range' : 'No spans in this time range'}
          why={
            toggles.value.length
              ? 'Something is on; calls appear when they have ended, and only if they are made.'
              : 'Nothing is on. Illuminate a function: it and what it calls are switched on for a minute.'
          }
          command={`klieg illuminate ${shell(root || 'FUNC')}`}
          action={{ label: 'Illuminate…', run: () => openSheet({ selector: root, level: 'deep', ttl: '1m' }) }}
        />
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Call graph" onKeyDown={keys}>
          <table class="data" role="treegrid" aria-label="Calls by their paths">
            <thead>
              <tr>
                <th>function</th>
                <th class="n">of its caller</th>
                <th>of all</th>
                <th class="n">total</th>
                <th class="n">self</th>
                <th class="n">calls</th>
                <th class="n">errors</th>
                <th class="n">p50</th>
                <th class="n">p99</th>
                <th>
                  <span class="sr">actions</span>
                </th>
              </tr>
            </thead>
            <tbody ref={body}>
              {rows.map((r, i) =>
                r.node ? (
                  <tr
                    key={r.key}
                    aria-level={r.depth + 1}
                    aria-expanded={r.node.children.length ? r.open : undefined}
                    aria-selected={i === chosen}
                    class={i === chosen ? 'chosen' : ''}
                    onClick={() => choose(i)}
                  >
                    <td class="call">
                      <span class="indent">{'\u2003'.repeat(Math.min(r.depth, 40))}</span>
                      {r.node.children.length ? (
                        <button
                          class="fold"
                          aria-label={`${r.open ? 'Close' : 'Open'} ${r.node.name}`}
                          onClick={(e) => {
                            e.stopPropagation();
                            fold(r.key, r.open);
                          }}
                        >
                          {r.open ? '▾' : '▸'}
                        </button>
                      ) : (
                        <span class="fold" />
                      )}
                      {r.parent?.service !== r.node.service && (
                        <>
                          <Dot of={r.node.service} />
                          <span class="dim">{r.node.service} </span>
                        </>
                      )}
                      {r.node.name}
                      {r.parent && observed.has(r.node.name) && (
                        <span class="dim" title="Called through a pointer: seen while it was, not read from the code">
                          {' '}
                          observed
                        </span>
                      )}
                    </td>
                    <td class="n">{(r.node.share * 100).toFixed(1)} %</td>
                    <td>
                      <Bar node={r.node} whole={data!.total_nano} />
                    </td>
                    <td class="n">{dur(r.node.total_nano)}</td>
                    <td class="n">{dur(r.node.self_nano)}</td>
                    <td class="n">{num(r.node.calls)}</td>
                    <td class={`n ${r.node.errors ? 'err' : ''}`}>{num(r.node.errors)}</td>
                    <td class="n">{dur(r.node.p50_nano)}</td>
                    <td class="n">{dur(r.node.p99_nano)}</td>
                    <td class="act">
                      <button onClick={() => set({ root: exact(r.node!), at: '' })} aria-label={`Begin at ${r.node.name}`}>
                        from here
                      </button>
                      <button
                        onClick={() => openSheet({ selector: `${r.node!.service}:${r.node!.name}`, level: 'deep', ttl: '1m' })}
                        aria-label={`Illuminate ${r.node.name}`}
                      >
                        deeper
                      </button>
                    </td>
                  </tr>
                ) : (
                  <tr key={r.key} aria-level={r.depth + 1} class={i === chosen ? 'chosen' : ''} onClick={() => choose(i)}>
                    <td class="call dim">
                      <span class="indent">{'\u2003'.repeat(Math.min(r.depth, 40))}</span>
                      <span class="fold" />
                      {num(r.other!.callees)} more with little time
                    </td>
                    <td colSpan={2} />
                    <td class="n">{dur(r.other!.total_nano)}</td>
                    <td />
                    <td class="n">{num(r.other!.calls)}</td>
                    <td colSpan={4} />
                  </tr>
                ),
              )}
            </tbody>
          </table>
        </div>
      )}
      {data && rows.length > 0 && (
        <p class="dim">
          {num(data.nodes)} path{data.nodes === 1 ? '' : 's'} from {num(data.spans)} spans in {num(data.traces)} traces
          {data.cut ? `; ${num(data.cut)} under 1 % of their callers are counted, not shown` : ''}
          {data.bounded ? '; more paths than can be shown, the rest is counted' : ''}
          {data.kept < 1 ? `; computed from ${(data.kept * 100).toPrecision(2)} % of the traces` : ''}
          {data.orphans ? `; ${num(data.orphans)} spans whose caller is not stored` : ''}
          {pick?.example_trace_id && (
            <>
              {' · '}
              <button class="link" onClick={() => go('trace', { trace: pick.example_trace_id })}>
                slowest {pick.name}: {dur(pick.max_nano)}
              </button>
              {' · '}
              <button class="link" onClick={() => go('explore', { q: exact(pick) })}>
                its spans
              </button>
            </>
          )}
        </p>
      )}
    </section>
  );
}
