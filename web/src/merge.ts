// Texts by lines: what differs between two, and one of two that both began from a third.

export interface Line {
  op: ' ' | '+' | '-';
  text: string;
}
const split = (s: string) => s.replace(/\n$/, '').split('\n');

/** Longest common subsequence: pairs of equal lines, in order. Policies are at most some thousand lines; beyond, only ends are matched. */
function pairs(a: string[], b: string[]): [number, number][] {
  let start = 0,
    end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const n = a.length - start - end,
    m = b.length - start - end,
    out: [number, number][] = Array.from({ length: start }, (_, i) => [i, i]);
  if (n * m <= 4e6) {
    const w = m + 1,
      best = new Uint32Array((n + 1) * w);
    for (let i = n - 1; i >= 0; i--)
      for (let j = m - 1; j >= 0; j--)
        best[i * w + j] =
          a[start + i] === b[start + j] ? best[(i + 1) * w + j + 1] + 1 : Math.max(best[(i + 1) * w + j], best[i * w + j + 1]);
    for (let i = 0, j = 0; i < n && j < m; )
      if (a[start + i] === b[start + j]) out.push([start + i++, start + j++]);
      else if (best[(i + 1) * w + j] >= best[i * w + j + 1]) i++;
      else j++;
  }
  for (let i = end; i > 0; i--) out.push([a.length - i, b.length - i]);
  return out;
}

export function lineDiff(before: string, after: string): Line[] {
  const a = split(before),
    b = split(after),
    out: Line[] = [];
  let i = 0,
    j = 0;
  for (const [x, y] of [...pairs(a, b), [a.length, b.length] as [number, number]]) {
    while (i < x) out.push({ op: '-', text: a[i++] });
    while (j < y) out.push({ op: '+', text: b[j++] });
    if (x < a.length) out.push({ op: ' ', text: a[x] });
    i = x + 1;
    j = y + 1;
  }
  return out;
}

/** Both changes of `base` in one text. Where both changed the same place, both are there between marks, which no validator takes for YAML. */
export function merge(base: string, mine: string, theirs: string): { text: string; conflicts: number } {
  const o = split(base),
    a = split(mine),
    b = split(theirs);
  const inA = new Map(pairs(o, a)),
    inB = new Map(pairs(o, b)),
    out: string[] = [];
  let conflicts = 0,
    io = 0,
    ia = 0,
    ib = 0;
  for (let k = 0; k <= o.length; k++) {
    const last = k === o.length,
      xa = last ? a.length : inA.get(k),
      xb = last ? b.length : inB.get(k);
    if (xa === undefined || xb === undefined) continue; // changed by one of them: belongs to what lies between
    const O = o.slice(io, k).join('\n'),
      A = a.slice(ia, xa),
      B = b.slice(ib, xb),
      ja = A.join('\n'),
      jb = B.join('\n');
    const same = (x: string[], y: string) => x.length === k - io && x.join('\n') === y;
    if (same(A, O)) out.push(...B);
    else if (same(B, O) || (ja === jb && A.length === B.length)) out.push(...A);
    else {
      conflicts++;
      out.push('<<<<<<< mine', ...A, '=======', ...B, '>>>>>>> theirs');
    }
    if (!last) out.push(o[k]);
    io = k + 1;
    ia = xa + 1;
    ib = xb + 1;
  }
  return { text: out.join('\n') + '\n', conflicts };
}
