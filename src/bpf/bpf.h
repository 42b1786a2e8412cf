/* The system call bpf(2), and what the kernel says of its own types. */
#pragma once
#include "base/err.h"
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct program;

int bpf_call(int cmd, void *attr, size_t size); /* union bpf_attr, or a newer part of it; as the system call: -1 and errno */
/* Loads p as *attr says (its type, what it attaches to); a descriptor, or -1 and errno. ret_log: the verifier's words when it refuses, may be NULL. */
int bpf_load(const struct program *p, union bpf_attr *attr, char *ret_log, size_t log_size);

/* Numbers of processes as the agent sees them are the kernel's own: only then can a program compare them. false: we are in a pid namespace. */
bool bpf_sees_our_pids(void);

/* btf.c: the types that this kernel was built with (/sys/kernel/btf/vmlinux; Linux, Documentation/bpf/btf.rst). */
struct btf_query {
	const char *tracepoint;      /* asked for: its name, */
	const char *type, *member;   /* a structure and a member of it */
	uint32_t tracepoint_id, offset; /* answered: what BPF_PROG_LOAD wants to know; bytes */
};
int btf_ask(struct btf_query *q, struct err *e);
int btf_ask_in(const void *btf, size_t bytes, struct btf_query *q, struct err *e); /* the same, of these bytes */
