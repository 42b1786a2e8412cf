// Bundles the dashboard: node build.mjs OUTDIR writes index.html and assets/* with hashed names. No inline script or style: the server's
// content security policy forbids them.
import { build } from 'esbuild';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, 'dist'));
rmSync(join(out, 'assets'), { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const result = await build({
  absWorkingDir: here,
  entryPoints: ['src/main.tsx'],
  bundle: true,
  minify: true,
  format: 'esm',
  splitting: true, // the editor comes when it is first needed
  target: 'es2022',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  outdir: join(out, 'assets'),
  entryNames: '[name]-[hash]',
  assetNames: '[name]-[hash]',
  chunkNames: '[name]-[hash]',
  metafile: true,
  logLevel: 'warning',
  legalComments: 'none',
});
const outputs = Object.entries(result.metafile.outputs),
  files = outputs.map(([f]) => basename(f));
const [entry, main] = outputs.find(([, o]) => o.entryPoint);
const js = basename(entry),
  css = files.find((f) => f.endsWith('.css'));
const first = new Set([js, css, ...main.imports.filter((i) => i.kind === 'import-statement').map((i) => basename(i.path))]);
writeFileSync(
  join(out, 'index.html'),
  `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Klieg</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='%23f5b83d' d='M2 8 14 2v12z'/%3E%3C/svg%3E">
<link rel="stylesheet" href="/assets/${css}">
<script type="module" src="/assets/${js}"></script>
</head>
<body><div id="app"></div><noscript>The dashboard needs JavaScript. Everything it does, <code>klieg</code> does on the command line too.</noscript></body>
</html>
`,
);

// What a first visit loads, and all there is, as the server sends it. The budgets are a promise to people on slow lines: breaking one breaks
// the build.
const BUDGET = 130e3,
  BUDGET_ALL = 300e3;
let total = 0,
  all = 0;
for (const f of ['index.html', ...files]) {
  const size = gzipSync(readFileSync(join(out, f === 'index.html' ? '' : 'assets', f)), { level: 9 }).length;
  all += size;
  if (f === 'index.html' || first.has(f)) total += size;
  console.log(`${f}  ${(size / 1e3).toFixed(1)} kB gz`);
}
console.log(`first load ${(total / 1e3).toFixed(1)} kB gz of ${BUDGET / 1e3}, all ${(all / 1e3).toFixed(1)} of ${BUDGET_ALL / 1e3}`);
if (total > BUDGET || all > BUDGET_ALL) {
  console.error('build.mjs: the dashboard is over its budget');
  process.exit(1);
}
