// The traced processes, what is in flight in them, what those that crashed were doing, what was dropped, and whether Klieg itself is well.
import { api, type Check, type InFlight, type Process } from '../api';
import { dur, num, pct } from '../format';
import { changes, drops, reasons } from '../live';
import { usePolled } from '../poll';
import { go } from '../url';
import { Copy, Dot, Empty, Trouble } from '../parts/bits';
import { detach, instrument, openAttach } from '../parts/attach';
import { useTitle } from '../parts/chrome';

interface Account {
  made: number;
  stored: number;
  open?: number;
  queued?: number;
  dropped: Record<string, number>;
  balanced?: boolean;
}
interface Doctor {
  ok: boolean;
  checks: Check[];
  account: Account;
}

export function Processes() {
  useTitle('Processes');
  const look = async () => ({ procs: (await api.processes()).processes, flight: (await api.inflight()).spans });
  const { data, problem } = usePolled(look, String(changes.value), 1000);
  const { data: installed } = usePolled(() => api.plugins(), '', 30000);
  const { data: doctor } = usePolled<Doctor>(() => api.doctor(), '', 3000);
  const procs = data?.procs,
    flight = data?.flight ?? [];
  const crashed = (procs ?? []).filter((p) => p.last_in_flight?.length);
  return (
    <section>
      <div class="bar">
        <h1>Processes</h1>
        <span class="grow" />
        <button class="primary" onClick={() => openAttach()}>
          Attach…
        </button>
        <Copy command="klieg ps" />
      </div>
      {problem && <Trouble e={problem} />}
      {procs && !procs.length ? (
        <Empty
          title="No traced process"
          command="klieg attach PID"
          why={
            'A program appears here when it is linked with libklieg (-lklieg) or started with klieg run. ' +
            'Any other running program can be attached to, without a change to it and without a restart.'
          }
          action={{ label: 'Attach…', run: () => openAttach() }}
        />
      ) : (
        procs && <ProcessTable procs={procs} plugins={installed?.plugins ?? []} />
      )}
      {crashed.length > 0 && <Crashes of={crashed} />}
      <h2>In flight now</h2>
      {flight.length ? <Flight spans={flight} /> : <p class="dim">Nothing is open at this moment in any site that is on.</p>}
      {doctor && (
        <>
          <Dropped account={doctor.account} procs={procs ?? []} />
          <Health doctor={doctor} />
        </>
      )}
    </section>
  );
}

/** Whether this process can be switched, in a word and a sentence. */
function Switching({ p }: { p: Process }) {
  if (p.state !== 'live') return <span class="dim">ended</span>;
  if (p.patch === 'denied')
    return (
      <span class="err" title="The agent may not write to this process: run klieg up as the same user, or as root">
        ✗ no permission
      </span>
    );
  return p.lease ? (
    <span class="good" title="Sites are switched in its memory, and switch off by themselves if the agent goes away">
      ✓ yes, leased
    </span>
  ) : (
    <span title="Sites are switched in its memory; nothing is on, so no lease is held">✓ yes</span>
  );
}

type Plugins = { name: string; host?: string }[];

/** Those it has, and what else could be loaded into it. */
function Instrumentors({ p, plugins }: { p: Process; plugins: Plugins }) {
  const has = p.plugins ?? [];
  const more = plugins.filter((x) => (!x.host || !p.host || x.host === p.host) && !has.includes(x.name)).map((x) => x.name);
  return (
    <div class="plugs">
      {has.map((name) => (
        <span class="level count" key={name}>
          {name}
        </span>
      ))}
      {p.attached && p.state === 'live' && more.length > 0 && (
        <select
          aria-label={`Add an instrumentor to ${p.service} ${p.pid}`}
          value=""
          onChange={(e) => {
            const name = e.currentTarget.value;
            e.currentTarget.value = '';
            if (name) instrument(p, name);
          }}
        >
          <option value="">add…</option>
          {[...new Set(more)].sort().map((name) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      )}
    </div>
  );
}

const ProcessTable = ({ procs, plugins }: { procs: Process[]; plugins: Plugins }) => (
  <div class="scroll" tabIndex={0} role="region" aria-label="Traced processes">
    <table class="data">
      <thead>
        <tr>
          <th>service</th>
          <th class="n">pid</th>
          <th>state</th>
          <th>can be switched</th>
          <th class="n">threads</th>
          <th class="n">sites</th>
          <th class="n">on</th>
          <th class="n">spans made</th>
          <th class="n">open</th>
          <th class="n">dropped</th>
          <th class="n">overhead</th>
          <th>attached</th>
          <th>instrumentors</th>
          <th>
            <span class="sr">actions</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {[...procs]
          .sort((a, b) => b.state.localeCompare(a.state) || a.service.localeCompare(b.service) || a.pid - b.pid)
          .map((p) => (
            <tr key={p.pid}>
              <td title={p.cmdline || p.exe}>
                <Dot of={p.service} />
                {p.service}
              </td>
              <td class="n">{p.pid}</td>
              <td>
                {p.state}
                {p.last_in_flight?.length ? <span class="err"> crashed</span> : ''}
              </td>
              <td>
                <Switching p={p} />
              </td>
              <td class="n">{p.threads}</td>
              <td class="n">{num(p.sites)}</td>
              <td class="n">{p.on}</td>
              <td class="n">{num(p.made)}</td>
              <td class="n">{p.open}</td>
              <td
                class="n"
                title={drops(p.dropped)
                  .map(([why, n]) => `${why}: ${n}`)
                  .join('\n')}
              >
                {num(drops(p.dropped).reduce((s, [, n]) => s + n, 0))}
              </td>
              <td class="n">{pct(p.overhead_percent)}</td>
              <td title={p.longest_pause_nano ? `longest pause ${dur(p.longest_pause_nano)}` : undefined}>
                {p.attached ? <span class="good">✓ functions</span> : p.attached === false ? 'parked' : ''}
              </td>
              <td>
                <Instrumentors p={p} plugins={plugins} />
              </td>
              <td class="act">
                {p.state === 'live' &&
                  (p.attached ? (
                    <>
                      <button
                        onClick={() => go('toggles', { sel: `${p.service}:*` })}
                        aria-label={`Functions of ${p.service} ${p.pid}`}
                      >
                        functions
                      </button>
                      <button onClick={() => detach(p)} aria-label={`Detach from ${p.service} ${p.pid}`}>
                        detach
                      </button>
                    </>
                  ) : (
                    <button onClick={() => openAttach({ target: String(p.pid) })} aria-label={`Attach to ${p.service} ${p.pid}`}>
                      attach…
                    </button>
                  ))}
              </td>
            </tr>
          ))}
      </tbody>
    </table>
  </div>
);

const TraceLink = ({ s }: { s: InFlight }) =>
  s.trace_id && /[1-9a-f]/.test(s.trace_id) ? (
    <button class="link" onClick={() => go('trace', { trace: s.trace_id! })}>
      {s.trace_id.slice(0, 16)}…
    </button>
  ) : null;

const Flight = ({ spans }: { spans: InFlight[] }) => (
  <div class="scroll third" tabIndex={0} role="region" aria-label="In flight">
    <table class="data">
      <thead>
        <tr>
          <th>span</th>
          <th class="n">for</th>
          <th class="n">pid</th>
          <th>trace</th>
        </tr>
      </thead>
      <tbody>
        {spans.slice(0, 200).map((s, i) => (
          <tr key={i}>
            <td>
              <Dot of={s.service} />
              <span class="dim">{s.service}</span> {'· '.repeat(Math.min(s.depth ?? 0, 20))}
              {s.name}
            </td>
            <td class="n">{dur(s.elapsed_nano)}</td>
            <td class="n">{s.pid}</td>
            <td>
              <TraceLink s={s} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  </div>
);

const Crashes = ({ of }: { of: Process[] }) => (
  <>
    <h2>Ended in the middle of something</h2>
    {of.map((p) => (
      <div class="crash" key={p.pid} role="group" aria-label={`${p.service} ${p.pid}`}>
        <b>
          <Dot of={p.service} />
          {p.service}
        </b>{' '}
        <span class="dim">pid {p.pid}</span> was in {p.last_in_flight!.length} span{p.last_in_flight!.length === 1 ? '' : 's'}:
        <ol>
          {p.last_in_flight!.map((s, i) => (
            <li key={i}>
              {'· '.repeat(Math.min(s.depth ?? i, 20))}
              {s.name} <span class="dim">for {dur(s.elapsed_nano)}</span> <TraceLink s={s} />
            </li>
          ))}
        </ol>
      </div>
    ))}
  </>
);

function Dropped({ account, procs }: { account: Account; procs: Process[] }) {
  const all = drops(account.dropped);
  return (
    <>
      <h2>Dropped, by reason</h2>
      {!all.length ? (
        <p class="dim">Nothing: every span that was made is stored, open, or on its way.</p>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Dropped">
          <table class="data">
            <thead>
              <tr>
                <th>reason</th>
                <th class="n">spans</th>
                <th class="n">of all</th>
                <th>what it means</th>
                <th>in</th>
              </tr>
            </thead>
            <tbody>
              {all.map(([why, n]) => (
                <tr key={why}>
                  <td>
                    <code>{why}</code>
                  </td>
                  <td class="n">{num(n)}</td>
                  <td class="n">{pct((100 * n) / Math.max(1, account.made))}</td>
                  <td>{reasons[why] ?? ''}</td>
                  <td>
                    {procs
                      .filter((p) => p.dropped?.[why])
                      .map((p) => `${p.service} ${p.pid}: ${num(p.dropped[why])}`)
                      .join(', ')}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

const Health = ({ doctor }: { doctor: Doctor }) => (
  <>
    <h2>
      Doctor <span class={doctor.ok ? 'good' : 'err'}>{doctor.ok ? 'all well' : 'see below'}</span>
    </h2>
    <p class="account">
      made <b>{num(doctor.account.made)}</b> = stored <b>{num(doctor.account.stored)}</b>
      {doctor.account.open ? ` + open ${num(doctor.account.open)}` : ''}
      {doctor.account.queued ? ` + on their way ${num(doctor.account.queued)}` : ''}
      {drops(doctor.account.dropped).map(([why, n]) => ` + ${why} ${num(n)}`)} <Copy command="klieg doctor" />
    </p>
    <ul class="checks">
      {doctor.checks.map((c, i) => (
        <li key={i}>
          <span class={c.ok ? 'good' : 'err'}>{c.ok ? '✓ ok' : '✗ not ok'}</span> <b>{c.name}</b> {c.what}
          {!c.ok && c.next && <small> → {c.next}</small>}
        </li>
      ))}
    </ul>
  </>
);
