/* TEMPORARY until src/symbols and src/ptrace are whole. */
#include "agent/state.h"
#include <Zydis/Zydis.h>
#include <elf.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#define W __attribute__((weak))
struct symbols { uint8_t *m; size_t n; struct symbols_function *f; uint32_t nf; char id[64]; };
static ZydisDecoder D;
static bool dec(const uint8_t *p, size_t n, ZydisDecodedInstruction *in) { if (!D.machine_mode) ZydisDecoderInit(&D, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64); return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&D, 0, p, n, in)); }
static bool rel(const ZydisDecodedInstruction *in) { return (in->attributes & ZYDIS_ATTRIB_IS_RELATIVE) && in->raw.imm[0].is_relative; }
static const uint8_t *va(const struct symbols *s, uint64_t a, size_t n) { Elf64_Ehdr *e = (void *)s->m; Elf64_Phdr *p = (void *)(s->m + e->e_phoff); for (int i = 0; i < e->e_phnum; i++) if (p[i].p_type == PT_LOAD && a >= p[i].p_vaddr && a + n <= p[i].p_vaddr + p[i].p_filesz) return s->m + p[i].p_offset + (a - p[i].p_vaddr); return NULL; }
static int cmp(const void *a, const void *b) { const struct symbols_function *x = a, *y = b; return x->addr < y->addr ? -1 : x->addr > y->addr ? 1 : !x->name - !y->name; }
static const char *analyze(const uint8_t *f, uint32_t size, uint64_t limit, uint8_t *w) {
	ZydisDecodedInstruction in; uint32_t n = 0; bool term = false;
	while (n < 5) { if (n >= size || term) { if (n < limit && (f[n] == 0x90 || f[n] == 0xcc)) { n++; continue; } if (n < limit && dec(f + n, limit - n, &in) && in.mnemonic == ZYDIS_MNEMONIC_NOP) { n += in.length; continue; } return "shorter than 5 bytes"; }
		if (!dec(f + n, size - n, &in)) return "undecodable"; if (in.meta.category == ZYDIS_CATEGORY_CALL && n + in.length < 5) return "a call in its first 5 bytes"; if (in.mnemonic == ZYDIS_MNEMONIC_SYSCALL) return "syscall";
		if (rel(&in) && in.length == 2 && in.meta.category != ZYDIS_CATEGORY_COND_BR && in.mnemonic != ZYDIS_MNEMONIC_JMP) return "loop"; n += in.length; if (in.meta.category == ZYDIS_CATEGORY_RET || in.mnemonic == ZYDIS_MNEMONIC_JMP) term = true; }
	for (uint32_t o = 0; o < size;) { if (!dec(f + o, size - o, &in)) { o++; continue; } if (rel(&in)) { int64_t t = (int64_t)o + in.length + in.raw.imm[0].value.s; if (t > 0 && t < 5) return "a branch into its first 5 bytes"; } o += in.length; }
	*w = (uint8_t)n; return NULL; }
W int symbols_open(int fd, const char *d, struct symbols **r, struct err *e) { struct stat st; fstat(fd, &st); struct symbols *s = calloc(1, sizeof *s); s->m = malloc(st.st_size); s->n = st.st_size; if (pread(fd, s->m, s->n, 0) != (ssize_t)s->n) return err_set(e, KLIEG_E_IO, "read"); Elf64_Ehdr *h = (void *)s->m; Elf64_Shdr *sh = (void *)(s->m + h->e_shoff); uint64_t t0 = 0, t1 = 0; char *ss = (char *)s->m + sh[h->e_shstrndx].sh_offset;
	for (int i = 0; i < h->e_shnum; i++) if (!strcmp(ss + sh[i].sh_name, ".text")) t0 = sh[i].sh_addr, t1 = t0 + sh[i].sh_size;
	for (int i = 0; i < h->e_shnum; i++) { if (sh[i].sh_type == SHT_SYMTAB || sh[i].sh_type == SHT_DYNSYM) { Elf64_Sym *y = (void *)(s->m + sh[i].sh_offset); char *str = (char *)s->m + sh[sh[i].sh_link].sh_offset; for (size_t k = 0; k < sh[i].sh_size / sizeof *y; k++) if (ELF64_ST_TYPE(y[k].st_info) == STT_FUNC && y[k].st_value >= t0 && y[k].st_value < t1) { s->f = realloc(s->f, (s->nf + 1) * sizeof *s->f); s->f[s->nf++] = (struct symbols_function){ y[k].st_value, y[k].st_size, sh[i].sh_type == SHT_SYMTAB ? 1 : 2, 0, str + y[k].st_name, NULL }; } }
		if (!strcmp(ss + sh[i].sh_name, ".eh_frame_hdr")) { uint8_t *q = s->m + sh[i].sh_offset; uint32_t n; memcpy(&n, q + 8, 4); int32_t *tb = (void *)(q + 12); for (uint32_t k = 0; k < n; k++) { uint64_t a = sh[i].sh_addr + tb[2 * k]; const uint8_t *fde = va(s, sh[i].sh_addr + tb[2 * k + 1], 16); int32_t sz = 0; if (fde) memcpy(&sz, fde + 12, 4); if (a >= t0 && a < t1) { s->f = realloc(s->f, (s->nf + 1) * sizeof *s->f); s->f[s->nf++] = (struct symbols_function){ a, sz, 5, 0, NULL, NULL }; } } } }
	qsort(s->f, s->nf, sizeof *s->f, cmp); uint32_t k = 0; for (uint32_t i = 0; i < s->nf; i++) if (!k || s->f[k - 1].addr != s->f[i].addr) s->f[k++] = s->f[i]; s->nf = k;
	for (uint32_t i = 0; i < s->nf; i++) { uint64_t next = i + 1 < s->nf ? s->f[i + 1].addr : t1; if (!s->f[i].size) s->f[i].size = next - s->f[i].addr; const uint8_t *p = va(s, s->f[i].addr, s->f[i].size); s->f[i].refusal = p ? analyze(p, s->f[i].size, next - s->f[i].addr, &s->f[i].window) : "no text"; }
	*r = s; return 0; }
W void symbols_close(struct symbols *s) { free(s->m); free(s->f); free(s); }
W const struct symbols_function *symbols_functions(const struct symbols *s, uint32_t *n) { *n = s->nf; return s->f; }
W const struct symbols_function *symbols_at(const struct symbols *s, uint64_t a) { for (uint32_t i = 0; i < s->nf; i++) if (a - s->f[i].addr < s->f[i].size) return &s->f[i]; return NULL; }
W const struct symbols_function *symbols_named(const struct symbols *s, const char *n) { for (uint32_t i = 0; i < s->nf; i++) if (s->f[i].name && !strcmp(s->f[i].name, n)) return &s->f[i]; return NULL; }
W uint32_t symbols_similar(const struct symbols *s, const char *n, const char **r, uint32_t m) { return 0; }
W const char *symbols_build_id(const struct symbols *s) { return ""; }
W bool symbols_has_dwarf(const struct symbols *s) { return false; }
W const uint8_t *symbols_text(const struct symbols *s, uint64_t a, size_t n) { return va(s, a, n); }
W bool symbols_segment(const struct symbols *s, uint32_t i, uint64_t *a, uint64_t *o, uint64_t *z) { Elf64_Ehdr *e = (void *)s->m; Elf64_Phdr *p = (void *)(s->m + e->e_phoff); for (int k = 0; k < e->e_phnum; k++) if (p[k].p_type == PT_LOAD && p[k].p_flags & PF_X && !i--) { *a = p[k].p_vaddr; *o = p[k].p_offset; *z = p[k].p_filesz; return true; } return false; }
W int symbols_move(const uint8_t *b, uint32_t w, uint64_t from, uint64_t to, struct symbols_moved *m, struct err *e) { ZydisDecodedInstruction in; uint32_t n = 0; uint8_t *o = m->code; m->n = 0;
	while (n < w) { if (!dec(b + n, 15, &in)) return err_set(e, KLIEG_E_UNSUPPORTED, "undecodable"); m->at[m->n].from = n; m->at[m->n++].to = o - m->code; uint64_t next = from + n + in.length;
		if (rel(&in)) { uint64_t t = next + in.raw.imm[0].value.s; if (in.meta.category == ZYDIS_CATEGORY_CALL) { memcpy(o, "\xff\x35\x05\0\0\0\xe9", 7); int32_t r = t - (to + (o - m->code) + 11); memcpy(o + 7, &r, 4); memcpy(o + 11, &next, 8); o += 19; n += in.length; continue; } if (in.mnemonic == ZYDIS_MNEMONIC_JMP) *o++ = 0xe9; else { *o++ = 0x0f; *o++ = 0x80 | (in.opcode & 15); } int32_t r = t - (to + (o - m->code) + 4); memcpy(o, &r, 4); o += 4; }
		else { if (in.meta.category == ZYDIS_CATEGORY_CALL) return err_set(e, KLIEG_E_UNSUPPORTED, "indirect call"); memcpy(o, b + n, in.length); if ((in.attributes & ZYDIS_ATTRIB_IS_RELATIVE) && in.raw.disp.size == 32) { int32_t d = next + in.raw.disp.value - (to + (o - m->code) + in.length); memcpy(o + in.raw.disp.offset, &d, 4); } o += in.length; }
		n += in.length; }
	*o++ = 0xe9; int32_t r = from + w - (to + (o - m->code) + 4); memcpy(o, &r, 4); o += 4; m->size = o - m->code; return 0; }
W int symbols_callees(const struct symbols *s, const struct symbols_function *f, struct symbols_callee **l, uint32_t *n, uint32_t *i) { return -1; }
W int symbols_signature(const struct symbols *s, const struct symbols_function *f, struct symbols_signature *r) { return -1; }
