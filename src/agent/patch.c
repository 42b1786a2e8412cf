/* Makes the bytes in a process's text say what its sites' levels say. Verify, then write, a page at a time, through the /proc/PID/mem that
 * was opened at the handshake; a process whose memory may not be written is `denied`. Agent thread.
 *
 * Order: on, ends go before begins, so that no begun span misses its end; off, begins go at once and ends when no open span of theirs
 * is left, or after a second. State before byte on, byte before state off. */
#include "agent/state.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define SPAN_BYTES 16384u /* rewritten in one go: the other bytes keep the values that they have */

static int by_addr(const void *a, const void *b)
{
	const struct site *x = *(struct site *const *)a, *y = *(struct site *const *)b;
	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static bool is_site(const struct site *s, const uint8_t *at)
{
	if (s->flags & KW_SITE_DATA)
		return at[0] <= 1;
	int32_t rel;
	memcpy(&rel, at + 1, 4);
	return (at[0] == KW_OP_OFF || at[0] == KW_OP_ON) && s->addr + 5 + (uint64_t)(int64_t)rel == s->target;
}

static void denied(struct process *p, int e)
{
	if (!p->denied)
		log_warn("agent", "process %d: its sites cannot be switched: writing its memory: %s (run the agent as root or with CAP_SYS_PTRACE)", p->pid,
			strerror(e));
	p->denied = true;
}

/* All of one module, sorted by address; sets `patched` where it worked. */
static void write_run(struct process *p, struct site **s, uint32_t n, bool on)
{
	uint8_t text[SPAN_BYTES + 8];
	int64_t now = clock_mono();
	for (uint32_t i = 0, next; i < n; i = next) {
		uint64_t from = s[i]->addr;
		for (next = i + 1; next < n && s[next]->addr - from < SPAN_BYTES && s[next]->addr - s[next - 1]->addr < 4096;)
			next++;
		bool data = s[i]->flags & KW_SITE_DATA;
		if (data)
			next = i + 1; /* data around it changes under us: the byte alone */
		size_t bytes = (size_t)(s[next - 1]->addr - from) + (data ? 1 : 5);
		ssize_t got = pread(p->mem, text, bytes, (off_t)from);
		if (got != (ssize_t)bytes) {
			if (got < 0 && (errno == EPERM || errno == EACCES))
				denied(p, errno);
			for (uint32_t k = i; k < next; k++)
				s[k]->bad = 1;
			continue;
		}
		uint64_t lo = UINT64_MAX, hi = 0;
		for (uint32_t k = i; k < next; k++) {
			uint8_t *at = text + (s[k]->addr - from);
			if (!is_site(s[k], at)) {
				s[k]->bad = 1;
				continue;
			}
			at[0] = data ? on : on ? KW_OP_ON : KW_OP_OFF;
			lo = lo < s[k]->addr ? lo : s[k]->addr;
			hi = s[k]->addr + 1;
		}
		if (!hi)
			continue;
		ssize_t put = pwrite(p->mem, text + (lo - from), hi - lo, (off_t)lo);
		if (put != (ssize_t)(hi - lo)) {
			if (put < 0)
				denied(p, errno);
			continue;
		}
		for (uint32_t k = i; k < next; k++)
			if (!s[k]->bad) {
				if (on && !s[k]->patched)
					s[k]->on_since = now, s[k]->on_calls = stat_calls(s[k], now / SECOND);
				s[k]->patched = on;
			}
	}
}

/* One Dekker bracket per module: its dlclose waits for us, or we see that it has begun. */
static void write_sites(struct process *p, struct site **s, uint32_t n, bool on)
{
	qsort(s, n, sizeof *s, by_addr);
	for (uint32_t m = 0; m < p->reg.max_modules && n; m++) {
		if (!p->modules[m].known || p->modules[m].gone)
			continue;
		struct site **mine = base_alloc(n * sizeof *mine);
		uint32_t k = 0;
		for (uint32_t i = 0; i < n; i++)
			if (s[i]->module == m)
				mine[k++] = s[i];
		if (k) {
			struct kw_module *shm = &p->modules_shm[m];
			__atomic_store_n(&shm->busy, 1, __ATOMIC_SEQ_CST);
			if (__atomic_load_n(&shm->state, __ATOMIC_SEQ_CST) == KW_MODULE_LIVE && shm->first == p->modules[m].first)
				write_run(p, mine, k, on);
			__atomic_store_n(&shm->busy, 0, __ATOMIC_RELEASE); /* pairs with the destructor's load: our writes are done */
		}
		free(mine);
	}
}

static unsigned level_of(const struct site *s) { return s->level > s->peek ? s->level : s->peek; }
static bool wanted(const struct site *s) { return level_of(s) || s->classifies; }
static bool said(const struct process *p, uint32_t i) { return p->state[i].level || p->state[i].flags; }

static void set_state(struct process *p, uint32_t i)
{
	struct site *s = &p->sites[i];
	struct kw_site_state *st = &p->state[i];
	__atomic_store_n(&st->threshold, s->threshold, __ATOMIC_RELAXED);
	uint8_t level = (uint8_t)level_of(s), always = s->always > s->peek ? s->always : s->peek;
	__atomic_store_n(&st->always, always, __ATOMIC_RELAXED);
	__atomic_store_n(&st->asks, s->classifies, __ATOMIC_RELAXED);
	__atomic_store_n(&st->hide, s->hide, __ATOMIC_RELAXED);
	__atomic_store_n(&st->hides, s->hides, __ATOMIC_RELEASE); /* pairs with the probe's acquire: redact.c's names before it */
	__atomic_store_n(&st->flags, (uint8_t)((always < level ? KW_STATE_GATED : 0) | (s->classifies ? KW_STATE_CLASSIFIES : 0)), __ATOMIC_RELAXED);
	__atomic_store_n(&st->level, level, __ATOMIC_RELEASE);
	uint32_t changes = __atomic_load_n(&p->control->changes, __ATOMIC_RELAXED) + 1;
	__atomic_store_n(&p->control->changes, changes ? changes : 1, __ATOMIC_RELEASE); /* sites that found themselves gated look again */
}

void patch_apply(struct process *p)
{
	if (!p->map || p->mem < 0)
		return;
	struct site **on[2], **off;
	uint32_t non[2] = { 0 }, noff = 0;
	on[0] = base_alloc((p->ntouched + 1) * sizeof **on);
	on[1] = base_alloc((p->ntouched + 1) * sizeof **on);
	off = base_alloc((p->ntouched + 1) * sizeof *off);
	bool ends = false;
	p->detail_n = 0;
	for (uint32_t k = 0; k < p->ntouched; k++) {
		uint32_t i = p->touched[k].site;
		struct site *s = &p->sites[i];
		if (!s->id || s->bad || p->modules[s->module].gone)
			continue;
		p->detail_n += s->level >= KW_DETAIL;
		if (s->kind == KW_SITE_FUNCTION) { /* the byte is hooks.c's */
			if (wanted(s) || said(p, i))
				set_state(p, i);
			continue;
		}
		if (wanted(s)) {
			set_state(p, i);
			if (!s->patched)
				on[s->kind != KW_SITE_END][non[s->kind != KW_SITE_END]++] = s;
		} else if (s->patched) {
			if (s->kind == KW_SITE_END)
				ends = true;
			else
				off[noff++] = s;
		}
	}
	if (noff) {
		cells_read(p);
		p->agent->seen_gen++;
		for (uint32_t i = 0; i < noff; i++)
			cost_seen(p, (uint32_t)(off[i] - p->sites));
	}
	write_sites(p, on[0], non[0], true);
	write_sites(p, on[1], non[1], true);
	write_sites(p, off, noff, false);
	for (uint32_t k = 0; k < p->ntouched; k++) {
		uint32_t i = p->touched[k].site;
		if (p->sites[i].id && !wanted(&p->sites[i]) && !p->sites[i].patched && said(p, i))
			set_state(p, i);
	}
	free(on[0]);
	free(on[1]);
	free(off);
	hooks_apply(p);
	if (ends) {
		if (!p->ends_due)
			p->ends_due = clock_mono() + SECOND;
		patch_ends(p, false);
	}
}

static bool is_open(struct process *p, uint64_t id)
{
	for (uint32_t t = 0; t < process_slots(p); t++) {
		const struct kw_thread *th = process_slot(p, t);
		uint32_t depth = __atomic_load_n(&th->depth, __ATOMIC_ACQUIRE);
		if (__atomic_load_n(&th->state, __ATOMIC_RELAXED) != KW_THREAD_LIVE)
			continue;
		for (uint32_t d = 0; d < depth && d < KW_OPEN_MAX; d++) {
			uint32_t site = __atomic_load_n(&th->open[d].site, __ATOMIC_RELAXED);
			if (site < p->nsites && p->sites[site].id == id)
				return true;
		}
	}
	return false;
}

void patch_ends(struct process *p, bool force)
{
	if (!p->ends_due || !p->map)
		return;
	force |= clock_mono() >= p->ends_due;
	struct site **off = base_alloc((p->nsites + 1) * sizeof *off);
	uint32_t n = 0, left = 0;
	uint64_t seen = 0;
	bool seen_open = false;
	for (uint32_t i = 0; i < p->nsites; i++) {
		struct site *s = &p->sites[i];
		if (!s->id || s->bad || s->kind != KW_SITE_END || !s->patched || wanted(s) || p->modules[s->module].gone)
			continue;
		if (s->id != seen)
			seen = s->id, seen_open = !force && is_open(p, s->id);
		if (seen_open)
			left++;
		else
			off[n++] = s;
	}
	write_sites(p, off, n, false);
	for (uint32_t i = 0; i < p->nsites; i++)
		if (p->sites[i].kind == KW_SITE_END && !p->sites[i].patched && !wanted(&p->sites[i]) && said(p, i))
			set_state(p, i);
	free(off);
	if (!left)
		p->ends_due = 0;
}
