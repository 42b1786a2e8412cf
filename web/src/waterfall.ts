// A trace as rows: who is under whom, who had time of its own, which chain of spans the whole took so long for. No recursion: a trace can
// be deeper than the stack. Built once per trace; opening and closing only lists the rows again.
import type { Span } from './api';
import type { Instant } from './time';

export interface Row {
  s: Span;
  depth: number;
  kids: number;
  self: number;
  critical: boolean;
}
export interface Tree {
  roots: Span[];
  kids: Map<string, Span[]>;
  self: Map<string, number>;
  critical: Set<string>;
  start: Instant;
  length: number;
  missing: number; // missing: spans whose parent is not stored
}

const end = (s: Span) => s.start_unix_nano + s.duration_nano;
const order = (a: Span, b: Span) => a.start_unix_nano - b.start_unix_nano || b.duration_nano - a.duration_nano;

/** The time of a span in which none of its children (in order of start) ran. */
function selfTime(s: Span, kids: Span[]): number {
  let covered = 0,
    upto = s.start_unix_nano;
  for (const k of kids) {
    const a = Math.max(upto, k.start_unix_nano),
      b = Math.min(end(s), end(k));
    if (b > a) {
      covered += b - a;
      upto = b;
    }
  }
  return s.duration_nano - covered;
}

export function buildTree(spans: Span[]): Tree {
  const by = new Map(spans.map((s) => [s.span_id, s])),
    kids = new Map<string, Span[]>(),
    self = new Map<string, number>(),
    roots: Span[] = [];
  let missing = 0;
  for (const s of by.values()) {
    const parent = s.parent_span_id && s.parent_span_id !== s.span_id && by.has(s.parent_span_id) ? s.parent_span_id : '';
    if (!parent) {
      roots.push(s);
      if (/[^0]/.test(s.parent_span_id)) missing++;
      continue;
    }
    const siblings = kids.get(parent);
    if (siblings) siblings.push(s);
    else kids.set(parent, [s]);
  }
  // Spans that are each other's ancestors hang under no root; the first of every such ring is shown as one.
  const reached = new Set<string>();
  const reach = (from: Span) => {
    const todo = [from];
    for (let s = todo.pop(); s; s = todo.pop()) {
      if (reached.has(s.span_id)) continue;
      reached.add(s.span_id);
      for (const k of kids.get(s.span_id) ?? []) todo.push(k);
    }
  };
  roots.forEach(reach);
  if (reached.size < by.size)
    for (const s of by.values())
      if (!reached.has(s.span_id)) {
        roots.push(s);
        missing++;
        reach(s);
      }
  roots.sort(order);
  for (const list of kids.values()) list.sort(order);
  let start = Infinity,
    last = -Infinity;
  for (const s of by.values()) {
    self.set(s.span_id, selfTime(s, kids.get(s.span_id) ?? []));
    start = Math.min(start, s.start_unix_nano);
    last = Math.max(last, end(s));
  }
  const critical = new Set<string>();
  for (let s: Span | undefined = roots[0]; s && !critical.has(s.span_id);) {
    critical.add(s.span_id);
    s = kids.get(s.span_id)?.reduce((a, b) => (end(b) > end(a) ? b : a));
  }
  return { roots, kids, self, critical, start: by.size ? start : 0, length: by.size ? Math.max(1, last - start) : 1, missing };
}

/** Depth first, without what is below the closed ones. */
export function listRows(t: Tree, closed: ReadonlySet<string>): Row[] {
  const rows: Row[] = [],
    seen = new Set<string>(),
    stack = t.roots.map((s) => ({ s, depth: 0 })).reverse();
  for (let top = stack.pop(); top; top = stack.pop()) {
    const { s, depth } = top;
    if (seen.has(s.span_id)) continue;
    seen.add(s.span_id);
    const kids = t.kids.get(s.span_id) ?? [];
    rows.push({ s, depth, kids: kids.length, self: t.self.get(s.span_id)!, critical: t.critical.has(s.span_id) });
    if (!closed.has(s.span_id)) for (let i = kids.length - 1; i >= 0; i--) stack.push({ s: kids[i], depth: depth + 1 });
  }
  return rows;
}
