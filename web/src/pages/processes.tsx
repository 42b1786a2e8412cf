// The traced processes, what is in flight in them, and whether Klieg itself is well.
import { useEffect, useState } from 'preact/hooks';
import { api, type Check, type InFlight, type Problem, type Process } from '../api';
import { dur, num, pct } from '../format';
import { tick } from '../live';
import { go } from '../url';
import { Dot, Empty, Trouble } from '../parts/bits';
import { useTitle } from '../parts/chrome';

const drops = (d: Record<string, number>) => Object.entries(d ?? {}).filter(([, n]) => n > 0);

export function Processes() {
  useTitle('Processes');
  const [procs, setProcs] = useState<Process[] | null>(null), [flight, setFlight] = useState<InFlight[]>([]), [doctor, setDoctor] = useState<{ ok: boolean; checks: Check[]; account: any } | null>(null), [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    api.processes().then((r) => { setProcs(r.processes); setProblem(null); }, setProblem);
    api.inflight().then((r) => setFlight(r.spans), () => {});
  }, [tick.value]);
  useEffect(() => { api.doctor().then(setDoctor, () => {}); }, [Math.floor(tick.value / 5)]);
  return <section>
    <div class="bar"><h1>Processes</h1></div>
    {problem && <Trouble e={problem} />}
    {procs && !procs.length ? <Empty title="No traced process" why="A program appears here when it is linked with libklieg (-lklieg) or started with klieg run. It finds this server by its socket." command="klieg run -- ./your-service" /> :
      <div class="scroll"><table class="data"><thead><tr><th>service</th><th class="n">pid</th><th>state</th><th class="n">threads</th><th class="n">sites</th><th class="n">on</th><th class="n">spans made</th><th class="n">open</th><th>dropped</th><th class="n">overhead</th></tr></thead>
        <tbody>{(procs ?? []).map((p) => <>
          <tr key={p.pid}><td title={p.exe}><Dot of={p.service} />{p.service}</td><td class="n">{p.pid}</td><td>{p.state}{p.patch === 'denied' && <span class="err" title="This agent may not write to the process: run it as the same user or root"> no permission</span>}</td><td class="n">{p.threads}</td><td class="n">{num(p.sites)}</td><td class="n">{p.on || ''}</td><td class="n">{num(p.made)}</td><td class="n">{p.open || ''}</td><td>{drops(p.dropped).map(([k, n]) => `${k} ${num(n)}`).join(', ')}</td><td class="n">{pct(p.overhead_percent)}</td></tr>
          {!!p.last_in_flight?.length && <tr><td colSpan={10} class="crash">was in the middle of: {p.last_in_flight.map((s) => `${s.name} (${dur(s.elapsed_nano)})`).join(' › ')}</td></tr>}</>)}</tbody></table></div>}
    <h2>In flight now</h2>
    {flight.length ? <div class="scroll third"><table class="data"><thead><tr><th>span</th><th class="n">for</th><th class="n">pid</th><th>trace</th></tr></thead><tbody>{flight.slice(0, 200).map((f, i) => <tr key={i}><td><Dot of={f.service} /><span class="dim">{f.service}</span> {'· '.repeat(f.depth ?? 0)}{f.name}</td><td class="n">{dur(f.elapsed_nano)}</td><td class="n">{f.pid}</td><td>{f.trace_id && /[1-9a-f]/.test(f.trace_id) && <button class="link" onClick={() => go('trace', { trace: f.trace_id! })}>{f.trace_id.slice(0, 16)}…</button>}</td></tr>)}</tbody></table></div>
      : <p class="dim">Nothing is open at this moment in any site that is on.</p>}
    {doctor && <><h2>Doctor <span class={doctor.ok ? 'good' : 'err'}>{doctor.ok ? 'all well' : 'see below'}</span></h2>
      <p class="account">made <b>{num(doctor.account.made)}</b> = stored <b>{num(doctor.account.stored)}</b>{doctor.account.open ? ` + open ${num(doctor.account.open)}` : ''}{doctor.account.queued ? ` + on their way ${num(doctor.account.queued)}` : ''}{drops(doctor.account.dropped).map(([k, n]) => ` + ${k} ${num(n as number)}`)}</p>
      <ul class="checks">{doctor.checks.map((c) => <li key={c.name}><span class={c.ok ? 'good' : 'err'}>{c.ok ? '✓ ok' : '✗ not ok'}</span> <b>{c.name}</b> {c.what}{!c.ok && c.next && <small> → {c.next}</small>}</li>)}</ul></>}
  </section>;
}
