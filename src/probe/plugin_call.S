/* uint64_t klieg__call_kept(uint64_t (*fn)(void *), void *arg): calls ordinary code and keeps the vector registers of the program, in a tenth of XSAVE's time.
 *
 * A hooked function's callers may count on any of them: arguments and results, but also what a compiler knows a local function to leave alone (IPA-RA). XGETBV with
 * ECX = 1 tells what is not in its initial state (Intel SDM vol. 1, 13.6); only that is stored:
 *   nothing above 128 bits   xmm0-15, upper halves zeroed again afterwards
 *   AVX                      ymm0-15
 *   AVX-512 or its masks     zmm0-31, k0-7: with glibc's string functions this is the usual case there
 * MXCSR is kept, x87 is not touched (plugin.h forbids long double). A processor without that XGETBV goes the long way (gate.S). */
#if defined(__x86_64__)
	.section .bss.klieg_vectors, "aw", @nobits
	.globl klieg__vectors
	.hidden klieg__vectors
	.type klieg__vectors, @object
	.size klieg__vectors, 4
klieg__vectors:                         /* enum klieg__vectors of plugin_internal.h, set when we are loaded */
	.skip 4

	.text
	.altmacro
.macro each op, reg, from, to, size
	i = \from
	.rept \to - \from + 1
	one \op, \reg, %i, \size
	i = i + 1
	.endr
.endm
.macro one op, reg, n, size
	.ifc \op, save
	vmovups %\reg\()\n, \n * \size(%rsp)
	.else
	vmovups \n * \size(%rsp), %\reg\()\n
	.endif
.endm
.macro masks op
	i = 0
	.rept 8
	mask \op, %i
	i = i + 1
	.endr
.endm
.macro mask op, n
	.ifc \op, save
	kmovq %k\n, 2048 + 8 * \n(%rsp)
	.else
	kmovq 2048 + 8 * \n(%rsp), %k\n
	.endif
.endm
.macro plain op
	i = 0
	.rept 16
	plain_one \op, %i
	i = i + 1
	.endr
.endm
.macro plain_one op, n
	.ifc \op, save
	movups %xmm\n, 16 * \n(%rsp)
	.else
	movups 16 * \n(%rsp), %xmm\n
	.endif
.endm

	.globl klieg__call_kept
	.hidden klieg__call_kept
	.p2align 4
	.type klieg__call_kept, @function
klieg__call_kept:
	.cfi_startproc
	cmpl $0, klieg__vectors(%rip)
	je klieg__call_saved
	push %rbp
	.cfi_def_cfa_offset 16
	.cfi_offset rbp, -16
	mov %rsp, %rbp
	.cfi_def_cfa_register rbp
	push %rbx
	.cfi_offset rbx, -24
	sub $2184, %rsp
	and $-64, %rsp
	stmxcsr 2112(%rsp)
	mov %rdi, %r8
	mov %rsi, %rdi
	mov $1, %ecx
	xgetbv
	mov %eax, %ebx
	test $0xe0, %ebx
	jnz 3f
	test $4, %ebx
	jnz 2f

	plain save
	call *%r8
	cmpl $1, klieg__vectors(%rip)
	je 1f
	vzeroupper
1:	plain load
	jmp 9f

2:	each save, ymm, 0, 15, 32
	call *%r8
	each load, ymm, 0, 15, 32
	jmp 9f

3:	each save, zmm, 0, 31, 64
	masks save
	call *%r8
	each load, zmm, 0, 31, 64
	masks load
	test $0x44, %ebx
	jnz 9f
	/* The upper halves of 0 to 15 were unused: not marked as in use, so that SSE code after this pays nothing for them. */
	vzeroupper
9:	ldmxcsr 2112(%rsp)
	mov -8(%rbp), %rbx
	leave
	.cfi_def_cfa rsp, 8
	ret
	.cfi_endproc
	.size klieg__call_kept, . - klieg__call_kept
#endif
	.section .note.GNU-stack, "", @progbits
