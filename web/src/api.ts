// The HTTP API of docs/api.md. Every call either returns its JSON or throws a Problem that a person can read.
import { parseExact, type Instant } from './time';

export interface Cost {
  known: boolean;
  calls_per_s?: number;
  spans_per_s?: number;
  bytes_per_s?: number;
  cpu_percent?: number;
  basis?: string;
}
export interface Toggle {
  id: string;
  selector: string;
  level: string;
  keep: number;
  scope?: string;
  where?: string | null;
  expires_unix_nano: Instant;
  owner: string;
  reason: string;
  state?: string;
  depth?: number;
  sites?: number;
  instances?: number;
  processes?: number;
  measured?: Cost;
  predicted?: Cost;
  hosts?: string[];
  share?: number;
  rate?: number | null;
  observed?: string[]; // of level deep: what was seen to be called through pointers
}
export interface Site {
  id: string;
  name: string;
  component: string;
  kind: string;
  service: string;
  file: string;
  line: number;
  function?: string;
  level: string;
  instances: number;
  attributes?: { key: string; type: string; sensitive: boolean }[];
  // of functions of attached programs
  hookable?: boolean;
  why?: string;
  size?: number;
  source?: string;
}
export interface SiteStats {
  id: string;
  name: string;
  service: string;
  level: string;
  calls: number;
  errors: number;
  calls_per_s: number;
  errors_per_s?: number;
  p50_nano: number;
  p95_nano: number;
  p99_nano: number;
  mean_nano: number;
  cpu_percent?: number;
  overhead_percent?: number;
}
export interface InFlight {
  pid: number;
  service: string;
  name: string;
  start_unix_nano: Instant;
  elapsed_nano: number;
  trace_id?: string;
  span_id?: string;
  depth?: number;
}
export interface Process {
  pid: number;
  host?: string;
  service: string;
  exe: string;
  state: string;
  threads: number;
  rings: number;
  modules: number;
  sites: number;
  on: number;
  made: number;
  passed: number;
  open: number;
  dropped: Record<string, number>;
  overhead_percent: number;
  patch?: string;
  lease?: boolean;
  user?: string;
  cmdline?: string;
  started_unix_nano?: Instant;
  last_in_flight?: InFlight[];
  attached?: boolean; // false: was attached to, libklieg is parked
  longest_pause_nano?: number;
  plugins?: string[]; // the instrumentors that know functions of it
}
export interface Attachment {
  pid: number;
  service: string;
  already: boolean;
  functions: number;
  hookable: number;
  modules: { path: string; functions: number; hookable: number; source: string }[];
  pause_nano: number;
  notes: string[];
  plugins?: { name: string; version: string; fits: string; sites: number }[];
}
export interface Detached {
  pid: number;
  service?: string;
  restored: number;
  text_identical: boolean;
  pause_nano: number;
}
export interface Candidate {
  pid: number;
  name: string;
  comm?: string;
  user?: string;
  cmdline?: string;
  cpu_seconds?: number;
  attached?: boolean;
  attachable: boolean;
  why?: string;
}
export interface CallOther {
  callees: number;
  calls: number;
  total_nano: number;
}
export interface CallNode {
  service: string;
  name: string;
  calls: number;
  errors: number;
  total_nano: number;
  self_nano: number;
  p50_nano: number;
  p99_nano: number;
  max_nano: number;
  share: number;
  example_trace_id: string;
  other: CallOther;
  children: CallNode[];
}
export interface CallGraph {
  roots: CallNode[];
  other: CallOther;
  total_nano: number;
  nodes: number;
  cut: number;
  bounded: boolean;
  traces: number;
  spans: number;
  orphans: number;
  kept: number;
}
export interface Span {
  trace_id: string;
  span_id: string;
  parent_span_id: string;
  service: string;
  name: string;
  kind: string;
  start_unix_nano: Instant;
  duration_nano: number;
  status: string;
  status_message?: string;
  attributes: Record<string, unknown>;
  adjusted_count?: number;
  resource?: Record<string, unknown>;
  scope?: string;
  events?: { name: string; time_unix_nano: Instant; attributes: Record<string, unknown> }[];
  links?: { trace_id: string; span_id: string }[];
}
export interface Plan {
  sites: number;
  instances: number;
  processes: number;
  services?: string[];
  sample?: Site[];
  predicted?: Cost;
  warning?: string;
  pause_nano?: number;
}
export interface HotRow {
  service: string;
  name: string;
  calls: number;
  errors: number;
  total_nano: number;
  self_nano: number;
  self_share: number;
  mean_nano: number;
  p50_nano: number;
  p99_nano: number;
  max_nano: number;
  spans_per_trace: number;
  findings: { kind: string; text: string }[];
  example_trace_id: string;
}
export interface Exemplar {
  column: number;
  row: number;
  trace_id: string;
  duration_nano: number;
  errors: number;
}
export interface Heat {
  from: Instant;
  to: Instant;
  step_nano: number;
  bounds: number[];
  columns: number[][];
  max: number;
  matched: number;
  exemplars?: Exemplar[];
}
export interface Status {
  version: string;
  counts: { processes: number; sites: number; on: number; toggles: number; policies?: number };
  panic?: { at: string; owner: string; reason: string } | null; // at: absolute nanoseconds, as text
  next_expiry_unix_nano: Instant | null;
  overhead_percent: number;
  budget_percent: number;
  spans_per_s: number;
  account: { made: number; stored: number; dropped: Record<string, number> };
}
export interface Check {
  name: string;
  ok: boolean;
  value?: unknown;
  limit?: unknown;
  what: string;
  next?: string;
}

export interface Diagnostic {
  severity: string;
  line: number;
  column: number;
  end_column: number;
  code: string;
  message: string;
  hint: string;
}
export interface PolicyRule {
  name: string;
  match: string;
  level: string;
  keep: number;
  rate?: number;
  sites: number;
  processes: number;
  measured?: Cost;
  predicted?: Cost | null;
  raised?: string;
  expires_unix_nano?: Instant;
}
export interface Vitals {
  overhead_percent: number;
  p99_nano: number | null;
  error_share: number | null;
  processes: number;
  calls: number;
  errors?: number;
  p50_nano?: number | null;
  past?: boolean;
}
export interface Evidence {
  at: string;
  canary?: Vitals | null;
  rest?: Vitals | null;
  verdict: string;
  why: string;
}
export interface Rollout {
  name: string;
  version: number;
  base: number;
  state: string;
  step: number;
  steps: { share?: number; processes?: number; state: string; started?: string; until?: string; why?: string; not_compared?: string }[];
  soak_nano: number;
  evidence: Evidence[];
  why?: string;
  canary?: { host: string; pid: number }[];
}
export interface Policy {
  name: string;
  version: number;
  in_force: number;
  state: string;
  author: string;
  reason: string;
  updated_unix_nano: Instant;
  why?: string;
  rules: PolicyRule[];
  limits: Record<string, unknown>[];
  rollout?: Rollout;
}
export interface PolicyText {
  name: string;
  version: number;
  text: string;
  state: string;
  change: string;
  author: string;
  reason: string;
  created_unix_nano: Instant;
}
export interface PolicyVersion {
  version: number;
  change: string;
  author: string;
  reason: string;
  created_unix_nano: Instant;
  text: string;
  before: number;
  evidence?: Evidence[];
}
export interface PolicyPlan {
  ok: boolean;
  diagnostics: Diagnostic[];
  policy: { name: string };
  changes: { op: string; host?: string; pid: number; service: string; site: string; name: string; from: string; to: string }[];
  changed: number;
  sites: number;
  processes: number;
  predicted: Cost;
  predicted_percent: number;
  bytes_per_day: number;
  rules: {
    name: string;
    op: string;
    sites: number;
    processes: number;
    predicted?: Cost | null;
    replay?: { traces: number; kept: number; bytes_per_day: number; window_nano: number; partial?: boolean };
  }[];
  fits: boolean | null; // null: what it costs is not known
  over_on?: string;
  budget_percent: number;
  warnings: string[];
  suggestion?: { keep: number | null; text: string; predicted_percent: number };
  unchanged?: boolean;
}
export interface PolicyChanged {
  version: number;
  state: string;
  ack_nano: number | null;
  rollout?: Rollout;
  warning?: string;
}
export interface PolicyDiff {
  from: number;
  to: number;
  lines: { op: string; text: string }[];
  rules: { op: string; name: string; fields: { field: string; before: unknown; after: unknown }[] }[];
}
export interface Firing {
  id: string;
  at_unix_nano: Instant;
  host: string;
  policy: string;
  rule: string;
  rule_id: string;
  service: string;
  cause: { query: string; text?: string; value: number; threshold: number; over_nano: number };
  from: string;
  to: string;
  state: string;
  owner: string;
  match: string;
  ended_unix_nano?: Instant;
  traces: string[];
}
export interface Alert {
  id: string;
  severity: string;
  title: string;
  text: string;
  since_unix_nano: Instant;
  value: unknown;
  limit: unknown;
  link: string;
  cli: string;
}
/** One change: docs/api.md says what there is. */
export interface AuditEntry {
  id: string;
  number: number;
  at_unix_nano: Instant;
  who: string;
  what: string;
  object: string;
  why: string;
  before: Record<string, unknown> | null;
  after: Record<string, unknown> | null;
  outcome: string;
  detail?: string;
  code?: string;
  evidence?: Evidence;
  measured_percent?: number;
  limit_percent?: number;
  revert?: Revert;
}
/** How an entry can be undone now: the request, whose author it calls `who`, and the command. */
export interface Revert {
  text: string;
  cli: string;
  method: string;
  path: string;
  who: 'owner' | 'author';
  body: Record<string, unknown>;
}
export interface Shed {
  site: string;
  name: string;
  from: string;
  to: string;
  percent?: number;
}
export interface Overhead {
  budget_percent: number;
  saturated: boolean;
  agent?: { cpu_percent: number; rss_bytes: number };
  processes: {
    pid: number;
    host?: string;
    service: string;
    measured_percent: number;
    limit_percent: number;
    predicted_percent?: number | null;
    shed?: Shed[];
  }[];
  sites: { site: string; name: string; service: string; calls_per_s: number; ns_per_call: number; percent: number }[];
  rules: { id: string; measured_percent: number; predicted_percent?: number | null }[];
}

export class Problem extends Error {
  constructor(
    public status: number,
    message: string,
    public code = '',
    public hint = '',
    public line = 0,
    public column = 0,
    /** All of the answer, for those who know more of it (diagnostics, plan). */
    public more: Record<string, any> = {},
  ) {
    super(message);
  }
}

async function call<T>(
  method: string,
  path: string,
  query: Record<string, string | number | boolean | undefined> = {},
  body?: unknown,
  signal?: AbortSignal,
): Promise<T> {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v !== undefined && v !== '') q.set(k, String(v));
  let r: Response;
  try {
    r = await fetch(`/api/v1${path}${q.size ? '?' + q : ''}`, {
      method,
      signal,
      headers: { 'Klieg-Who': 'dashboard', ...(body ? { 'Content-Type': 'application/json' } : {}) },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch (e) {
    if ((e as Error).name === 'AbortError') throw e;
    throw new Problem(0, 'The server does not answer.', 'E300', 'Is klieg up still running on this machine?');
  }
  const text = await r.text();
  let j: any;
  try {
    j = text ? parseExact(text, path === '/heatmap') : null;
  } catch {
    throw new Problem(r.status, `The server's answer is not JSON (${r.status}).`);
  }
  if (!r.ok) throw new Problem(r.status, j?.detail ?? j?.title ?? `Error ${r.status}`, j?.code, j?.hint, j?.line, j?.column, j ?? {});
  return j as T;
}

const of = (name: string) => `/policies/${encodeURIComponent(name)}`;
const WHO = (key: 'owner' | 'author') => ({ [key]: 'dashboard' });

export const api = {
  status: () => call<Status>('GET', '/status'),
  processes: () => call<{ processes: Process[] }>('GET', '/processes'),
  sites: (sel: string, limit: number) =>
    call<{ sites: Site[]; matched: number; instances: number; processes: number }>('GET', '/sites', { sel, limit }),
  stats: (sel: string) => call<{ window_nano: number; sites: SiteStats[] }>('GET', '/sites/stats', { sel }),
  toggles: (all = false) => call<{ toggles: Toggle[] }>('GET', '/toggles', { all: all || undefined }),
  on: (body: Record<string, unknown>) =>
    call<{ toggle: Toggle | null; plan: Plan; ack_nano: number }>('POST', '/toggles', {}, body),
  extend: (id: string, ttl: string) => call<Toggle>('PATCH', `/toggles/${id}`, {}, { ttl }),
  change: (id: string, to: Record<string, unknown>) => call<Toggle>('PATCH', `/toggles/${id}`, {}, to),
  off: (id: string) => call<{ removed: string[] }>('DELETE', `/toggles/${id}`),
  panic: () =>
    call<{ toggles: number; policies: number; sites: number; ack_nano: number; warning?: string }>('POST', '/panic', {}, WHO('owner')),
  undoPanic: () => call<{ toggles: Toggle[]; policies: number; warning?: string }>('POST', '/panic/undo', {}, WHO('owner')),
  policies: () => call<{ policies: Policy[] }>('GET', '/policies'),
  policy: (name: string, version?: number) => call<PolicyText>('GET', of(name), { version }),
  check: (text: string) => call<{ ok: boolean; diagnostics: Diagnostic[]; policy?: { name: string } }>('POST', '/policies/check', {}, { text }),
  plan: (text: string, replay: string) => call<PolicyPlan>('POST', '/policies/plan', {}, { text, ...(replay ? { replay } : {}) }),
  apply: (name: string, body: Record<string, unknown>) => call<PolicyChanged>('PUT', of(name), {}, { ...WHO('author'), ...body }),
  switchOff: (name: string, reason: string) => call<PolicyChanged>('DELETE', of(name), { ...WHO('author'), reason }),
  versions: (name: string) => call<{ versions: PolicyVersion[] }>('GET', `${of(name)}/versions`),
  diff: (name: string, from: string, to: string) => call<PolicyDiff>('GET', `${of(name)}/diff`, { from, to }),
  rollback: (name: string, to: number, reason: string) =>
    call<PolicyChanged>('POST', `${of(name)}/rollback`, {}, { ...WHO('author'), to, reason }),
  rollout: (name: string) => call<Rollout>('GET', `${of(name)}/rollout`),
  steer: (name: string, action: string) => call<unknown>('POST', `${of(name)}/rollout`, {}, { ...WHO('author'), action }),
  schema: () => call<Record<string, any>>('GET', '/policy.schema.json'),
  firings: (since: string) => call<{ firings: Firing[] }>('GET', '/firings', { since }),
  audit: (query: Record<string, string>) =>
    call<{ entries: AuditEntry[]; matched: number; total: number; let_go: number; next?: number }>('GET', '/audit', query),
  revert: ({ method, path, body, who }: Revert, reason: string) =>
    method === 'DELETE'
      ? call<{ warning?: string }>(method, path, { ...WHO(who), reason })
      : call<{ warning?: string }>(method, path, {}, { ...body, ...WHO(who), reason }),
  plugins: () => call<{ plugins: { name: string; path: string; host?: string }[] }>('GET', '/plugins'),
  alerts: () => call<{ alerts: Alert[] }>('GET', '/alerts'),
  overhead: () => call<Overhead>('GET', '/overhead'),
  spans: (query: Record<string, string | number>, signal?: AbortSignal) =>
    call<{ spans: Span[]; matched: number; partial?: boolean }>('GET', '/spans', query, undefined, signal),
  trace: (id: string) => call<{ trace_id: string; spans: Span[]; matched: number }>('GET', `/traces/${id}`),
  heatmap: (query: Record<string, string | number>, signal?: AbortSignal) =>
    call<Heat>('GET', '/heatmap', query, undefined, signal),
  hot: (query: Record<string, string | number>, signal?: AbortSignal) =>
    call<{ rows: HotRow[]; traces: number; spans: number; window_nano: number }>('GET', '/hot', query, undefined, signal),
  callgraph: (query: Record<string, string | number>, signal?: AbortSignal) =>
    call<CallGraph>('GET', '/callgraph', query, undefined, signal),
  candidates: () => call<{ candidates: Candidate[] }>('GET', '/candidates'),
  attach: (body: Record<string, unknown>) =>
    call<{ attachments: Attachment[]; refused: { pid: number; detail: string }[] }>('POST', '/attachments', {}, body),
  detach: (pid: number) => call<Detached>('DELETE', `/attachments/${pid}`),
  inflight: () => call<{ spans: InFlight[] }>('GET', '/inflight'),
  doctor: () =>
    call<{
      ok: boolean;
      checks: Check[];
      account: {
        made: number;
        stored: number;
        open?: number;
        queued?: number;
        dropped: Record<string, number>;
        balanced?: boolean;
      };
    }>('GET', '/doctor'),
};
