/* The call gate: how a function that nobody instrumented is entered and left under Klieg. The idea of the shape (a stub, a thunk per thread whose
 * return address takes the place of the caller's, unwind information that finds the real one) is told in docs/adr/0003-call-gate.md.
 *
 *   function: jmp stub
 *   stub:     push %r11; lea hook(%rip), %r11; jmp *hook.gate(%rip)
 *   gate:     saves what a caller may count on and begins a span, or asks hook.c to; then either
 *             - passes on: the displaced instructions, with the stack as the caller left it, or
 *             - takes the return address off the stack and jumps to this thread's thunk, whose call puts the thunk's address in its place.
 *               Arguments on the stack stay where they are.
 *   thunk:    call displaced instructions; jmp leave
 *   leave:    ends the span, or asks hook.c to; puts the real return address back, returns.
 *
 * All general registers but %rax/%rdx at the exit are kept, also those the ABI gives away: compilers know what local functions leave alone (IPA-RA).
 * Vector registers are not touched: the C code of these paths is built without them. Words that must survive between two instructions below the
 * stack pointer are within 128 bytes of it: signal handlers keep off the red zone. */
#if defined(__x86_64__)
#include "gate_offsets.h"
	.hidden klieg__process, klieg__thread
#define GATES 1024
#define GATE_BYTES 16384

/* In memory: struct klieg__regs. */
	.macro keep
	.irp r, rax, rdx, rcx, rsi, rdi, r8, r9, r10
	push %\r
	.endr
	.endm
	.macro restore
	.irp r, r10, r9, r8, rdi, rsi, rcx, rdx, rax
	pop %\r
	.endr
	.endm

	.text
	.globl klieg__gate_enter, klieg__gate_text, klieg__gate_text_end
	.hidden klieg__gate_enter, klieg__gate_text, klieg__gate_text_end
	.type klieg__gate_enter, @function
	.p2align 4
klieg__gate_text:
/* The way nearly every call goes, in both directions: a function at level span or count of which nothing else is wanted, in a trace that is kept,
 * on the thread's own stack, with room everywhere. It does what klieg__hook_enter() and klieg__hook_leave() would do, and fast.h says why; what is
 * unusual in any way is left to them, with nothing done. By hand, since every instruction counts where rdtsc waits for it (docs/adr/0003): five
 * registers are saved, below the stack pointer, and nothing is called. While the thread is busy, what a signal's handler calls is let through
 * and counted.
 *
 * %fs:(%rcx) is this thread's struct klieg__thread. From the return address's slot R downwards: R-8 r11, R-16 target, R-24 thunk; what is saved. */
	.macro save from
	mov %rax, \from(%rsp)
	mov %rcx, \from - 8(%rsp)
	mov %rdx, \from - 16(%rsp)
	mov %rsi, \from - 24(%rsp)
	mov %rdi, \from - 32(%rsp)
	.endm
	.macro saved from
	mov \from(%rsp), %rax
	mov \from - 8(%rsp), %rcx
	mov \from - 16(%rsp), %rdx
	mov \from - 24(%rsp), %rsi
	mov \from - 32(%rsp), %rdi
	.endm
	.macro unready to
	mov klieg__process + PROCESS_EPOCH(%rip), %rax
	mov (%rax), %rax
	cmp %rax, %fs:ME_READY(%rcx)
	jne \to
	cmpb $0, %fs:ME_BUSY(%rcx)
	jne \to
	.endm
	.macro go_on up, cfa, to /* with what was saved, to where it says below the stack pointer */
	saved -24
	mov (%rsp), %r11
	.cfi_remember_state
	lea \up(%rsp), %rsp
	.cfi_def_cfa_offset \cfa
	jmp *\to(%rsp)
	.cfi_restore_state
	.endm
	.macro ticks
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	.endm

	.macro begin flags, over, long /* a span; of a function that is only counted, with no number of its own */
	mov %fs:ME_T(%rcx), %rsi
	mov T_DEPTH(%rsi), %edx
	lea -1(%rdx), %eax
	cmp $(OPEN_MAX - 1), %eax
	jae \long                                  /* none is open: a trace begins; or no room */
	mov %edx, %eax
	shl $OPEN_SHIFT, %eax
	lea T_OPEN(%rsi, %rax), %rax            /* its place */
	testb $OPEN_IS_ENDED >> 16, OPEN_FLAGS + 2 - OPEN_BYTES(%rax)
	jne \long

	movb $1, %fs:ME_BUSY(%rcx)
	mov %r11, FRAME_HOOK(%rdi)
	mov %fs:ME_GENERATION(%rcx), %r11d
	mov %r11d, T_GENERATION(%rsi, %rdx, 4)
	mov FRAME_HOOK(%rdi), %r11
	mov %rax, %rsi
	lea FRAME_SPAN(%rdi), %rax
	mov %rax, OPEN_COOKIE(%rsi)
	mov HOOK_TARGET(%r11), %rax
	mov %rax, -8(%rsp)
	mov 8(%rsp), %rax
	mov %rax, FRAME_RA(%rdi)
	mov %fs:ME_SEQ(%rcx), %eax
	.if \flags
	bts $\flags + 32, %rax
	.endif
	mov %rax, OPEN_PARENT(%rsi)             /* and flags */
	ticks
	mov klieg__process + PROCESS_CONTROL(%rip), %rdx
	cmp CONTROL_LEASE(%rdx), %rax
	ja \over
	mov %rax, OPEN_START(%rsi)
	mov %fs:ME_T(%rcx), %rdx
	mov HOOK_SITE1(%r11), %r11d
	dec %r11d
	.if \flags
	xor %eax, %eax
	.else
	mov T_SEQ(%rdx), %eax
	inc %eax
	mov %eax, T_SEQ(%rdx)
	mov %eax, %fs:ME_SEQ(%rcx)
	shl $32, %rax
	or %rax, %r11
	.endif
	mov %r11, OPEN_SITE(%rsi)               /* and seq */
	mov T_DEPTH(%rdx), %esi
	inc %esi
	or %rsi, %rax
	mov %rax, FRAME_SPAN(%rdi)              /* open, seq */
	mov %esi, T_DEPTH(%rdx)
	lea 16(%rsp), %rax
	mov %rax, FRAME_CFA(%rdi)
	mov %fs:ME_GATE(%rcx), %rax
	mov GATE_THUNK(%rax), %rdx
	mov %rdx, -16(%rsp)
	mov %rdi, GATE_TOP(%rax)                /* the unwinder, in a handler, sees it whole */
	movb $0, %fs:ME_BUSY(%rcx)
	go_on up=16, cfa=0, to=-32
	.endm

klieg__gate_enter: /* %rsp is R-8 */
	.cfi_startproc
	.cfi_def_cfa_offset 16
	save -24
	mov klieg__thread@gottpoff(%rip), %rcx
	unready to=8f
	mov HOOK_FLAGS(%r11), %eax
	and $~HOOK_STRINGS, %eax
	or HOOK_DATA(%r11), %rax
	or HOOK_MIN_TICKS(%r11), %rax
	jne 8f
	mov %fs:ME_GATE(%rcx), %rax
	mov GATE_TOP(%rax), %rdi
	lea 16(%rsp), %rsi                      /* the CFA */
	mov %rsi, %rdx
	sub GATE_STACK_LOW(%rax), %rdx
	cmp GATE_STACK_BYTES(%rax), %rdx
	jae 8f
	mov FRAME_CFA(%rdi), %rdx
	add $-FRAME_BYTES, %rdi                 /* ours */
	cmp %rax, %rdi
	je 8f                                   /* there is none left: this is the head of the whole */
	dec %rdx                                /* 0, the sentinel's, is above all */
	cmp %rsi, %rdx
	jb 8f                                   /* left behind; or the same: a tail call */
	mov HOOK_SITE1(%r11), %eax
	cmp $MAX_SITES, %eax
	ja 8f
	shl $SITE_SHIFT, %rax
	add klieg__process + PROCESS_SITES(%rip), %rax
	mov SITE_LEVEL - (1 << SITE_SHIFT)(%rax), %eax
	movzwl %ax, %edx
	cmp $LEVEL_SPAN, %edx
	jne 5f
	mov %fs:ME_CTX_FLAGS(%rcx), %eax
	and $(CTX_KEPT | CTX_NOT_YET), %eax
	cmp $CTX_KEPT, %eax
	jne 8f
	mov %fs:ME_TRACE_HI(%rcx), %rax
	or %fs:ME_TRACE_LO(%rcx), %rax
	je 8f
	begin flags=0, over=7f, long=8f
5:	cmp $LEVEL_COUNT, %edx
	jne 6f
	begin flags=OPEN_COUNT_BIT, over=7f, long=8f

6:	and $SITE_WHO, %eax                     /* as not_for_us(): on for some requests, and this is none of them */
	cmp $SITE_GATED, %eax
	jne 8f
	testl $CTX_LEVEL, %fs:ME_CTX_FLAGS(%rcx)
	jne 8f
	mov HOOK_TARGET(%r11), %rax
	mov %rax, -8(%rsp)
	go_on up=8, cfa=8, to=-16

7:	movb $0, %fs:ME_BUSY(%rcx)
8:	saved -24
	sub $16, %rsp
	keep
	.cfi_def_cfa_offset 96
	mov %r11, 64(%rsp)
	mov %r11, %rdi
	lea 88(%rsp), %rsi
	mov %rsp, %rdx
	call klieg__hook_enter
	test %rax, %rax
	jz 9f
	mov %rax, 64(%rsp)
	.cfi_remember_state
	restore
	mov 16(%rsp), %r11
	lea 32(%rsp), %rsp
	.cfi_def_cfa_offset 0
	jmp *-32(%rsp)
	.cfi_restore_state
9:	restore
	mov 16(%rsp), %r11
	lea 24(%rsp), %rsp
	.cfi_def_cfa_offset 8
	jmp *-16(%rsp)
	.cfi_endproc
	.size klieg__gate_enter, . - klieg__gate_enter

/* The function has returned; the stack pointer is one above where its return address was: the CFA. */
	.p2align 4
	.type gate_leave, @function
gate_leave:
	.cfi_startproc
	.cfi_undefined rip
	save -16
	mov klieg__thread@gottpoff(%rip), %rcx
	unready to=8f
	mov %fs:ME_GATE(%rcx), %rax
	mov GATE_TOP(%rax), %rdi
	cmp %rsp, FRAME_CFA(%rdi)
	jne 8f
	mov %fs:ME_T(%rcx), %rsi
	mov FRAME_SPAN(%rdi), %edx              /* its place + 1 */
	cmp T_DEPTH(%rsi), %edx
	jne 8f                                  /* not the innermost */
	cmp %fs:ME_ROOT_DEPTH(%rcx), %edx
	je 8f                                   /* the trace ends with it */
	movb $1, %fs:ME_BUSY(%rcx)              /* before the head is read: a handler may write records of its own until now */
	cmpb $0, %fs:ME_CTX_DIRTY(%rcx)
	jne 7f
	mov %fs:ME_GENERATION(%rcx), %eax
	cmp T_GENERATION - 4(%rsi, %rdx, 4), %eax
	jne 7f
	shl $OPEN_SHIFT, %edx
	lea T_OPEN - OPEN_BYTES(%rsi, %rdx), %rsi
	lea FRAME_SPAN(%rdi), %rax
	cmp %rax, OPEN_COOKIE(%rsi)
	jne 7f
	mov OPEN_FLAGS(%rsi), %eax
	or FRAME_FLAGS(%rdi), %rax
	jne 7f
	mov %fs:ME_HEAD(%rcx), %rax
	mov %fs:ME_HERE(%rcx), %rdx
	add %rax, %rdx                          /* the record */
	add $REC_BYTES, %rax
	cmp %rax, %fs:ME_LIMIT(%rcx)
	jb 7f
	prefetchw 256(%rdx)                     /* as soon_written() */
	mov OPEN_SITE(%rsi), %eax
	mov %eax, REC_SITE(%rdx)
	movl $REC_IS_SPAN, REC_WHAT(%rdx)
	mov OPEN_START(%rsi), %rax
	mov %rax, REC_START(%rdx)
	mov OPEN_SEQ(%rsi), %eax
	mov %eax, REC_SEQ(%rdx)
	mov OPEN_PARENT(%rsi), %esi
	mov %esi, REC_PARENT(%rdx)
	cmp %eax, %fs:ME_SEQ(%rcx)
	jne 1f
	mov %esi, %fs:ME_SEQ(%rcx)
1:	mov %rdx, %rsi
	ticks
	sub REC_START(%rsi), %rax
	mov %rax, REC_TICKS(%rsi)
	mov %fs:ME_T(%rcx), %rdx
	mov %fs:ME_HEAD(%rcx), %rax
	add $REC_BYTES, %rax
	mov %rax, %fs:ME_HEAD(%rcx)
	mov %rax, T_HEAD(%rdx)                  /* the record before its head */
	mov FRAME_SPAN(%rdi), %eax
	dec %eax
	mov %eax, T_DEPTH(%rdx)
	mov FRAME_RA(%rdi), %rax
	mov %rax, -8(%rsp)
	mov %fs:ME_GATE(%rcx), %rax
	sub $-FRAME_BYTES, %rdi
	mov %rdi, GATE_TOP(%rax)
	movb $0, %fs:ME_BUSY(%rcx)
	saved -16
	lea -8(%rsp), %rsp
	ret

7:	movb $0, %fs:ME_BUSY(%rcx)
8:	saved -16
	sub $8, %rsp
	push %r11
	keep
	lea 72(%rsp), %rdi
	mov 56(%rsp), %rsi
	call klieg__hook_leave
	restore
	pop %r11
	ret
	.cfi_endproc
	.size gate_leave, . - gate_leave

/* uint64_t klieg__call_saved(uint64_t (*fn)(void *), void *arg): calls ordinary code with the vector and x87 registers kept (XSAVE, Intel SDM vol. 1 ch. 13:
 * x87, SSE, AVX, AVX-512; the area is at most 2,696 bytes, 64-byte aligned, its header zeroed). */
	.globl klieg__call_saved
	.hidden klieg__call_saved
	.p2align 4
	.type klieg__call_saved, @function
klieg__call_saved:
	.cfi_startproc
	push %rbp
	.cfi_def_cfa_offset 16
	.cfi_offset rbp, -16
	mov %rsp, %rbp
	.cfi_def_cfa_register rbp
	push %rbx
	.cfi_offset rbx, -24
	sub $2816, %rsp
	and $-64, %rsp
	mov %rdi, %rcx
	mov %rsi, %rdi
	xor %eax, %eax
	mov %rax, 512(%rsp)
	mov %rax, 520(%rsp)
	mov %rax, 528(%rsp)
	mov %rax, 536(%rsp)
	mov %rax, 544(%rsp)
	mov %rax, 552(%rsp)
	mov %rax, 560(%rsp)
	mov %rax, 568(%rsp)
	xor %edx, %edx
	mov $0xe7, %eax
	xsave64 (%rsp)
	call *%rcx
	mov %rax, %rbx
	xor %edx, %edx
	mov $0xe7, %eax
	xrstor64 (%rsp)
	mov %rbx, %rax
	mov -8(%rbp), %rbx
	leave
	.cfi_def_cfa rsp, 8
	ret
	.cfi_endproc
	.size klieg__call_saved, . - klieg__call_saved

/* One thunk a thread. The unwinder that meets a thunk's return address evaluates the expression below to find the real one: the thunk's last word leads to
 * the thread's struct kw_gate; from its top frame on, the first whose CFA is the stack pointer has it. A frame of CFA 0 ends the search, and the
 * backtrace. The thunk's own CFA is the stack pointer + 1: other than that of the frame it called and of the one it returns to, for unwinders
 * tell frames apart by it. */
	.globl klieg__gate_thunks
	.hidden klieg__gate_thunks
	.p2align 4
klieg__gate_thunks:
	.cfi_startproc
	.cfi_def_cfa rsp, 1
	.cfi_escape 0x16, 7, 2, 0x77, 0         /* val_expression r7 (rsp): breg7 0 */
	.cfi_escape 0x16, 16, 35                /* val_expression r16 (rip), 35 bytes: */
	.cfi_escape 0x80, 0x7f                  /*  0 breg16 -1: within the thunk's call */
	.cfi_escape 0x09, 0xf0, 0x1a            /*  2 const1s -16; and: the thunk */
	.cfi_escape 0x23, 12                    /*  5 plus_uconst 12 */
	.cfi_escape 0x12, 0x94, 4, 0x22         /*  7 dup; deref_size 4; plus: its struct kw_gate */
	.cfi_escape 0x06                        /* 11 deref: top */
	.cfi_escape 0x12, 0x06                  /* 12 L: dup; deref: cfa */
	.cfi_escape 0x12, 0x30, 0x29            /* 14 dup; lit0; eq */
	.cfi_escape 0x28, 15, 0                 /* 17 bra to the end: 0, the end of the stack */
	.cfi_escape 0x77, 0, 0x29               /* 20 breg7 0; eq */
	.cfi_escape 0x28, 6, 0                  /* 23 bra F */
	.cfi_escape 0x23, 0x80, 1               /* 26 plus_uconst 128 */
	.cfi_escape 0x2f, 0xec, 0xff            /* 29 skip to L */
	.cfi_escape 0x23, 8, 0x06               /* 32 F: plus_uconst 8; deref */
i = 0
	.rept GATES
	call *-24(%rsp)
	.byte 0xe9
	.long gate_leave - . - 4
	.byte 0xcc, 0xcc, 0xcc
	.long klieg__gate_data + i * GATE_BYTES - .
i = i + 1
	.endr
	.cfi_endproc
klieg__gate_text_end:

	.section .bss.klieg_gate, "aw", @nobits
	.globl klieg__gate_data
	.hidden klieg__gate_data
	.p2align 12
klieg__gate_data:
	.skip GATES * GATE_BYTES
#endif
	.section .note.GNU-stack, "", @progbits
