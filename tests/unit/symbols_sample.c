/* What src/symbols is shown in its test: functions of known arguments, calls and code, built with and without optimisation and with DWARF.
 * It is also run, so that the linker keeps everything. The functions in assembly are those that must or must not be intercepted. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline, noclone, used, visibility("default")))

struct client { int fd; char *name; long x; };
struct pair { int a; double b; };
struct two { double a, b; };
typedef char *sds;
enum color { RED, GREEN };

NOINLINE int sample_plain(int a, const char *s, unsigned long n, struct client *c, sds d, enum color e, short g, char h)
{
	return a + s[0] + (int)n + c->fd + d[0] + (int)e + g + h;
}

NOINLINE double sample_mixed(double x, float y, int k, struct pair q, struct client big, unsigned char last)
{
	return x + y + k + q.a + q.b + big.fd + last;
}

NOINLINE struct client sample_big_result(int a, void (*cb)(int), long double ld, __int128 w, int b)
{
	if (cb)
		cb(a);
	return (struct client){ (int)ld + b, NULL, (long)w };
}

NOINLINE struct two sample_pair_result(const int *const *p, struct two t, _Bool z)
{
	return (struct two){ t.a + **p, z };
}

NOINLINE void sample_nothing(void)
{
	__asm__ volatile("");
}

NOINLINE int sample_compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

NOINLINE long sample_caller(int *list, size_t n, long (*indirect)(const char *))
{
	qsort(list, n, sizeof *list, sample_compare);
	sample_nothing();
	sample_nothing();
	return indirect("7") + (long)strlen(getenv("PATH") ? "a" : "b");
}

static int (*volatile compare)(const void *, const void *) = sample_compare; /* a pointer in a variable */

NOINLINE int sample_through(const int *a)
{
	return compare(a, a + 1) + 1;
}

static int resolved(int a) { return a + 1; }
static void *resolve(void) { return (void *)resolved; }
NOINLINE int sample_ifunc(int a) __attribute__((ifunc("resolve")));

int hand_loop(int), hand_branch_in(int), hand_table(int), hand_short(void), hand_padded(void), hand_system(void), hand_call(void *), hand_getpc(void),
	hand_barrier(void), hand_jrcxz(long), hand_outer(void), hand_inner(void), hand_last_call(void), hand_label(int);

__asm__(
	".text\n"
	".macro begin name\n .p2align 4\n .globl \\name\n .type \\name, @function\n \\name: .cfi_startproc\n .endm\n"
	".macro end name\n .cfi_endproc\n .size \\name, . - \\name\n .endm\n"
	"begin hand_loop\n xor %eax, %eax\n dec %edi\n jg hand_loop\n ret\n end hand_loop\n"
	"begin hand_branch_in\n xor %eax, %eax\n1: inc %eax\n dec %edi\n jg 1b\n ret\n end hand_branch_in\n"
	/* A switch whose case 1 is behind the first instruction. */
	"begin hand_table\n xor %eax, %eax\n3: inc %eax\n cmp $1, %edi\n ja 2f\n lea 4f(%rip), %rdx\n movslq (%rdx,%rdi,4), %rcx\n mov $2, %edi\n add %rdx, %rcx\n"
	" jmp *%rcx\n2: ret\n end hand_table\n"
	".section .rodata\n .p2align 2\n4: .long 2b - 4b, 3b - 4b\n .text\n"
	"begin hand_short\n ret\n end hand_short\n .globl hand_next\n .type hand_next, @function\n hand_next: ret\n nop\n nop\n nop\n nop\n .size hand_next, 1\n"
	"begin hand_padded\n xor %eax, %eax\n ret\n end hand_padded\n"
	"begin hand_system\n mov %rdi, %rax\n syscall\n ret\n end hand_system\n"
	"begin hand_call\n call *%rdi\n nop\n nop\n nop\n ret\n end hand_call\n"
	"begin hand_getpc\n mov (%rsp), %rax\n and $0, %eax\n ret\n end hand_getpc\n"
	"begin hand_barrier\n lock orl $0, (%rsp)\n xor %eax, %eax\n ret\n end hand_barrier\n"
	"begin hand_jrcxz\n mov %rdi, %rcx\n jrcxz 5f\n mov $1, %eax\n5: ret\n end hand_jrcxz\n"
	"begin hand_outer\n push %rbx\n nop\n nop\n nop\n nop\n nop\n nop\n .globl hand_inner\n .type hand_inner, @function\n hand_inner:\n pop %rbx\n"
	" xor %eax, %eax\n nop\n nop\n nop\n ret\n"
	" .size hand_inner, . - hand_inner\n end hand_outer\n"
	"begin hand_last_call\n call hand_padded\n ret\n end hand_last_call\n"
	/* A label behind the first instruction whose address is in a table that the dynamic linker fills. */
	"begin hand_label\n xor %eax, %eax\n6: lea 7f(%rip), %rdx\n ret\n end hand_label\n"
	".section .data.rel.ro, \"aw\"\n .p2align 3\n7: .quad 6b\n .text\n"
	/* Ways to leave a function: never executed. */
	"begin hand_tail\n test %edi, %edi\n je 8f\n repz ret\n8: push %rbx\n pop %rbx\n jmp hand_padded\n end hand_tail\n"
	"begin hand_tail_if\n test %edi, %edi\n je hand_padded\n ret\n end hand_tail_if\n"
	"begin hand_tail_rcx\n xor %eax, %eax\n jrcxz 10f\n ret\n end hand_tail_rcx\n begin hand_tail_end\n10: ret\n end hand_tail_end\n"
	"begin hand_tail_to\n xor %eax, %eax\n jmp *%rdi\n end hand_tail_to\n"
	"begin hand_overlap\n .byte 0xeb, 1, 0xe8\n ret\n nop\n nop\n nop\n ret\n end hand_overlap\n"
	"begin hand_never\n 9: pause\n jmp 9b\n end hand_never\n");

static void ignore(int a) { (void)a; }

int main(int argc, char **argv)
{
	struct client c = { 1, argv[0], 2 };
	struct pair q = { 1, 2 };
	int list[3] = { 3, 1, 2 }, *p = list;
	int sum = sample_plain(argc, argv[0], 2, &c, argv[0], GREEN, 1, 2) + (int)sample_mixed(1, 2, 3, q, c, 4);
	sum += sample_big_result(argc, ignore, 1, 2, 3).fd + (int)sample_pair_result((const int *const *)&p, (struct two){ 1, 2 }, 1).a;
	sum += (int)sample_caller(list, 3, atol) + sample_ifunc(1);
	sum += hand_loop(3) + hand_branch_in(3) + hand_padded() + hand_getpc() + hand_barrier() + hand_jrcxz(1) + hand_outer() + hand_last_call() + hand_label(1);
	printf("%d\n", sum);
	return 0;
}
