// For those who work on the dashboard: node dev.mjs SERVER [PORT] bundles on every load of the page and passes everything else to a running
// `klieg up`, e.g. node dev.mjs http://127.0.0.1:7070 . The content security policy is the server's own.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const target = new URL(process.argv[2] ?? 'http://127.0.0.1:7070'),
  out = mkdtempSync(join(tmpdir(), 'klieg-dev-'));
const types = { '.js': 'text/javascript', '.css': 'text/css', '.html': 'text/html' };

createServer((req, res) => {
  const path = new URL(req.url, target).pathname,
    page = !/^\/(api|v1|assets)\/|^\/(healthz|readyz|metrics)$/.test(path);
  if (page)
    execFileSync('node', [fileURLToPath(new URL('build.mjs', import.meta.url)), out], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  const onward = request(
    target,
    {
      method: req.method,
      path: page || path.startsWith('/assets/') ? '/' : req.url,
      headers: { ...req.headers, host: target.host, origin: target.origin, 'accept-encoding': 'identity', 'if-none-match': '' },
    },
    (r) => {
      if (!page && !path.startsWith('/assets/')) {
        res.writeHead(r.statusCode, r.headers);
        r.pipe(res);
        return;
      }
      r.resume();
      const file = join(out, page ? 'index.html' : path);
      res.writeHead(200, {
        'Content-Type': types[extname(file)],
        'Content-Security-Policy': r.headers['content-security-policy'] ?? '',
      });
      res.end(readFileSync(file));
    },
  );
  onward.on('error', (e) => {
    res.writeHead(502);
    res.end(e.message);
  });
  req.pipe(onward);
  res.on('close', () => onward.destroy());
}).listen(Number(process.argv[3] ?? 0), '127.0.0.1', function () {
  console.log(`http://127.0.0.1:${this.address().port}/`);
});
