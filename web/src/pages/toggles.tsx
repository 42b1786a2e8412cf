// What is on, and everything that could be: a tree of service, component and site, with what each does right now.
import { useMemo, useState } from 'preact/hooks';
import { api, type Problem, type Site, type SiteStats, type Toggle } from '../api';
import { dur, num, pct, shell } from '../format';
import { changes, fail, now, refreshToggles, steering, toggles } from '../live';
import { usePolled } from '../poll';
import { toMs } from '../time';
import { param, set } from '../url';
import { Copy, Dot, Empty, Trouble, VirtualRows } from '../parts/bits';
import { openAttach } from '../parts/attach';
import { openSheet } from '../parts/sheet';
import { Modal, useTitle } from '../parts/chrome';

type Line = { key: string; depth: 0 | 1 | 2; label: string; service: string; sites: Site[]; site?: Site; open: boolean };

export function Toggles() {
  useTitle('Toggles');
  const sel = param('sel');
  const [open, setOpen] = useState<Set<string> | null>(null);
  const on = toggles.value.map((t) => t.id + t.level).join();
  const { data, problem } = usePolled(() => api.sites(sel, 100000), [sel, changes.value, on].join('\0'), 0);
  const { data: hits } = usePolled(async () => (on ? (await api.stats(sel)).sites : []), [sel, on].join('\0'), on ? 1000 : 0);
  // What the governor took back, and which toggles asked for it.
  const { data: held } = usePolled(
    async () => {
      const o = await api.overhead();
      const all = o.processes.flatMap((p) => (p.shed ?? []).map((x) => ({ ...x, p })));
      const by = new Map<string, (typeof all)[number][]>();
      if (all.length)
        for (const t of toggles.value) {
          const mine = new Set((await api.sites(t.selector, 10000)).sites.map((x) => x.service + x.id)),
            hit = all.filter((x) => mine.has(x.p.service + x.site));
          if (hit.length) by.set(t.id, hit);
        }
      return { by, limit: o.budget_percent };
    },
    [on, steering.value].join('\0'),
    on ? 1000 : 0,
  );
  const [reach, setReach] = useState<Toggle | null>(null);
  const sites = data?.sites,
    matched = data?.matched ?? 0;
  const stats = useMemo(() => new Map<string, SiteStats>((hits ?? []).map((s) => [s.service + s.id, s])), [hits]);
  const lines = useMemo(() => {
    const out: Line[] = [],
      tree = new Map<string, Map<string, Site[]>>();
    for (const s of sites ?? []) {
      if (s.kind === 'end') continue;
      const t = tree.get(s.service) ?? tree.set(s.service, new Map()).get(s.service)!,
        c = s.component || s.file.split('/').pop() || '?';
      (t.get(c) ?? t.set(c, []).get(c)!).push(s);
    }
    const all = (sites?.length ?? 0) <= 400;
    for (const [service, comps] of [...tree].sort(([a], [b]) => a.localeCompare(b))) {
      const k = service,
        isOpen = open ? open.has(k) : true;
      out.push({ key: k, depth: 0, label: service, service, sites: [...comps.values()].flat(), open: isOpen });
      if (isOpen)
        for (const [c, list] of [...comps].sort(([a], [b]) => a.localeCompare(b))) {
          const k2 = `${service}\0${c}`,
            o2 = open ? open.has(k2) : all;
          out.push({ key: k2, depth: 1, label: c, service, sites: list, open: o2 });
          if (o2)
            for (const s of list.sort((a, b) => a.name.localeCompare(b.name)))
              out.push({ key: `${k2}\0${s.id}`, depth: 2, label: s.name, service, sites: [s], site: s, open: false });
        }
    }
    return out;
  }, [sites, open]);
  const fold = (key: string) => {
    const n = new Set(open ?? lines.filter((l) => l.open).map((l) => l.key));
    if (!n.delete(key)) n.add(key);
    setOpen(n);
  };
  const selector = (l: Line) =>
    l.depth === 2
      ? `${l.service}:${l.label}`
      : l.depth === 1
        ? `{ resource.service.name = ${JSON.stringify(l.service)} && .component = ${JSON.stringify(l.sites[0].component)} }`
        : `${l.service}:*`;
  const sum = (l: Line, f: (s: SiteStats) => number | undefined) =>
    l.sites.reduce((t, s) => t + (f(stats.get(s.service + s.id) ?? ({} as SiteStats)) ?? 0), 0);
  return (
    <section class="column">
      <div class="bar">
        <h1>Toggles</h1>
        <span class="grow" />
        <button class="primary" onClick={() => openSheet({ selector: sel })}>
          Switch on…
        </button>
      </div>
      {toggles.value.length > 0 && (
        <div class="scroll third" tabIndex={0} role="region" aria-label="Toggles">
          <table class="data" aria-label="Active toggles">
            <thead>
              <tr>
                <th>what</th>
                <th>level</th>
                <th class="n">keep</th>
                <th class="n">sites</th>
                <th>owner, reason</th>
                <th class="n">predicted</th>
                <th class="n">measured</th>
                <th class="n">left</th>
                <th>
                  <span class="sr">actions</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {toggles.value.map((t) => (
                <tr key={t.id}>
                  <td>
                    <code>{t.selector}</code>
                    {t.where && (
                      <>
                        {' '}
                        where <code>{t.where}</code>
                      </>
                    )}
                    {t.hosts?.length ? <small> on {t.hosts.join(', ')}</small> : ''}
                    {t.share != null && t.share < 1 ? <small> in {pct(t.share * 100)} of processes</small> : ''}
                  </td>
                  <td>
                    <span class={`level ${t.level}`}>{t.level}</span>
                    {held?.by.get(t.id)?.[0] && (
                      <small class="over" data-tripped>
                        {' '}
                        ⚠ guard: {held.by.get(t.id)![0].to}, measured {pct(held.by.get(t.id)![0].p.measured_percent)} of{' '}
                        {pct(held.by.get(t.id)![0].p.limit_percent || held.limit)} limit
                      </small>
                    )}
                  </td>
                  <td class="n">
                    {pct(t.keep * 100)}
                    {t.rate ? <small> ≤ {num(t.rate)}/s</small> : ''}
                  </td>
                  <td class="n">
                    {num(t.sites)} <small>in {num(t.processes)}</small>
                  </td>
                  <td>
                    {t.owner}
                    {t.reason && <small>, {t.reason}</small>}
                  </td>
                  <td class="n">
                    {t.predicted?.known
                      ? `${num(t.predicted.spans_per_s ?? t.predicted.calls_per_s)}/s, ${pct(t.predicted.cpu_percent)}`
                      : 'unknown'}
                  </td>
                  <td class="n">
                    {t.measured?.known === false || !t.measured
                      ? '–'
                      : `${num(t.measured.spans_per_s ?? t.measured.calls_per_s)}/s, ${pct(t.measured.cpu_percent)}`}
                  </td>
                  <td class="n" data-left>
                    {dur(Math.max(0, toMs(t.expires_unix_nano) - now.value) * 1e6).replace(/\.\d+/, '')}
                  </td>
                  <td class="act">
                    <button onClick={() => setReach(t)}>Reach…</button>
                    <button onClick={() => api.extend(t.id, '5m').then(refreshToggles, fail)}>5 m from now</button>
                    <button onClick={() => api.off(t.id).then(refreshToggles, fail)}>Off</button>
                    <Copy command={`klieg off ${t.id}`} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {reach && <Reach t={reach} close={() => setReach(null)} />}
      <form class="bar" onSubmit={(e) => e.preventDefault()}>
        <h2>Sites</h2>
        <input
          data-main-field
          aria-label="Selector"
          spellcheck={false}
          placeholder="glob, service:glob or { ... }"
          value={sel}
          onChange={(e) => set({ sel: e.currentTarget.value })}
        />
        {sites && (
          <span class="dim">
            {num(matched)} site{matched === 1 ? '' : 's'}
          </span>
        )}
        <Copy command={`klieg ls ${shell(sel || '*')}`} />
      </form>
      {problem && <Trouble e={problem} />}
      {sites && !sites.length && !problem ? (
        <Empty
          title="No instrumented process yet"
          why={
            'Programs that are linked with libklieg, or started with klieg run, appear here by themselves; ' +
            'to any other running program you can attach.'
          }
          command="klieg attach PID"
          action={{ label: 'Attach…', run: () => openAttach() }}
        />
      ) : (
        <>
          <div class="vrow titles" aria-hidden="true">
            <span class="tname">service · component · site</span>
            <span>level</span>
            <span class="n">calls/s</span>
            <span class="n">errors/s</span>
            <span class="n">p50</span>
            <span class="n">p99</span>
            <span class="n">cost</span>
            <span />
          </div>
          <VirtualRows
            class="tree"
            label="Sites"
            rows={lines}
            height={28}
            render={(l) => {
              const st = l.site && stats.get(l.site.service + l.site.id),
                on = l.sites.filter((s) => s.level !== 'off').length;
              return (
                <div class={`vrow d${l.depth}`} key={l.key}>
                  <span class="tname">
                    {l.depth < 2 ? (
                      <button
                        class="fold"
                        aria-expanded={l.open}
                        aria-label={`${l.open ? 'Close' : 'Open'} ${l.label}`}
                        onClick={() => fold(l.key)}
                      >
                        {l.open ? '▾' : '▸'}
                      </button>
                    ) : (
                      <span class="fold" />
                    )}
                    {l.depth === 0 && <Dot of={l.service} />}
                    {l.label}
                    {l.depth < 2 && <small> {l.sites.length}</small>}
                    {l.site && (
                      <small title={l.site.file ? `${l.site.file}:${l.site.line}` : undefined}>
                        {' '}
                        {l.site.kind === 'span' ? '' : l.site.kind}{' '}
                        {l.site.kind === 'function'
                          ? l.site.hookable === false
                            ? `✗ not hookable: ${l.site.why}`
                            : `${num(l.site.size)} bytes`
                          : l.site.function || `${l.site.file.split('/').pop()}:${l.site.line}`}
                      </small>
                    )}
                  </span>
                  <span>
                    {l.site ? (
                      <span class={`level ${l.site.level}`}>{l.site.level}</span>
                    ) : on ? (
                      <span class="level span">{on} on</span>
                    ) : (
                      ''
                    )}
                  </span>
                  <span class="n">{sum(l, (s) => s.calls_per_s) ? num(sum(l, (s) => s.calls_per_s)) : ''}</span>
                  <span class="n err">{sum(l, (s) => s.errors_per_s) ? num(sum(l, (s) => s.errors_per_s)) : ''}</span>
                  <span class="n">{st ? dur(st.p50_nano) : ''}</span>
                  <span class="n">{st ? dur(st.p99_nano) : ''}</span>
                  <span class="n">{st?.overhead_percent != null ? pct(st.overhead_percent) : ''}</span>
                  <span class="act">
                    {l.site?.kind === 'function' && l.site.hookable !== false && (
                      <button
                        onClick={() => openSheet({ selector: selector(l), level: 'deep', ttl: '1m' })}
                        aria-label={`Illuminate ${l.label}`}
                        title="the function and what it calls, as a live call graph"
                      >
                        illuminate…
                      </button>
                    )}
                    <button
                      onClick={() => openSheet({ selector: selector(l) })}
                      aria-label={`Switch on ${l.label}`}
                      disabled={l.site?.hookable === false}
                    >
                      on…
                    </button>
                  </span>
                </div>
              );
            }}
          />
        </>
      )}
    </section>
  );
}

/** Widen or narrow what a toggle reaches, in one step: the server changes it in place, spans in flight are not cut. */
function Reach({ t, close }: { t: Toggle; close: () => void }) {
  const [selector, setSelector] = useState(t.selector),
    [where, setWhere] = useState(t.where ?? ''),
    [share, setShare] = useState(String(Number(((t.share ?? 1) * 100).toPrecision(6)))),
    [hosts, setHosts] = useState((t.hosts ?? []).join(', ')),
    [rate, setRate] = useState(t.rate ? String(t.rate) : ''),
    [problem, setProblem] = useState<Problem | null>(null);
  const list = hosts.split(/[\s,]+/).filter(Boolean),
    part = Number(share) / 100;
  const to: Record<string, unknown> = {
    ...(selector.trim() !== t.selector ? { selector: selector.trim() } : {}),
    ...(where.trim() !== (t.where ?? '') ? { where: where.trim() || null } : {}),
    ...(Math.abs(part - (t.share ?? 1)) > 1e-9 ? { share: part } : {}),
    ...(list.join() !== (t.hosts ?? []).join() ? { hosts: list } : {}),
    ...(rate !== (t.rate ? String(t.rate) : '') ? { rate: rate ? Number(rate) : null } : {}),
  };
  const wider = part > (t.share ?? 1) || (!list.length && !!t.hosts?.length) || ('where' in to && !where.trim());
  const submit = async (e: Event) => {
    e.preventDefault();
    try {
      await api.change(t.id, to);
      await refreshToggles();
      close();
    } catch (err) {
      setProblem(err as Problem);
    }
  };
  const command = [
    `klieg ${wider ? 'widen' : 'narrow'} ${t.id}`,
    'selector' in to ? shell(selector.trim()) : '',
    'where' in to ? `--where ${shell(where.trim() || '*')}` : '',
    'share' in to ? `--share ${Number(share)}%` : '',
    'hosts' in to ? (list.length ? list : ['*']).map((h) => `--host ${shell(h)}`).join(' ') : '',
    'rate' in to && rate ? `--rate ${rate}/s` : '',
  ]
    .filter(Boolean)
    .join(' ');
  return (
    <Modal title="Widen or narrow" onClose={close}>
      <form class="sheet" onSubmit={submit} noValidate>
        <label>
          Selector
          <input autofocus spellcheck={false} value={selector} onInput={(e) => setSelector(e.currentTarget.value)} />
        </label>
        <label>
          Keep only spans where
          <input spellcheck={false} value={where} onInput={(e) => setWhere(e.currentTarget.value)} />
        </label>
        <div class="row">
          <label>
            Share of processes, %
            <input type="number" min="0.01" max="100" step="any" value={share} onInput={(e) => setShare(e.currentTarget.value)} />
          </label>
          <label>
            Hosts
            <input spellcheck={false} placeholder="all" value={hosts} onInput={(e) => setHosts(e.currentTarget.value)} />
          </label>
          <label>
            At most spans/s
            <input type="number" step="any" placeholder="no limit" value={rate} onInput={(e) => setRate(e.currentTarget.value)} />
          </label>
        </div>
        {problem && <Trouble e={problem} />}
        <div class="row end">
          <Copy command={command} />
          <span class="grow" />
          <button type="button" onClick={close}>
            Cancel
          </button>
          <button class="primary" disabled={!Object.keys(to).length || !(part > 0 && part <= 1)}>
            {wider ? 'Widen' : 'Narrow'}
          </button>
        </div>
      </form>
    </Modal>
  );
}
