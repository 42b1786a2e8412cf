// Where the time goes: operations by self time, with what the detectors found. Live.
import { api, type HotRow } from '../api';
import { dur, num, shell } from '../format';
import { toggles } from '../live';
import { usePolled } from '../poll';
import { go, historical, param, rangeKey, set, timeFlags, timeQuery } from '../url';
import { Copy, Dot, Empty, Trouble } from '../parts/bits';
import { openSheet } from '../parts/sheet';
import { useTitle } from '../parts/chrome';

const columns: [keyof HotRow, string][] = [
  ['self_nano', 'self'],
  ['self_share', 'share'],
  ['total_nano', 'total'],
  ['calls', 'calls'],
  ['errors', 'errors'],
  ['p50_nano', 'p50'],
  ['p99_nano', 'p99'],
  ['max_nano', 'max'],
];

export function Hot() {
  useTitle('Hot');
  const q = param('q'),
    sort = (param('sort') || 'self_nano') as keyof HotRow;
  const look = (signal: AbortSignal) => api.hot({ q: q || '{}', ...timeQuery(), limit: 200 }, signal);
  const { data, problem } = usePolled(look, [q, rangeKey.value].join('\0'), historical.value ? 0 : 2000);
  const rows = [...(data?.rows ?? [])].sort((a, b) => Number(b[sort]) - Number(a[sort]));
  const findings = rows.flatMap((r) => r.findings.map((f) => ({ ...f, r })));
  return (
    <section>
      <div class="bar">
        <h1>Hot</h1>
        <input
          data-main-field
          aria-label="Only spans that match"
          spellcheck={false}
          placeholder='{ } all spans; or { resource.service.name = "payment" }'
          value={q}
          onChange={(e) => set({ q: e.currentTarget.value })}
        />
        {data && (
          <span class="dim">
            {num(data.spans)} spans in {num(data.traces)} traces
          </span>
        )}
        <Copy command={`klieg hot ${q ? `${shell(q)} ` : ''}${timeFlags()}`} />
      </div>
      {problem && <Trouble e={problem} />}
      {findings.length > 0 && (
        <ul class="findings" aria-label="Findings">
          {findings.slice(0, 8).map((f) => (
            <li key={f.kind + f.r.service + f.r.name + f.text}>
              <span class="kind">{f.kind}</span>
              <button class="link" onClick={() => go('explore', { q: exact(f.r) })}>
                <Dot of={f.r.service} />
                {f.r.service} · {f.r.name}
              </button>{' '}
              {f.text}{' '}
              {f.r.example_trace_id && (
                <button class="link example" onClick={() => go('trace', { trace: f.r.example_trace_id })}>
                  example
                </button>
              )}
            </li>
          ))}
        </ul>
      )}
      {data && !rows.length && !problem ? (
        <Empty
          title="No spans in this time range"
          why={
            toggles.value.length
              ? 'Something is on, but nothing has been recorded yet at level span or deeper.'
              : 'Every probe is off, so nothing is recorded and nothing is paid.'
          }
          command="klieg on '*' --level span --ttl 5m"
          action={{ label: 'Switch something on', run: () => openSheet({ selector: '*' }) }}
        />
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Operations by self time">
          <table class="data">
            <thead>
              <tr>
                <th>operation</th>
                {columns.map(([k, l]) => (
                  <th key={k} class="n" aria-sort={sort === k ? 'descending' : undefined}>
                    <button onClick={() => set({ sort: k })}>
                      {l}
                      {sort === k ? ' ▾' : ''}
                    </button>
                  </th>
                ))}
                <th>found</th>
                <th>
                  <span class="sr">actions</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {rows.map((r) => (
                <tr key={r.service + '\0' + r.name}>
                  <td>
                    <button class="link" onClick={() => go('explore', { q: exact(r) })}>
                      <Dot of={r.service} />
                      <span class="dim">{r.service}</span> {r.name}
                    </button>
                  </td>
                  <td class="n">{dur(r.self_nano)}</td>
                  <td class="n share">
                    <meter min={0} max={1} value={r.self_share} aria-label={`share of self time of ${r.name}`} />{' '}
                    {(r.self_share * 100).toFixed(1)} %
                  </td>
                  <td class="n">{dur(r.total_nano)}</td>
                  <td class="n">{num(Math.round(r.calls))}</td>
                  <td class={`n ${r.errors ? 'err' : ''}`}>{num(Math.round(r.errors))}</td>
                  <td class="n">{dur(r.p50_nano)}</td>
                  <td class="n">{dur(r.p99_nano)}</td>
                  <td class="n">{dur(r.max_nano)}</td>
                  <td>
                    {r.findings.map((f) => (
                      <span class="kind" title={f.text}>
                        {f.kind}
                      </span>
                    ))}
                  </td>
                  <td class="act">
                    <button onClick={() => go('graph', { root: exact(r) })}>calls</button>
                    <button onClick={() => go('trace', { trace: r.example_trace_id })} disabled={!r.example_trace_id}>
                      slowest
                    </button>
                    <button onClick={() => openSheet({ selector: `${r.service}:${r.name}`, level: 'detail' })}>deeper</button>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

const quote = (s: string) => JSON.stringify(s);
export const exact = (r: { service: string; name: string }) =>
  `{ resource.service.name = ${quote(r.service)} && name = ${quote(r.name)} }`;
