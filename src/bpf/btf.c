/* The kernel's types; see bpf.h. All are gone through once: a program asks once in its life. The bytes are not believed. */
#include "base/buf.h"
#include "bpf/bpf.h"
#include <linux/btf.h>
#include <stdio.h>
#include <string.h>

enum { BYTES_MAX = 64 << 20 };

struct types {
	const uint8_t *at, *end;
	const char *names;
	size_t names_bytes;
};

static bool open_types(const void *btf, size_t bytes, struct types *ret_t)
{
	struct btf_header h;
	if (bytes < sizeof h)
		return false;
	memcpy(&h, btf, sizeof h);
	if (h.magic != BTF_MAGIC || h.hdr_len < sizeof h || h.hdr_len > bytes)
		return false;
	size_t left = bytes - h.hdr_len;
	if (h.type_off > left || h.type_len > left - h.type_off || h.str_off > left || h.str_len > left - h.str_off || !h.str_len)
		return false;
	const uint8_t *p = (const uint8_t *)btf + h.hdr_len;
	*ret_t = (struct types){ p + h.type_off, p + h.type_off + h.type_len, (const char *)p + h.str_off, h.str_len };
	return !ret_t->names[h.str_len - 1]; /* so that every name ends */
}

static bool named(const struct types *t, uint32_t at, const char *name) { return at < t->names_bytes && !strcmp(t->names + at, name); }

/* What follows a type; SIZE_MAX: of no kind that is known. */
static size_t size_after(unsigned kind, unsigned n)
{
	switch (kind) {
	case BTF_KIND_PTR: case BTF_KIND_FWD: case BTF_KIND_TYPEDEF: case BTF_KIND_VOLATILE: case BTF_KIND_CONST: case BTF_KIND_RESTRICT: case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT: case BTF_KIND_TYPE_TAG:
		return 0;
	case BTF_KIND_INT: case BTF_KIND_VAR: case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT: case BTF_KIND_UNION:
		return n * sizeof(struct btf_member);
	case BTF_KIND_ENUM: case BTF_KIND_FUNC_PROTO:
		return n * 8;
	case BTF_KIND_DATASEC: case 19: /* BTF_KIND_ENUM64 */
		return n * 12;
	}
	return SIZE_MAX;
}

static bool find_member(const struct types *t, const uint8_t *members, unsigned n, bool packed, const char *name, uint32_t *ret_offset)
{
	for (unsigned i = 0; i < n; i++) {
		struct btf_member m;
		memcpy(&m, members + i * sizeof m, sizeof m);
		if (named(t, m.name_off, name)) {
			*ret_offset = (packed ? m.offset & 0xffffff : m.offset) / 8;
			return true;
		}
	}
	return false;
}

int btf_ask_in(const void *btf, size_t bytes, struct btf_query *q, struct err *e)
{
	char typedef_name[100];
	struct types t;
	bool have_id = false, have_offset = false;
	snprintf(typedef_name, sizeof typedef_name, "btf_trace_%s", q->tracepoint);
	if (!open_types(btf, bytes, &t))
		return err_set(e, KLIEG_E_BAD_DATA, "the kernel's types are in a form that is not known");
	for (uint32_t id = 1; (size_t)(t.end - t.at) >= sizeof(struct btf_type) && !(have_id && have_offset); id++) {
		struct btf_type x;
		memcpy(&x, t.at, sizeof x);
		t.at += sizeof x;
		unsigned kind = BTF_INFO_KIND(x.info), n = BTF_INFO_VLEN(x.info);
		size_t after = size_after(kind, n);
		if (after > (size_t)(t.end - t.at))
			return err_set(e, KLIEG_E_BAD_DATA, "the kernel's types are in a form that is not known (kind %u)", kind);
		if (kind == BTF_KIND_TYPEDEF && named(&t, x.name_off, typedef_name)) {
			q->tracepoint_id = id;
			have_id = true;
		}
		if (kind == BTF_KIND_STRUCT && n && named(&t, x.name_off, q->type))
			have_offset |= find_member(&t, t.at, n, BTF_INFO_KFLAG(x.info), q->member, &q->offset);
		t.at += after;
	}
	if (!have_id || !have_offset)
		return err_set(e, KLIEG_E_UNSUPPORTED, "this kernel's types have no %s%s", have_id ? "" : "tracepoint ", have_id ? q->member : q->tracepoint);
	return 0;
}

int btf_ask(struct btf_query *q, struct err *e)
{
	static const char path[] = "/sys/kernel/btf/vmlinux";
	struct buf b = { 0 };
	if (buf_read_file(path, BYTES_MAX, &b) < 0)
		return err_set(e, KLIEG_E_UNSUPPORTED, "this kernel shows none of its types (%s)", path);
	int rc = btf_ask_in(b.p, b.n, q, e);
	buf_finish(&b);
	return rc;
}
