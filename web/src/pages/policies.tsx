// Policies as code: the list, and for one of them the text with what is wrong in it, what it would do and cost, its rollout, history and
// differences. What was typed is kept (for the life of the tab) until it is applied or thrown away on purpose.
import { useEffect, useRef, useState } from 'preact/hooks';
import { api, Problem, type Diagnostic, type Evidence, type PolicyPlan, type PolicyText, type Rollout } from '../api';
import type { Editor } from '../code';
import { bytes, dur, num, pct, shell } from '../format';
import { fail, notice, now, steering } from '../live';
import { lineDiff, merge, type Line } from '../merge';
import { usePolled } from '../poll';
import { clock, instant, toMs } from '../time';
import { go, link, param, set } from '../url';
import { Copy, Empty, Trouble, When } from '../parts/bits';
import { Modal, useTitle } from '../parts/chrome';

const State = ({ of }: { of: string }) => (
  <span class={`pstate ${of}`}>
    {{ active: '● ', rolling_out: '◔ ', rolled_back: '↶ ', stopped: '‖ ', off: '○ ', suspended: '⚠ ' }[of] ?? ''}
    {of.replace('_', ' ')}
  </span>
);
const tabs = [
  ['', 'Text and plan'],
  ['rollout', 'Rollout'],
  ['history', 'History'],
  ['diff', 'Differences'],
] as const;

export function Policies() {
  const name = param('name'),
    fresh = param('new') === '1';
  return name || fresh ? <One key={name || '+'} name={name} /> : <List />;
}

function List() {
  useTitle('Policies');
  const { data, problem } = usePolled(() => api.policies(), String(steering.value), 2000);
  const list = data?.policies;
  return (
    <section class="column">
      <div class="bar">
        <h1>Policies</h1>
        <span class="grow" />
        <Copy command="klieg policy ls" />
        <button class="primary" onClick={() => go('policies', { new: '1' })}>
          New policy…
        </button>
      </div>
      {problem && <Trouble e={problem} />}
      {list && !list.length && (
        <Empty
          title="No policies yet"
          why="A policy says in one text what is traced, how much of it, when to look closer by itself, and which limits nobody gets over."
          command="klieg policy apply FILE"
          action={{ label: 'Write one', run: () => go('policies', { new: '1' }) }}
        />
      )}
      {!!list?.length && (
        <div class="scroll" tabIndex={0} role="region" aria-label="All policies">
          <table class="data" aria-label="Policies">
            <thead>
              <tr>
                <th>name</th>
                <th class="n">version</th>
                <th>state</th>
                <th>rules</th>
                <th class="n">sites</th>
                <th class="n">predicted</th>
                <th class="n">measured</th>
                <th>author, reason</th>
                <th>changed</th>
              </tr>
            </thead>
            <tbody>
              {list.map((p) => {
                const sum = (k: 'predicted' | 'measured') => p.rules.reduce((t, r) => t + (r[k]?.known ? (r[k]!.cpu_percent ?? 0) : 0), 0);
                const known = (k: 'predicted' | 'measured') => p.rules.some((r) => r[k]?.known);
                return (
                  <tr key={p.name}>
                    <td>
                      <a
                        href={link('policies', { name: p.name })}
                        onClick={(e) => {
                          e.preventDefault();
                          go('policies', { name: p.name });
                        }}
                      >
                        {p.name}
                      </a>
                    </td>
                    <td class="n">
                      {p.version}
                      {p.in_force && p.in_force !== p.version ? <small> ({p.in_force} in force)</small> : ''}
                    </td>
                    <td>
                      <State of={p.state} />
                      {p.why && <small> {p.why}</small>}
                    </td>
                    <td>
                      {p.rules.map((r) => (
                        <span key={r.name} class="rule" title={r.match}>
                          {r.name} <span class={`level ${r.raised || r.level}`}>{r.raised && r.raised !== r.level ? `${r.level} ↑ ${r.raised}` : r.level}</span>
                        </span>
                      ))}
                      {p.limits.length > 0 && (
                        <small>
                          {' '}
                          {p.limits.length} limit{p.limits.length === 1 ? '' : 's'}
                        </small>
                      )}
                    </td>
                    <td class="n">{num(p.rules.reduce((t, r) => t + (r.sites ?? 0), 0))}</td>
                    <td class="n">{known('predicted') ? pct(sum('predicted')) : '–'}</td>
                    <td class="n">{known('measured') ? pct(sum('measured')) : '–'}</td>
                    <td>
                      {p.author}
                      {p.reason && <small>, {p.reason}</small>}
                    </td>
                    <td>
                      <When t={p.updated_unix_nano} />
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

const EXAMPLE = `policy: NAME
rules:
  - name: everything
    match: '{ }'
    level: count
`;
/** What was typed and not yet applied, and which version it began from. */
interface Draft {
  text: string;
  base: number;
  from: string;
}
const slot = (name: string) => `klieg-policy-${name || '+'}`;
function stored(name: string): Draft | null {
  try {
    return JSON.parse(sessionStorage.getItem(slot(name)) ?? 'null');
  } catch {
    return null;
  }
}
function keep(name: string, d: Draft | null) {
  try {
    if (d) sessionStorage.setItem(slot(name), JSON.stringify(d));
    else sessionStorage.removeItem(slot(name));
  } catch {
    /* then it lasts as long as the page */
  }
}

function One({ name }: { name: string }) {
  useTitle(name ? `Policy ${name}` : 'New policy');
  const tab = param('tab');
  const { data, problem } = usePolled(() => api.policies(), name + steering.value, 1000);
  const p = data?.policies.find((x) => x.name === name);
  const off = async () => {
    try {
      const r = await api.switchOff(name, '');
      const before = p?.in_force;
      notice.value = {
        text: `Policy ${name} is off (version ${r.version}).`,
        action: before ? { label: 'Undo', run: () => api.rollback(name, before, 'undo').catch(fail) } : undefined,
      };
      steering.value++;
    } catch (e) {
      fail(e);
    }
  };
  return (
    <section class="column policy">
      <div class="bar">
        <button class="link" onClick={() => go('policies')}>
          Policies
        </button>
        <h1>/ {name || 'new'}</h1>
        {p && (
          <>
            <State of={p.state} />
            <small>
              version {p.version} by {p.author}
              {p.reason && `: ${p.reason}`}
            </small>
          </>
        )}
        <span class="grow" />
        {name && <Copy command={`klieg policy show ${shell(name)}`} />}
        {p && p.state !== 'off' && <button onClick={off}>Switch off</button>}
      </div>
      {p?.why && p.why !== p.reason && tab !== 'rollout' && <p class="quality">{p.why}</p>}
      {problem && <Trouble e={problem} />}
      {name && (
        <nav class="tabs" aria-label="Of this policy">
          {tabs.map(([id, label]) => (
            <a
              key={id}
              href={link('policies', { name, tab: id })}
              aria-current={tab === id ? 'page' : undefined}
              onClick={(e) => {
                e.preventDefault();
                go('policies', { name, tab: id });
              }}
            >
              {label}
            </a>
          ))}
        </nav>
      )}
      {tab === 'rollout' ? <RolloutTab name={name} /> : tab === 'history' ? <History name={name} inForce={p?.in_force ?? 0} /> : tab === 'diff' ? <Diff name={name} /> : <Text name={name} />}
    </section>
  );
}

function Text({ name }: { name: string }) {
  const version = param('version');
  const box = useRef<HTMLDivElement>(null),
    editor = useRef<Editor | null>(null),
    schema = useRef<Record<string, any> | null>(null),
    asked = useRef(0);
  const [head, setHead] = useState<PolicyText | null>(null);
  const [draft, setDraft] = useState<Draft | null>(null);
  const [diags, setDiags] = useState<Diagnostic[]>([]);
  const [plan, setPlan] = useState<PolicyPlan | null>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [stale, setStale] = useState<{ problem: Problem; theirs: PolicyText } | null>(null);
  const [applying, setApplying] = useState(false);

  useEffect(() => {
    let gone = false;
    (async () => {
      const kept = version ? null : stored(name);
      let doc: PolicyText | null = null,
        newest: PolicyText | null = null;
      try {
        if (name) newest = doc = await api.policy(name);
        if (name && version) doc = await api.policy(name, Number(version));
      } catch (e) {
        if (!gone) setProblem(e as Problem);
      }
      const code = await import('../code');
      if (gone || !box.current) return;
      const from = doc?.text ?? EXAMPLE;
      const d: Draft = kept ?? { text: from, base: newest?.version ?? 0, from: newest?.text ?? '' };
      setHead(newest);
      setDraft(d);
      const changed = (text: string) =>
        setDraft((old) => {
          const next = { ...(old ?? d), text };
          keep(name, text === next.from ? null : next);
          return next;
        });
      editor.current = code.create(box.current, d.text, 'Text of the policy, YAML', () => schema.current, changed);
      schema.current = await api.schema().catch(() => null);
    })();
    return () => {
      gone = true;
      editor.current?.destroy();
      editor.current = null;
    };
  }, [name, version]);

  const text = draft?.text;
  useEffect(() => {
    if (text === undefined) return;
    const my = ++asked.current;
    setBusy(true);
    const t = setTimeout(async () => {
      try {
        const c = await api.check(text);
        if (my !== asked.current) return;
        setDiags(c.diagnostics);
        editor.current?.mark(c.diagnostics);
        if (!c.ok) setPlan(null);
        else {
          const p = await api.plan(text, '15m');
          if (my !== asked.current) return;
          setPlan(p);
        }
        setProblem(null);
      } catch (e) {
        if (my === asked.current) setProblem(e as Problem);
      }
      if (my === asked.current) setBusy(false);
    }, 300);
    return () => clearTimeout(t);
  }, [text]);

  const errors = diags.filter((d) => d.severity === 'error');
  const planned = plan?.policy?.name ?? name;
  const why = busy
    ? 'Asking the server…'
    : errors.length
      ? 'There are errors in it.'
      : !plan
        ? 'The server could not plan it.'
        : name && planned !== name
          ? `The text is of policy ${planned}: go there, or call it ${name}.`
          : plan.unchanged
            ? 'That is in force already.'
            : '';
  const replace = (t: string, base: PolicyText) => {
    const d = { text: t, base: base.version, from: base.text };
    setDraft(d);
    keep(name, t === base.text ? null : d);
    editor.current?.set(t);
    setHead(base);
    setStale(null);
  };
  const take = async (p: Problem) => {
    if (p.status !== 412) return false;
    const theirs = await api.policy(planned);
    setStale({ problem: p, theirs });
    setApplying(false);
    return true;
  };
  const applied = (to: Draft, r: { version: number; rollout?: Rollout }) => {
    keep(name, null);
    setApplying(false);
    setDraft({ text: to.text, base: r.version, from: to.text });
    steering.value++;
    go('policies', { name: planned, tab: r.rollout ? 'rollout' : '' });
  };
  return (
    <div class="split even">
      <div class="left">
        <div class="code" ref={box} />
        <div class="below">
          {!draft && !problem && <p class="dim">Loading the editor…</p>}
          {diags.length > 0 && (
            <ul class="diags" aria-label="Diagnostics" aria-live="polite">
              {diags.map((d) => (
                <li key={`${d.line}:${d.column}:${d.code}`} class={d.severity} data-line={d.line}>
                  <button class="link" onClick={() => editor.current?.jump(d.line, d.column)}>
                    {d.line}:{d.column}
                  </button>{' '}
                  <b>
                    {d.severity}[{d.code}]
                  </b>{' '}
                  {d.message}
                  {d.hint && <small>hint: {d.hint}</small>}
                </li>
              ))}
            </ul>
          )}
          {draft && !busy && !diags.length && <p class="good">✓ valid, as klieg policy check sees it</p>}
          <div class="row">
            <Copy command={`klieg policy check ${shell(planned || 'FILE')}.yaml`} />
            {draft && draft.text !== draft.from && (
              <button
                onClick={() => {
                  const mine = draft;
                  replace(draft.from || EXAMPLE, head ?? ({ version: draft.base, text: draft.from } as PolicyText));
                  notice.value = {
                    text: 'Thrown away what was not applied.',
                    action: { label: 'Undo', run: () => editor.current?.set(mine.text) },
                  };
                }}
              >
                Discard
              </button>
            )}
            <span class="grow" />
            {why && draft && <small>{why}</small>}
            <button class="primary" disabled={!draft || !!why} title={why || undefined} onClick={() => setApplying(true)}>
              Apply…
            </button>
          </div>
        </div>
      </div>
      <aside class="right" aria-label="Plan">
        {problem && <Trouble e={problem} />}
        {stale && draft && (
          <Stale
            stale={stale}
            draft={draft}
            onMerge={() => {
              const m = merge(draft.from, draft.text, stale.theirs.text);
              replace(m.text, stale.theirs);
              notice.value = {
                text: m.conflicts
                  ? `${m.conflicts} place${m.conflicts === 1 ? '' : 's'} changed by both: choose between the marks <<<<<<< and >>>>>>>.`
                  : `Both changes are in the text now; it follows version ${stale.theirs.version}.`,
              };
            }}
            onMine={() => replace(draft.text, stale.theirs)}
            onTheirs={() => replace(stale.theirs.text, stale.theirs)}
          />
        )}
        {plan ? (
          <Plan plan={plan} name={planned} />
        ) : (
          !problem && !errors.length && <p class="dim">{busy ? 'Planning…' : 'What the text would do appears here.'}</p>
        )}
        {errors.length > 0 && <p class="dim">The plan appears when the text is valid.</p>}
      </aside>
      {applying && draft && plan && <Apply draft={draft} plan={plan} name={planned} close={() => setApplying(false)} done={applied} refused={take} />}
    </div>
  );
}

function Lines({ lines }: { lines: Line[] }) {
  return (
    <pre class="lines" tabIndex={0} role="region" aria-label="Lines that differ">
      {lines.map((l, i) => (
        <div key={i} class={l.op === '+' ? 'plus' : l.op === '-' ? 'minus' : ''}>
          {l.op} {l.text}
        </div>
      ))}
    </pre>
  );
}

function Stale({
  stale,
  draft,
  onMerge,
  onMine,
  onTheirs,
}: {
  stale: { problem: Problem; theirs: PolicyText };
  draft: Draft;
  onMerge: () => void;
  onMine: () => void;
  onTheirs: () => void;
}) {
  const { theirs } = stale;
  return (
    <div class="stale" role="alert">
      <Trouble e={stale.problem} />
      <p>
        Your text is still in the editor; nothing was applied. What <b>{theirs.author}</b> changed since version {draft.base}:
      </p>
      <Lines lines={lineDiff(draft.from, theirs.text)} />
      <div class="row">
        <button class="primary" onClick={onMerge}>
          Merge both
        </button>
        <button onClick={onMine}>Keep mine</button>
        <button onClick={onTheirs}>Take theirs</button>
        <Copy command={`klieg policy diff ${shell(theirs.name)} ${draft.base} ${theirs.version}`} />
      </div>
    </div>
  );
}

function Plan({ plan: p, name }: { plan: PolicyPlan; name: string }) {
  const [all, setAll] = useState(false);
  const shown = all ? p.changes : p.changes.slice(0, 12);
  return (
    <div class="policyplan" data-plan>
      <div class="bar">
        <h2>Plan</h2>
        <span class="grow" />
        <Copy command={`klieg policy plan ${shell(name)}.yaml --replay 15m`} />
      </div>
      <p>
        Matches <b>{num(p.sites)}</b> site{p.sites === 1 ? '' : 's'} in <b>{num(p.processes)}</b> process{p.processes === 1 ? '' : 'es'}; changes <b>{num(p.changed)}</b>
        {p.unchanged ? ' (the text is in force already)' : ''}.
      </p>
      <p data-cost>
        {p.predicted?.known ? (
          <>
            Predicted: ~{num(p.predicted.spans_per_s ?? p.predicted.calls_per_s)} spans/s, <b>{pct(p.predicted_percent)}</b> CPU{p.budget_percent > 0 && ` of ${pct(p.budget_percent)} budget`},{' '}
            {bytes(p.bytes_per_day)} a day
          </>
        ) : (
          <>
            Predicted cost unknown <small>({p.predicted?.basis || 'these sites have not been seen running'})</small>
          </>
        )}
      </p>
      {p.predicted?.known && <meter min={0} max={p.budget_percent || 1} value={p.predicted_percent} aria-label="Predicted cost against the budget" />}
      {p.fits === null && (
        <p class="quality">What it costs is not known, so neither is whether it fits the budget; it can be applied, and the governor keeps to the budget as it measures.</p>
      )}
      {p.fits === false && (
        <p class="over">
          Over the budget of {pct(p.budget_percent)}
          {p.over_on && ` on ${p.over_on}`}. {p.suggestion && <>Would fit: {p.suggestion.text}.</>}
        </p>
      )}
      {p.warnings?.map((w) => (
        <p key={w} class="over">
          {w}
        </p>
      ))}
      {p.rules.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Rules of the plan">
          <table class="data" aria-label="Plan of the rules">
            <thead>
              <tr>
                <th>
                  <span class="sr">change</span>
                </th>
                <th>rule</th>
                <th class="n">sites</th>
                <th class="n">processes</th>
                <th class="n">cost</th>
                <th class="n">replayed</th>
                <th class="n">a day</th>
              </tr>
            </thead>
            <tbody>
              {p.rules.map((r) => (
                <tr key={r.op + r.name} data-op={r.op}>
                  <td class={`op ${r.op === '+' ? 'plus' : r.op === '-' ? 'minus' : ''}`}>{r.op === ' ' ? '=' : r.op}</td>
                  <td>{r.name}</td>
                  <td class="n">{num(r.sites)}</td>
                  <td class="n">{num(r.processes)}</td>
                  <td class="n">{r.predicted?.known ? pct(r.predicted.cpu_percent) : '–'}</td>
                  <td class="n" title="traces of the last 15 minutes that the rule would have kept">
                    {r.replay ? `${num(r.replay.kept)} of ${num(r.replay.traces)}` : '–'}
                  </td>
                  <td class="n">{r.replay ? bytes(r.replay.bytes_per_day) : '–'}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {p.changes.length > 0 && (
        <>
          <h3>Sites that change</h3>
          <ul class="changes" aria-label="Sites that change">
            {shown.map((c, i) => (
              <li key={i} data-op={c.op}>
                <span class={`op ${c.op === '+' ? 'plus' : c.op === '-' ? 'minus' : ''}`}>{c.op}</span> {c.service} <b>{c.name}</b>{' '}
                <span class="dim">
                  {c.from} → {c.to} in {c.host ? `${c.host}:` : ''}
                  {c.pid}
                </span>
              </li>
            ))}
          </ul>
          {p.changed > shown.length && (
            <p class="dim">
              Showing {shown.length} of {num(p.changed)}.{' '}
              {!all && p.changes.length > shown.length && (
                <button class="link" onClick={() => setAll(true)}>
                  Show {p.changes.length}
                </button>
              )}
            </p>
          )}
        </>
      )}
    </div>
  );
}

function Apply({
  draft,
  plan,
  name,
  close,
  done,
  refused,
}: {
  draft: Draft;
  plan: PolicyPlan;
  name: string;
  close: () => void;
  done: (d: Draft, r: { version: number; rollout?: Rollout }) => void;
  refused: (p: Problem) => Promise<boolean>;
}) {
  const [reason, setReason] = useState(''),
    [how, setHow] = useState('steps'),
    [soak, setSoak] = useState('30s'),
    [force, setForce] = useState(false),
    [busy, setBusy] = useState(false),
    [problem, setProblem] = useState<Problem | null>(null);
  const submit = async (e: Event) => {
    e.preventDefault();
    setBusy(true);
    try {
      const r = await api.apply(name, {
        text: draft.text,
        expected_version: draft.base,
        reason,
        rollout: how,
        ...(how === 'steps' ? { soak } : {}),
        ...(force ? { force } : {}),
      });
      notice.value = {
        text: `Policy ${name} is version ${r.version}${r.rollout?.state === 'running' ? ', in its canary' : `, acknowledged in ${dur(r.ack_nano)}`}.`,
        hint: r.warning,
        action: draft.base ? { label: 'Roll back', run: () => api.rollback(name, draft.base, 'undo').then(() => steering.value++, fail) } : undefined,
      };
      done(draft, r);
    } catch (err) {
      setBusy(false);
      if (!(await refused(err as Problem).catch(() => false))) setProblem(err as Problem);
    }
  };
  return (
    <Modal title={`Apply ${name}${draft.base ? `, following version ${draft.base}` : ', a new policy'}`} onClose={close}>
      <form class="sheet" onSubmit={submit}>
        <p>
          {plan.rules.map((r) => (
            <span key={r.op + r.name} class="rule">
              <span class={`op ${r.op === '+' ? 'plus' : r.op === '-' ? 'minus' : ''}`}>{r.op}</span> {r.name}
            </span>
          ))}
        </p>
        <label>
          Reason
          <input autofocus placeholder="why, for those who read the history" value={reason} onInput={(e) => setReason(e.currentTarget.value)} />
        </label>
        <div class="row">
          <label>
            Rollout
            <select value={how} onChange={(e) => setHow(e.currentTarget.value)}>
              <option value="steps">in steps, canary first</option>
              <option value="now">everywhere now</option>
            </select>
          </label>
          {how === 'steps' && (
            <label>
              Watch each step for
              <input value={soak} onInput={(e) => setSoak(e.currentTarget.value)} />
            </label>
          )}
        </div>
        {plan.fits === false && (
          <label class="tick">
            <input type="checkbox" checked={force} onChange={(e) => setForce(e.currentTarget.checked)} /> over the budget all the same: the governor
            then sheds the dearest sites
          </label>
        )}
        {problem && <Trouble e={problem} />}
        <div class="row end">
          <Copy
            command={`klieg policy apply ${shell(name)}.yaml${reason ? ` --reason ${shell(reason)}` : ''}${how === 'now' ? ' --now' : soak === '30s' ? '' : ` --soak ${soak}`}${force ? ' --force' : ''}`}
          />
          <span class="grow" />
          <button type="button" onClick={close}>
            Cancel
          </button>
          <button class="primary" disabled={busy || (plan.fits === false && !force)} title={plan.fits === false && !force ? 'Over the budget.' : undefined}>
            Apply
          </button>
        </div>
      </form>
    </Modal>
  );
}

const STEP: Record<string, string> = {
  pending: '○ pending',
  waiting: '… waiting',
  running: '◔ watched',
  interrupted: '‖ interrupted',
  stopped: '‖ stopped',
  done: '✓ done',
  skipped: '– skipped',
  rolled_back: '✗ rolled back',
  not_reached: '– not reached',
};
const stepName = (s: { share?: number; processes?: number }) =>
  s.processes ? `${s.processes} process${s.processes === 1 ? '' : 'es'}` : pct((s.share ?? 1) * 100);

function RolloutTab({ name }: { name: string }) {
  const { data: r, problem } = usePolled(() => api.rollout(name), name + steering.value, 1000);
  const act = (action: string) => api.steer(name, action).then(() => steering.value++, fail);
  if (problem && problem.status !== 404) return <Trouble e={problem} />;
  if (!r) return problem ? <Empty title="No rollout" why="Nothing of this policy was rolled out in steps yet." command={`klieg policy apply ${shell(name)}.yaml`} /> : <p class="dim">Loading…</p>;
  const live = r.state === 'running' || r.state === 'stopped';
  const last = r.evidence[r.evidence.length - 1];
  return (
    <div class="column" data-rollout={r.state}>
      <div class="bar">
        <h2>
          Version {r.version}
          {r.base ? `, from version ${r.base}` : ''}: {r.state.replace('_', ' ')}
        </h2>
        <span class="grow" />
        {live && (
          <>
            <button onClick={() => act('promote')}>Promote</button>
            {r.state === 'running' && <button onClick={() => act('stop')}>Stop</button>}
            <button class="danger" onClick={() => act('rollback')}>
              Roll back
            </button>
          </>
        )}
        <Copy command={`klieg policy rollout ${shell(name)}`} />
      </div>
      {r.why && <p class="quality">{r.why}</p>}
      <ol class="steps" aria-label="Steps">
        {r.steps.map((s, i) => {
          const until = s.until ? instant(String(s.until)) : null,
            left = until !== null ? toMs(until) - now.value : 0,
            here = s.state === 'running' && r.state === 'running',
            cut = ['interrupted', 'waiting'].includes(s.state);
          return (
            <li key={i} class={s.state} aria-current={here || cut ? 'step' : undefined}>
              <b>{stepName(s)}</b>
              <small>
                {STEP[s.state] ?? s.state}
                {here && left > 0 ? `, ${dur(left * 1e6).replace(/\.\d+/, '')} left` : ''}
              </small>
              {s.not_compared && <small title={s.not_compared}>latency and errors not compared</small>}
            </li>
          );
        })}
      </ol>
      {!!r.canary?.length && r.steps[r.step]?.state !== 'interrupted' && (
        <p class="dim">
          Canary: {r.canary.slice(0, 8).map((c) => `${c.host ? `${c.host}:` : ''}${c.pid}`).join(', ')}
          {r.canary.length > 8 ? ` and ${r.canary.length - 8} more` : ''}
        </p>
      )}
      {last ? <Evidences list={r.evidence} /> : <p class="dim">The canary has not been measured against the rest yet.</p>}
    </div>
  );
}

function Evidences({ list }: { list: Evidence[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="What was seen">
      <table class="data" aria-label="Canary against the rest">
        <thead>
          <tr>
            <th>at</th>
            <th>verdict</th>
            <th class="n">overhead: canary</th>
            <th class="n">rest</th>
            <th class="n">median: canary</th>
            <th class="n">rest</th>
            <th class="n">p99: canary</th>
            <th class="n">rest</th>
            <th class="n">errors: canary</th>
            <th class="n">rest</th>
            <th class="n" title="requests that this rests on: canary / rest">requests</th>
            <th class="n">processes</th>
            <th>why</th>
          </tr>
        </thead>
        <tbody>
          {[...list].reverse().map((e, i) => {
            const at = instant(String(e.at)),
              share = (x: number | null | undefined) => (x == null ? '–' : pct(x * 100));
            return (
              <tr key={i}>
                <td class="t">{at !== null ? clock(at).slice(0, 8) : ''}</td>
                <td class={{ ok: 'good', breach: 'err', waiting: 'warn', not_compared: 'warn', interrupted: 'warn' }[e.verdict] ?? ''}>
                  {e.verdict.replace('_', ' ')}
                </td>
                <td class="n">{pct(e.canary?.overhead_percent)}</td>
                <td class="n">{pct(e.rest?.overhead_percent)}</td>
                <td class="n">{dur(e.canary?.p50_nano)}</td>
                <td class="n">{dur(e.rest?.p50_nano)}</td>
                <td class="n">{dur(e.canary?.p99_nano)}</td>
                <td class="n">{dur(e.rest?.p99_nano)}</td>
                <td class="n">{share(e.canary?.error_share)}</td>
                <td class="n">{share(e.rest?.error_share)}</td>
                <td class="n">
                  {num(e.canary?.calls)} / {num(e.rest?.calls)}
                </td>
                <td class="n">
                  {num(e.canary?.processes)} / {num(e.rest?.processes)}
                </td>
                <td class="wrap">{e.why}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function History({ name, inForce }: { name: string; inForce: number }) {
  const { data, problem } = usePolled(() => api.versions(name), name + steering.value, 0);
  const [back, setBack] = useState(0),
    [reason, setReason] = useState('');
  const list = data?.versions ?? [];
  const rollback = async (e: Event) => {
    e.preventDefault();
    try {
      const r = await api.rollback(name, back, reason);
      notice.value = { text: `Version ${back} is in force again, as version ${r.version}.`, hint: r.warning };
      setBack(0);
      steering.value++;
    } catch (err) {
      fail(err);
    }
  };
  return (
    <div class="column">
      {problem && <Trouble e={problem} />}
      <div class="scroll" tabIndex={0} role="region" aria-label="History">
        <table class="data" aria-label="Versions">
          <thead>
            <tr>
              <th class="n">version</th>
              <th>what</th>
              <th>author</th>
              <th>reason</th>
              <th>when</th>
              <th>
                <span class="sr">actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {list.map((v) => (
              <tr key={v.version}>
                <td class="n">{v.version}</td>
                <td>
                  {v.change.replace('_', ' ')}
                  {v.version === inForce && <span class="level span"> in force</span>}
                </td>
                <td>{v.author}</td>
                <td class="wrap">{v.reason}</td>
                <td>
                  <When t={v.created_unix_nano} />
                </td>
                <td class="act">
                  <button aria-label={`Open version ${v.version}`} onClick={() => go('policies', { name, version: String(v.version) })}>
                    Open
                  </button>
                  {v.version > 1 && (
                    <button
                      aria-label={`Differences of version ${v.version}`}
                      onClick={() => go('policies', { name, tab: 'diff', a: String(v.version - 1), b: String(v.version) })}
                    >
                      Differences
                    </button>
                  )}
                  {v.version !== inForce && v.change !== 'off' && (
                    <button aria-label={`Roll back to version ${v.version}`} onClick={() => setBack(v.version)}>
                      Roll back to it…
                    </button>
                  )}
                  <Copy command={`klieg policy rollback ${shell(name)} --to ${v.version}`} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {back > 0 && (
        <Modal title={`Roll back to version ${back}?`} onClose={() => setBack(0)}>
          <form class="sheet" onSubmit={rollback}>
            <p>Its text comes into force as a new version; nothing is lost.</p>
            <label>
              Reason
              <input autofocus value={reason} onInput={(e) => setReason(e.currentTarget.value)} />
            </label>
            <div class="row end">
              <span class="grow" />
              <button type="button" onClick={() => setBack(0)}>
                Cancel
              </button>
              <button class="primary">Roll back</button>
            </div>
          </form>
        </Modal>
      )}
    </div>
  );
}

function Diff({ name }: { name: string }) {
  const { data: all } = usePolled(() => api.versions(name), name + steering.value, 0);
  const newest = all?.versions[0]?.version ?? 0;
  const b = param('b') || String(newest),
    a = param('a') || String(Math.max(Number(b) - 1, 0));
  const { data, problem } = usePolled<Awaited<ReturnType<typeof api.diff>> | null>(async () => (Number(b) ? api.diff(name, a, b) : null), [name, a, b].join('\0'), 0);
  const pick = (k: 'a' | 'b', label: string, value: string, none: boolean) => (
    <label>
      {label}{' '}
      <select value={value} onChange={(e) => set({ [k]: e.currentTarget.value })}>
        {none && <option value="0">nothing</option>}
        {all?.versions.map((v) => (
          <option key={v.version} value={String(v.version)}>
            {v.version}: {v.change.replace('_', ' ')} by {v.author}
          </option>
        ))}
      </select>
    </label>
  );
  const show = (x: unknown) => (x == null ? '–' : typeof x === 'string' ? x : JSON.stringify(x));
  return (
    <div class="column">
      <div class="bar">
        {pick('a', 'From', a, true)}
        {pick('b', 'to', b, false)}
        <span class="grow" />
        <Copy command={`klieg policy diff ${shell(name)} ${a} ${b}`} />
      </div>
      {problem && <Trouble e={problem} />}
      {data && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Differences">
          {data.rules.length > 0 && (
            <table class="data" aria-label="Rules that differ">
              <thead>
                <tr>
                  <th>
                    <span class="sr">change</span>
                  </th>
                  <th>rule</th>
                  <th>field</th>
                  <th>before</th>
                  <th>after</th>
                </tr>
              </thead>
              <tbody>
                {data.rules.flatMap((r) =>
                  (r.fields.length ? r.fields : [null]).map((f, i) => (
                    <tr key={r.name + i}>
                      <td class={`op ${r.op === '+' ? 'plus' : r.op === '-' ? 'minus' : ''}`}>{i ? '' : r.op}</td>
                      <td>{i ? '' : r.name}</td>
                      <td>{f?.field}</td>
                      <td class="wrap">
                        <code>{f && show(f.before)}</code>
                      </td>
                      <td class="wrap">
                        <code>{f && show(f.after)}</code>
                      </td>
                    </tr>
                  )),
                )}
              </tbody>
            </table>
          )}
          <Lines lines={data.lines as Line[]} />
        </div>
      )}
    </div>
  );
}
