/* Functions that cannot be intercepted, each for its own reason; written by hand so that no compiler changes its mind. */
#include "target.h"

__asm__(
	".text\n"
	".globl too_short\n.type too_short, @function\n.p2align 4\n"
	"too_short: .cfi_startproc\n xor %eax, %eax\n ret\n .cfi_endproc\n.size too_short, . - too_short\n" /* 3 bytes, and padding that is not ours */
	".globl too_short_next\n.type too_short_next, @function\n"
	"too_short_next: .cfi_startproc\n mov $7, %eax\n ret\n .cfi_endproc\n.size too_short_next, . - too_short_next\n"
	".globl loops_into_window\n.type loops_into_window, @function\n.p2align 4\n" /* its loop begins within the first five bytes */
	"loops_into_window: .cfi_startproc\n xor %eax, %eax\n 1: add $2, %eax\n dec %edi\n jnz 1b\n ret\n .cfi_endproc\n.size loops_into_window, . - loops_into_window\n"
);
extern int too_short(void), too_short_next(void), loops_into_window(int);

HOOKED uint64_t fine(uint64_t x)
{
	COUNTED(fine);
	return mix(x, 2);
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long i = 0; i < rounds; i++)
		h = mix(h, fine((uint64_t)(too_short() + too_short_next() + loops_into_window(5))));
	return h;
}

int main(void) { return target_loop(go, NULL); }
