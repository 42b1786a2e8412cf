// Who changed what, when and why, from what to what, and how it went. The filters are the address, so that what one looks at can be sent to somebody.
import { useState } from 'preact/hooks';
import { api, type AuditEntry, type Problem, type Revert } from '../api';
import { num, pct, shell } from '../format';
import { changes, notice, refreshToggles, steering, toggles } from '../live';
import { usePolled } from '../poll';
import { clock, type Instant } from '../time';
import { go, param, place, set } from '../url';
import { Copy, Empty, Link, Trouble, When } from '../parts/bits';
import { Modal, useTitle } from '../parts/chrome';

const FILTERS = ['object', 'who', 'what'] as const;

function range(): Record<string, string> {
  const { from, to, since } = place.value.params;
  return from ? { from, ...(to ? { to } : {}) } : since ? { since } : {};
}

const show = (key: string, v: unknown): string =>
  v === undefined || v === null
    ? '–'
    : key.endsWith('_unix_nano')
      ? clock(v as Instant).slice(0, 8)
      : Array.isArray(v)
        ? v.map((x) => (typeof x === 'object' ? (x.name ?? JSON.stringify(x)) : x)).join(', ')
        : String(v);
const label = (key: string) => (key === 'expires_unix_nano' ? 'until' : key.replace(/_/g, ' '));

/** Down to the single value: {a: {b: 1}} is "a.b" 1. */
const leaves = (o: object | null, path = ''): [string, unknown][] =>
  Object.entries(o ?? {}).flatMap(([k, v]) =>
    v && typeof v === 'object' && !Array.isArray(v) ? leaves(v, `${path}${k}.`) : [[path + k, v] as [string, unknown]],
  );
const less = (a: unknown[], b: unknown[]) => a.filter((x) => !b.some((y) => JSON.stringify(x) === JSON.stringify(y)));

/** What is different; of what is new, or gone, all of it. */
function Change({ e }: { e: Pick<AuditEntry, 'before' | 'after' | 'measured_percent' | 'limit_percent'> }) {
  const a = Object.fromEntries(leaves(e.before)),
    b = Object.fromEntries(leaves(e.after));
  const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((k) => k !== 'owner' && show(k, a[k]) !== show(k, b[k]));
  return (
    <>
      {keys.map((k) => (
        <span class="rule" key={k}>
          <span class="dim">{label(k)}</span>{' '}
          {Array.isArray(a[k]) && Array.isArray(b[k]) ? (
            <>
              {less(b[k], a[k]).map((x) => (
                <b key={`+${x}`}>+{show(k, [x])} </b>
              ))}
              {less(a[k], b[k]).map((x) => (
                <s key={`-${x}`}>−{show(k, [x])} </s>
              ))}
            </>
          ) : (
            <>
              {e.before && <s class={e.after ? '' : 'gone'}>{show(k, a[k])}</s>}
              {e.before && e.after && <span aria-label="becomes"> → </span>}
              {e.after && <b>{show(k, b[k])}</b>}
            </>
          )}
        </span>
      ))}
      {e.measured_percent !== undefined && (
        <small data-measured>
          measured {pct(e.measured_percent)} of CPU, limit {pct(e.limit_percent)}
        </small>
      )}
    </>
  );
}

function Thing({ of }: { of: string }) {
  const kind = of.slice(0, of.indexOf(':')),
    name = of.slice(of.indexOf(':') + 1);
  if (kind === 'policy')
    return (
      <Link page="policies" params={{ name, tab: 'history' }}>
        policy {name}
      </Link>
    );
  if (kind === 'process') return <Link page="processes">process {name}</Link>;
  if (kind === 'rule') return <>rule {name.replace(/^p:/, '')}</>;
  if (kind === 'toggle') return toggles.value.some((t) => t.id === name) ? <Link page="toggles">toggle {name}</Link> : <>toggle {name}</>;
  return <>{of.replace(':', ' ')}</>;
}

const MARKS: Record<string, string> = { done: '✓', partial: '◐', failed: '✗', refused: '⊘', pending: '…', interrupted: '‖' };

/** Undoes a change, as the server says that it can be undone: a change of its own, so it wants a reason. */
function Undo({ e, how, close }: { e: AuditEntry; how: Revert; close: () => void }) {
  const [reason, setReason] = useState(''),
    [busy, setBusy] = useState(false),
    [problem, setProblem] = useState<Problem | null>(null);
  const submit = async (ev: Event) => {
    ev.preventDefault();
    setBusy(true);
    try {
      const r = await api.revert(how, reason);
      notice.value = { text: `Undone: ${e.what.replace(/_/g, ' ')} ${e.object.replace(':', ' ')}.`, hint: r?.warning };
      steering.value++;
      refreshToggles();
      close();
    } catch (err) {
      setBusy(false);
      setProblem(err as Problem);
    }
  };
  return (
    <Modal title={`Undo: ${e.what.replace(/_/g, ' ')} ${e.object.replace(':', ' ')}?`} onClose={close}>
      <form class="sheet" onSubmit={submit}>
        <p>
          {how.text[0]!.toUpperCase() + how.text.slice(1)}.{' '}
          {how.method === 'PATCH' && <Change e={{ ...e, before: e.after, after: e.before }} />}
        </p>
        <label>
          Reason
          <input autofocus required placeholder="why, for those who read the log" value={reason} onInput={(ev) => setReason(ev.currentTarget.value)} />
        </label>
        {problem && <Trouble e={problem} />}
        <div class="row end">
          <Copy command={how.cli.replace('WHY', reason ? shell(reason) : 'WHY')} />
          <span class="grow" />
          <button type="button" onClick={close}>
            Cancel
          </button>
          <button class="primary" disabled={busy}>
            Revert
          </button>
        </div>
      </form>
    </Modal>
  );
}

function Row({ e, undo }: { e: AuditEntry; undo: (e: AuditEntry) => void }) {
  const all = (key: (typeof FILTERS)[number], what: string) => (
    <button class="link" title={`Only ${key} ${what}`} onClick={() => set({ [key]: what, before: '' })}>
      {key === 'what' ? what.replace(/_/g, ' ') : what}
    </button>
  );
  const last = e.evidence;
  return (
    <tr data-entry={e.id}>
      <td>
        <When t={e.at_unix_nano} />
      </td>
      <td>{all('who', e.who)}</td>
      <td>{all('what', e.what)}</td>
      <td>
        <Thing of={e.object} />{' '}
        {param('object') !== e.object && (
          <button class="copy" aria-label={`Only ${e.object}`} onClick={() => set({ object: e.object, before: '' })}>
            only
          </button>
        )}
      </td>
      <td class="wrap">
        <Change e={e} />
      </td>
      <td class="wrap">
        {e.why}
        {last && (
          <small data-evidence>
            {' '}
            {last.verdict}
            {last.why && !last.why.startsWith(e.why) && `: ${last.why}`}
          </small>
        )}
      </td>
      <td class="wrap">
        <span class={{ done: 'good', partial: 'warn', pending: 'dim' }[e.outcome] ?? 'err'}>
          {MARKS[e.outcome]} {e.outcome}
        </span>
        {e.detail && (
          <small>
            {' '}
            {e.code && `[${e.code}] `}
            {e.detail}
          </small>
        )}
      </td>
      <td class="act">
        {e.revert && (
          <button title={e.revert.text} aria-label={`Revert ${e.what} of ${e.object}`} onClick={() => undo(e)}>
            Revert…
          </button>
        )}
      </td>
    </tr>
  );
}

export function Audit() {
  useTitle('Audit');
  const [undoing, undo] = useState<AuditEntry | null>(null);
  const query = Object.fromEntries([...FILTERS, 'before'].map((k) => [k, param(k)]));
  const asked = { ...range(), ...query, limit: '100' };
  const { data, problem } = usePolled(() => api.audit(asked), JSON.stringify([asked, steering.value, changes.value]), 3000);
  const filtered = FILTERS.some((k) => param(k)) || 'from' in asked || 'since' in asked;
  const flags = FILTERS.map((k) => (param(k) ? ` --${k} ${shell(param(k))}` : '')).join('') + Object.entries(range()).map(([k, v]) => ` --${k} ${v}`).join('');
  const shown = data?.entries.length ?? 0;
  return (
    <section>
      <div class="bar">
        <h1>Audit</h1>
        <form class="filters" onSubmit={(e) => e.preventDefault()}>
          {FILTERS.map((k, i) => (
            <label key={k}>
              {k}{' '}
              <input
                type="search"
                data-main-field={i ? undefined : ''}
                value={param(k)}
                placeholder={{ object: 't-x1y2z3, policy:*', who: 'ann, system:*', what: 'on, apply, panic' }[k]}
                onInput={(e) => set({ [k]: e.currentTarget.value.trim(), before: '' }, 'typing')}
              />
            </label>
          ))}
        </form>
        <span class="grow" />
        <Copy command={`klieg audit${flags}`} />
      </div>
      {problem && <Trouble e={problem} />}
      {data && !shown && (
        <Empty
          title={data.total ? 'No change that matches' : 'Nothing has been changed yet'}
          why={
            data.total
              ? `There are ${num(data.total - data.let_go)} entries, but none of them ${filtered ? 'fits these filters' : 'is on this page'}.`
              : 'Whatever somebody switches, applies or takes back is written down here, with who and why; also what the system does by itself.'
          }
          command="klieg audit"
          action={
            data.total
              ? { label: 'Show all', run: () => set({ object: '', who: '', what: '', before: '', from: '', to: '', since: '' }) }
              : { label: 'Go to Toggles', run: () => go('toggles') }
          }
        />
      )}
      {data && shown > 0 && (
        <>
          <div class="scroll" tabIndex={0} role="region" aria-label="Audit log">
            <table class="data" aria-label="Changes">
              <thead>
                <tr>
                  <th>when</th>
                  <th>who</th>
                  <th>what</th>
                  <th>object</th>
                  <th>before → after</th>
                  <th>why</th>
                  <th>outcome</th>
                  <th>
                    <span class="sr">undo</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {data.entries.map((e) => (
                  <Row key={e.id} e={e} undo={undo} />
                ))}
              </tbody>
            </table>
          </div>
          <p class="row end">
            <span class="dim">
              {num(shown)} of {num(data.matched)}
              {data.let_go > 0 && `; ${num(data.let_go)} older entries were let go`}
            </span>
            {param('before') && <button onClick={() => set({ before: '' })}>Newest</button>}
            {data.next && <button onClick={() => set({ before: String(data.next) })}>Older</button>}
          </p>
        </>
      )}
      {undoing?.revert && <Undo e={undoing} how={undoing.revert} close={() => undo(null)} />}
    </section>
  );
}
