/* Names of C++ and Rust as people write them: ns::Class::method. Arguments are left away where the name alone is enough to tell it from the module's others, so that
 * most can be typed. What the linker knows a function by stays a name of it (symbols_named), since other modules call it by that. Runs once, while opening;
 * the names made here are the symbols' own. */
#include "symbols/internal.h"
#include <libiberty/demangle.h>
#include <stdlib.h>
#include <string.h>

#define MANGLED_MAX 2048u     /* longer ones stay as they are: nobody can read them, and hostile ones take long */
#define READABLE_MAX 400u

struct readable { char *name; uint32_t function; };

/* As everybody writes it. */
static void shorten(char *name)
{
	static const char whole[] = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >", called[] = "std::string";
	for (char *at = name; (at = strstr(at, whole)); at += sizeof called - 1) {
		memcpy(at, called, sizeof called - 1);
		memmove(at + sizeof called - 1, at + sizeof whole - 1, strlen(at + sizeof whole - 1) + 1);
	}
}

static char *demangle(const char *mangled, int options)
{
	if (mangled[0] != '_' || (mangled[1] != 'Z' && mangled[1] != 'R') || strnlen(mangled, MANGLED_MAX) == MANGLED_MAX)
		return NULL;
	char *name = cplus_demangle(mangled, DMGL_AUTO | options);
	if (name)
		shorten(name);
	if (name && (!*name || strlen(name) > READABLE_MAX)) {
		free(name);
		return NULL;
	}
	return name;
}

static int by_name(const void *a, const void *b)
{
	const struct readable *x = a, *y = b;
	int order = strcmp(x->name, y->name);
	return order ? order : x->function < y->function ? -1 : 1;
}

void names_demangle(struct symbols *s)
{
	struct readable *list = NULL;
	uint32_t n = 0, cap = 0;
	for (uint32_t i = 0; i < s->n; i++) {
		char *name = s->functions[i].name ? demangle(s->functions[i].name, DMGL_NO_OPTS) : NULL;
		if (!name)
			continue;
		if (n == cap)
			list = base_realloc(list, (cap = cap ? 2 * cap : 1024) * sizeof *list);
		list[n++] = (struct readable){ name, i };
	}
	if (!n)
		return;
	qsort(list, n, sizeof *list, by_name);
	s->readable = base_calloc(n, sizeof *s->readable);
	for (uint32_t i = 0, same; i < n; i += same) {
		for (same = 1; i + same < n && !strcmp(list[i].name, list[i + same].name);)
			same++;
		for (uint32_t k = i; k < i + same; k++) {
			struct symbols_function *f = &s->functions[list[k].function];
			char *with_arguments = same > 1 ? demangle(f->name, DMGL_PARAMS | DMGL_ANSI | DMGL_RET_DROP | DMGL_VERBOSE) : NULL;
			f->name = s->readable[s->nreadable++] = with_arguments ? with_arguments : list[k].name;
		}
		for (uint32_t k = i; k < i + same; k++)
			if (s->functions[list[k].function].name != list[k].name)
				free(list[k].name);
	}
	free(list);
}
