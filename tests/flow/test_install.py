"""What a newcomer does: install into a prefix, build the README's program with pkg-config, switch it on, look at its trace; and the guided tour."""
import os
import re
import shutil
import subprocess

from conftest import BUILD, TOP, wait_for


def readme_program():
	text = open(os.path.join(TOP, "README.md")).read()
	return re.search(r"cat > hello\.c <<'EOF'\n(.*?)\nEOF\n", text, re.S)[1]


def test_readme_program_builds_against_an_installed_klieg_and_is_traced(klieg_up, spawn, tmp_path):
	dest = tmp_path / "dest"
	subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", str(dest)], check=True, stdout=subprocess.DEVNULL)
	pc = next(dest.rglob("klieg.pc"))
	env = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": str(dest)}
	flags = subprocess.run(["pkg-config", "--cflags", "--libs", "klieg"], env=env, check=True, capture_output=True, text=True).stdout.split()
	source = tmp_path / "hello.c"
	source.write_text(readme_program())
	exe = tmp_path / "hello"
	subprocess.run(["cc", "-O2", "-Wall", "-Werror", str(source), "-o", str(exe), *flags], check=True)
	lib = next(dest.rglob("libklieg.so.0")).parent
	spawn([str(exe)], env={**klieg_up.env, "OTEL_SERVICE_NAME": "hello", "LD_LIBRARY_PATH": str(lib)})
	wait_for(lambda: klieg_up.cli("ls", "hello:*", json_out=True).get("sites"))
	klieg_up.cli("on", "hello:*", "--level", "detail", "--ttl", "1m")
	span = wait_for(lambda: klieg_up.cli("query", '{ name = "hello.request" }', "--since", "1m", json_out=True)["spans"])[0]
	assert klieg_up.cli("trace", span["trace_id"]).stdout.count("hello.work") == 2
	for installed in ("bin/klieg", "share/man/man1/klieg.1", "include/klieg/klieg.h"):
		assert [p for p in dest.rglob(os.path.basename(installed)) if str(p).endswith(installed)], installed


def test_guided_tour_does_every_step(tmp_path):
	env = {k: v for k, v in os.environ.items() if not k.startswith("KLIEG_")}
	r = subprocess.run([os.path.join(TOP, "tools/tour"), "--once", "--state", str(tmp_path / "run"), "--rate", "80"], capture_output=True, text=True, timeout=180, env=env,
		stdin=subprocess.DEVNULL)
	assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-1000:]
	assert "FAILED" not in r.stdout and "All steps done." in r.stdout
	assert shutil.which("pgrep") is None or subprocess.run(["pgrep", "-f", str(tmp_path / "run")], capture_output=True).returncode == 1  # nothing is left running
