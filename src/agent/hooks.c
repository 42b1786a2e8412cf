/* The jumps at the entries of functions: stubs are made beforehand, in memory of the process that it cannot write; then the process is stopped, threads that
 * are between two instructions that will be overwritten are moved to the copies of these, the jumps are written page by page, and all go on. The bytes are
 * verified before they are replaced and before they are put back. Agent thread.
 *
 * The pools of stubs stay mapped until the process ends, also after a detach: a thread may be inside. */
#include "agent/state.h"
#include "ptrace/proc.h"
#include "ptrace/world.h"
#include "uprobe/uprobe.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define JUMP 5u
#define POOL_BYTES (512u * 1024u)
#define REACH 0x70000000ll        /* of a rel32, with room for what relocated instructions reach */
#define STACK_LOOK 16384u         /* bytes of a thread's stack searched for interrupted prologues */
#define SPAN_BYTES 65536u         /* text rewritten in one go */

static bool read_at(const struct process *p, uint64_t at, void *to, size_t n) { return pread(p->mem, to, n, (off_t)at) == (ssize_t)n; }
static bool write_at(const struct process *p, uint64_t at, const void *from, size_t n) { return pwrite(p->mem, from, n, (off_t)at) == (ssize_t)n; }

static void problem(struct process *p, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(p->fns->problem, sizeof p->fns->problem, fmt, ap);
	va_end(ap);
	log_warn("agent", "process %d: %s", p->pid, p->fns->problem);
}

/* A thread that has no processor to stop on uses the budget up: then all go on, and it is tried again. */
static int stop(struct process *p, int64_t budget, unsigned tries, struct world **ret_w, struct err *e)
{
	int rc;
	do
		rc = world_stop(p->pid, budget, ret_w, e);
	while (rc == KLIEG_E_LIMIT && --tries);
	return rc;
}
/* How long p may be stopped to be patched: the least that a toggle asks for, else what was said at the attach. */
int64_t hooks_budget(const struct process *p)
{
	int64_t least = 0;
	for (uint32_t k = 0; k < p->agent->nrules; k++) {
		int64_t asked = p->agent->rules[k]->dead ? 0 : p->agent->rules[k]->max_pause_ns;
		least = asked && (!least || asked < least) ? asked : least;
	}
	for (const struct request *r = p->agent->waiting; r; r = r->next) /* one whose cost is being estimated is patched already */
		for (uint32_t k = 0; k < r->npeek; k++)
			if (r->peek[k]->max_pause_ns && (!least || r->peek[k]->max_pause_ns < least))
				least = r->peek[k]->max_pause_ns;
	return least ? least : p->fns->max_pause_ns;
}
#define TRIES 10
#define TRIES_LEAVING 20 /* to go away matters more */

/* ---- pools ------------------------------------------------------------------------------------------------------------- */

static bool near(uint64_t a, uint64_t b) { return (a > b ? a - b : b - a) < (uint64_t)REACH; }

static int pool_for(const struct process *p, uint64_t function)
{
	for (uint32_t i = 0; i < KW_POOLS && p->control->pool[i].bytes; i++)
		if (near(p->control->pool[i].addr, function) && p->control->pool[i].bytes <= POOL_BYTES &&
			p->control->pool[i].used + KW_STUB_BYTES <= p->control->pool[i].bytes)
			return (int)i;
	return -1;
}

/* A gap in the address space, as near as can be. */
static uint64_t gap_near(pid_t pid, uint64_t function)
{
	char path[64], line[512];
	unsigned long long from, to, end = 0x10000;
	uint64_t best = 0, distance = UINT64_MAX;
	bool after_heap = false;
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f)) {
		if (sscanf(line, "%llx-%llx", &from, &to) != 2)
			continue;
		/* At either end of a gap, but not where a stack grows down into it, or the heap up. */
		if (from > end + 4 * POOL_BYTES)
			for (int k = after_heap; k < (strstr(line, "[stack]") ? 1 : 2); k++) {
				uint64_t at = k ? from - 2 * POOL_BYTES : end + 2 * POOL_BYTES;
				at = at / 4096 * 4096;
				uint64_t d = at > function ? at - function : function - at;
				if (at >= 0x10000 && d < distance && near(at, function))
					best = at, distance = d;
			}
		end = to;
		after_heap = strstr(line, "[heap]") != NULL;
	}
	if (f)
		fclose(f);
	return best;
}

/* An mmap in the process. at: where it must be, 0 = anywhere. */
static int map_there(struct process *p, uint64_t at, size_t bytes, int prot, uint64_t *ret_addr, struct err *e)
{
	struct world *w;
	int rc = stop(p, hooks_budget(p), TRIES, &w, e);
	if (rc < 0)
		return rc;
	const uint64_t args[6] = { at, bytes, (uint64_t)prot, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), (uint64_t)-1, 0 };
	rc = world_syscall(w, SYS_mmap, args, ret_addr, e);
	int64_t pause = world_resume(w);
	p->fns->longest_pause_ns = pause > p->fns->longest_pause_ns ? pause : p->fns->longest_pause_ns;
	if (rc >= 0 && (int64_t)*ret_addr < 0 && (int64_t)*ret_addr > -4096)
		rc = err_set(e, KLIEG_E_NOMEM, "mmap: %s", strerror((int)-(int64_t)*ret_addr));
	return rc;
}

int hooks_memory(struct process *p, size_t bytes, uint64_t *ret_addr, struct err *e)
{
	return map_there(p, 0, bytes, PROT_READ | PROT_WRITE, ret_addr, e);
}

static int pool_make(struct process *p, uint64_t function)
{
	uint32_t i = 0;
	while (i < KW_POOLS && p->control->pool[i].bytes)
		i++;
	uint64_t at = i < KW_POOLS ? gap_near(p->pid, function) : 0;
	if (!at) {
		problem(p, "no memory for stubs within 2 GB of %#lx", (unsigned long)function);
		return KLIEG_E_LIMIT;
	}
	struct err e = { 0 };
	uint64_t got = 0;
	int rc = map_there(p, at, POOL_BYTES, PROT_READ | PROT_EXEC, &got, &e); /* never writable there: we write through /proc/PID/mem */
	if (rc >= 0 && got != at)
		rc = err_set(&e, KLIEG_E_NOMEM, "mmap: not where it was asked for");
	if (rc < 0) {
		problem(p, "no memory for stubs: %s", e.msg);
		p->fns->retry |= rc == KLIEG_E_LIMIT; /* it did not stop in time */
		return rc;
	}
	p->control->pool[i].addr = at;
	p->control->pool[i].used = 0;
	__atomic_store_n(&p->control->pool[i].bytes, POOL_BYTES, __ATOMIC_RELEASE);
	return (int)i;
}

/* ---- stubs -------------------------------------------------------------------------------------------------------------- */

static struct hook *hook_of(const struct process *p, uint32_t site)
{
	const struct function_module *m = function_module_of(p, site);
	return m ? &m->hooks[site - m->first] : NULL;
}

static int stub_make(struct process *p, uint32_t site, struct err *e)
{
	const struct function_module *m = function_module_of(p, site);
	const struct symbols_function *f = function_of(p, site);
	struct hook *h = hook_of(p, site);
	uint64_t at = p->sites[site].addr;
	uint8_t now[sizeof ((struct kw_hook *)0)->orig];
	const uint8_t *file = symbols_text(m->file.symbols, f->addr, f->window);
	if (!f->window || f->window > sizeof now || !file)
		return err_set(e, KLIEG_E_UNSUPPORTED, "%s", f->refusal ? f->refusal : "its first instructions are too long");
	if (!read_at(p, at, now, f->window))
		return err_set(e, KLIEG_E_NO_TARGET, "the process is ending");
	if (memcmp(now, file, f->window))
		return err_set(e, KLIEG_E_CONFLICT, "its bytes in memory are not those of its file: another tool has changed them");
	int pool = pool_for(p, at);
	if (pool < 0)
		return err_set(e, KLIEG_E_LIMIT, "no room for its stub");
	uint64_t stub = p->control->pool[pool].addr + p->control->pool[pool].used;
	struct symbols_moved *moved = base_calloc(1, sizeof *moved);
	uint64_t target = stub + KW_STUB_CODE + sizeof(struct kw_hook);
	int rc = symbols_move(now, f->window, at, target, moved, e);
	if (rc < 0) {
		free(moved);
		return rc;
	}
	uint8_t bytes[KW_STUB_BYTES];
	memset(bytes, 0xcc, sizeof bytes);
	/* push %r11; lea 7(%rip), %r11 (the hook); jmp *1(%rip) (its first word) */
	memcpy(bytes, "\x41\x53\x4c\x8d\x1d\x07\0\0\0\xff\x25\x01\0\0\0\x90", KW_STUB_CODE);
	struct kw_hook k = { .gate = p->reg.gate_enter, .target = target, .site1 = site + 1, .function = at, .window = f->window };
	memcpy(k.orig, now, f->window);
	memcpy(bytes + KW_STUB_CODE, &k, sizeof k);
	memcpy(bytes + KW_STUB_CODE + sizeof k, moved->code, moved->size);
	if (!write_at(p, stub, bytes, sizeof bytes)) {
		free(moved);
		return err_set(e, err_from_errno(errno), "its stub cannot be written: %s", strerror(errno));
	}
	p->control->pool[pool].used += KW_STUB_BYTES;
	h->stub = stub;
	h->moved = moved;
	return 0;
}

static unsigned wanted(const struct site *s) { return s->level > s->peek ? s->level : s->peek; }

/* What the handler does at this site from now on. Conditions and arguments are switched off while they change. */
static bool stub_configure(struct process *p, uint32_t site)
{
	struct site *s = &p->sites[site];
	struct hook *h = hook_of(p, site);
	struct kw_hook k;
	uint64_t at = h->stub + KW_STUB_CODE;
	if (!read_at(p, at, &k, sizeof k))
		return false;
	if (!wanted(s)) {
		struct kw_hook old = k;
		k.flags = KW_HOOK_WATCH;
		k.nargs = k.nwhere = 0;
		watch_configure(p, site, &k);
		return !memcmp(&old, &k, sizeof k) || write_at(p, at, &k, sizeof k);
	}
	uint16_t flags = (uint16_t)((s->root ? KW_HOOK_ROOT : 0) | KW_HOOK_STRINGS);
	struct kw_arg args[KW_HOOK_ARGS] = { { 0 } };
	uint8_t nargs = s->level >= KW_DETAIL && !s->plugin ? (uint8_t)functions_arguments(p, site, args) : 0;
	uint64_t min_ticks = (uint64_t)((double)s->min_ns / p->agent->clock.ns_per_tick);
	if (k.flags == flags && k.data == s->plugin && k.min_ticks == min_ticks && k.nargs == nargs && !memcmp(k.args, args, sizeof args) &&
		k.nwhere == s->nwhere && !memcmp(k.where, s->arg_where, sizeof k.where))
		return true;
	uint8_t none[2] = { 0, 0 };
	if (!write_at(p, at + offsetof(struct kw_hook, nargs), none, 2))
		return false;
	memcpy(k.args, args, sizeof args);
	memcpy(k.where, s->arg_where, sizeof k.where);
	k.flags = flags;
	k.data = s->plugin;
	k.min_ticks = min_ticks;
	k.nargs = k.nwhere = 0;
	if (!write_at(p, at, &k, sizeof k))
		return false;
	uint8_t counts[2] = { nargs, s->nwhere };
	return write_at(p, at + offsetof(struct kw_hook, nargs), counts, 2);
}

static void jump_to(uint8_t to[JUMP], uint64_t from, uint64_t stub)
{
	int32_t rel = (int32_t)(int64_t)(stub - (from + JUMP));
	to[0] = 0xe9;
	memcpy(to + 1, &rel, 4);
}

/* ---- arming ------------------------------------------------------------------------------------------------------------- */

struct change { uint64_t addr; uint32_t site; bool on, refused; };

static int by_addr(const void *a, const void *b)
{
	const struct change *x = a, *y = b;
	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* The change whose first five bytes contain the address, but not at its beginning. */
static struct change *inside(struct change *c, uint32_t n, uint64_t ip)
{
	uint32_t lo = 0, hi = n;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		if (c[mid].addr < ip)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && ip - c[lo - 1].addr < JUMP && c[lo - 1].on ? &c[lo - 1] : NULL;
}

/* A signal handler may be running on top of an interrupted prologue: its return would go into the middle of the jump. What looks like such an address on
 * a stack puts the function off until it is gone. */
static void look_at_stack(struct process *p, uint64_t sp, struct change *c, uint32_t n)
{
	uint64_t words[STACK_LOOK / 8];
	ssize_t got = pread(p->mem, words, sizeof words, (off_t)(sp & ~7ull));
	for (ssize_t i = 0; i < got / 8; i++) {
		if (words[i] - c[0].addr > c[n - 1].addr + JUMP - c[0].addr)
			continue;
		struct change *hit = inside(c, n, words[i]);
		if (hit) {
			hit->refused = true;
			p->fns->retry = true;
		}
	}
}

static void move_threads(struct process *p, struct world *w, struct change *c, uint32_t n)
{
	const struct world_thread *t;
	uint32_t threads = world_threads(w, &t);
	for (uint32_t i = 0; i < threads; i++) {
		struct change *hit = inside(c, n, t[i].ip);
		if (hit) {
			const struct hook *h = hook_of(p, hit->site);
			bool moved = false;
			for (uint32_t k = 0; k < h->moved->n && !moved; k++)
				if (hit->addr + h->moved->at[k].from == t[i].ip)
					moved = world_set_ip(w, i, h->stub + KW_STUB_CODE + sizeof(struct kw_hook) + h->moved->at[k].to) >= 0;
			if (!moved)
				hit->refused = p->fns->retry = true;
		}
		if (threads <= 64)
			look_at_stack(p, t[i].sp, c, n);
	}
}

/* All changes of neighbouring pages with one write; each verified on the way. */
static void write_changes(struct process *p, struct change *c, uint32_t n)
{
	static uint8_t text[SPAN_BYTES + 64]; /* the agent's thread only */
	for (uint32_t i = 0, next; i < n; i = next) {
		uint64_t from = c[i].addr;
		for (next = i + 1; next < n && c[next].addr + JUMP - from <= SPAN_BYTES && c[next].addr - c[next - 1].addr < 4096;)
			next++;
		size_t bytes = (size_t)(c[next - 1].addr + JUMP - from);
		bool ok = read_at(p, from, text, bytes);
		for (uint32_t k = i; k < next; k++) {
			const struct hook *h = hook_of(p, c[k].site);
			const struct symbols_function *f = function_of(p, c[k].site);
			const uint8_t *orig = symbols_text(function_module_of(p, c[k].site)->file.symbols, f->addr, JUMP);
			uint8_t jump[JUMP], *at = text + (c[k].addr - from);
			jump_to(jump, c[k].addr, h->stub);
			c[k].refused |= !ok || !orig || memcmp(at, c[k].on ? orig : jump, JUMP);
			if (!c[k].refused)
				memcpy(at, c[k].on ? jump : orig, JUMP);
		}
		if (ok && !write_at(p, from, text, bytes))
			for (uint32_t k = i; k < next; k++)
				c[k].refused = true;
	}
}

static int change_all(struct process *p, struct change *c, uint32_t n, unsigned tries, struct err *e)
{
	struct world *w;
	qsort(c, n, sizeof *c, by_addr);
	int rc = stop(p, hooks_budget(p), tries, &w, e);
	if (rc < 0)
		return rc;
	move_threads(p, w, c, n);
	write_changes(p, c, n);
	p->fns->last_pause_ns = world_resume(w);
	p->fns->arms++;
	if (p->fns->last_pause_ns > p->fns->longest_pause_ns)
		p->fns->longest_pause_ns = p->fns->last_pause_ns;
	int64_t now = clock_mono();
	for (uint32_t i = 0; i < n; i++) {
		struct site *s = &p->sites[c[i].site];
		if (c[i].refused)
			continue;
		if (c[i].on)
			s->on_since = now, s->on_calls = stat_calls(s, now / SECOND);
		s->patched = c[i].on;
	}
	return 0;
}

/* ---- by the kernel, where libklieg cannot be ------------------------------------------------------------------------------ */

/* What is recorded of its calls beside their times, as stub_configure() says it to the gate. */
static void uprobe_configure(struct process *p, uint32_t site)
{
	const struct site *s = &p->sites[site];
	struct kw_arg args[KW_HOOK_ARGS] = { { 0 } };
	struct err e = { 0 };
	uint32_t nargs = s->level >= KW_DETAIL && !uprobe_note(p->uprobe, site) ? functions_arguments(p, site, args) : 0;
	if (uprobe_capture(p->uprobe, site, args, nargs, s->arg_where, s->nwhere, &e) < 0) {
		struct str name = strtab_get(&p->strs, s->name);
		problem(p, "%.*s is switched off: %s", (int)name.n, name.p, e.msg);
		uprobe_remove(p->uprobe, site);
		p->sites[site].patched = 0;
		p->sites[site].bad = 1;
	}
}

static bool file_offset(const struct function_module *m, uint64_t at, uint64_t *ret_off)
{
	uint64_t addr, off, size;
	for (uint32_t seg = 0; symbols_segment(m->file.symbols, seg, &addr, &off, &size); seg++)
		if (at - addr < size) {
			*ret_off = at - addr + off;
			return true;
		}
	return false;
}

/* Where the function is left, as offsets in its file; the caller's to free_exits(). e: why that is not known. */
static bool find_exits(const struct function_module *m, const struct symbols_function *f, struct uprobe_exits *ret_x, struct err *e)
{
	struct symbols_exit *list;
	uint32_t n, nr = 0, nj = 0;
	*ret_x = (struct uprobe_exits){ NULL, NULL, 0, 0 };
	if (symbols_exits(m->file.symbols, f, &list, &n, e) < 0)
		return false;
	uint64_t *at = base_alloc((2 * n + 1) * sizeof *at);
	bool ok = true;
	for (uint32_t i = 0; i < n; i++)
		ok &= file_offset(m, list[i].at, list[i].tail ? &at[n + nj++] : &at[nr++]);
	free(list);
	*ret_x = (struct uprobe_exits){ at, at + n, nr, nj };
	return ok;
}
static void free_exits(struct uprobe_exits *x) { free((void *)(uintptr_t)x->returns); }

static uint32_t probe_cost(const struct function_module *m, const struct symbols_function *f, bool stepped_exits)
{
	uint32_t bytes = f->size < 16 ? f->size : 16;
	const uint8_t *text = symbols_text(m->file.symbols, f->addr, bytes);
	struct uprobe_cost entry = text ? uprobe_cost(text, bytes) : (struct uprobe_cost){ .entry_ns = 10000, .both_ns = 10000 };
	return stepped_exits ? entry.entry_ns + uprobe_cost((const uint8_t *)"\xc3", 1).entry_ns : entry.both_ns;
}

static void uprobe_arm(struct process *p, const struct function_module *m, const char *file, uint32_t i)
{
	struct site *s = &p->sites[i];
	const struct symbols_function *f = function_of(p, i);
	struct err e = { 0 }, why = { 0 };
	struct uprobe_exits x = { NULL, NULL, 0, 0 };
	uint64_t at;
	bool by_exits = uprobe_wants_exits(p->uprobe, file) && find_exits(m, f, &x, &why);
	int rc = file_offset(m, s->addr - m->file.bias, &at) ? uprobe_add(p->uprobe, file, at, by_exits ? &x : NULL, i, s->root, &e) : KLIEG_E_BAD_DATA;
	free_exits(&x);
	struct str name = strtab_get(&p->strs, s->name);
	if (rc == 1)
		problem(p, "%.*s: calls are counted, not timed: %s%s%s", (int)name.n, name.p, uprobe_note(p->uprobe, i), *why.msg ? "; where it ends is not certain: " : "",
			why.msg);
	if (rc < 0)
		problem(p, "%.*s cannot be probed: %s", (int)name.n, name.p, e.msg);
	s->bad |= rc == KLIEG_E_UNSUPPORTED;
	if (rc < 0)
		return;
	int64_t now = clock_mono();
	s->probe_ns = probe_cost(m, f, by_exits && !rc);
	s->patched = 1;
	s->on_since = now, s->on_calls = stat_calls(s, now / SECOND);
	uprobe_configure(p, i);
}

static void uprobes_apply(struct process *p)
{
	struct functions *fns = p->fns;
	for (uint32_t k = 0; k < fns->nmods; k++) {
		const struct function_module *m = &fns->mods[k];
		char file[800];
		if (m->file.exe)
			snprintf(file, sizeof file, "/proc/%d/exe", p->pid);
		else
			snprintf(file, sizeof file, "/proc/%d/root%.700s", p->pid, m->file.path);
		for (uint32_t i = m->first; i < m->first + m->n; i++) {
			struct site *s = &p->sites[i];
			bool on = wanted(s) && !s->bad;
			if (on && s->patched) {
				uprobe_configure(p, i);
			} else if (on) {
				uprobe_arm(p, m, file, i);
			} else if (s->patched) {
				uprobe_remove(p->uprobe, i);
				s->patched = 0;
			}
		}
	}
}

void hooks_apply(struct process *p)
{
	struct functions *fns = p->fns;
	if (!fns || !fns->live || !p->map || p->mem < 0)
		return;
	struct change *c = NULL;
	uint32_t n = 0, cap = 0;
	fns->problem[0] = 0;
	fns->retry = false;
	if (p->uprobe) {
		uprobes_apply(p);
		return;
	}
	for (uint32_t k = 0; k < fns->nmods; k++)
		for (uint32_t i = fns->mods[k].first; i < fns->mods[k].first + fns->mods[k].n; i++) {
			struct site *s = &p->sites[i];
			if (wanted(s))
				s->watched = 0;
			bool on = (wanted(s) || s->watched) && !s->bad;
			struct err e = { 0 };
			if (on && !s->patched) {
				struct hook *h = hook_of(p, i);
				if (!h->stub && pool_for(p, s->addr) < 0 && pool_make(p, s->addr) < 0)
					goto out; /* why is in fns->problem, and whether it is tried again in fns->retry */
				if (!h->stub && stub_make(p, i, &e) < 0) {
					if (s->watched) { /* nobody has asked for it */
						s->watched = 0;
						s->unwatchable = 1;
						continue;
					}
					struct str name = strtab_get(&p->strs, s->name);
					problem(p, "%.*s cannot be intercepted: %s", (int)name.n, name.p, e.msg);
					s->bad = 1;
					continue;
				}
			}
			if (on && !stub_configure(p, i)) {
				problem(p, "a stub cannot be written");
				continue;
			}
			if (on == !!s->patched)
				continue;
			if (n == cap)
				c = base_realloc(c, (cap = cap ? 2 * cap : 64) * sizeof *c);
			c[n++] = (struct change){ .addr = s->addr, .site = i, .on = on };
		}
	if (n) {
		struct err e = { 0 };
		if (change_all(p, c, n, TRIES, &e) < 0) {
			problem(p, "%s", e.msg);
			fns->retry = true; /* in a second: a toggle that ends must end */
		}
		for (uint32_t i = 0; i < n; i++)
			if (c[i].refused && !fns->retry && !fns->problem[0])
				problem(p, "a function's bytes have been changed by somebody else");
	}
out:
	free(c);
}

/* ---- coming back, going away ------------------------------------------------------------------------------------------------ */

void hooks_find(struct process *p, struct function_module *m)
{
	for (uint32_t k = 0; k < KW_POOLS; k++) {
		uint64_t at = p->control->pool[k].addr, used = p->control->pool[k].used;
		for (uint64_t off = 0; off + KW_STUB_BYTES <= used && used <= POOL_BYTES; off += KW_STUB_BYTES) {
			struct kw_hook h;
			uint8_t now[JUMP], jump[JUMP];
			uint32_t n, i;
			if (!read_at(p, at + off + KW_STUB_CODE, &h, sizeof h) || (i = h.site1 - 1 - m->first) >= m->n || m->hooks[i].stub)
				continue;
			const struct symbols_function *f = symbols_functions(m->file.symbols, &n) + i;
			const uint8_t *orig = symbols_text(m->file.symbols, f->addr, f->window ? f->window : 1);
			struct err e = { 0 };
			if (h.gate != p->reg.gate_enter || h.function != f->addr + m->file.bias || h.window != f->window || !orig || memcmp(orig, h.orig, h.window))
				continue; /* not one of ours after all */
			struct symbols_moved *moved = base_calloc(1, sizeof *moved);
			if (symbols_move(h.orig, h.window, h.function, at + off + KW_STUB_CODE + sizeof h, moved, &e) < 0) {
				free(moved);
				continue;
			}
			m->hooks[i] = (struct hook){ at + off, moved };
			jump_to(jump, h.function, at + off);
			p->sites[m->first + i].patched = read_at(p, h.function, now, JUMP) && !memcmp(now, jump, JUMP);
		}
	}
}

/* Open spans of t whose frames are among these and at or below an address: visit() each. */
typedef void visit_open(struct kw_open *o, uint64_t *n);
static void open_frames(struct kw_thread *t, uint64_t at, const struct kw_gate *g, uint64_t below, visit_open *visit, uint64_t *n)
{
	for (uint32_t f = 0; f < KW_FRAMES; f++) {
		const struct kw_frame *x = &g->frame[f];
		if (x->cfa == UINT64_MAX || !x->cfa || x->cfa > below || !(uint32_t)x->span[0])
			continue;
		uint64_t cookie = at + offsetof(struct kw_gate, frame) + f * sizeof *x + offsetof(struct kw_frame, span);
		uint32_t depth = __atomic_load_n(&t->depth, __ATOMIC_ACQUIRE);
		for (uint32_t d = 0; d < depth && d < KW_OPEN_MAX; d++)
			if (__atomic_load_n(&t->open[d].cookie, __ATOMIC_RELAXED) == cookie)
				visit(&t->open[d], n);
	}
}

static void count_open(struct kw_open *o, uint64_t *n) { *n += o->seq && !(__atomic_load_n(&o->flags, __ATOMIC_RELAXED) & OPEN_OVER); }
static void end_open(struct kw_open *o, uint64_t *n)
{
	*n += !(__atomic_fetch_or(&o->flags, OPEN_ENDED, __ATOMIC_ACQ_REL) & OPEN_OVER);
}

/* Where a thread's stack ends now, if it is waiting in the kernel. */
static bool sp_of(pid_t pid, uint64_t tid, uint64_t *ret_sp)
{
	char path[64], line[256] = "", *save = NULL;
	snprintf(path, sizeof path, "/proc/%d/task/%lu/syscall", pid, (unsigned long)tid);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	char *got = fgets(line, sizeof line, f);
	fclose(f);
	char *sp = NULL, *pc = NULL; /* the last two words: number, six arguments, sp, pc; or "running" */
	for (char *w = got ? strtok_r(line, " \n", &save) : NULL; w; w = strtok_r(NULL, " \n", &save))
		sp = pc, pc = w;
	return sp && !strncmp(sp, "0x", 2) && (*ret_sp = strtoull(sp, NULL, 16)) != 0;
}

uint64_t hooks_gone(struct process *p)
{
	uint64_t gone = 0;
	if (!p->fns || p->uprobe || !p->map || !p->reg.gate_count)
		return 0;
	struct kw_gate *g = NULL;
	for (uint32_t i = 0; i < process_slots(p); i++) {
		struct kw_thread *t = process_slot(p, i);
		uint64_t sp, later, n = 0, written = __atomic_load_n(&t->head, __ATOMIC_RELAXED);
		uint32_t begun = __atomic_load_n(&t->seq, __ATOMIC_RELAXED);
		if (t->state != KW_THREAD_LIVE || !t->depth || !sp_of(p->pid, t->tid, &sp))
			continue;
		g = g ? g : base_alloc(sizeof *g);
		for (uint32_t k = 0; k < p->reg.gate_count && k < KW_GATES; k++) {
			uint64_t at = p->reg.gate_data + (uint64_t)k * KW_GATE_BYTES, head[2];
			if (read_at(p, at, head, sizeof head) && head[1] == t->tid && read_at(p, at, g, sizeof *g))
				open_frames(t, at, g, sp, count_open, &n);
		}
		/* It went on meanwhile: who looks again will see. */
		if (n && sp_of(p->pid, t->tid, &later) && later == sp && __atomic_load_n(&t->head, __ATOMIC_RELAXED) == written &&
			__atomic_load_n(&t->seq, __ATOMIC_RELAXED) == begun)
			gone += n;
	}
	free(g);
	return gone;
}

static struct kw_thread *slot_of(struct process *p, uint64_t tid)
{
	for (uint32_t i = 0; i < process_slots(p); i++) {
		struct kw_thread *t = process_slot(p, i);
		if (t->tid == tid && __atomic_load_n(&t->state, __ATOMIC_RELAXED) == KW_THREAD_LIVE)
			return t;
	}
	return NULL;
}

/* Of a thread that stands in our library: the span of its newest frame is just beginning or ending, and not ours to end. */
static bool stands_inside(const struct world *w, uint64_t tid, const struct proc_map *library)
{
	const struct world_thread *t;
	uint32_t n = world_threads(w, &t);
	for (uint32_t i = 0; i < n; i++)
		if ((uint64_t)t[i].tid == tid)
			return t[i].ip - library->start < library->end - library->start;
	return false;
}

/* Calls that are under way return through a thunk: their real return addresses go back to where they were. The frames themselves stay; they are
 * dropped as the stacks unwind. What is open for them ends here, uncompleted. */
static uint32_t return_addresses(struct process *p, const struct world *w, const struct proc_map *library)
{
	uint64_t thunks = p->reg.gate_thunks;
	struct kw_gate *g = base_alloc(sizeof *g);
	static uint64_t heads[KW_GATES][2]; /* the agent's thread only; all in one call: the process stands still */
	static struct iovec from[KW_GATES];
	uint32_t n = 0, gates = p->reg.gate_count < KW_GATES ? p->reg.gate_count : KW_GATES;
	for (uint32_t i = 0; i < gates; i++)
		from[i] = (struct iovec){ (void *)(uintptr_t)(p->reg.gate_data + (uint64_t)i * KW_GATE_BYTES), sizeof heads[i] };
	struct iovec to = { heads, gates * sizeof heads[0] };
	if (process_vm_readv(p->pid, &to, 1, from, gates, 0) != (ssize_t)to.iov_len)
		for (uint32_t i = 0; i < gates; i++)
			if (!read_at(p, (uint64_t)(uintptr_t)from[i].iov_base, heads[i], sizeof heads[i]))
				heads[i][1] = 0;
	for (uint32_t i = 0; i < gates; i++) {
		uint64_t at = p->reg.gate_data + (uint64_t)i * KW_GATE_BYTES, *head = heads[i];
		if (!head[1])
			continue;
		uint64_t first = head[0] - (at + offsetof(struct kw_gate, frame));
		if (first / sizeof(struct kw_frame) >= KW_FRAMES || first % sizeof(struct kw_frame) || !read_at(p, at, g, sizeof *g))
			continue;
		for (uint32_t f = (uint32_t)(first / sizeof(struct kw_frame)); f < KW_FRAMES; f++) {
			uint64_t slot = g->frame[f].cfa - 8, now;
			if (g->frame[f].cfa == UINT64_MAX || !g->frame[f].cfa || !read_at(p, slot, &now, 8) || now - thunks >= (uint64_t)KW_GATES * KW_THUNK_BYTES)
				continue;
			if (write_at(p, slot, &g->frame[f].ra, 8))
				n++;
		}
		struct kw_thread *t = slot_of(p, head[1]);
		if (t && stands_inside(w, head[1], library) && first / sizeof(struct kw_frame) < KW_FRAMES)
			g->frame[first / sizeof(struct kw_frame)].span[0] = 0;
		if (t)
			open_frames(t, at, g, UINT64_MAX, end_open, &p->c.abandoned);
	}
	free(g);
	return n;
}

int hooks_remove(struct process *p, int64_t *ret_pause_ns, struct err *e)
{
	struct functions *fns = p->fns;
	struct change *c = NULL;
	uint32_t n = 0, cap = 0, left = 0;
	*ret_pause_ns = 0;
	if (p->uprobe) {
		for (uint32_t i = 0; i < p->nsites; i++)
			if (p->sites[i].patched)
				uprobe_remove(p->uprobe, i), p->sites[i].patched = 0;
		for (int64_t until = clock_mono() + 5 * SECOND; uprobe_pending(p->uprobe) && clock_mono() < until;) {
			uprobe_poll(p->uprobe, UPROBE_BUDGET);
			drain_all(p);
			usleep(500); /* the kernel's own pace: some 50 ms */
		}
		return uprobe_pending(p->uprobe) ? err_set(e, KLIEG_E_BUSY, "the kernel has not taken all probes away yet") : 0;
	}
	for (uint32_t k = 0; fns && k < fns->nmods; k++)
		for (uint32_t i = fns->mods[k].first; i < fns->mods[k].first + fns->mods[k].n; i++)
			if (p->sites[i].patched) {
				if (n == cap)
					c = base_realloc(c, (cap = cap ? 2 * cap : 64) * sizeof *c);
				c[n++] = (struct change){ .addr = p->sites[i].addr, .site = i };
			}
	int rc = n ? change_all(p, c, n, TRIES_LEAVING, e) : 0;
	for (uint32_t i = 0; i < n; i++)
		left += c[i].refused;
	free(c);
	if (rc < 0)
		return rc;
	if (left)
		return err_set(e, KLIEG_E_CONFLICT, "%u functions of process %d no longer begin with our jump: somebody else has changed them", left, p->pid);
	*ret_pause_ns = n ? fns->last_pause_ns : 0;
	bool any = false;
	for (uint32_t k = 0; fns && k < KW_POOLS; k++)
		any |= p->control->pool[k].used != 0;
	if (!any)
		return 0;
	struct world *w;
	struct proc_map library = { 0 };
	FILE *maps = proc_maps_open(p->pid);
	while (maps && proc_maps_next(maps, &library) && p->reg.gate_enter - library.start >= library.end - library.start) {
	}
	if (maps)
		fclose(maps);
	rc = stop(p, hooks_budget(p), TRIES_LEAVING, &w, e);
	if (rc < 0)
		return rc;
	uint32_t back = return_addresses(p, w, &library);
	int64_t pause = world_resume(w);
	*ret_pause_ns = pause > *ret_pause_ns ? pause : *ret_pause_ns;
	log_info("agent", "process %d: %u functions restored, %u calls under way return straight", p->pid, n, back);
	return 0;
}
