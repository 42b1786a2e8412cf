#!/usr/bin/python3
"""embed.py WEB WORK OUT.c DEPFILE: bundles the dashboard (node WEB/build.mjs WORK/dist) and writes its files, gzipped, as one C file.

Meson runs it; the dependency file names what the bundle was made from, so that an edit makes it again."""
import gzip
import hashlib
import mimetypes
import os
import subprocess
import sys

web, work, out, dep = (os.path.abspath(a) for a in sys.argv[1:5])
dist = os.path.join(work, "dist")
os.makedirs(dist, exist_ok=True)
if not os.path.isdir(os.path.join(web, "node_modules")):
	sys.exit("embed: the dashboard's npm packages are missing: run tools/setup build (or npm ci --prefix web)")
subprocess.run(["node", os.path.join(web, "build.mjs"), dist], check=True)
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".svg": "image/svg+xml"}

files = []
for base, _, names in os.walk(dist):
	for name in sorted(names):
		path = os.path.join(base, name)
		files.append(("/" + os.path.relpath(path, dist), path))
files.sort()
with open(out, "w") as c:
	c.write("/* Made by tools/embed.py from web/. */\n#include \"server/assets.h\"\n")
	for i, (_, path) in enumerate(files):
		data = gzip.compress(open(path, "rb").read(), 9, mtime=0)
		c.write(f"static const unsigned char f{i}[] = {{")
		c.write(",".join(str(b) for b in data))
		c.write("};\n")
	c.write("const struct asset assets[] = {\n")
	for i, (url, path) in enumerate(files):
		kind = TYPES.get(os.path.splitext(path)[1]) or mimetypes.guess_type(path)[0] or "application/octet-stream"
		tag = hashlib.sha256(open(path, "rb").read()).hexdigest()[:16]
		c.write(f'\t{{ "{url}", "{kind}", "\\"{tag}\\"", f{i}, sizeof(f{i}) }},\n')
	c.write("\t{ 0 }\n};\n")
sources = [os.path.join(b, n) for b, _, ns in os.walk(os.path.join(web, "src")) for n in ns] + [os.path.join(web, n) for n in ("build.mjs", "package.json", "package-lock.json")] + [os.path.abspath(__file__)]
with open(dep, "w") as d:
	d.write(f"{out}: " + " ".join(s.replace(" ", "\\ ") for s in sources) + "\n")
