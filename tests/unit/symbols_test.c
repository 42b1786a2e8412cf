/* The functions of ELF files: of a sample that was built for it (with and without optimisation, stripped, with its DWARF elsewhere, cut off,
 * garbled), checked against nm, and of the programs that people attach to. Moved prologues are executed: each hand-written one, and those
 * of the C library. argv: the samples. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/clock.h"
#include "symbols/symbols.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <pthread.h>
#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)

static const char *samples[2]; /* -O0, -O2 */
static char dir[] = "/tmp/klieg-symbols-XXXXXX";

static char *path_in(const char *name)
{
	static char path[8][256];
	static int next;
	char *p = path[next++ % 8];
	snprintf(p, sizeof path[0], "%s/%s", dir, name);
	return p;
}

static void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *fmt, ...)
{
	char command[2048];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(command, sizeof command, fmt, ap);
	va_end(ap);
	assert_int_equal(system(command), 0);
}

static int try_open(const char *path, const char *debug, struct symbols **ret_s, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	int rc = symbols_open(fd, debug, ret_s, e);
	close(fd);
	return rc;
}

static struct symbols *open_symbols(const char *path, const char *debug)
{
	struct symbols *s = NULL;
	struct err e = { 0 };
	if (try_open(path, debug, &s, &e) < 0)
		fail_msg("%s: %s", path, e.msg);
	return s;
}

static const struct symbols_function *named(const struct symbols *s, const char *name)
{
	const struct symbols_function *f = symbols_named(s, name);
	if (!f)
		fail_msg("no function %s", name);
	return f;
}

/* What must hold for any file. Returns how many are hookable. */
static uint32_t check_all(const struct symbols *s)
{
	uint32_t n, hookable = 0;
	const struct symbols_function *f = symbols_functions(s, &n);
	for (uint32_t i = 0; i < n; i++) {
		assert_true(!i || f[i - 1].addr < f[i].addr);
		assert_true(f[i].size > 0);
		assert_true(f[i].source >= SYMBOLS_SYMTAB && f[i].source <= SYMBOLS_EH_FRAME);
		assert_true((f[i].name == NULL) == (f[i].source == SYMBOLS_EH_FRAME));
		assert_true((f[i].refusal == NULL) == (f[i].window != 0));
		assert_ptr_equal(symbols_at(s, f[i].addr), &f[i]);
		assert_non_null(symbols_text(s, f[i].addr, f[i].size));
		if (f[i].name)
			assert_non_null(symbols_named(s, f[i].name));
		if (f[i].refusal)
			continue;
		struct symbols_moved m;
		struct err e = { 0 };
		hookable++;
		assert_in_range(f[i].window, 5, 19);
		if (symbols_move(symbols_text(s, f[i].addr, f[i].window), f[i].window, f[i].addr, f[i].addr + (1u << 28), &m, &e) < 0)
			fail_msg("%s at %llx: %s", f[i].name, (unsigned long long)f[i].addr, e.msg);
		assert_in_range(m.size, f[i].window > 5 ? 5 : 6, sizeof m.code);
		assert_true(m.n >= 1 && m.at[0].from == 0 && m.at[0].to == 0);
	}
	return hookable;
}

/* ---- the sample ---------------------------------------------------------------------------------------------------------- */

static void test_names(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct symbols *s = open_symbols(samples[i], NULL);
		char line[512], name[256], type;
		unsigned long long addr, size;
		uint32_t checked = 0;
		check_all(s);
		assert_string_not_equal(symbols_build_id(s), "");
		run("nm -S --defined-only %s | grep -i ' t ' > %s", samples[i], path_in("nm"));
		FILE *nm = fopen(path_in("nm"), "r");
		assert_non_null(nm);
		while (fgets(line, sizeof line, nm)) {
			if (sscanf(line, "%llx %llx %c %255s", &addr, &size, &type, name) != 4 || strchr(name, '.') || !strcmp(name, "resolve"))
				continue;
			const struct symbols_function *f = named(s, name);
			assert_int_equal(f->addr, addr);
			assert_int_equal(f->size, size);
			assert_int_equal(f->source, SYMBOLS_SYMTAB);
			if (strcmp(name, "hand_outer")) /* whose end is also that of another */
				assert_ptr_equal(symbols_at(s, addr + size - 1), f);
			checked++;
		}
		fclose(nm);
		assert_true(checked >= 20);
		assert_null(symbols_named(s, "sample_ifunc")); /* runs once, in the dynamic linker */
		assert_null(symbols_named(s, "resolve"));
		assert_null(symbols_named(s, "no such function"));
		assert_null(symbols_at(s, 0));
		assert_null(symbols_at(s, UINT64_MAX));
		assert_null(symbols_text(s, UINT64_MAX - 3, 8));
		assert_null(symbols_text(s, 0, SIZE_MAX));
		symbols_close(s);
	}
}

static void test_refusals(void **state)
{
	static const struct { const char *name, *why; } expected[] = {
		{ "hand_loop", "a loop back to its first instruction" }, { "hand_branch_in", "a branch into its first 5 bytes" },
		{ "hand_table", "a branch into its first 5 bytes" }, { "hand_label", "a branch into its first 5 bytes" },
		{ "hand_short", "shorter than 5 bytes" }, { "hand_system", "a system call in its first instructions" },
		{ "hand_call", "a call in its first 5 bytes" }, { "hand_getpc", "it uses the address that it returns to" },
		{ "hand_jrcxz", "a branch in its first instructions that reaches 127 bytes only, or starts a transaction" },
		{ "hand_inner", "it starts inside another function" }, { "_start", "the program starts there: nobody calls it" },
		{ "hand_padded", NULL }, { "hand_barrier", NULL }, { "hand_outer", NULL }, { "hand_last_call", NULL }, { "hand_next", NULL },
		{ "sample_nothing", NULL }, { "sample_plain", NULL }, { "sample_mixed", NULL }, { "main", NULL },
	};
	for (int i = 0; i < 2; i++) {
		struct symbols *s = open_symbols(samples[i], NULL);
		for (size_t k = 0; k < sizeof expected / sizeof *expected; k++) {
			const char *why = named(s, expected[k].name)->refusal;
			if (!why != !expected[k].why || (why && strcmp(why, expected[k].why)))
				fail_msg("%s: %s", expected[k].name, why ? why : "hookable");
		}
		/* In between there is nothing that a function can be: the last byte of a jump table is data, the inner function the innermost. */
		assert_string_equal(symbols_at(s, named(s, "hand_inner")->addr + 1)->name, "hand_inner");
		symbols_close(s);
	}
}

static const struct symbols_callee *callee(const struct symbols_callee *list, uint32_t n, const char *name)
{
	for (uint32_t i = 0; i < n; i++)
		if (list[i].name && !strcmp(list[i].name, name))
			return &list[i];
	fail_msg("%s is not called", name);
	return NULL;
}

static void test_callees(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct symbols *s = open_symbols(samples[i], NULL);
		struct symbols_callee *list;
		uint32_t n, indirect;
		assert_int_equal(symbols_callees(s, named(s, "sample_caller"), &list, &n, &indirect), 0);
		assert_in_range(n, 3, 4); /* strlen() may be the compiler's */
		assert_int_equal(indirect, 1);
		const struct symbols_callee *c = callee(list, n, "qsort");
		assert_true(c->addr == 0 && c->kind == SYMBOLS_PLT && c->sites == 1);
		c = callee(list, n, "getenv");
		assert_true(c->addr == 0 && c->kind == SYMBOLS_PLT && c->sites == 1);
		c = callee(list, n, "sample_nothing");
		assert_true(c->addr == named(s, "sample_nothing")->addr && c->kind == SYMBOLS_DIRECT && c->sites == 2);
		free(list);
		assert_int_equal(symbols_callees(s, named(s, "sample_nothing"), &list, &n, &indirect), 0);
		assert_int_equal(n, 0);
		assert_int_equal(indirect, 0);
		free(list);
		assert_int_equal(symbols_callees(s, named(s, "hand_last_call"), &list, &n, &indirect), 0);
		assert_int_equal(callee(list, n, "hand_padded")->kind, SYMBOLS_DIRECT);
		free(list);
		assert_int_equal(symbols_callees(s, named(s, "sample_through"), &list, &n, &indirect), 0);
		assert_int_equal(n, 1);
		assert_int_equal(indirect, 0);
		assert_int_equal(list->kind, SYMBOLS_SLOT);
		assert_null(symbols_at(s, list->addr)); /* it is the variable's */
		free(list);
		uint64_t *at;
		bool jumps;
		const struct symbols_function *f = named(s, "sample_caller");
		assert_int_equal(symbols_pointers(s, f, &at, &n, &jumps), 0);
		assert_int_equal(n, 1);
		assert_ptr_equal(symbols_at(s, *at), f);
		free(at);
		assert_true(symbols_taken(s, named(s, "sample_compare")));
		assert_false(symbols_taken(s, named(s, "hand_last_call")));
		symbols_close(s);
	}
}

static void check_argument(const struct symbols_argument *a, const char *name, const char *type, const char *clang_type, int reg, int stack, int size)
{
	assert_string_equal(a->name, name);
	if (strcmp(a->type, type) && strcmp(a->type, clang_type))
		fail_msg("%s is %s", name, a->type);
	assert_int_equal(a->reg, reg);
	assert_int_equal(a->stack, stack < 0 ? SYMBOLS_NOT_ON_STACK : stack);
	assert_int_equal(a->size, size);
}

static void check_signatures(const struct symbols *s)
{
	struct symbols_signature g;
	assert_int_equal(symbols_signature(s, named(s, "sample_plain"), &g), 0);
	assert_true(g.known);
	assert_int_equal(g.n, 8);
	assert_string_equal(g.ret.type, "int");
	assert_true(g.ret.is_signed && g.ret.size == 4);
	check_argument(&g.args[0], "a", "int", "", 0, -1, 4);
	check_argument(&g.args[1], "s", "const char *", "", 1, -1, 8);
	check_argument(&g.args[2], "n", "long unsigned int", "unsigned long", 2, -1, 8);
	check_argument(&g.args[3], "c", "struct client *", "", 3, -1, 8);
	check_argument(&g.args[4], "d", "sds", "", 4, -1, 8);
	check_argument(&g.args[5], "e", "enum color", "", 5, -1, 4);
	check_argument(&g.args[6], "g", "short int", "short", -1, 0, 2);
	check_argument(&g.args[7], "h", "char", "", -1, 1, 1);
	assert_true(g.args[0].is_signed && !g.args[2].is_signed && g.args[1].is_string && g.args[4].is_string);
	assert_true(g.args[3].is_pointer && !g.args[3].is_string && !g.args[0].is_pointer);
	assert_non_null(strstr(g.file, "symbols_sample.c"));
	assert_true(g.line > 10);

	symbols_signature(s, named(s, "sample_mixed"), &g);
	assert_int_equal(g.n, 6);
	assert_true(g.ret.is_float && g.args[0].is_float && g.args[1].is_float && !g.args[2].is_float);
	assert_int_equal(g.args[0].reg, -1);
	assert_int_equal(g.args[2].reg, 0);
	assert_true(g.args[3].in_memory && g.args[4].in_memory); /* a pair of registers; the stack */
	assert_int_equal(g.args[3].stack, SYMBOLS_NOT_ON_STACK);
	assert_int_equal(g.args[4].stack, 0);
	assert_int_equal(g.args[5].reg, 2); /* behind the integer half of the pair */

	symbols_signature(s, named(s, "sample_big_result"), &g);
	assert_true(g.ret.in_memory);
	check_argument(&g.args[0], "a", "int", "", 1, -1, 4); /* rdi is where the result goes */
	check_argument(&g.args[1], "cb", "void (*)()", "", 2, -1, 8);
	assert_true(g.args[2].in_memory && g.args[2].stack == 0);
	check_argument(&g.args[4], "b", "int", "", 5, -1, 4);

	symbols_signature(s, named(s, "sample_pair_result"), &g);
	assert_true(g.ret.in_memory);
	check_argument(&g.args[0], "p", "const int *const *", "", 0, -1, 8);
	assert_int_equal(g.args[2].reg, 1);

	symbols_signature(s, named(s, "sample_nothing"), &g);
	assert_true(g.known && g.n == 0);
	assert_string_equal(g.ret.type, "void");
	symbols_signature(s, named(s, "hand_padded"), &g);
	assert_false(g.known);

	const char *file = NULL;
	uint32_t line = 0, later;
	const struct symbols_function *f = named(s, "sample_mixed");
	assert_true(symbols_line(s, f->addr, &file, &line));
	assert_non_null(strstr(file, "symbols_sample.c"));
	assert_true(symbols_line(s, f->addr + f->size - 1, &file, &later));
	assert_in_range(later, line, line + 40);
	assert_false(symbols_line(s, 0, &file, &line));
}

/* Each is the instruction that it is said to be. */
static uint32_t check_exits(const struct symbols *s, const struct symbols_function *f)
{
	struct symbols_exit *list;
	uint32_t n;
	struct err e = { 0 };
	if (symbols_exits(s, f, &list, &n, &e) < 0) {
		assert_true(e.code == KLIEG_E_UNSUPPORTED && *e.msg);
		return 0;
	}
	assert_true(n > 0);
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *p = symbols_text(s, list[i].at, 1);
		assert_non_null(p);
		p += *p == 0xf2 || *p == 0xf3 || *p == 0x3e;
		p += list[i].tail && (*p & 0xf0) == 0x40;
		if (!strchr(list[i].tail ? "\xe9\xeb\xff" : "\xc3\xc2", *p) || !*p)
			fail_msg("%s is not left at %llx", f->name ? f->name : "?", (unsigned long long)list[i].at);
	}
	free(list);
	return n;
}

static void test_exits(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct symbols *s = open_symbols(samples[i], NULL);
		struct symbols_exit *list;
		uint32_t n;
		struct err e = { 0 };
		const struct symbols_function *f = named(s, "hand_loop");
		assert_int_equal(symbols_exits(s, f, &list, &n, &e), 0);
		assert_true(n == 1 && list->at == f->addr + f->size - 1 && !list->tail);
		free(list);
		f = named(s, "hand_tail");
		assert_int_equal(symbols_exits(s, f, &list, &n, &e), 0);
		assert_true(n == 2 && list[0].at == f->addr + 4 && !list[0].tail && list[1].at == f->addr + 8 && list[1].tail);
		free(list);
		assert_int_equal(check_exits(s, named(s, "hand_table")), 1); /* its switch is none */
		static const struct { const char *name, *why; } refused[] = { { "hand_tail_if", "conditional jump" },
			{ "hand_tail_rcx", "conditional jump" }, { "hand_tail_to", "where a register says" },
			{ "hand_overlap", "overlap" }, { "hand_never", "never returns" } };
		for (size_t k = 0; k < sizeof refused / sizeof *refused; k++) {
			assert_int_equal(symbols_exits(s, named(s, refused[k].name), &list, &n, &e), KLIEG_E_UNSUPPORTED);
			assert_non_null(strstr(e.msg, refused[k].why));
		}
		symbols_close(s);
	}
}

static void test_signatures(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct symbols *s = open_symbols(samples[i], NULL);
		assert_true(symbols_has_dwarf(s));
		check_signatures(s);
		symbols_close(s);
	}
}

static void *ask_signatures(void *arg)
{
	for (int i = 0; i < 20; i++)
		check_signatures(arg);
	return NULL;
}

static void test_threads(void **state)
{
	struct symbols *s = open_symbols(samples[1], NULL);
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, ask_signatures, s), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	symbols_close(s);
}

static void test_similar(void **state)
{
	struct symbols *s = open_symbols(samples[1], NULL);
	const char *names[3];
	assert_true(symbols_similar(s, "sample_palin", names, 3) >= 1);
	assert_string_equal(names[0], "sample_plain");
	assert_int_equal(symbols_similar(s, "result", names, 3), 2);
	assert_string_equal(names[0], "sample_big_result");
	assert_int_equal(symbols_similar(s, "qqqqqqqqqqqqqqq", names, 3), 0);
	assert_int_equal(symbols_similar(s, "sample", names, 3), 3);
	assert_int_equal(symbols_similar(s, "sample", names, 0), 0);
	symbols_close(s);
}

/* ---- stripped, and debug files --------------------------------------------------------------------------------------------- */

static void test_stripped(void **state)
{
	const char *stripped = path_in("stripped");
	run("strip -o %s %s", stripped, samples[1]);
	struct symbols *all = open_symbols(samples[1], NULL), *s = open_symbols(stripped, NULL);
	uint32_t n, found = 0;
	const struct symbols_function *f = symbols_functions(all, &n);
	check_all(s);
	assert_string_equal(symbols_build_id(s), symbols_build_id(all));
	assert_false(symbols_has_dwarf(s));
	for (uint32_t i = 0; i < n; i++) {
		const struct symbols_function *same = symbols_at(s, f[i].addr);
		if ((strncmp(f[i].name, "sample_", 7) && strncmp(f[i].name, "hand_", 5) && strcmp(f[i].name, "main")) || !strcmp(f[i].name, "hand_inner") ||
			!strcmp(f[i].name, "hand_next"))
			continue; /* these have no unwind information of their own */
		if (!same || same->addr != f[i].addr || same->size != f[i].size || same->window != f[i].window)
			fail_msg("%s is not found without its name", f[i].name);
		assert_true(same->source == SYMBOLS_EH_FRAME && !same->name);
		found++;
	}
	assert_true(found > 15);
	struct symbols_signature g;
	assert_int_equal(symbols_signature(s, symbols_functions(s, &n), &g), 0);
	assert_false(g.known);
	symbols_close(s);
	symbols_close(all);
}

/* Without section headers the dynamic section and the program headers have to do. */
static void test_no_sections(void **state)
{
	const char *bare = path_in("bare");
	run("strip -o %s %s && chmod u+w %s", bare, samples[1], bare);
	Elf64_Ehdr h;
	int fd = open(bare, O_RDWR);
	assert_int_equal(pread(fd, &h, sizeof h, 0), sizeof h);
	h.e_shoff = h.e_shnum = h.e_shstrndx = 0;
	assert_int_equal(pwrite(fd, &h, sizeof h, 0), sizeof h);
	close(fd);
	struct symbols *all = open_symbols(samples[1], NULL), *s = open_symbols(bare, NULL);
	struct symbols_callee *list;
	uint32_t n, indirect;
	check_all(s);
	assert_string_equal(symbols_build_id(s), symbols_build_id(all));
	const struct symbols_function *f = symbols_at(s, named(all, "sample_caller")->addr);
	assert_non_null(f);
	assert_int_equal(symbols_callees(s, f, &list, &n, &indirect), 0);
	assert_int_equal(callee(list, n, "qsort")->kind, SYMBOLS_PLT);
	free(list);
	symbols_close(s);
	symbols_close(all);
}

static void test_debug_file(void **state)
{
	const char *stripped = path_in("linked"), *debug = path_in("linked.debug"), *other = path_in("other.debug");
	struct symbols *s = NULL;
	struct err e = { 0 };
	run("strip -o %s %s && objcopy --only-keep-debug %s %s && objcopy --only-keep-debug %s %s", stripped, samples[1], samples[1], debug, samples[0], other);
	s = open_symbols(stripped, debug);
	check_all(s);
	assert_int_equal(named(s, "sample_plain")->source, SYMBOLS_DEBUG);
	assert_true(symbols_has_dwarf(s));
	check_signatures(s);
	symbols_close(s);

	assert_int_equal(try_open(stripped, other, &s, &e), KLIEG_E_BAD_DATA);
	assert_non_null(strstr(e.msg, "another build"));
	assert_true(*e.hint);
	assert_int_equal(try_open(stripped, path_in("none"), &s, &e), KLIEG_E_NOT_FOUND);
	assert_int_equal(try_open(stripped, "/dev/null", &s, &e), KLIEG_E_BAD_DATA);
	assert_int_equal(try_open(stripped, "/etc/passwd", &s, &e), KLIEG_E_BAD_DATA);
	assert_non_null(strstr(e.msg, "not an ELF file"));

	/* Found by itself, beside the program. */
	s = open_symbols(stripped, NULL);
	assert_null(symbols_named(s, "sample_plain"));
	symbols_close(s);
	run("objcopy --add-gnu-debuglink=%s %s", debug, stripped);
	s = open_symbols(stripped, NULL);
	check_signatures(s);
	symbols_close(s);
	run("cp %s %s", other, debug); /* of another build: as if there were none */
	s = open_symbols(stripped, NULL);
	assert_null(symbols_named(s, "sample_plain"));
	symbols_close(s);
}

/* A program whose symbol table was removed but whose DWARF was not. */
static void test_dwarf_names(void **state)
{
	const char *half = path_in("half");
	run("objcopy --strip-all --keep-section='.debug_*' %s %s 2>/dev/null || true; test -f %s", samples[1], half, half);
	struct symbols *s = open_symbols(half, NULL);
	if (symbols_has_dwarf(s)) {
		assert_int_equal(named(s, "sample_plain")->source, SYMBOLS_DWARF);
		check_all(s);
	} else {
		print_message("objcopy cannot make such a file here\n");
	}
	symbols_close(s);
}

/* ---- files that are not what they should be -------------------------------------------------------------------------------- */

static void test_bad_files(void **state)
{
	static const struct { const char *bytes; size_t n; const char *why; } bad[] = {
		{ "", 0, "not an ELF file" }, { "#!/bin/sh\nexit 0\n#################################################", 65, "not an ELF file" },
		{ "\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\3\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 64, "32-bit" },
		{ "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\1\0\76\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 64, "neither" },
		{ "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\76\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 64, "no segments" },
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct symbols *s = NULL;
		struct err e = { 0 };
		int fd = memfd_create("bad", MFD_CLOEXEC);
		assert_int_equal(write(fd, bad[i].bytes, bad[i].n), bad[i].n);
		assert_true(symbols_open(fd, NULL, &s, &e) < 0);
		assert_null(s);
		if (!strstr(e.msg, bad[i].why))
			fail_msg("%zu: %s", i, e.msg);
		close(fd);
	}
	int fd = open("/", O_RDONLY | O_CLOEXEC);
	struct symbols *s;
	struct err e = { 0 };
	assert_true(symbols_open(fd, NULL, &s, &e) < 0);
	close(fd);
}

/* Cut off anywhere: an error or what is left, no harm. */
static void test_cut_off(void **state)
{
	struct buf b = { 0 };
	assert_int_equal(buf_read_file(samples[0], 64u << 20, &b), 0);
	uint32_t opened = 0, refused = 0;
	for (size_t n = 0; n < b.n; n += n < 4096 ? 61 : 997) {
		struct symbols *s = NULL;
		struct err e = { 0 };
		int fd = memfd_create("cut", MFD_CLOEXEC);
		assert_int_equal(write(fd, b.p, n), n);
		if (symbols_open(fd, NULL, &s, &e) < 0) {
			assert_true(*e.msg);
			refused++;
		} else {
			check_all(s);
			opened++;
		}
		symbols_close(s);
		close(fd);
	}
	assert_true(opened && refused);
	buf_finish(&b);
}

/* The owner of a file may cut it off while we have it. */
static void test_cut_off_later(void **state)
{
	const char *copy = path_in("copy");
	run("cp %s %s", samples[1], copy);
	struct symbols *s = open_symbols(copy, NULL);
	assert_int_equal(truncate(copy, 0), 0);
	check_all(s);
	uint32_t n;
	const struct symbols_function *f = symbols_functions(s, &n);
	for (uint32_t i = 0; i < n; i++) {
		struct symbols_signature g;
		struct symbols_callee *list;
		uint32_t callees, indirect;
		assert_int_equal(symbols_signature(s, &f[i], &g), 0);
		assert_int_equal(symbols_callees(s, &f[i], &list, &callees, &indirect), 0);
		free(list);
		check_exits(s, &f[i]);
	}
	symbols_close(s);
}

/* Debug information that lies: the process that reads it may die of it, we may not. */
static void test_garbled_dwarf(void **state)
{
	struct buf b = { 0 };
	assert_int_equal(buf_read_file(samples[1], 64u << 20, &b), 0);
	Elf64_Ehdr h;
	memcpy(&h, b.p, sizeof h);
	uint32_t seed = 1;
	for (int round = 0; round < 60; round++) {
		uint8_t *copy = base_alloc(b.n);
		memcpy(copy, b.p, b.n);
		for (uint32_t i = 1; i < h.e_shnum; i++) { /* everything that is not loaded but the names */
			Elf64_Shdr sh;
			memcpy(&sh, b.p + h.e_shoff + i * sizeof sh, sizeof sh);
			if (sh.sh_flags & SHF_ALLOC || sh.sh_type != SHT_PROGBITS)
				continue;
			for (uint64_t k = 0; k < sh.sh_size; k++) {
				seed = seed * 1664525 + 1013904223;
				if (seed >> 8 < (1u << 24) / 200)
					copy[sh.sh_offset + k] = (uint8_t)seed;
			}
		}
		struct symbols *s = NULL;
		struct err e = { 0 };
		int fd = memfd_create("garbled", MFD_CLOEXEC);
		assert_int_equal(write(fd, copy, b.n), b.n);
		assert_int_equal(symbols_open(fd, NULL, &s, &e), 0);
		uint32_t n, line;
		const char *file;
		const struct symbols_function *f = symbols_functions(s, &n);
		for (uint32_t i = 0; i < n; i++) {
			struct symbols_signature g;
			assert_int_equal(symbols_signature(s, &f[i], &g), 0);
			assert_true(g.n <= 16);
			for (uint32_t k = 0; k < g.n; k++)
				assert_true(g.args[k].type && g.args[k].reg >= -1 && g.args[k].reg < 6 && g.args[k].size <= 8);
			symbols_line(s, f[i].addr, &file, &line);
		}
		symbols_close(s);
		close(fd);
		free(copy);
	}
	buf_finish(&b);
}

static pid_t only_child(void)
{
	char path[64];
	int pid = 0;
	snprintf(path, sizeof path, "/proc/self/task/%d/children", gettid());
	FILE *f = fopen(path, "r");
	if (f && fscanf(f, "%d", &pid) != 1)
		pid = 0;
	if (f)
		fclose(f);
	return pid;
}

/* The reader of DWARF dies: what it said stays, what it did not say is unknown. Nothing is left of it. */
static void test_reader_dies(void **state)
{
	struct symbols *s = open_symbols(samples[1], NULL);
	struct symbols_signature before, after;
	symbols_signature(s, named(s, "sample_plain"), &before);
	assert_true(before.known);
	pid_t pid = only_child();
	if (pid) { /* else this kernel does not tell */
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(symbols_signature(s, named(s, "sample_mixed"), &after), 0);
		assert_false(after.known);
		assert_int_equal(symbols_signature(s, named(s, "sample_plain"), &after), 0);
		assert_false(after.known);
	}
	assert_string_equal(before.args[1].type, "const char *");
	symbols_close(s);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

/* ---- programs that people attach to ---------------------------------------------------------------------------------------- */

static void real(const char *path, uint32_t least, const char *function)
{
	if (access(path, R_OK) < 0) {
		print_message("%s is not installed: not looked at\n", path);
		return;
	}
	int64_t t = clock_mono();
	struct symbols *s = open_symbols(path, NULL);
	t = clock_mono() - t;
	uint32_t n, hookable = check_all(s);
	symbols_functions(s, &n);
	print_message("%s: %u functions, %.2f %% hookable, %.0f ms\n", path, n, 100.0 * hookable / n, (double)t / 1e6);
	assert_true(n >= least);
	assert_true(hookable >= 0.988 * n);
	if (function)
		assert_null(named(s, function)->refusal);
	for (uint32_t i = 0; i < n; i += 7) {
		struct symbols_callee *list;
		uint32_t callees, indirect;
		assert_int_equal(symbols_callees(s, symbols_functions(s, &n) + i, &list, &callees, &indirect), 0);
		for (uint32_t k = 0; k < callees; k++)
			assert_true(list[k].sites > 0 && (list[k].addr || list[k].name));
		free(list);
	}
	uint32_t sure = 0;
	for (uint32_t i = 0; i < n; i++)
		sure += check_exits(s, symbols_functions(s, &n) + i) > 0;
	print_message("%s: the ends of %.2f %% are certain\n", path, 100. * sure / n);
	assert_true(sure >= .6 * n);
	symbols_close(s);
}

static void test_real(void **state)
{
	real("/usr/bin/redis-server", 3900, "processCommand");
	real("/usr/lib/postgresql/15/bin/postgres", 13000, "SetLatch");
	real("/usr/sbin/nginx", 1500, "ngx_http_process_request");
	real("/usr/bin/memcached", 300, NULL);
	real("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", 10000, "EVP_DigestUpdate");
	real("/usr/lib/x86_64-linux-gnu/libc.so.6", 2500, "malloc");
	real("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", 3000, NULL);
	real("/usr/bin/python3.11", 2000, "PyObject_Call");
}

/* ---- moved code runs ----------------------------------------------------------------------------------------------------------- */

#define CODE(text) text, sizeof text - 1
/* Each is called as long f(long a, long b), at offset 0 of a page. Behind it, at 64, a function that returns the address it returns to, minus
 * the page; at 80, three long numbers 1000, 2000, the address of that function; at 104 the double 2.5. */
static const struct { const char *what; uint32_t window; const char *code; uint32_t n; long a, b; } prologues[] = {
	{ "push, mov", 5, CODE("\x55\x48\x89\xe5\x53\x48\x8d\x04\x37\x5b\x5d\xc3"), 3, 4 },
	{ "endbr64, push", 5, CODE("\xf3\x0f\x1e\xfa\x53\x48\x8d\x04\x37\x5b\xc3"), 3, 4 },
	{ "sub rsp, imm32", 7, CODE("\x48\x81\xec\x00\x01\x00\x00\x48\x8d\x04\x37\x48\x81\xc4\x00\x01\x00\x00\xc3"), 3, 4 },
	{ "load relative to rip", 7, CODE("\x48\x8b\x05\x49\x00\x00\x00\x48\x01\xf8\xc3"), 3, 4 },
	{ "compare relative to rip with an immediate", 7, CODE("\x83\x3d\x49\x00\x00\x00\x05\x0f\x9f\xc0\x0f\xb6\xc0\xc3"), 3, 4 },
	{ "lea relative to rip", 7, CODE("\x48\x8d\x05\x49\x00\x00\x00\x48\x8b\x40\x08\xc3"), 3, 4 },
	{ "a double relative to rip", 8, CODE("\xf2\x0f\x10\x05\x60\x00\x00\x00\xf2\x48\x0f\x2d\xc0\xc3"), 0, 0 },
	{ "short jz, taken", 5, CODE("\x48\x85\xff\x74\x05\x48\x8d\x47\x01\xc3\x48\x8d\x46\x02\xc3"), 0, 7 },
	{ "short jz, not taken", 5, CODE("\x48\x85\xff\x74\x05\x48\x8d\x47\x01\xc3\x48\x8d\x46\x02\xc3"), 9, 7 },
	{ "near jg, taken", 9, CODE("\x48\x39\xf7\x0f\x8f\x03\x00\x00\x00\x31\xc0\xc3\x48\x89\xf8\xc3"), 9, 7 },
	{ "near jg, not taken", 9, CODE("\x48\x39\xf7\x0f\x8f\x03\x00\x00\x00\x31\xc0\xc3\x48\x89\xf8\xc3"), 1, 7 },
	{ "short jmp", 5, CODE("\x48\x89\xf8\xeb\x02\x31\xc0\x48\x01\xf0\xc3"), 1, 7 },
	{ "near jmp", 5, CODE("\xe9\x03\x00\x00\x00\x31\xc0\xc3\x48\x89\xf0\xc3"), 1, 7 },
	{ "call", 5, CODE("\xe8\x3b\x00\x00\x00\x48\x83\xc0\x00\xc3"), 0, 0 },
	{ "call with a prefix", 6, CODE("\x67\xe8\x3a\x00\x00\x00\x48\x83\xc0\x00\xc3"), 0, 0 },
	{ "call through memory relative to rip", 6, CODE("\xff\x15\x5a\x00\x00\x00\x48\x83\xc0\x00\xc3"), 0, 0 },
	{ "call through a register", 9, CODE("\x48\x8b\x05\x59\x00\x00\x00\xff\xd0\x48\x83\xc0\x00\xc3"), 0, 0 },
	{ "ret and padding", 5, CODE("\x31\xc0\xc3\x0f\x1f\x44\x00\x00"), 0, 0 },
	{ "indirect jmp relative to rip", 6, CODE("\xff\x25\x5a\x00\x00\x00"), 0, 0 },
	{ "flags across the end", 6, CODE("\x48\x89\xf8\x48\x29\xf0\x0f\x94\xc0\x0f\xb6\xc0\xc3"), 5, 5 },
};

static uint8_t *page(void)
{
	uint8_t *p = mmap(NULL, 16384, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	memset(p, 0xcc, 16384);
	return p;
}

typedef long function(long a, long b);

static void test_moved(void **state)
{
	for (size_t i = 0; i < sizeof prologues / sizeof *prologues; i++) {
		uint8_t *p = page();
		/* mov (%rsp), %rax; lea -7-68(%rip), %rdx; sub %rdx, %rax; ret */
		static const uint8_t where[] = { 0x48, 0x8b, 0x04, 0x24, 0x48, 0x8d, 0x15, 0xb5, 0xff, 0xff, 0xff, 0x48, 0x29, 0xd0, 0xc3 };
		long numbers[3] = { 1000, 2000, (long)(p + 64) };
		double d = 2.5;
		memcpy(p, prologues[i].code, prologues[i].n);
		memcpy(p + 64, where, sizeof where);
		memcpy(p + 80, numbers, sizeof numbers);
		memcpy(p + 104, &d, sizeof d);
		struct symbols_moved m;
		struct err e = { 0 };
		uint8_t *to = p + 8192 + 16 * i;
		if (symbols_move(p, prologues[i].window, (uint64_t)p, (uint64_t)to, &m, &e) < 0)
			fail_msg("%s: %s", prologues[i].what, e.msg);
		memcpy(to, m.code, m.size);
		bool returns_elsewhere = !strcmp(prologues[i].what, "indirect jmp relative to rip"); /* its result is where its caller is */
		long expected = ((function *)p)(prologues[i].a, prologues[i].b);
		/* What the jump displaces must not be needed any more. */
		memset(p, 0xcc, 5);
		long got = ((function *)to)(prologues[i].a, prologues[i].b);
		if (got != expected && !returns_elsewhere)
			fail_msg("%s: %ld instead of %ld", prologues[i].what, got, expected);
		munmap(p, 16384);
	}
}

static void test_not_moved(void **state)
{
	static const struct { const char *what; uint32_t window; const char *code; uint32_t n; const char *why; } refused[] = {
		{ "loop", 5, CODE("\x48\x89\xf8\xe2\x05"), "127 bytes" },
		{ "jrcxz", 5, CODE("\x48\x89\xf8\xe3\x05"), "127 bytes" },
		{ "xbegin", 6, CODE("\xc7\xf8\x00\x00\x00\x00"), "transaction" },
		{ "syscall", 5, CODE("\x48\x89\xf8\x0f\x05"), "system call" },
		{ "call in the beginning", 5, CODE("\xff\xd7\x48\x89\xf8"), "a call in its first 5 bytes" },
		{ "call through the stack", 7, CODE("\x48\x89\xf8\xff\x54\x24\x08"), "through the stack" },
		{ "int3", 5, CODE("\xcc\x90\x90\x90\x90"), "trap" },
		{ "jump to itself", 5, CODE("\x48\x89\xf8\xeb\xfb"), "loop back" },
		{ "jump into itself", 5, CODE("\x48\x89\xf8\xeb\xfc"), "branch into" },
		{ "garbage", 5, CODE("\x06\x06\x06\x06\x06"), "not instructions" },
		{ "half an instruction", 5, CODE("\x90\x48\x81\xec\x00"), "not instructions" },
		{ "too short", 3, CODE("\x48\x89\xf8"), "shorter" },
		{ "a 16-bit branch", 6, CODE("\x66\xe8\x00\x00\x00\x00"), "disagree" },
		{ "32-bit address relative to eip", 8, CODE("\x67\x48\x8b\x05\x00\x00\x00\x00"), "cannot be moved" },
	};
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
		struct symbols_moved m;
		struct err e = { 0 };
		assert_int_equal(symbols_move((const uint8_t *)refused[i].code, refused[i].window, 0x400000, 0x500000, &m, &e), KLIEG_E_UNSUPPORTED);
		if (!strstr(e.msg, refused[i].why))
			fail_msg("%s: %s", refused[i].what, e.msg);
	}
	/* Too far: the jump back, a relative operand, a branch. */
	static const char *const far[] = { "\x55\x48\x89\xe5\x53", "\x48\x8b\x05\x49\x00\x00\x00", "\x0f\x84\x00\x01\x00\x00", "\xe8\x00\x01\x00\x00" };
	static const uint32_t windows[] = { 5, 7, 6, 5 };
	for (int i = 0; i < 4; i++) {
		struct symbols_moved m;
		struct err e = { 0 };
		assert_int_equal(symbols_move((const uint8_t *)far[i], windows[i], 0x400000, 0x400000 + (3ull << 30), &m, &e), KLIEG_E_UNSUPPORTED);
		assert_non_null(strstr(e.msg, "2 GB"));
	}
}

/* Where a thread that stands between two displaced instructions goes on. */
static void test_boundaries(void **state)
{
	struct symbols_moved m;
	assert_int_equal(symbols_move((const uint8_t *)"\x55\x74\x10\x48\x89\xe5", 6, 0x400000, 0x500000, &m, NULL), 0);
	assert_int_equal(m.n, 3);
	assert_int_equal(m.at[0].from, 0);
	assert_int_equal(m.at[1].from, 1);
	assert_int_equal(m.at[1].to, 1);
	assert_int_equal(m.at[2].from, 3);
	assert_int_equal(m.at[2].to, 7); /* the short branch became a near one */
	assert_int_equal(m.size, 15);
}

/* ---- functions of the C library, moved and called ------------------------------------------------------------------------------ */

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void *moved_function(const struct symbols *s, const struct link_map *lib, uint8_t *stubs, uint32_t *used, const char *name)
{
	const struct symbols_function *f = named(s, name);
	uint64_t at = lib->l_addr + f->addr;
	struct symbols_moved m;
	struct err e = { 0 };
	assert_null(f->refusal);
	assert_memory_equal((void *)at, symbols_text(s, f->addr, f->window), f->window);
	if (symbols_move((void *)at, f->window, at, (uint64_t)(stubs + *used), &m, &e) < 0)
		fail_msg("%s: %s", name, e.msg);
	memcpy(stubs + *used, m.code, m.size);
	*used += 256;
	return stubs + *used - 256;
}

static void test_moved_libc(void **state)
{
	struct link_map *lib;
	Dl_info info;
	assert_true(dladdr1((void *)gnu_get_libc_version, &info, (void **)&lib, RTLD_DL_LINKMAP));
	struct symbols *s = open_symbols(lib->l_name, NULL);
	uint8_t *stubs = MAP_FAILED;
	for (uint64_t near = lib->l_addr - (16u << 20); stubs == MAP_FAILED && near > lib->l_addr - (1u << 30); near -= 16u << 20)
		stubs = mmap((void *)near, 16384, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_not_equal(stubs, MAP_FAILED);
	uint32_t used = 0;
	long (*my_strtol)(const char *, char **, int) = moved_function(s, lib, stubs, &used, "strtol");
	void (*my_qsort)(void *, size_t, size_t, int (*)(const void *, const void *)) = moved_function(s, lib, stubs, &used, "qsort");
	int (*my_snprintf)(char *, size_t, const char *, ...) = moved_function(s, lib, stubs, &used, "snprintf");
	char *(*my_getenv)(const char *) = moved_function(s, lib, stubs, &used, "getenv");
	int (*my_atoi)(const char *) = moved_function(s, lib, stubs, &used, "atoi");
	void *(*my_malloc)(size_t) = moved_function(s, lib, stubs, &used, "malloc");
	void (*my_free)(void *) = moved_function(s, lib, stubs, &used, "free");
	double (*my_strtod)(const char *, char **) = moved_function(s, lib, stubs, &used, "strtod");
	int (*my_toupper)(int) = moved_function(s, lib, stubs, &used, "toupper");
	int list[] = { 5, 3, 9, 1 };
	char text[64];
	assert_int_equal(my_strtol("-1234", NULL, 10), -1234);
	my_qsort(list, 4, sizeof *list, compare);
	assert_true(list[0] == 1 && list[1] == 3 && list[2] == 5 && list[3] == 9);
	assert_int_equal(my_snprintf(text, sizeof text, "%d %s %.2f", 7, "x", 1.5), 8);
	assert_string_equal(text, "7 x 1.50");
	assert_ptr_equal(my_getenv("PATH"), getenv("PATH"));
	assert_int_equal(my_atoi("42"), 42);
	assert_true(my_strtod("2.5", NULL) == 2.5);
	assert_int_equal(my_toupper('k'), 'K');
	char *p = my_malloc(100);
	assert_non_null(p);
	memset(p, 1, 100);
	my_free(p);
	munmap(stubs, 16384);
	symbols_close(s);
}

/* ---- whole libraries run moved ------------------------------------------------------------------------------------------------ */

/* Writes a jump to its moved prologue over every function of a loaded library that is said to be hookable. Returns how many, negative on failure. */
static int move_all(const void *address_in_it)
{
	struct link_map *lib;
	Dl_info info;
	if (!dladdr1(address_in_it, &info, (void **)&lib, RTLD_DL_LINKMAP))
		return -1;
	struct symbols *s = open_symbols(lib->l_name, NULL);
	uint64_t addr, off, size, used = 0, room = 0;
	uint32_t n;
	int moved = 0;
	const struct symbols_function *f = symbols_functions(s, &n);
	for (uint32_t i = 0; symbols_segment(s, i, &addr, &off, &size); i++) {
		uint64_t start = (lib->l_addr + addr) & ~4095ull;
		if (mprotect((void *)start, (lib->l_addr + addr + size + 4095 - start) & ~4095ull, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
			return -2;
	}
	uint8_t *stubs = MAP_FAILED;
	room = 64ull * n;
	for (uint64_t near = lib->l_addr - (64u << 20); stubs == MAP_FAILED && near > lib->l_addr - (1u << 30); near -= 16u << 20)
		stubs = mmap((void *)near, room, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (stubs == MAP_FAILED)
		return -3;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t at = lib->l_addr + f[i].addr;
		struct symbols_moved m;
		if (f[i].refusal)
			continue;
		if (symbols_move((const uint8_t *)at, f[i].window, at, (uint64_t)stubs + used, &m, NULL) < 0 || m.size > room - used)
			return -4;
		memcpy(stubs + used, m.code, m.size);
		/* By hand and in one go, so that even memcpy() can be patched by a program that uses it. */
		typedef uint64_t anywhere __attribute__((aligned(1)));
		uint64_t word = *(volatile anywhere *)at & ~0xffffffffffull, distance = (uint32_t)((uint64_t)stubs + used - (at + 5));
		*(volatile anywhere *)at = word | 0xe9 | distance << 8;
		used += m.size;
		moved++;
	}
	return moved;
}

static void *need(void *lib, const char *name)
{
	void *p = dlsym(lib, name);
	if (!p)
		_exit(20);
	return p;
}

static int add_row(void *sum, int n, char **values, char **names)
{
	*(long *)sum += atol(values[0]);
	return 0;
}

static int use_sqlite(void *lib)
{
	int (*sql_open)(const char *, void **) = need(lib, "sqlite3_open"), (*sql_close)(void *) = need(lib, "sqlite3_close");
	int (*sql_exec)(void *, const char *, int (*)(void *, int, char **, char **), void *, char **) = need(lib, "sqlite3_exec");
	int moved = move_all((void *)sql_open);
	void *db;
	long sum = 0;
	if (moved < 1000)
		return moved < 0 ? -moved : 10;
	if (sql_open(":memory:", &db) || sql_exec(db, "create table t(a integer primary key, b text, c real); create index i on t(b);"
		"with recursive n(x) as (select 1 union all select x + 1 from n where x < 5000) insert into t select x, 'v' || (x % 100), x / 3.0 from n;"
		"update t set c = c * 2 where b like 'v1%'; delete from t where a % 7 = 0; analyze;", NULL, NULL, NULL))
		return 11;
	if (sql_exec(db, "select sum(a) from t group by b order by max(c) desc", add_row, &sum, NULL))
		return 12;
	return sum != 5000l * 5001 / 2 - 7l * 714 * 715 / 2 || sql_close(db) ? 13 : 0;
}

static int use_crypto(void *lib)
{
	unsigned char *(*sha256)(const void *, size_t, unsigned char *) = need(lib, "SHA256");
	void *(*keygen)(void *, void *, const char *, ...) = need(lib, "EVP_PKEY_Q_keygen");
	void *(*context)(void) = need(lib, "EVP_MD_CTX_new"), *(*md)(void) = need(lib, "EVP_sha256");
	int (*sign_start)(void *, void *, void *, void *, void *) = need(lib, "EVP_DigestSignInit");
	int (*sign)(void *, unsigned char *, size_t *, const void *, size_t) = need(lib, "EVP_DigestSign");
	int (*verify_start)(void *, void *, void *, void *, void *) = need(lib, "EVP_DigestVerifyInit");
	int (*verify)(void *, const unsigned char *, size_t, const void *, size_t) = need(lib, "EVP_DigestVerify");
	int moved = move_all((void *)sha256);
	unsigned char hash[32], sig[512];
	if (moved < 1000)
		return moved < 0 ? -moved : 10;
	static const unsigned char abc[] = { 0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea };
	if (memcmp(sha256("abc", 3, hash), abc, sizeof abc))
		return 11;
	for (int ec = 0; ec < 2; ec++) {
		void *key = ec ? keygen(NULL, NULL, "EC", "P-256") : keygen(NULL, NULL, "RSA", (size_t)1024), *one = context(), *two = context();
		size_t n = sizeof sig;
		if (!key || sign_start(one, NULL, md(), NULL, key) != 1 || sign(one, sig, &n, "text", 4) != 1)
			return 12;
		if (verify_start(two, NULL, md(), NULL, key) != 1 || verify(two, sig, n, "text", 4) != 1 || verify(two, sig, n, "test", 4) == 1)
			return 13;
	}
	return 0;
}

static void *add_one(void *p)
{
	++*(int *)p;
	return p;
}

static int use_libc(void *lib)
{
	int moved = move_all((void *)gnu_get_libc_version);
	int list[1000], count = 0;
	char text[128], *line = NULL;
	size_t cap = 0;
	if (moved < 1000)
		return moved < 0 ? -moved : 10;
	for (int i = 0; i < 1000; i++)
		list[i] = (i * 7919) % 1000;
	qsort(list, 1000, sizeof *list, compare);
	for (int i = 0; i < 1000; i++)
		if (list[i] != i)
			return 11;
	snprintf(text, sizeof text, "%5.3f|%-6s|%#x|%lld", strtod("3.25", NULL), "ab", 255, strtoll("-77", NULL, 10));
	if (strcmp(text, "3.250|ab    |0xff|-77"))
		return 12;
	FILE *f = popen("echo moved; exit 3", "r");
	if (!f || getline(&line, &cap, f) != 6 || strcmp(line, "moved\n") || WEXITSTATUS(pclose(f)) != 3)
		return 13;
	for (int i = 0; i < 20; i++) {
		pthread_t t;
		if (pthread_create(&t, NULL, add_one, &count) || pthread_join(t, NULL))
			return 14;
	}
	jmp_buf env;
	volatile int jumps = 0;
	if (setjmp(env) < 3)
		longjmp(env, ++jumps);
	struct tm tm;
	time_t day = 86400 * 365;
	strftime(text, sizeof text, "%Y-%m-%d %A", gmtime_r(&day, &tm));
	regex_t re;
	regmatch_t m[2];
	if (strcmp(text, "1971-01-01 Friday") || regcomp(&re, "([0-9]+)-01", REG_EXTENDED) || regexec(&re, text, 2, m, 0) || m[1].rm_eo != 4)
		return 15;
	regfree(&re);
	free(line);
	char *big = malloc(1 << 20), *same = realloc(big, 1 << 22);
	free(same);
	void *again = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
	return count == 20 && jumps == 3 && again && dlsym(again, "cos") ? 0 : 16;
}

/* In a child, which may die of it. */
static void run_moved(const char *name, int (*use)(void *lib))
{
	void *lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	int status = 0;
	if (!lib) {
		print_message("%s is not installed: not moved\n", name);
		return;
	}
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		for (int i = 1; i < NSIG; i++)
			signal(i, SIG_DFL); /* cmocka's would go on with the tests */
		_exit(use(lib));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	dlclose(lib);
	if (WIFSIGNALED(status))
		fail_msg("%s, moved, dies of signal %d", name, WTERMSIG(status));
	if (WEXITSTATUS(status) == 2)
		print_message("%s: this system does not let its text be written: not moved\n", name);
	else
		assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_moved_libraries(void **state)
{
	run_moved("libsqlite3.so.0", use_sqlite);
	run_moved("libcrypto.so.3", use_crypto);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	const bool watched = true; /* the C library, from inside */
#else
	const bool watched = false;
#endif
	if (!watched)
		run_moved("libc.so.6", use_libc);
}

static int clean_up(void **state)
{
	char command[64];
	snprintf(command, sizeof command, "rm -r %s", dir);
	return system(command);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names), cmocka_unit_test(test_refusals), cmocka_unit_test(test_callees), cmocka_unit_test(test_exits), cmocka_unit_test(test_signatures),
		cmocka_unit_test(test_threads), cmocka_unit_test(test_similar), cmocka_unit_test(test_stripped), cmocka_unit_test(test_no_sections),
		cmocka_unit_test(test_debug_file), cmocka_unit_test(test_dwarf_names), cmocka_unit_test(test_bad_files), cmocka_unit_test(test_cut_off),
		cmocka_unit_test(test_cut_off_later), cmocka_unit_test(test_garbled_dwarf), cmocka_unit_test(test_reader_dies),
		cmocka_unit_test(test_real), cmocka_unit_test(test_moved), cmocka_unit_test(test_not_moved),
		cmocka_unit_test(test_boundaries), cmocka_unit_test(test_moved_libc), cmocka_unit_test(test_moved_libraries),
	};
	if (argc != 3 || !mkdtemp(dir)) {
		fprintf(stderr, "usage: test_symbols SAMPLE-O0 SAMPLE-O2\n");
		return 2;
	}
	samples[0] = argv[1];
	samples[1] = argv[2];
	return cmocka_run_group_tests(tests, NULL, clean_up);
}

#else
int main(void)
{
	return 77; /* skipped: functions are intercepted on x86-64 only */
}
#endif
