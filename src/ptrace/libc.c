/* Finds the C library and the dynamic loader among a process's mappings, and their functions through the target's own memory. */
#include "ptrace/libc.h"
#include "base/err.h"
#include "ptrace/image.h"
#include "ptrace/proc.h"
#include <string.h>

static bool starts(const char *s, const char *with)
{
	return !strncmp(s, with, strlen(with));
}

int libc_find(pid_t pid, int mem, struct libc *ret_l)
{
	struct libc l = { 0 };
	struct proc_map m;
	uint64_t base = 0, loader = 0;
	FILE *maps = proc_maps_open(pid);
	if (!maps)
		return KLIEG_E_NO_TARGET;
	bool any = false, delicate = false;
	char module[sizeof m.path] = "";
	while (proc_maps_next(maps, &m)) {
		any = true;
		const char *slash = strrchr(m.path, '/'), *name = slash ? slash + 1 : "";
		if (starts(name, "ld-musl") || starts(name, "libc.musl") || !strcmp(name, "libc.so")) /* GNU's file of that name is text */
			l.musl = true;
		if (starts(name, "ld-linux") || starts(name, "ld-2.") || starts(name, "ld-musl")) {
			l.loader = true;
			if (!loader && m.offset == 0)
				loader = m.start;
			if (m.perms[2] == 'x') {
				l.loader_start = m.start;
				l.loader_end = m.end;
			}
		}
		if (strcmp(m.path, module)) {
			struct image i;
			memcpy(module, m.path, sizeof module);
			delicate = starts(name, "ld-") || starts(name, "libc.") || starts(name, "libc-") ||
				(m.path[0] == '/' && m.offset == 0 && !process_image_open(mem, m.start, &i) && process_image_symbol(&i, "calloc"));
		}
		if (delicate && m.perms[2] == 'x' && l.delicate_n++ < LIBC_DELICATE) {
			l.delicate[l.delicate_n - 1].start = m.start;
			l.delicate[l.delicate_n - 1].end = m.end;
		}
		if (!base && m.offset == 0 && (starts(name, "libc.so.6") || starts(name, "libc-2.")))
			base = m.start;
	}
	fclose(maps);
	if (!any)
		return KLIEG_E_NO_TARGET; /* it is ending */
	struct image i;
	if (base && !process_image_open(mem, base, &i)) {
		l.glibc = true;
		l.attr_init = process_image_symbol(&i, "pthread_attr_init");
		l.attr_setdetachstate = process_image_symbol(&i, "pthread_attr_setdetachstate");
		l.attr_setstack = process_image_symbol(&i, "pthread_attr_setstack");
		l.create = process_image_symbol(&i, "pthread_create");
		l.open = process_image_symbol(&i, "dlopen");
		l.symbol_in = process_image_symbol(&i, "dlsym");
		l.error = process_image_symbol(&i, "dlerror");
		l.errno_at = process_image_symbol(&i, "__errno_location");
		l.unlock = process_image_symbol(&i, "pthread_mutex_unlock");
		l.complete = l.attr_init && l.attr_setdetachstate && l.attr_setstack && l.create && l.open && l.symbol_in && l.error && l.errno_at && l.unlock;
	}
	if (loader && !process_image_open(mem, loader, &i))
		l.loader_state = process_image_symbol(&i, "_rtld_global");
	*ret_l = l;
	return 0;
}
