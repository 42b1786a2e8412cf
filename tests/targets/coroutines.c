/* Coroutines (ucontext, stacks of their own) that call hooked functions, are suspended inside them, and go on on another thread. */
#include "target.h"
#include <pthread.h>
#include <ucontext.h>

enum { COROUTINES = 8, STACK = 256 * 1024, SLICES = 20 };

struct coroutine {
	ucontext_t here, caller;
	uint64_t h;
	int left;
	char *stack;
};

/* Out of a hooked frame on the coroutine's stack, back to whoever resumed it: not through a local, for that may be another thread's. */
HOOKED __attribute__((noipa)) uint64_t pauses(struct coroutine *c, uint64_t x)
{
	COUNTED(pauses);
	swapcontext(&c->here, &c->caller);
	return mix(x, (uint64_t)c->left);
}
HOOKED uint64_t works(struct coroutine *c, uint64_t x)
{
	COUNTED(works);
	uint64_t r = pauses(c, mix(x, 1));
	AFTER_CALL(r);
	return r + 1;
}
HOOKED void coroutine_main(unsigned lo, unsigned hi)
{
	COUNTED(coroutine_main);
	struct coroutine *c = (struct coroutine *)((uint64_t)hi << 32 | lo);
	while (c->left-- > 0)
		c->h = works(c, c->h);
}
/* Resumed from a hooked frame, too. */
HOOKED uint64_t resumes(struct coroutine *c)
{
	COUNTED(resumes);
	swapcontext(&c->caller, &c->here);
	AFTER_CALL(c);
	return c->h;
}

static struct coroutine all[COROUTINES];

/* Every slice of every coroutine once. */
static void *turn(void *arg)
{
	uint64_t *h = arg;
	for (int i = 0; i < COROUTINES; i++)
		*h = mix(*h, resumes(&all[i]));
	return NULL;
}

static void prepare(struct coroutine *c, uint64_t h)
{
	if (!c->stack)
		c->stack = malloc(STACK);
	getcontext(&c->here);
	c->here.uc_stack.ss_sp = c->stack;
	c->here.uc_stack.ss_size = STACK;
	c->here.uc_link = &c->caller;
	c->h = h;
	c->left = SLICES;
	makecontext(&c->here, (void (*)(void))coroutine_main, 2, (unsigned)(uintptr_t)c, (unsigned)((uintptr_t)c >> 32));
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long r = 0; r < rounds; r++) {
		for (int i = 0; i < COROUTINES; i++)
			prepare(&all[i], (uint64_t)i);
		for (int s = 0; s <= SLICES; s++) {
			if (s % 2) { /* here, and on another thread, in turns */
				turn(&h);
				continue;
			}
			pthread_t t;
			CHECK(!pthread_create(&t, NULL, turn, &h));
			pthread_join(t, NULL);
		}
	}
	return h;
}

int main(void) { return target_loop(go, NULL); }
