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
  counts: { processes: number; sites: number; on: number; toggles: number };
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

export class Problem extends Error {
  constructor(
    public status: number,
    message: string,
    public code = '',
    public hint = '',
    public line = 0,
    public column = 0,
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
      headers: body ? { 'Content-Type': 'application/json' } : undefined,
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
  if (!r.ok) throw new Problem(r.status, j?.detail ?? j?.title ?? `Error ${r.status}`, j?.code, j?.hint, j?.line, j?.column);
  return j as T;
}

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
  off: (id: string) => call<{ removed: string[] }>('DELETE', `/toggles/${id}`),
  allOff: () => call<{ removed: string[]; sites: number; ack_nano: number }>('DELETE', '/toggles', { all: true }),
  undo: () => call<unknown>('POST', '/toggles/undo', {}, {}),
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
