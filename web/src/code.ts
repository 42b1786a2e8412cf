// The editor of policies: CodeMirror with YAML, loaded when it is first needed. What is wrong with a text the server says (the same validator
// as `klieg policy check`); what can be written next, the server's JSON Schema. It lives in a shadow root, where its styles are constructed
// sheets: the content security policy allows no <style>.
import { autocompletion, completionKeymap, type Completion, type CompletionContext, type CompletionResult } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap } from '@codemirror/commands';
import { yaml } from '@codemirror/lang-yaml';
import { bracketMatching, HighlightStyle, indentOnInput, syntaxHighlighting } from '@codemirror/language';
import { lintGutter, lintKeymap, setDiagnostics } from '@codemirror/lint';
import { EditorState } from '@codemirror/state';
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers, placeholder } from '@codemirror/view';
import { tags } from '@lezer/highlight';
import type { Diagnostic } from './api';

type Schema = Record<string, any>;

const theme = EditorView.theme({
  '&': { height: '100%', color: 'var(--ink)', backgroundColor: 'var(--panel)', fontSize: '13px' },
  '&.cm-focused': { outline: '2px solid var(--focus)', outlineOffset: '-2px' },
  '.cm-scroller': { fontFamily: "ui-monospace, 'SF Mono', 'DejaVu Sans Mono', monospace", lineHeight: '1.55' },
  '.cm-content': { caretColor: 'var(--ink)' },
  '.cm-cursor': { borderLeftColor: 'var(--ink)' },
  '.cm-gutters': { backgroundColor: 'var(--soft)', color: 'var(--dim)', border: 'none' },
  '.cm-activeLine, .cm-activeLineGutter': { backgroundColor: 'transparent' },
  '&.cm-focused .cm-activeLine': { boxShadow: 'inset 0 -1px var(--line), inset 0 1px var(--line)' },
  '.cm-selectionBackground, &.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground': {
    backgroundColor: 'color-mix(in srgb, var(--focus) 28%, transparent)',
  },
  '.cm-tooltip': { backgroundColor: 'var(--panel)', color: 'var(--ink)', border: '1px solid var(--line)', borderRadius: '6px', padding: '2px' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul > li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--accent-ink)' },
  '.cm-completionDetail': { fontStyle: 'normal', opacity: '0.8' },
  '.cm-completionInfo': { maxWidth: '340px', padding: '6px 8px' },
  '.cm-placeholder': { color: 'var(--dim)' },
});
const colours = syntaxHighlighting(
  HighlightStyle.define([
    { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: 'var(--accent)' },
    { tag: tags.string, color: 'var(--good)' },
    { tag: tags.comment, color: 'var(--dim)', fontStyle: 'italic' },
    { tag: tags.invalid, color: 'var(--bad)' },
  ]),
);

const follow = (root: Schema, s: Schema | undefined): Schema | undefined =>
  s?.$ref ? { ...follow(root, root.$defs[s.$ref.slice('#/$defs/'.length)]), ...s, $ref: undefined } : s;

/** The schema of the mapping in which something at this column of this line stands: up through the lines that are less far in. */
function mapping(root: Schema, state: EditorState, line: number, column: number): Schema | undefined {
  const path: string[] = [];
  for (let n = line - 1; n > 0 && column > 0; n--) {
    const m = /^(\s*(?:-\s+)*)([\w-]+):/.exec(state.doc.line(n).text);
    if (m && m[1].length < column) {
      path.unshift(m[2]);
      column = m[1].length;
    }
  }
  let at: Schema | undefined = root;
  for (const key of path) {
    at = follow(root, at?.properties?.[key]);
    if (at?.items) at = follow(root, at.items);
  }
  return at;
}
export function complete(root: Schema, c: CompletionContext): CompletionResult | null {
  const line = c.state.doc.lineAt(c.pos),
    before = line.text.slice(0, c.pos - line.from);
  let m = /^(\s*(?:-\s+)*)([\w-]*)$/.exec(before);
  if (m) {
    if (!m[2] && !c.explicit && !/-\s+$/.test(m[1])) return null;
    const s = mapping(root, c.state, line.number, m[1].length);
    const options = Object.entries(s?.properties ?? {}).map(([key, p]): Completion => {
      const v = follow(root, p as Schema)!;
      const example = v.examples?.[0] ?? v.default;
      return {
        label: key,
        apply: v.type === 'array' || v.type === 'object' ? `${key}:` : `${key}: `,
        type: 'property',
        detail: s?.required?.includes(key) ? 'required' : example !== undefined ? String(JSON.stringify(example)).slice(0, 40) : undefined,
        info: v.description,
      };
    });
    return options.length ? { from: c.pos - m[2].length, options, validFor: /^[\w-]*$/ } : null;
  }
  m = /^(\s*(?:-\s+)*)([\w-]+):\s+(\S*)$/.exec(before);
  if (!m) return null;
  const v = follow(root, mapping(root, c.state, line.number, m[1].length)?.properties?.[m[2]]);
  const values: unknown[] = v?.enum ?? v?.examples ?? (v?.default !== undefined ? [v.default] : []);
  return values.length && (m[3] || c.explicit || v?.enum)
    ? {
        from: c.pos - m[3].length,
        options: values.map((x) => ({
          label: typeof x === 'string' ? (/^[{]/.test(x) ? `'${x}'` : x) : JSON.stringify(x),
          type: 'enum',
        })),
      }
    : null;
}

export interface Editor {
  text: () => string;
  set: (text: string) => void;
  mark: (d: Diagnostic[]) => void;
  jump: (line: number, column: number) => void;
  destroy: () => void;
}
export function create(
  host: HTMLElement,
  text: string,
  label: string,
  schema: () => Schema | null,
  changed: (text: string) => void,
): Editor {
  const root = host.shadowRoot ?? host.attachShadow({ mode: 'open' });
  const view = new EditorView({
    parent: root,
    root,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(),
        lintGutter(),
        history(),
        drawSelection(),
        indentOnInput(),
        bracketMatching(),
        highlightActiveLine(),
        yaml(),
        colours,
        theme,
        placeholder('policy: NAME'),
        autocompletion({
          override: [(c) => (schema() ? complete(schema()!, c) : null)],
        }),
        keymap.of([...completionKeymap, ...defaultKeymap, ...historyKeymap, ...lintKeymap]),
        EditorView.contentAttributes.of({ 'aria-label': label, spellcheck: 'false', 'data-main-field': '' }),
        EditorView.updateListener.of((u) => u.docChanged && changed(u.state.doc.toString())),
      ],
    }),
  });
  /** The offset of a place as the server tells it: lines and columns from 1, columns in bytes of UTF-8. */
  const offset = (line: number, column: number) => {
    const l = view.state.doc.line(Math.min(Math.max(line, 1), view.state.doc.lines));
    let at = 0,
      bytes = 1;
    for (const c of l.text) {
      if (bytes >= column) break;
      bytes += new TextEncoder().encode(c).length;
      at += c.length;
    }
    return l.from + at;
  };
  return {
    text: () => view.state.doc.toString(),
    set: (t) => view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: t } }),
    mark: (list) =>
      view.dispatch(
        setDiagnostics(
          view.state,
          list.map((d) => {
            const from = offset(d.line, d.column),
              to = Math.max(from, offset(d.line, d.end_column || d.column));
            return {
              from,
              to,
              severity: d.severity === 'warning' ? 'warning' : 'error',
              message: `${d.code} ${d.message}${d.hint ? `\nhint: ${d.hint}` : ''}`,
            };
          }),
        ),
      ),
    jump: (line, column) => {
      view.dispatch({ selection: { anchor: offset(line, column) }, scrollIntoView: true });
      view.focus();
    },
    destroy: () => view.destroy(),
  };
}
