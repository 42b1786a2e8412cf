// Asking again and again, one question at a time: the next is asked a while after the last was answered, so a slow server is never asked to
// hurry, and an answer is never thrown away because it was time for the next.
import { useEffect, useState } from 'preact/hooks';
import type { Problem } from './api';
import { connected } from './live';
import { paused } from './url';

/** Loads at once whenever `key` is another one (and forgets the question before), then every `ms` after the last answer; 0: only once. */
export function usePolled<T>(load: (signal: AbortSignal) => Promise<T>, key: string, ms: number) {
  const [state, setState] = useState<{ data: T | null; problem: Problem | null }>({ data: null, problem: null });
  useEffect(() => {
    const c = new AbortController();
    let timer = 0;
    const later = () => {
      if (ms && !c.signal.aborted)
        timer = window.setTimeout(() => (paused.value || document.hidden || !connected.value ? later() : ask()), ms);
    };
    const ask = () =>
      load(c.signal).then(
        (data) => {
          if (!c.signal.aborted) setState({ data, problem: null });
          later();
        },
        (problem) => {
          if (!c.signal.aborted) setState((old) => ({ data: old.data, problem }));
          later();
        },
      );
    setState((old) => (old.problem ? { data: old.data, problem: null } : old)); // it was about another question
    ask();
    return () => {
      c.abort();
      clearTimeout(timer);
    };
  }, [key, ms]);
  return state;
}
