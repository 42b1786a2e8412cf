/* The allocator: how often, how long; at detail how much and from where. Called so often that count is the level meant: no
 * handler runs there. The handlers do nothing that could allocate. */
#include <klieg/plugin.h>

static void size_begin(struct klieg_call *c)
{
	uintptr_t which = (uintptr_t)c->hook->data; /* the argument that is the size; 9: the product of the first two */
	klieg_set_int(c, "memory.size", which == 9 ? (int64_t)(c->args[0] * c->args[1]) : (int64_t)c->args[which]);
	klieg_set_int(c, "code.caller.address", (int64_t)(uintptr_t)c->caller);
}

#define ALLOCATE(fn, size) { .library = "libc.so.6", .function = fn, .site = "malloc." fn, .flags = KLIEG_HOOK_COUNT, \
	.fails = KLIEG_FAILS_NULL, .begin = size_begin, .data = (void *)size }
#define OTHER(lib, fn, size) { .library = lib, .function = fn, .site = "malloc." fn, \
	.flags = KLIEG_HOOK_COUNT | KLIEG_HOOK_OPTIONAL, .fails = KLIEG_FAILS_NULL, .begin = size_begin, \
	.data = (void *)size }
static const struct klieg_plugin_hook hooks[] = {
	ALLOCATE("malloc", 0), ALLOCATE("calloc", 9), ALLOCATE("aligned_alloc", 1), ALLOCATE("memalign", 1),
	{ .library = "libc.so.6", .function = "realloc", .site = "malloc.realloc", .flags = KLIEG_HOOK_COUNT, .begin = size_begin,
		.data = (void *)1 }, /* NULL may mean freed */
	{ .library = "libc.so.6", .function = "posix_memalign", .site = "malloc.posix_memalign", .flags = KLIEG_HOOK_COUNT,
		.fails = KLIEG_FAILS_NONZERO, .begin = size_begin, .data = (void *)2 },
	{ .library = "libc.so.6", .function = "free", .site = "malloc.free", .flags = KLIEG_HOOK_COUNT },
	OTHER("libjemalloc.so*", "malloc", 0), OTHER("libjemalloc.so*", "calloc", 9), OTHER("libjemalloc.so*", "je_malloc", 0),
	{ .library = "libjemalloc.so*", .function = "free", .site = "malloc.free", .flags = KLIEG_HOOK_COUNT | KLIEG_HOOK_OPTIONAL },
	OTHER("libtcmalloc*.so*", "tc_malloc", 0),
	{ .library = "libtcmalloc*.so*", .function = "tc_free", .site = "malloc.free",
		.flags = KLIEG_HOOK_COUNT | KLIEG_HOOK_OPTIONAL },
};

static const struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "malloc", "1.0",
	"glibc 2.17 and later; jemalloc and tcmalloc as shared libraries", NULL,
	KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host) { return host->abi == KLIEG_PLUGIN_ABI ? &plugin : NULL; }
