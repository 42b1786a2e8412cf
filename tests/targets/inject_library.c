/* What inject_load is tried with. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHOW __attribute__((visibility("default")))
uint64_t count(const char *text);
uint64_t address(uint64_t at);
uint64_t crash(void);
uint64_t deep(void);

static uint64_t calls;
SHOW uint64_t count(const char *text) /* calls so far, and how long the text is */
{
	char *copy = text ? strdup(text) : NULL;
	uint64_t n = copy ? strlen(copy) : 0;
	free(copy);
	return ++calls * 10000 + n;
}

SHOW uint64_t address(uint64_t at) { return at + 1; }
static volatile uint64_t *volatile nowhere = (volatile uint64_t *)8;
SHOW uint64_t crash(void) { return *nowhere; }
SHOW uint64_t deep(void) /* 700 KiB of stack */
{
	volatile char all[700 << 10];
	for (unsigned i = 0; i < sizeof all; i += 4096)
		all[i] = 1;
	return sizeof all;
}

#ifdef CRASH_ON_LOAD
__attribute__((constructor)) static void on_load(void) { abort(); }
#endif
