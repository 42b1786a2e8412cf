/* Drives libklieg as an agent would: finds the process's region by its mapping, reads the descriptors, writes the sites' bytes through
 * /proc/self/mem, reads the ring. For tests inside one process. */
#pragma once
#include "wire/wire.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef PROBE_HARNESS_PLAIN /* a foreign architecture has no cmocka here */
#define assert_true(x) do { if (!(x)) { fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); exit(1); } } while (0)
#define assert_non_null(x) assert_true((x) != NULL)
#define assert_int_equal(a, b) assert_true((a) == (b))
#else
#ifdef __cplusplus
extern "C" {
#endif
#include <cmocka.h>
#ifdef __cplusplus
}
#endif
#endif

struct harness { struct kw_region *r; struct kw_control *c; struct kw_module *modules; struct kw_site_state *states; int mem; };
static struct harness H;

__attribute__((unused)) static void harness_find(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	H.r = NULL;
	while (fgets(line, sizeof line, f))
		if (strstr(line, "/memfd:" KW_MEMFD_NAME)) {
			H.r = (struct kw_region *)strtoull(line, NULL, 16);
			break;
		}
	fclose(f);
	assert_non_null(H.r);
	assert_true(H.r->magic == KW_MAGIC);
	uint8_t *b = (uint8_t *)H.r;
	H.c = (struct kw_control *)(b + H.r->control_off);
	H.modules = (struct kw_module *)(b + H.r->modules_off);
	H.states = (struct kw_site_state *)(b + H.r->sites_off);
	H.c->lease_tsc = UINT64_MAX;
	if (!H.mem)
		H.mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
}

static inline const char *site_text(const struct kw_site *s, int i) /* 0 component, 1 name, 2 file, 3 schema */
{
	const char *t = (const char *)s + s->text;
	while (i--)
		t += strlen(t) + 1;
	return t;
}

/* Calls fn for every live site with that name; returns how many. */
static inline int sites_named(const char *name, void (*fn)(const struct kw_site *, uint32_t index, void *), void *arg)
{
	int n = 0;
	for (uint32_t m = 0; m < H.c->modules_n; m++)
		for (uint32_t i = 0; H.modules[m].state == KW_MODULE_LIVE && i < H.modules[m].nsites; i++) {
			const struct kw_site *s = (const struct kw_site *)H.modules[m].sites + i;
			if (!strcmp(site_text(s, 1), name)) {
				n++;
				if (fn)
					fn(s, H.modules[m].first + i, arg);
			}
		}
	return n;
}

static inline void switch_one(const struct kw_site *s, uint32_t index, void *level)
{
	unsigned l = *(unsigned *)level;
	__atomic_store_n(&H.states[index].level, (uint8_t)l, __ATOMIC_RELAXED);
	uint8_t b = s->flags & KW_SITE_DATA ? l != 0 : l ? KW_OP_ON : KW_OP_OFF;
	if (s->flags & KW_SITE_DATA) /* plain memory of ours; and an emulator's /proc/self/mem is not its guest's */
		__atomic_store_n((uint8_t *)(uintptr_t)((const char *)s + s->addr), b, __ATOMIC_RELAXED);
	else
		assert_int_equal(pwrite(H.mem, &b, 1, (off_t)(uintptr_t)((const char *)s + s->addr)), 1);
}

/* As the agent does it: what changes is counted, since sites remember. */
__attribute__((unused)) static void set_flags(uint32_t index, uint8_t flags)
{
	__atomic_store_n(&H.states[index].flags, flags, __ATOMIC_RELAXED);
	__atomic_store_n(&H.c->changes, H.c->changes + 1, __ATOMIC_RELEASE);
}
__attribute__((unused)) static void gate_one(const struct kw_site *s, uint32_t index, void *arg) { (void)s, (void)arg; set_flags(index, KW_STATE_GATED); }

__attribute__((unused)) static void switch_site(const char *name, unsigned level) { assert_true(sites_named(name, switch_one, &level) > 0); }

__attribute__((unused)) static struct kw_thread *slot_of(unsigned tid)
{
	for (uint32_t i = 0; i < H.r->max_threads; i++) {
		struct kw_thread *t = (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride);
		if (t->state == KW_THREAD_LIVE && t->tid == tid)
			return t;
	}
	return NULL;
}

/* Reads the next record of a slot into *ret (copied); false if there is none. PADs are skipped. */
struct any_record { union { struct kw_rec r; struct kw_rec_span span; struct kw_rec_ctx ctx; struct kw_rec_spanx spanx; struct kw_rec_event event; struct kw_rec_link link; uint8_t b[8192]; }; };
__attribute__((unused)) static bool next_record(struct kw_thread *t, struct any_record *ret)
{
	uint8_t *ring = (uint8_t *)t + H.r->ring_off;
	while (t->tail < __atomic_load_n(&t->head, __ATOMIC_ACQUIRE)) {
		struct kw_rec *r = (struct kw_rec *)(ring + (t->tail & (H.r->ring_bytes - 1)));
		uint64_t n = r->type == KW_REC_PAD ? H.r->ring_bytes - (t->tail & (H.r->ring_bytes - 1)) : r->units * KW_UNIT;
		assert_true(n >= KW_UNIT);
		bool pad = r->type == KW_REC_PAD;
		if (!pad)
			memcpy(ret, r, n);
		__atomic_store_n(&t->tail, t->tail + n, __ATOMIC_RELEASE);
		if (!pad)
			return true;
	}
	return false;
}
__attribute__((unused)) static void skip_records(struct kw_thread *t) { if (t) __atomic_store_n(&t->tail, t->head, __ATOMIC_RELEASE); }
