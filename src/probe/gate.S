/* The call gate: how a function that nobody instrumented is entered and left under Klieg. The idea of the shape (a stub, a thunk per thread whose
 * return address takes the place of the caller's, unwind information that finds the real one) is told in docs/adr/0003-call-gate.md.
 *
 *   function: jmp stub
 *   stub:     push %r11; lea hook(%rip), %r11; jmp *hook.gate(%rip)
 *   gate:     saves what a caller may count on, asks hook.c; then either
 *             - passes on: the displaced instructions, with the stack as the caller left it, or
 *             - takes the return address off the stack and jumps to this thread's thunk, whose call puts the thunk's address in its place.
 *               Arguments on the stack stay where they are.
 *   thunk:    call displaced instructions; jmp leave
 *   leave:    asks hook.c for the real return address, puts it back, returns.
 *
 * All general registers but %rax/%rdx at the exit are kept, also those the ABI gives away: compilers know what local functions leave alone (IPA-RA).
 * Vector registers are not touched: the C code of these paths is built without them. Words that must survive between two instructions below the
 * stack pointer are within 128 bytes of it: signal handlers keep off the red zone. */
#if defined(__x86_64__)
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
/* From the return address's slot R downwards: R-8 r11, R-16 target, R-24 descriptor, then thunk; then struct klieg__regs. */
klieg__gate_enter:
	.cfi_startproc
	.cfi_def_cfa_offset 16
	sub $16, %rsp
	keep
	.cfi_def_cfa_offset 96
	mov %r11, 64(%rsp)
	mov %r11, %rdi
	lea 88(%rsp), %rsi
	call klieg__hook_enter_fast
	test %rax, %rax
	jz 2f
1:	mov %rax, 64(%rsp)
	.cfi_remember_state
	restore
	mov 16(%rsp), %r11
	lea 32(%rsp), %rsp
	.cfi_def_cfa_offset 0
	jmp *-32(%rsp)
	.cfi_restore_state
2:	mov 64(%rsp), %rdi
	lea 88(%rsp), %rsi
	mov %rsp, %rdx
	call klieg__hook_enter
	test %rax, %rax
	jnz 1b
	restore
	mov 16(%rsp), %r11
	lea 24(%rsp), %rsp
	.cfi_def_cfa_offset 8
	jmp *-16(%rsp)
	.cfi_endproc
	.size klieg__gate_enter, . - klieg__gate_enter

/* The function has returned; the stack pointer is one above where its return address was. */
	.p2align 4
	.type gate_leave, @function
gate_leave:
	.cfi_startproc
	.cfi_undefined rip
	sub $8, %rsp
	push %r11
	keep
	lea 72(%rsp), %rdi
	call klieg__hook_leave_fast
	test %al, %al
	jz 2f
1:	restore
	pop %r11
	ret
2:	lea 72(%rsp), %rdi
	mov 56(%rsp), %rsi
	call klieg__hook_leave
	jmp 1b
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
