// The first page: what is wrong, what the triggers did about it, who is traced now, and how every service does.
import { api, type Alert, type Firing, type SiteStats } from '../api';
import { dur, num, pct } from '../format';
import { alerts, changes, now, steering, toggles } from '../live';
import { usePolled } from '../poll';
import { clock, fromMs, toMs, type Instant } from '../time';
import { go, range } from '../url';
import { Copy, Dot, Empty, Trouble } from '../parts/bits';
import { openSheet } from '../parts/sheet';
import { useTitle } from '../parts/chrome';

const ago = (t: Instant) => `${dur(Math.max(0, now.value - toMs(t)) * 1e6).replace(/\.\d+/, '')} ago`;

/** Explore around a moment: two minutes before it until now, at most a quarter of an hour after. */
function around(t: Instant, q: string) {
  const to = Math.min(Date.now(), toMs(t) + 900e3);
  go('explore', { ...range(t - 120e9, fromMs(to)), q });
}
const ofFiring = (f: Firing) => /\{[^|]*[^|\s{}][^|]*\}/.exec(f.cause.query)?.[0] || f.match || `{ resource.service.name = ${JSON.stringify(f.service)} }`;

function open(a: Alert, firings: Firing[]) {
  const f = a.id.startsWith('firing.') && firings.find((x) => a.id === `firing.${x.id}`);
  if (f) return around(f.at_unix_nano, ofFiring(f));
  if (a.id.startsWith('guard.')) return around(a.since_unix_nano, `{ resource.service.name = ${JSON.stringify(a.id.slice('guard.'.length))} }`);
  const [page, name] = a.link.replace(/^#?\/?/, '').split('?')[0].split('/');
  go(page || 'processes', name ? { name, ...(/^a rollout/.test(a.title) ? { tab: 'rollout' } : {}) } : {});
}

// The last two minutes of every operation, a value a poll.
const past = new Map<string, number[]>();
const KEEP = 60;
function remember(sites: SiteStats[]) {
  for (const s of sites) {
    const k = `${s.service}\0${s.id}`,
      p = past.get(k) ?? past.set(k, []).get(k)!;
    p.push(s.calls_per_s);
    if (p.length > KEEP) p.shift();
  }
}
function Spark({ of, label }: { of: number[]; label: string }) {
  const max = Math.max(...of, 1e-9),
    x = (i: number) => ((i + KEEP - of.length) / (KEEP - 1)) * 100;
  return (
    <svg class="spark" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label={label}>
      <polyline points={of.map((v, i) => `${x(i).toFixed(1)},${(19 - (v / max) * 18).toFixed(1)}`).join(' ')} />
    </svg>
  );
}

export function Overview() {
  useTitle('Overview');
  const { data: st, problem } = usePolled(
    async () => {
      const r = await api.stats('');
      remember(r.sites);
      return r;
    },
    String(changes.value > 0),
    2000,
  );
  const { data: fired } = usePolled(() => api.firings('1h'), String(steering.value), 5000);
  const { data: pol } = usePolled(() => api.policies(), `${steering.value}`, 5000);
  const firings = fired?.firings ?? [];
  const rows = (st?.sites ?? [])
    .filter((s) => s.level !== 'off' || s.calls_per_s > 0)
    .sort((a, b) => a.service.localeCompare(b.service) || b.calls_per_s - a.calls_per_s);
  const services = [...new Set(rows.map((r) => r.service))];
  const forced = (pol?.policies ?? []).filter((p) => p.in_force && p.rules.length);
  return (
    <section class="column overview">
      <div class="bar">
        <h1>Overview</h1>
        <span class="grow" />
        <Copy command="klieg alerts" />
      </div>
      {problem && <Trouble e={problem} />}
      <div class="flow" tabIndex={0} role="region" aria-label="Overview">
        <h2>Alerts</h2>
        {alerts.value.length ? (
          <ul class="cards" aria-label="Alerts">
            {alerts.value.map((a) => (
              <li key={a.id} class={a.severity}>
                <button onClick={() => open(a, firings)} title="Open what it is about">
                  <b>
                    {{ critical: '✖', warning: '⚠', info: 'ℹ' }[a.severity]} {a.title}
                  </b>
                  <span>{a.text}</span>
                  <small>
                    {a.severity}, since {clock(a.since_unix_nano).slice(0, 8)} ({ago(a.since_unix_nano)})
                  </small>
                </button>
                <Copy command={a.cli} />
              </li>
            ))}
          </ul>
        ) : (
          <p class="good">✓ nothing that anybody must know</p>
        )}
        {firings.length > 0 && (
          <>
            <h2>Triggers that fired in the last hour</h2>
            <table class="data" aria-label="Firings">
              <thead>
                <tr>
                  <th>at</th>
                  <th>rule</th>
                  <th>service</th>
                  <th>because</th>
                  <th class="n">value</th>
                  <th class="n">threshold</th>
                  <th>level</th>
                  <th>state</th>
                  <th>traces it caught</th>
                </tr>
              </thead>
              <tbody>
                {firings.slice(0, 50).map((f) => {
                  const unit = (x: number) => (/duration|queue_nano/.test(f.cause.query) && x > 1e3 ? dur(x) : num(x));
                  return (
                    <tr key={f.id}>
                      <td class="t">{clock(f.at_unix_nano).slice(0, 8)}</td>
                      <td>
                        {f.policy ? (
                          <button class="link" onClick={() => go('policies', { name: f.policy })}>
                            {f.policy}/{f.rule}
                          </button>
                        ) : (
                          f.rule || f.rule_id
                        )}
                      </td>
                      <td>
                        <Dot of={f.service} />
                        {f.service} {f.host && <small>{f.host}</small>}
                      </td>
                      <td class="wrap">
                        <button class="link" onClick={() => around(f.at_unix_nano, ofFiring(f))}>
                          <code title={f.cause.text}>{f.cause.query}</code>
                        </button>{' '}
                        {f.cause.over_nano > 0 && <small>for {dur(f.cause.over_nano)}</small>}
                      </td>
                      <td class="n">{unit(f.cause.value)}</td>
                      <td class="n">{unit(f.cause.threshold)}</td>
                      <td>
                        <span class={`level ${f.to}`}>
                          {f.from} → {f.to}
                        </span>
                      </td>
                      <td>
                        {f.state}
                        {f.ended_unix_nano && <small> until {clock(f.ended_unix_nano).slice(0, 8)}</small>}
                      </td>
                      <td>
                        {f.traces.slice(0, 3).map((t) => (
                          <button key={t} class="link" title={t} onClick={() => go('trace', { trace: t })}>
                            {t.slice(0, 8)}
                          </button>
                        ))}
                        {f.traces.length > 3 && <small> of {f.traces.length}</small>}
                        {!f.traces.length && <small>none yet</small>}
                      </td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
          </>
        )}
        <h2>Traced now</h2>
        {toggles.value.length + forced.length > 0 ? (
          <table class="data" aria-label="Traced now">
            <thead>
              <tr>
                <th>what</th>
                <th>level</th>
                <th class="n">processes</th>
                <th>by</th>
                <th class="n">ends in</th>
              </tr>
            </thead>
            <tbody>
              {toggles.value.map((t) => (
                <tr key={t.id}>
                  <td>
                    <code>{t.selector}</code>
                  </td>
                  <td>
                    <span class={`level ${t.level}`}>{t.level}</span>
                  </td>
                  <td class="n">{num(t.processes)}</td>
                  <td>
                    {t.owner}
                    {t.reason && <small>, {t.reason}</small>}
                  </td>
                  <td class="n">{dur(Math.max(0, toMs(t.expires_unix_nano) - now.value) * 1e6).replace(/\.\d+/, '')}</td>
                </tr>
              ))}
              {forced.flatMap((p) =>
                p.rules.map((r) => (
                  <tr key={p.name + r.name}>
                    <td>
                      <code>{r.match}</code>
                    </td>
                    <td>
                      <span class={`level ${r.raised || r.level}`}>{r.raised && r.raised !== r.level ? `${r.level} ↑ ${r.raised}` : r.level}</span>
                    </td>
                    <td class="n">{num(r.processes)}</td>
                    <td>
                      <button class="link" onClick={() => go('policies', { name: p.name })}>
                        policy {p.name}/{r.name}
                      </button>
                      <small> {p.state.replace('_', ' ')}</small>
                    </td>
                    <td class="n">
                      {r.expires_unix_nano ? dur(Math.max(0, toMs(r.expires_unix_nano) - now.value) * 1e6).replace(/\.\d+/, '') : 'no end'}
                    </td>
                  </tr>
                )),
              )}
            </tbody>
          </table>
        ) : (
          <p class="dim">Nothing and nobody: every site costs one instruction.</p>
        )}
        <h2>Services</h2>
        {rows.length > 0 ? (
          <table class="data" aria-label="Services and their operations">
            <thead>
              <tr>
                <th>service, operation</th>
                <th>last 2 minutes</th>
                <th class="n">calls/s</th>
                <th class="n">errors</th>
                <th class="n">p50</th>
                <th class="n">p99</th>
                <th>
                  <span class="sr">actions</span>
                </th>
              </tr>
            </thead>
            {services.map((service) => {
              const mine = rows.filter((r) => r.service === service),
                calls = mine.reduce((t, r) => t + r.calls_per_s, 0),
                errors = mine.reduce((t, r) => t + (r.errors_per_s ?? 0), 0);
              return (
                <tbody key={service}>
                  <tr class="group">
                    <th scope="rowgroup">
                      <Dot of={service} />
                      {service}
                    </th>
                    <td />
                    <td class="n">{num(calls)}</td>
                    <td class="n">{errors ? `${num(errors)}/s` : '0'}</td>
                    <td class="n" />
                    <td class="n" />
                    <td />
                  </tr>
                  {mine.slice(0, 20).map((s) => (
                    <tr key={s.id}>
                      <td class="indent">
                        <button
                          class="link"
                          onClick={() => go('explore', { q: `{ resource.service.name = ${JSON.stringify(service)} && name = ${JSON.stringify(s.name)} }` })}
                        >
                          {s.name}
                        </button>
                      </td>
                      <td>
                        <Spark of={past.get(`${s.service}\0${s.id}`) ?? []} label={`Calls per second of ${s.name}`} />
                      </td>
                      <td class="n">{num(s.calls_per_s)}</td>
                      <td class={`n ${s.errors_per_s ? 'err' : ''}`}>{s.calls_per_s ? pct((100 * (s.errors_per_s ?? 0)) / s.calls_per_s) : '–'}</td>
                      <td class="n">{dur(s.p50_nano)}</td>
                      <td class="n">{dur(s.p99_nano)}</td>
                      <td class="act">
                        <button aria-label={`Trace ${s.name} deeper`} onClick={() => openSheet({ selector: `${service}:${s.name}`, level: 'detail' })}>
                          deeper…
                        </button>
                      </td>
                    </tr>
                  ))}
                  {mine.length > 20 && (
                    <tr>
                      <td colSpan={7} class="dim">
                        showing 20 of {mine.length} operations
                      </td>
                    </tr>
                  )}
                </tbody>
              );
            })}
          </table>
        ) : (
          st && (
            <Empty
              title="Nothing is counted yet"
              why="Rates, errors and durations come from sites that are on; count costs a few nanoseconds a call and makes no spans."
              command="klieg on '*' --level count --ttl 1h"
              action={{ label: 'Count everything for 1 h…', run: () => openSheet({ selector: '*', level: 'count', ttl: '1h' }) }}
            />
          )
        )}
      </div>
    </section>
  );
}
