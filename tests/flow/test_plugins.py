"""Instrumentors in real programs: attached while these run, unmodified. Every request is a span with what OpenTelemetry calls its attributes, one trace goes through
client, server and database, what the programs answer is what it was, and their text when we go too."""
import ctypes.util
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from conftest import BUILD, TOP, changed, text_of, wait_for
from test_attach_servers import free_port, needs, redis, run, serve  # noqa: F401  (fixtures)

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


def library(name):
	return pytest.mark.skipif(not ctypes.util.find_library(name), reason=f"not installed: lib{name}")


def spans(up, query, limit=500):
	doc = up.cli("query", query, "--limit", str(limit), json_out=True)
	return doc["spans"]


def found(up, query, n):
	"""Exactly n spans match, once nothing is under way."""
	wait_for(lambda: up.settled() and up.stored(query) >= n)
	got = spans(up, query)
	assert len(got) == n, [(s["name"], s["attributes"]) for s in got]
	return sorted(got, key=lambda s: s["start_unix_nano"])


def plugin_on(up, pid, plugin, selector, level="detail"):
	a = up.attach(pid, "--plugin", plugin)
	assert [p["name"] for p in a["plugins"]] == [os.path.basename(plugin.split(":")[0]).removesuffix(".so")], a
	assert a["plugins"][0]["sites"] > 0, a
	up.switch(selector, level=level)
	return a


class Python:
	"""A Python that runs the lines it is sent; each one's value comes back."""

	def __init__(self, spawn, setup):
		loop = "import sys\nfor line in sys.stdin: print(repr(eval(line)), flush=True)"
		self.proc = spawn([PYTHON, "-c", setup + "\nprint('ready', flush=True)\n" + loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
		self.pid = self.proc.pid
		assert self.proc.stdout.readline() == "ready\n"

	def __call__(self, text):
		self.proc.stdin.write(text + "\n")
		self.proc.stdin.flush()
		answer = self.proc.stdout.readline()
		assert answer, f"gone: {self.proc.wait(5)}"
		return eval(answer)  # noqa: S307  (our own program's)


# ---- plugins themselves --------------------------------------------------------------------------------------------------------


def test_bad_plugins_are_refused_and_the_program_is_untouched(klieg_up, spawn):
	p = Python(spawn, "")
	before = text_of(p.pid)
	for name, says in (("plugin_bad1", "crashed in its trial"), ("plugin_bad3", "exit status 7"), ("plugin_bad4", "ABI 99"), ("plugin_bad9", "no function klieg_plugin")):
		r = klieg_up.cli("attach", str(p.pid), "--plugin", f"{BUILD}/plugins/{name}.so", check=False)
		assert r.returncode != 0 and says in r.stderr, (r.returncode, r.stderr, r.stdout)
	r = klieg_up.cli("attach", str(p.pid), "--plugin", "no-such-plugin", check=False)
	assert r.returncode != 0 and "no-such-plugin" in r.stderr, r.stderr
	assert p("6 * 7") == 42 and not changed(before, p.pid)


def test_the_example_of_the_guide_is_built_outside_the_tree(klieg_up, spawn, tmp_path):
	with open(f"{TOP}/docs/plugins.md", encoding="utf-8") as f:
		source = re.search(r"```c\n(/\* zlib\.c \*/\n.*?)```", f.read(), re.S)[1]
	assert source.count("\n") < 100
	(tmp_path / "zlib.c").write_text(source)
	flags = run("pkg-config", f"--define-variable=includedir={TOP}/include", "--cflags", "klieg-plugin",  # as installed, but for where
		env={**os.environ, "PKG_CONFIG_LIBDIR": f"{BUILD}/meson-private", "PKG_CONFIG_DISABLE_UNINSTALLED": "1"}).split()
	run("cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", str(tmp_path / "zlib.c"), "-o", str(tmp_path / "zlib.so"), *flags)
	z = ctypes.util.find_library("z")
	p = Python(spawn, f"""
import ctypes
z = ctypes.CDLL({z!r})
def pack(data, level, room):
	to, n = ctypes.create_string_buffer(max(room, 1)), ctypes.c_ulong(room)
	return z.compress2(to, ctypes.byref(n), data, ctypes.c_ulong(len(data)), level), n.value
""")
	plain = p("pack(b'a' * 10000, 9, 1000)")
	before = text_of(p.pid)
	plugin_on(klieg_up, p.pid, str(tmp_path / "zlib.so"), "zlib.compress")
	assert p("pack(b'a' * 10000, 9, 1000)") == plain
	assert p("pack(b'abc' * 1000, 1, 2)")[0] == -5
	good, bad = found(klieg_up, '{ name = "zlib.compress" }', 2)
	assert good["attributes"]["zlib.input_bytes"] == 10000 and good["attributes"]["zlib.output_bytes"] == plain[1] and good["attributes"]["zlib.level"] == 9
	assert abs(good["attributes"]["zlib.ratio"] - plain[1] / 10000) < 1e-9
	assert good["status"] == "unset" and bad["status"] == "error"
	klieg_up.detach(p.pid)
	assert not changed(before, p.pid) and p("pack(b'a' * 10000, 9, 1000)") == plain


GREETER = r"""
#include <klieg/plugin.h>
static const struct klieg_plugin_hook hooks[] = { { .library = "libgreet.so.1*", .function = "greet", .site = "SITE" } };
static const struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "NAME", "1.0", "libgreet 1", PROGRAM, KLIEG_PLUGIN_HOOKS(hooks), NULL };
const struct klieg_plugin *klieg_plugin(const struct klieg_host *host) { return host->abi == KLIEG_PLUGIN_ABI ? &plugin : NULL; }
"""


@pytest.fixture
def greeter(tmp_path, spawn):
	"""A program with a library whose file is called something else than the library; greeter.plugin(name, site, program) builds a plugin for it."""
	(tmp_path / "greet.c").write_text("__attribute__((noinline)) int greet(int n) { volatile int x = n; for (int i = 0; i < 3; i++) x += i; return x; }")
	lib = tmp_path / "vendored-greetings.so"
	run("cc", "-O1", "-shared", "-fPIC", "-Wl,-soname,libgreet.so.1", str(tmp_path / "greet.c"), "-o", str(lib))

	class Greeter(Python):
		@staticmethod
		def plugin(name, site, program="NULL"):
			(tmp_path / f"{name}.c").write_text(GREETER.replace("NAME", name).replace("SITE", site).replace("PROGRAM", program))
			run("cc", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{TOP}/include", str(tmp_path / f"{name}.c"), "-o", str(tmp_path / f"{name}.so"))
			return str(tmp_path / f"{name}.so")
	return Greeter(spawn, f"import ctypes\nlib = ctypes.CDLL({str(lib)!r})")


def sites_of(up, plugin):
	return {s["name"] for s in up.cli("ls", f"{plugin}.*", json_out=True, check=False)["sites"] if s["component"] == plugin}


def test_two_plugins_that_name_one_function(klieg_up, greeter):
	one, two = greeter.plugin("one", "one.greet"), greeter.plugin("two", "two.greet")
	a = klieg_up.attach(greeter.pid, "--plugin", one, "--plugin", two)
	assert [n for n in a["notes"] if "two and one both name greet" in n and "it is two now" in n], a["notes"]
	assert "vendored-greetings.so" in json.dumps(a["modules"]), a  # found by its soname
	klieg_up.switch("*greet", level="span")
	assert greeter("[lib.greet(i) for i in range(3)]") == [3, 4, 5]
	assert len(found(klieg_up, '{ name = "two.greet" }', 3)) == 3 and not spans(klieg_up, '{ name = "one.greet" }')
	a = klieg_up.attach(greeter.pid)  # again: nothing changes
	assert {p["name"]: p["sites"] for p in a["plugins"]}["two"] == 1 and sites_of(klieg_up, "two") == {"two.greet"}, a


def test_plugins_stay_when_the_agent_does_not(klieg_up, greeter):
	up, before = klieg_up, text_of(greeter.pid)
	up.attach(greeter.pid, "--plugin", greeter.plugin("one", "one.greet"))
	up.switch("one.greet", level="span")
	greeter("lib.greet(1)")
	found(up, '{ name = "one.greet" }', 1)
	up.kill()
	up.start()
	wait_for(lambda: sites_of(up, "one"))  # it is attached to still, and the plugin's site is the plugin's
	a = up.attach(greeter.pid)
	assert [(p["name"], p["version"], p["sites"]) for p in a["plugins"]] == [("one", "1.0", 1)], a
	up.all_off()
	up.switch("one.greet", level="span")
	greeter("lib.greet(2)")
	found(up, '{ name = "one.greet" }', 2)
	up.detach(greeter.pid)
	assert not changed(before, greeter.pid)
	a = up.attach(greeter.pid)  # and after a detach
	assert [(p["name"], p["sites"]) for p in a["plugins"]] == [("one", 1)], a
	up.all_off()
	up.switch("one.greet", level="span")
	assert greeter("lib.greet(3)") == 6
	found(up, '{ name = "one.greet" }', 3)


def test_a_plugin_for_other_programs(klieg_up, greeter):
	a = klieg_up.attach(greeter.pid, "--plugin", greeter.plugin("fits", "fits.greet", '"pyth*"'), "--plugin", greeter.plugin("other", "other.greet", '"greeterd*"'))
	assert {p["name"]: p["sites"] for p in a["plugins"]} == {"fits": 1, "other": 0}, a
	assert [n for n in a["notes"] if n.startswith("other: it is for programs called greeterd*, and this is python")], a["notes"]


# ---- libraries -----------------------------------------------------------------------------------------------------------------


def test_io_dns_locks_and_malloc(klieg_up, cc, spawn):
	up = klieg_up
	exe = cc(r"""
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static void *hold(void *arg)
{
	struct timespec t = { 0, 3000000 };
	pthread_mutex_lock(&m);
	pthread_barrier_wait(arg);
	while (*(volatile int *)&m != 2) /* until somebody waits: then for as long as t, however late they came */
		sched_yield();
	nanosleep(&t, NULL);
	pthread_mutex_unlock(&m);
	return NULL;
}
int main(void)
{
	char line[64], buf[64];
	while (fgets(line, sizeof line, stdin)) {
		int s[2], fd = open("/tmp/klieg-plugin-test", O_CREAT | O_RDWR, 0600);
		unlink("/tmp/klieg-plugin-test");
		for (int i = 0; i < 10; i++)
			if (pwrite(fd, "hello", 5, i * 5) != 5 || pread(fd, buf, 5, 0) != 5)
				return 1;
		fsync(fd);
		close(fd);
		socketpair(AF_UNIX, SOCK_STREAM, 0, s);
		for (int i = 0; i < 10; i++)
			if (send(s[0], "x", 1, 0) != 1 || recv(s[1], buf, 1, 0) != 1)
				return 2;
		close(s[0]), close(s[1]);
		struct addrinfo *a;
		if (!getaddrinfo("localhost", "80", NULL, &a))
			freeaddrinfo(a);
		for (int i = 0; i < 1000; i++) { /* free: no contention */
			pthread_mutex_lock(&m);
			pthread_mutex_unlock(&m);
		}
		for (int i = 0; i < 3; i++) { /* not free */
			pthread_t t;
			pthread_barrier_t b;
			pthread_barrier_init(&b, NULL, 2);
			pthread_create(&t, NULL, hold, &b);
			pthread_barrier_wait(&b);
			pthread_mutex_lock(&m);
			pthread_mutex_unlock(&m);
			pthread_join(t, NULL);
		}
		for (int i = 0; i < 500; i++)
			free(calloc(10, (size_t)i));
		puts("done");
		fflush(stdout);
	}
	return 0;
}
""")
	p = spawn([exe], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

	def go():
		p.stdin.write("go\n")
		p.stdin.flush()
		assert p.stdout.readline() == "done\n"
	go()
	before = text_of(p.pid)
	a = up.attach(p.pid, "--plugin", "io", "--plugin", "dns", "--plugin", "locks", "--plugin", "malloc")
	assert len(a["plugins"]) == 4 and all(x["sites"] > 0 for x in a["plugins"]), a
	assert not [n for n in a["notes"] if "not in this version" in n], a["notes"]
	for selector in ("io.pwrite", "io.pread", "io.fsync", "io.send", "io.recv", "dns.lookup", "lock.mutex"):
		up.switch(selector, level="detail")
	up.switch("malloc.calloc", level="count")
	go()
	writes = found(up, '{ name = "io.pwrite" }', 10)
	assert all(s["attributes"]["io.bytes"] == 5 and s["attributes"]["io.kind"] == "file" and "klieg-plugin-test" in s["attributes"]["file.path"] for s in writes)
	sends = found(up, '{ name = "io.send" }', 10)
	assert all(s["attributes"]["io.kind"] == "socket" and s["attributes"]["network.transport"] == "unix" for s in sends)
	assert len(found(up, '{ name = "io.fsync" }', 1)) == len(found(up, '{ name = "dns.lookup" && .dns.question.name = "localhost" }', 1)) == 1
	waits = [s for s in spans(up, '{ name = "lock.mutex" }')]
	assert len(waits) >= 3 and len([s for s in waits if s["duration_nano"] > 1000000]) == 3, waits
	up.detach(p.pid)
	assert not changed(before, p.pid)
	go()


MHD = r"""
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
enum MHD_Result answer_request(void *cls, struct MHD_Connection *c, const char *url, const char *method, const char *version, const char *data, size_t *n, void **seen)
{
	static int once;
	char text[200];
	if (!*seen) {
		*seen = &once;
		return MHD_YES;
	}
	const char *h = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "traceparent");
	snprintf(text, sizeof text, "%s", h ? h : "none");
	struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);
	int rc = MHD_queue_response(c, !strcmp(url, "/boom") ? 500 : 200, r);
	MHD_destroy_response(r);
	return rc;
}
int main(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct MHD_Daemon *d = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, answer_request, NULL, MHD_OPTION_SOCK_ADDR, &a, MHD_OPTION_END);
	if (!d)
		return 1;
	printf("%d\n", MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT)->port);
	fflush(stdout);
	getchar();
	return 0;
}
"""
CURL = """
import ctypes
c = ctypes.CDLL(%r)
c.curl_easy_init.restype = ctypes.c_void_p
for f in (c.curl_easy_setopt, c.curl_easy_perform): f.argtypes = [ctypes.c_void_p] + ([ctypes.c_int, ctypes.c_void_p] if f is c.curl_easy_setopt else [])
body = []
@ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
def write(p, a, b, x):
	body.append(ctypes.string_at(p, a * b))
	return a * b
h = c.curl_easy_init()
c.curl_easy_setopt(h, 20011, ctypes.cast(write, ctypes.c_void_p))
def get(url):
	body.clear()
	text = ctypes.create_string_buffer(url.encode())
	c.curl_easy_setopt(h, 10002, ctypes.cast(text, ctypes.c_void_p))
	return c.curl_easy_perform(h), b''.join(body).decode()
"""


@library("curl")
@library("microhttpd")
def test_a_trace_goes_from_curl_to_microhttpd(klieg_up, cc, spawn):
	up = klieg_up
	server = spawn([cc(MHD, "-lmicrohttpd")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	url = f"http://user:secret@127.0.0.1:{int(server.stdout.readline())}/"
	client = Python(spawn, CURL % ctypes.util.find_library("curl"))
	assert client(f"get('{url}x')") == (0, "none")
	before = text_of(server.pid), text_of(client.pid)
	plugin_on(up, server.pid, "microhttpd:handler=answer_request", "http.server")
	plugin_on(up, client.pid, "curl", "http.client")
	for i in range(10):
		rc, seen = client(f"get('{url}{'boom' if i == 5 else 'fine'}?card=4111')")
		assert rc == 0 and re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-03", seen), seen
	clients, servers = found(up, '{ name = "http.client" }', 10), found(up, '{ name = "http.server" }', 10)
	for i, (c, s) in enumerate(zip(clients, servers)):
		assert s["trace_id"] == c["trace_id"] and s["parent_span_id"] == c["span_id"]
		assert c["kind"] == "client" and s["kind"] == "server"
		status = 500 if i == 5 else 200
		assert c["attributes"]["http.response.status_code"] == s["attributes"]["http.response.status_code"] == status
		assert (c["status"] == "error") == (s["status"] == "error") == (i == 5)
		assert c["attributes"]["url.full"] == url.replace("user:secret@", "") + ("boom" if i == 5 else "fine")
		assert s["attributes"]["url.path"] == ("/boom" if i == 5 else "/fine") and s["attributes"]["http.request.method"] == "GET"
	up.detach(client.pid)
	up.detach(server.pid)
	assert client(f"get('{url}x')") == (0, "none")
	assert not changed(before[0], server.pid) and not changed(before[1], client.pid)


MULTI = CURL + """
for f in ('curl_multi_init', 'curl_multi_info_read'): getattr(c, f).restype = ctypes.c_void_p
P, I = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
for f, a in {'curl_multi_add_handle': [P, P], 'curl_multi_remove_handle': [P, P], 'curl_multi_perform': [P, I], 'curl_multi_poll': [P, P, ctypes.c_uint, ctypes.c_int, I],
	'curl_multi_info_read': [P, I], 'curl_easy_cleanup': [P]}.items(): getattr(c, f).argtypes = a
m = c.curl_multi_init()
def several(urls, cancel=False):
	body.clear()
	all, texts, n, codes = [], [ctypes.create_string_buffer(u.encode()) for u in urls], ctypes.c_int(1), []
	for t in texts:
		e = c.curl_easy_init()
		c.curl_easy_setopt(e, 20011, ctypes.cast(write, P))
		c.curl_easy_setopt(e, 10002, ctypes.cast(t, P))
		c.curl_multi_add_handle(m, e)
		all.append(e)
	while n.value and not cancel:
		c.curl_multi_perform(m, ctypes.byref(n))
		c.curl_multi_poll(m, None, 0, 100, None)
		while msg := c.curl_multi_info_read(m, ctypes.byref(ctypes.c_int())):
			codes.append(ctypes.cast(msg + 16, I)[0])
	for e in all:
		c.curl_multi_remove_handle(m, e)
		c.curl_easy_cleanup(e)
	return codes, b' '.join(body).decode()
"""


@library("curl")
@library("microhttpd")
def test_transfers_of_the_multi_interface(klieg_up, cc, spawn):
	"""Several under way at once on one thread: each is a span as long as it lasts, and carries its own context."""
	up = klieg_up
	server = spawn([cc(MHD, "-lmicrohttpd")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
	with socket.socket() as s:
		s.bind(("127.0.0.1", 0))
		nobody = f"http://127.0.0.1:{s.getsockname()[1]}/"  # bound, and nobody listens
		client = Python(spawn, MULTI % ctypes.util.find_library("curl"))
		assert client(f"several(['{url}x'] * 2)") == ([0, 0], "none none")
		before = text_of(client.pid)
		plugin_on(up, server.pid, "microhttpd:handler=answer_request", "http.server")
		plugin_on(up, client.pid, "curl", "http.client")
		codes, seen = client(f"several(['{url}fine'] * 4 + ['{url}boom', '{nobody}'])")
		assert sorted(codes) == [0] * 5 + [7]
		assert len(set(seen.split())) == 5 and all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-03", x) for x in seen.split()), seen
		assert client(f"get('{url}easy')")[0] == 0   # by way of the multi interface, inside of libcurl: once, all the same
		client(f"several(['{url}fine'], cancel=True)")  # taken out before it began
	clients, servers = found(up, '{ name = "http.client" }', 8), found(up, '{ name = "http.server" }', 6)
	assert len(clients) == 8
	by_id = {c["span_id"]: c for c in clients}
	assert {by_id[s["parent_span_id"]]["trace_id"] == s["trace_id"] for s in servers} == {True}
	assert sorted(c["attributes"].get("http.response.status_code", 0) for c in clients) == [0, 0, 200, 200, 200, 200, 200, 500]
	assert sorted(c["status"] for c in clients) == ["error"] * 2 + ["unset"] * 6
	up.detach(client.pid)
	up.detach(server.pid)
	assert client(f"several(['{url}x'] * 2)") == ([0, 0], "none none") and not changed(before, client.pid)


HIREDIS = """
import ctypes
r = ctypes.CDLL(%r)
for f in (r.redisConnectUnix, r.redisCommand): f.restype = ctypes.c_void_p
r.freeReplyObject.argtypes = [ctypes.c_void_p]
c = ctypes.c_void_p(r.redisConnectUnix(%r))
def do(fmt, *args):
	reply = r.redisCommand(c, fmt, *args)
	kind = ctypes.cast(reply, ctypes.POINTER(ctypes.c_int))[0]
	r.freeReplyObject(reply)
	return kind
"""


@needs("redis-server")
@library("hiredis")
def test_redis_by_both_its_ends(klieg_up, redis, spawn):  # noqa: F811
	up = klieg_up
	sock = re.search(r"-s\s*(\S+)", " ".join(redis.bench))[1]
	client = Python(spawn, HIREDIS % (ctypes.util.find_library("hiredis"), sock.encode()))
	assert client("do(b'PING')") == 5
	before = text_of(redis.pid), text_of(client.pid)
	plugin_on(up, client.pid, "hiredis", "hiredis.command")
	plugin_on(up, redis.pid, "redis-server", "redis.command")
	was = redis.calls("set")
	for i in range(20):
		assert client(f"do(b'SET key:%s secret%s', b'{i}', b'v')") == 5
	assert client("do(b'NOSUCH')") == 6
	assert redis.calls("set") - was == 20
	sets = found(up, '{ name = "hiredis.command" && .db.operation.name = "SET" }', 20)
	assert all(s["kind"] == "client" and s["attributes"]["db.query.text"] == "SET key:%s secret%s" for s in sets)
	(bad,) = found(up, '{ name = "hiredis.command" && .db.operation.name = "NOSUCH" }', 1)
	assert bad["status"] == "error" and "unknown command" in bad["status_message"]
	served = found(up, '{ name = "redis.command" && .db.operation.name = "SET" }', 20)
	assert all(s["kind"] == "server" and s["parent_span_id"] == "" and s["attributes"]["db.redis.arguments"] == 2 for s in served)
	up.detach(redis.pid)
	up.detach(client.pid)
	assert not changed(before[0], redis.pid) and not changed(before[1], client.pid)
	assert client("do(b'PING')") == 5


# ---- servers --------------------------------------------------------------------------------------------------------------------


class Upstream(http.server.BaseHTTPRequestHandler):
	protocol_version = "HTTP/1.1"

	def do_GET(self):
		text = f"{self.headers.get('traceparent')} {self.headers.get('X-Own')}".encode()
		self.send_response(503 if "boom" in self.path else 200)
		self.send_header("Content-Length", str(len(text)))
		self.end_headers()
		self.wfile.write(text)

	def log_message(self, *args):
		pass


@pytest.fixture
def upstream():
	class Server(http.server.ThreadingHTTPServer):
		request_queue_size = 256
	server = Server(("127.0.0.1", 0), Upstream)
	threading.Thread(target=server.serve_forever, daemon=True).start()
	yield server.server_port
	server.shutdown()


@needs("nginx")
def test_nginx_continues_traces_and_hands_them_on(klieg_up, serve, tmp_path, upstream):  # noqa: F811
	up, port = klieg_up, free_port()
	(tmp_path / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log;
events {{ worker_connections 512; }}
http {{
	access_log off;
	client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy; fastcgi_temp_path {tmp_path}/fastcgi; uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi;
	server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} location = /here {{ return 204; }} }}
}}
""")
	master = serve(["nginx", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")], stop=signal.SIGQUIT)

	def get(path, **headers):
		try:
			with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers), timeout=20) as r:
				return r.status, r.read().decode()
		except urllib.error.HTTPError as e:
			return e.code, e.read().decode()
		except urllib.error.URLError:
			return None
	wait_for(lambda: get("/x") == (200, "None None"))
	with open(f"/proc/{master.pid}/task/{master.pid}/children") as f:
		worker = int(f.read().split()[0])
	before = text_of(worker)
	plugin_on(up, worker, "nginx", "nginx.*")
	parent = "00-0000000000000000000000000000a0{:02x}-00000000000000bb-01"
	for i in range(5):
		status, body = get("/x?secret=1", traceparent=parent.format(i), **{"X-Own": "kept"})
		assert status == 200 and body.startswith(parent.format(i)[:36]) and "00000000000000bb" not in body and body.endswith(" kept"), body
		(s,) = found(up, f'{{ name = "nginx.request" && trace:id = "{parent.format(i)[3:35]}" }}', 1)
		assert s["parent_span_id"] == "00000000000000bb" and s["span_id"] == body[36:52] and s["kind"] == "server"
		assert s["attributes"]["http.response.status_code"] == 200 and s["attributes"]["url.path"] == "/x" and s["attributes"]["client.address"] == "127.0.0.1"
		steps = spans(up, f'{{ name =~ "nginx.*" && trace:id = "{parent.format(i)[3:35]}" }}')
		assert {"nginx.phases", "nginx.upstream", "nginx.send_header", "nginx.finalize"} <= {x["name"] for x in steps}
		ids = {x["span_id"] for x in steps}
		assert all(x["parent_span_id"] in ids for x in steps if x is not s and x["span_id"] != s["span_id"])
	status, body = get("/boom")
	assert status == 503
	(s,) = found(up, '{ name = "nginx.request" && status = error }', 1)
	assert s["attributes"]["http.response.status_code"] == 503 and s["parent_span_id"] == "" and s["span_id"] == body[36:52]
	assert get("/here")[0] == 204
	# More at once than a thread has room for open spans.
	made = up.stored('{ name = "nginx.request" }')
	answers = []
	threads = [threading.Thread(target=lambda: answers.append(get("/many"))) for _ in range(120)]
	for t in threads:
		t.start()
	for t in threads:
		t.join()
	good = len([a for a in answers if a and a[0] == 200])
	assert len({a[1] for a in answers if a and a[0] == 200}) == good  # each with a span of its own
	wait_for(lambda: up.settled() and up.stored('{ name = "nginx.request" }') - made >= good)
	wait_for(lambda: (a := up.settled()) and not any(a["dropped"].values()))
	up.detach(worker)
	assert not changed(before, worker) and get("/x") == (200, "None None")


PG = """
import ctypes
pq = ctypes.CDLL(%r)
for f in (pq.PQconnectdb, pq.PQexec, pq.PQexecParams, pq.PQgetResult): f.restype = ctypes.c_void_p
pq.PQgetvalue.restype = ctypes.c_char_p
for f in (pq.PQgetvalue, pq.PQclear, pq.PQresultStatus, pq.PQgetResult, pq.PQbackendPID): f.argtypes = [ctypes.c_void_p] + ([ctypes.c_int] * 2 if f is pq.PQgetvalue else [])
c = ctypes.c_void_p(pq.PQconnectdb(%r))
def result(r):
	status, text = pq.PQresultStatus(r), None
	if status == 2: text = pq.PQgetvalue(r, 0, 0).decode()
	pq.PQclear(r)
	return status, text
def do(sql): return result(pq.PQexec(c, sql))
def params(sql): return result(pq.PQexecParams(c, sql, 0, None, None, None, None, 0))
def later(sql):
	pq.PQsendQuery(c, sql)
	got = []
	while True:
		r = pq.PQgetResult(c)
		if not r: return got
		got.append(result(r))
"""


@pytest.fixture
def postgres(tmp_path, serve):  # noqa: F811
	bins = sorted(p for p in (f"/usr/lib/postgresql/{v}/bin" for v in range(10, 30)) if os.path.exists(f"{p}/postgres"))
	if not bins:
		pytest.skip("not installed: postgresql")
	data = tmp_path / "pg"
	data.mkdir()
	who = []
	if os.geteuid() == 0:  # it will not run as root
		shutil.chown(data, "postgres", "postgres")
		path = tmp_path
		while path != path.parent and str(path).startswith("/tmp/"):
			os.chmod(path, os.stat(path).st_mode | 0o011)
			path = path.parent
		who = ["runuser", "-u", "postgres", "--"]
	run(*who, f"{bins[-1]}/initdb", "-D", str(data / "d"), "-A", "trust", "-U", "postgres", "-N")
	short = f"/tmp/klieg-pg-{os.getpid()}"  # a socket's path has 107 characters at most
	os.makedirs(short, exist_ok=True)
	os.chmod(short, 0o777)
	serve([*who, f"{bins[-1]}/postgres", "-D", str(data / "d"), "-k", short, "-c", "listen_addresses=", "-c", "fsync=off"], stderr=subprocess.DEVNULL, stop=signal.SIGINT)
	wait_for(lambda: os.path.exists(f"{short}/.s.PGSQL.5432") and
		subprocess.run(["psql", "-h", short, "-U", "postgres", "-c", "select 1"], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0)
	yield f"host={short} user=postgres"
	shutil.rmtree(short, ignore_errors=True)


@library("pq")
def test_a_trace_goes_from_libpq_into_a_postgresql_backend(klieg_up, postgres, spawn):
	up = klieg_up
	client = Python(spawn, PG % (ctypes.util.find_library("pq"), postgres.encode()))
	backend = client("pq.PQbackendPID(c)")
	assert client("do(b'create table t(a int, b text)')") == (1, None)
	before = text_of(backend), text_of(client.pid)
	plugin_on(up, backend, "postgres", "postgres.*")
	plugin_on(up, client.pid, "pq:sqlcommenter=on", "pq.*")
	assert client("do(b\"insert into t values (1, 'secret'), (2, 'x');\")") == (1, None)
	assert client("do(b'select count(*) from t where a < 5')") == (2, "2")
	assert client("params(b'select b from t where a = 2')") == (2, "x")
	assert client("do(b'select 1/0')") == (7, None)
	assert client("later(b'select a from t order by a')") == [(2, "1")]
	queries, execs = found(up, '{ name = "postgres.query" }', 5), found(up, '{ name = "pq.exec" }', 4)
	(sent,) = found(up, '{ name = "pq.send" }', 1)
	texts = ["insert into t values (?, ?), (?, ?)", "select count(*) from t where a < ?", "select b from t where a = ?", "select ?/?", "select a from t order by a"]
	for c, q, text in zip([*execs, sent], queries, texts):
		assert q["trace_id"] == c["trace_id"] and q["parent_span_id"] == c["span_id"], (c, q)
		assert c["attributes"]["db.query.text"] == q["attributes"]["db.query.text"] == text
		assert c["attributes"]["db.operation.name"] == text.split()[0].upper() and c["attributes"]["db.namespace"] == "postgres"
		assert c["kind"] == "client" and q["kind"] == "server"
	assert [c["status"] for c in execs] == ["unset"] * 3 + ["error"] and [q["status"] for q in queries] == ["unset"] * 3 + ["error", "unset"]
	assert execs[3]["attributes"]["db.response.status_code"] == "22012" and "division by zero" in execs[3]["status_message"]
	steps = {x["name"] for x in spans(up, f'{{ trace:id = "{queries[0]["trace_id"]}" }}')}
	assert {"postgres.parse", "postgres.plan", "postgres.execute", "postgres.commit"} <= steps, steps
	up.detach(backend)
	up.detach(client.pid)
	assert client("do(b'select current_query()')") == (2, "select current_query()")  # nothing is added any more
	assert not changed(before[0], backend) and not changed(before[1], client.pid)


@needs("memcached")
def test_memcached(klieg_up, serve):  # noqa: F811
	up, port = klieg_up, free_port()
	p = serve(["memcached", "-l", f"127.0.0.1:{port}", "-t", "2", *(["-u", "nobody"] if os.geteuid() == 0 else [])])

	def connect():
		try:
			return socket.create_connection(("127.0.0.1", port), 5)
		except OSError:
			return None
	s = wait_for(connect)

	def ask(text, end):
		s.sendall(text)
		got = b""
		while not got.endswith(end):
			got += s.recv(65536) or pytest.fail(f"closed after {got!r}")
		return got
	assert ask(b"set k 0 0 5\r\nhello\r\n", b"\r\n") == b"STORED\r\n"
	before = text_of(p.pid)
	plugin_on(up, p.pid, "memcached", "memcached.request")
	for _ in range(25):
		assert ask(b"get k\r\n", b"END\r\n") == b"VALUE k 0 5\r\nhello\r\nEND\r\n"
	assert ask(b"set k 0 0 5\r\nworld\r\n", b"\r\n") == b"STORED\r\n"
	gets = found(up, '{ name = "memcached.request" && .db.operation.name = "GET" }', 25)
	assert all(g["kind"] == "server" and g["attributes"]["client.port"] == s.getsockname()[1] and g["parent_span_id"] == "" for g in gets)
	found(up, '{ name = "memcached.request" }', 26)
	up.detach(p.pid)
	assert not changed(before, p.pid)
	assert ask(b"get k\r\n", b"END\r\n") == b"VALUE k 0 5\r\nworld\r\nEND\r\n"
	s.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_program_under_seccomp_lives_through_a_plugin(klieg_up, target):
	t = target("confined", "seccomp")  # dies of an open, is refused nearly everything else
	plain, _ = t.go(10)
	before = text_of(t.pid)
	plugin_on(klieg_up, t.pid, "io", "io.write")
	assert t.go(10)[0] == plain and t.go(10)[0] == plain
	wait_for(lambda: klieg_up.settled() and klieg_up.stored('{ name = "io.write" }') >= 2)
	assert all("io.bytes" in s["attributes"] and "io.kind" not in s["attributes"] for s in spans(klieg_up, '{ name = "io.write" }'))
	klieg_up.detach(t.pid)
	assert not changed(before, t.pid) and t.go(10)[0] == plain
	t.end()
