// Attaching to a running program: which one, with which libraries, and what was found; leaving it again, which can be taken back.
import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { api, type Candidate, type Detached, type Problem, type Process } from '../api';
import { changes, fail, notice } from '../live';
import { dur, num, shell } from '../format';
import { go } from '../url';
import { Copy, Trouble } from './bits';
import { Modal } from './chrome';

interface Draft {
  target: string; // a pid or a name; also what the list is searched for
  libraries: string;
  roots: string;
  plugins: string;
}
const draft = signal<Draft | null>(null);
const available = signal<string[]>([]);
const list = signal<{ rows: Candidate[]; problem?: Problem } | null>(null);
const state = signal<{ busy: boolean; problem?: Problem }>({ busy: false });

export function openAttach(from: Partial<Draft> = {}) {
  draft.value = { target: '', libraries: '', roots: '', plugins: '', ...from };
  state.value = { busy: false };
  list.value = null;
}

const words = (s: string) => s.split(/[\s,]+/).filter(Boolean);
const body = (d: Draft) => ({
  ...(/^\d+$/.test(d.target.trim()) ? { pid: Number(d.target) } : { name: d.target.trim() }),
  ...(d.libraries.trim() ? { libraries: words(d.libraries) } : {}),
  ...(d.roots.trim() ? { roots: words(d.roots) } : {}),
  ...(d.plugins.trim() ? { plugins: words(d.plugins) } : {}),
});
const command = (d: Draft) =>
  [
    'klieg attach',
    shell(d.target.trim() || 'PID'),
    ...words(d.libraries).map((l) => `--lib ${shell(l)}`),
    ...words(d.roots).map((r) => `--root ${shell(r)}`),
    ...words(d.plugins).map((p) => `--plugin ${shell(p)}`),
  ].join(' ');

const called = (c: Candidate) => c.comm || c.name;
const searched = (c: Candidate) => `${called(c)} ${c.name} ${c.cmdline ?? ''} ${c.user ?? ''}`.toLowerCase();
function fitting(rows: Candidate[], target: string): Candidate[] {
  const t = target.trim().toLowerCase();
  return rows
    .filter((c) => !c.attached && (!t || String(c.pid).startsWith(t) || searched(c).includes(t)))
    .sort((a, b) => Number(b.attachable) - Number(a.attachable) || (b.cpu_seconds ?? 0) - (a.cpu_seconds ?? 0))
    .slice(0, 100);
}

export async function detach(p: Process) {
  try {
    const d: Detached = await api.detach(p.pid);
    changes.value++;
    notice.value = {
      text:
        `Detached from ${p.service} (${p.pid}): ${num(d.restored)} function${d.restored === 1 ? '' : 's'} put back, ` +
        `paused for ${dur(d.pause_nano)}.`,
      hint: d.text_identical
        ? 'Its text is what it was before.'
        : 'Its text is not what it was when Klieg came: something else changed it.',
      bad: !d.text_identical,
      action: { label: 'Attach again', run: () => attach({ pid: p.pid }).catch(fail) },
    };
  } catch (e) {
    fail(e as Problem);
  }
}

/** Loads an instrumentor into a process that is attached to already. */
export async function instrument(p: Process, plugin: string) {
  try {
    const { attachments } = await api.attach({ pid: p.pid, ...(p.host ? { host: p.host } : {}), plugins: [plugin] });
    changes.value++;
    const a = attachments[0],
      got = (a.plugins ?? []).find((x) => x.name === plugin || plugin.endsWith(`/${x.name}.so`));
    notice.value = {
      text: got?.sites ? `${got.name} knows ${num(got.sites)} function${got.sites === 1 ? '' : 's'} of ${p.service} (${p.pid}).` : `${plugin} found nothing to do in ${p.service} (${p.pid}).`,
      hint: (a.notes ?? []).join('; ') || undefined,
      action: got?.sites ? { label: 'Show them', run: () => go('toggles', { sel: `{ resource.service.name = "${p.service}" && .klieg.plugin = true && instrumentation:name = "${got.name}" }` }) } : undefined,
    };
  } catch (e) {
    fail(e as Problem);
  }
}

async function attach(what: Record<string, unknown>) {
  const { attachments: all, refused } = await api.attach(what);
  changes.value++;
  const a = all[0];
  notice.value = {
    text:
      `Attached to ${a.service} (${a.pid}): ${num(a.functions)} functions, ${num(a.hookable)} of them can be intercepted` +
      (a.pause_nano ? `, paused for ${dur(a.pause_nano)}.` : '.'),
    hint: [...(a.notes ?? []), ...refused.map((r) => r.detail)].join('; ') || undefined,
    action: { label: 'Detach', run: () => api.detach(a.pid).then(() => void changes.value++, fail) },
  };
  return a;
}

export function AttachSheet() {
  const d = draft.value;
  useEffect(() => {
    if (!d || list.value) return;
    let gone = false;
    api.plugins().then(
      (r) => gone || (available.value = [...new Set(r.plugins.map((p) => p.name))].sort()),
      () => {},
    );
    api.candidates().then(
      (r) => gone || (list.value = { rows: r.candidates }),
      (problem) => gone || (list.value = { rows: [], problem }),
    );
    return () => {
      gone = true;
    };
  }, [!d]);
  if (!d) return null;
  const close = () => {
    draft.value = null;
  };
  const field = (k: keyof Draft) => ({
    value: d[k],
    onInput: (e: Event) => {
      draft.value = { ...d, [k]: (e.currentTarget as HTMLInputElement).value };
      state.value = { busy: false };
    },
  });
  const run = async (e: Event) => {
    e.preventDefault();
    if (!d.target.trim() || state.value.busy) return;
    state.value = { busy: true };
    try {
      const a = await attach(body(d));
      close();
      go('toggles', { sel: `${a.service}:*` });
    } catch (err) {
      state.value = { busy: false, problem: err as Problem };
    }
  };
  const rows = fitting(list.value?.rows ?? [], d.target);
  const { busy, problem } = state.value;
  return (
    <Modal title="Attach to a running program" onClose={close} wide>
      <form class="sheet" onSubmit={run} noValidate>
        <label>
          Process: its pid, its name, or what to look for
          <input autofocus spellcheck={false} placeholder="4711 or redis-server" {...field('target')} />
        </label>
        <div class="scroll short" tabIndex={0} role="region" aria-label="Processes of this host">
          <table class="data">
            <thead>
              <tr>
                <th class="n">pid</th>
                <th>name</th>
                <th>user</th>
                <th class="n">CPU time</th>
                <th>can be attached to</th>
                <th>command</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((c) => (
                <tr key={c.pid}>
                  <td class="n">{c.pid}</td>
                  <td>
                    <button
                      type="button"
                      class="link"
                      aria-label={`Choose ${called(c)} ${c.pid}`}
                      onClick={() => {
                        draft.value = { ...d, target: String(c.pid) };
                        state.value = { busy: false };
                      }}
                    >
                      {called(c)}
                    </button>
                  </td>
                  <td>{c.user ?? ''}</td>
                  <td class="n">{c.cpu_seconds == null ? '' : dur(c.cpu_seconds * 1e9)}</td>
                  <td class="why" title={c.why || undefined}>
                    {c.attachable ? <span class="good">✓ yes</span> : <span>✗ {c.why}</span>}
                  </td>
                  <td title={c.cmdline}>
                    <small>{c.cmdline ?? ''}</small>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        <p class="dim" aria-live="polite">
          {!list.value
            ? 'Looking for processes…'
            : list.value.problem
              ? 'The processes of the host cannot be listed; give the pid.'
              : `showing ${rows.length} of ${list.value.rows.length} processes`}
        </p>
        <div class="row">
          <label>
            Also functions of libraries (optional)
            <input spellcheck={false} placeholder="libpq.so* libssl.so*" {...field('libraries')} />
          </label>
          <label>
            Functions that begin a request (optional)
            <input spellcheck={false} placeholder="processCommand" {...field('roots')} />
          </label>
          <label>
            Instrumentors (optional)
            <input spellcheck={false} placeholder="redis-server io" {...field('plugins')} />
          </label>
        </div>
        {available.value.length > 0 && (
          <div class="plugs" role="group" aria-label="Instrumentors that are installed">
            <span class="dim">Instrumentors:</span>
            {available.value.map((name) => {
              const on = words(d.plugins).includes(name);
              return (
                <button
                  key={name}
                  type="button"
                  aria-pressed={on}
                  onClick={() => {
                    const rest = words(d.plugins).filter((x) => x !== name);
                    draft.value = { ...d, plugins: (on ? rest : [...rest, name]).join(' ') };
                  }}
                >
                  {name}
                </button>
              );
            })}
          </div>
        )}
        <p>
          <small>
            The program is paused for a moment while libklieg is loaded. Its functions become sites, all off; nothing of it is changed
            until one is switched on, and detaching puts back every byte.
          </small>
        </p>
        {problem && <Trouble e={problem} />}
        <div class="row end">
          <Copy command={command(d)} />
          <span class="grow" />
          <button type="button" onClick={close}>
            Cancel
          </button>
          <button class="primary" disabled={!d.target.trim() || busy}>
            {busy ? 'Attaching…' : 'Attach'}
          </button>
        </div>
      </form>
    </Modal>
  );
}
