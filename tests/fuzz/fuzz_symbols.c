/* An ELF file of arbitrary bytes: opened, and everything asked that can be asked of it. Its first bytes are also moved as if they were code. */
#include "base/buf.h"
#include "symbols/symbols.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct symbols *s, const struct symbols_function *f)
{
	struct symbols_callee *list = NULL;
	struct symbols_signature sig;
	struct symbols_moved m;
	uint32_t n, indirect, line;
	const char *file;
	volatile size_t sink = 0;
	if (!f->size || !symbols_text(s, f->addr, f->size) || !symbols_at(s, f->addr) || (f->window == 0) != (f->refusal != NULL))
		abort();
	if (f->window && symbols_move(symbols_text(s, f->addr, f->window), f->window, f->addr, f->addr + 65536, &m, NULL) >= 0 && m.size > sizeof m.code)
		abort();
	if (f->name && !symbols_named(s, f->name))
		abort();
	if (symbols_callees(s, f, &list, &n, &indirect) == 0) {
		for (uint32_t i = 0; i < n; i++)
			sink += list[i].name ? strlen(list[i].name) : 0;
		free(list);
	}
	symbols_signature(s, f, &sig);
	for (uint32_t i = 0; i < sig.n; i++)
		sink += (sig.args[i].name ? strlen(sig.args[i].name) : 0) + strlen(sig.args[i].type);
	if (symbols_line(s, f->addr, &file, &line))
		sink += strlen(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct symbols *s = NULL;
	struct symbols_moved m;
	struct err e;
	if (size >= 24)
		symbols_move(data, data[23] % 20, 0x400000, 0x500000, &m, &e);
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	if (symbols_open(fd, NULL, &s, &e) >= 0) {
		const char *names[4];
		uint32_t n;
		uint64_t addr, off, bytes;
		const struct symbols_function *f = symbols_functions(s, &n);
		for (uint32_t i = 0; i < n && i < 300; i++)
			ask(s, &f[i]);
		for (uint32_t i = 0; symbols_segment(s, i, &addr, &off, &bytes); i++)
			if (!symbols_text(s, addr, bytes))
				abort();
		symbols_similar(s, "mian", names, 4);
		symbols_at(s, size);
		symbols_close(s);
	}
	close(fd);
	return 0;
}
