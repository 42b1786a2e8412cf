"""What the tests of governor, escalation and sampling share: an agent of their own whose events they see, and a program that does as it is told."""
import json
import os
import queue
import subprocess
import threading

from conftest import BUILD, TOP, wait_for
from test_agent import DRIVER

PROGRAM = r"""
#define KLIEG_COMPONENT "demo"
#include "klieg/klieg.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
static atomic_int storm, slow_us, frequent = 100, failing, queued_us;
static atomic_ulong entries;
static void pause_us(long us) { nanosleep(&(struct timespec){ us / 1000000, us % 1000000 * 1000 }, NULL); }
static void *innermost(void *arg)
{
	(void)arg;
	for (unsigned i = 0;; i++) {
		while (!atomic_load_explicit(&storm, memory_order_relaxed))
			pause_us(1000);
		for (int k = 0; k < 1000; k++) {
			KLIEG_SPAN("storm.entry", KLIEG_INT("entry", k));
			__asm__ volatile("" ::: "memory");
		}
		atomic_fetch_add_explicit(&entries, 1000, memory_order_relaxed);
	}
	return NULL;
}
static void step(void)
{
	KLIEG_SPAN_AS(span, "request.step");
	if (failing == 2)
		KLIEG_ERROR(span, "no stock");
}
static void request(void)
{
	KLIEG_SPAN_AS(span, "request", KLIEG_INT("n", 1));
	step();
	if (slow_us)
		pause_us(slow_us);
	if (queued_us)
		KLIEG_SET(span, KLIEG_INT("klieg.queue_nano", queued_us * 1000l));
	if (failing == 1)
		KLIEG_ERROR(span, "declined");
}
static void rare(void) { KLIEG_SPAN("rare"); }
static void *requests(void *arg)
{
	(void)arg;
	for (unsigned i = 0;; i++) {
		request();
		if (i % 64 == 0)
			rare();
		pause_us(1000000 / frequent);
	}
	return NULL;
}
int main(void)
{
	pthread_t t;
	char word[32];
	int n;
	pthread_create(&t, NULL, innermost, NULL);
	pthread_create(&t, NULL, requests, NULL);
	while (scanf("%31s %d", word, &n) == 2) {
		if (!strcmp(word, "storm"))
			storm = n;
		else if (!strcmp(word, "slow_us"))
			slow_us = n;
		else if (!strcmp(word, "frequent"))
			frequent = n;
		else if (!strcmp(word, "failing"))
			failing = n;
		else if (!strcmp(word, "queued_us"))
			queued_us = n;
		printf("%lu\n", atomic_load(&entries));
		fflush(stdout);
	}
	return 0;
}
"""


def build(where):
	source, exe = where / "guarded.c", str(where / "guarded")
	source.write_text(PROGRAM)
	lib = next(d for d in (BUILD, os.path.join(BUILD, "src", "probe")) if os.path.exists(os.path.join(d, "libklieg.so")))
	subprocess.check_call(["cc", "-O2", "-pthread", "-I", os.path.join(TOP, "include"), str(source), "-o", exe, "-L", lib, "-lklieg", f"-Wl,-rpath,{lib}"])
	return exe


class Agent:
	"""An agent without a server; what it tells on its own is in `events`."""

	def __init__(self, socket, *args):
		self.socket, self.events, self.answers, self.generation = socket, [], queue.Queue(), 0
		self.proc = subprocess.Popen([DRIVER, "-e", *args, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
		threading.Thread(target=self.read, daemon=True).start()
		assert "ready" in self.answers.get(timeout=20)

	def read(self):
		for line in self.proc.stdout:
			if line.startswith('{"event":'):
				self.events.append(json.loads(line)["event"])
			else:
				self.answers.put(line)

	def __call__(self, method, **params):
		self.proc.stdin.write(f"{method} {json.dumps(params)}\n")
		self.proc.stdin.flush()
		answer = json.loads(self.answers.get(timeout=20))
		assert answer["rc"] >= 0, answer
		return answer["result"]

	def rules(self, *rules):
		"""These and no others."""
		self.generation += 1
		return self("change", generation=self.generation, base=-1, set=[{"policy": "test", "rule": r["id"], **r} for r in rules])

	def levels(self):
		return {s["name"]: s["level"] for s in self("ls")["sites"]}

	def told(self, kind, **more):
		return [e for e in self.events if e["type"] == kind and all(e.get(k) == v for k, v in more.items())]

	def overhead(self):
		return self("overhead")["processes"][0]

	def stat(self, name, window=5):
		return next((s for s in self("stats", window_nano=window * 10**9)["sites"] if s["name"] == name), None)

	def stop(self):
		self.proc.stdin.close()
		assert self.proc.wait(10) == 0


class Program:
	def __init__(self, exe, agent):
		self.proc = subprocess.Popen([exe], env={**os.environ, "KLIEG_SOCKET": agent.socket, "OTEL_SERVICE_NAME": "shop"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
		wait_for(lambda: any(p["pid"] == self.proc.pid and p["sites"] == 4 for p in agent("ps")["processes"]))

	def tell(self, what, n):
		"""Calls of the innermost loop so far."""
		self.proc.stdin.write(f"{what} {n}\n")
		self.proc.stdin.flush()
		return int(self.proc.stdout.readline())

	def stop(self):
		self.proc.kill()
		self.proc.wait()
