/* Records are the arrays of a batch behind a header, written with one writev: no encoding on the way to durability. Everything read back is
 * checked (frame, hash, then every index), because a disk can lie. */
#include "store/wal.h"
#include "base/hash.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WAL_MAGIC = 0x4c574c4b, WAL_DEPTH = 64 };
struct frame {
	uint32_t magic, layout;     /* layout: sizes of the structs, so that another build refuses instead of misreading */
	uint64_t bytes, hash;       /* of what follows the frame */
	int64_t now_ns;
	uint32_t spans, attrs, events, links, resources, scopes, strs, pad;
	uint64_t own;               /* hash of the above */
};
_Static_assert(sizeof(struct frame) == 72, "the frame has no holes");
#define LAYOUT ((uint32_t)(sizeof(struct span) | sizeof(struct attr) << 8 | sizeof(struct span_event) << 16) ^ \
	(uint32_t)(sizeof(struct span_link) << 24 | sizeof(struct resource) << 4 | sizeof(struct scope) << 12))

int wal_create(struct wal *w, const char *path)
{
	w->fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
	w->size = 0;
	return w->fd < 0 ? err_from_errno(errno) : 0;
}

void wal_close(struct wal *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

int wal_cut(struct wal *w, uint64_t size)
{
	if (ftruncate(w->fd, (off_t)size) < 0)
		return err_from_errno(errno);
	w->size = size;
	return 0;
}

int wal_sync(struct wal *w) { return fdatasync(w->fd) < 0 ? err_from_errno(errno) : 0; }

static int write_all(int fd, struct iovec *v, int n)
{
	while (n) {
		ssize_t k = writev(fd, v, n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return errno == EFBIG ? KLIEG_E_DISK_FULL : err_from_errno(errno);
		while (n && (size_t)k >= v->iov_len) {
			k -= (ssize_t)v->iov_len;
			v++;
			n--;
		}
		if (n) {
			v->iov_base = (char *)v->iov_base + k;
			v->iov_len -= (size_t)k;
		}
	}
	return 0;
}

int wal_append(struct wal *w, const struct batch *b, int64_t now_ns)
{
	struct frame f = { WAL_MAGIC, LAYOUT, 0, 0, now_ns, b->n, b->attrs_n, b->events_n, b->links_n, b->resources_n, b->scopes_n, b->strs.n, 0, 0 };
	struct buf text = { 0 };
	buf_reserve(&text, (size_t)b->strs.n * 4 + b->strs.bytes);
	for (uint32_t i = 0; i < b->strs.n; i++) {
		uint32_t n = (uint32_t)b->strs.items[i].n;
		buf_add(&text, &n, 4);
	}
	for (uint32_t i = 0; i < b->strs.n; i++)
		buf_add(&text, b->strs.items[i].p, b->strs.items[i].n);
	struct iovec v[8] = {
		{ &f, sizeof f }, { b->spans, (size_t)b->n * sizeof *b->spans }, { b->attrs, (size_t)b->attrs_n * sizeof *b->attrs },
		{ b->events, (size_t)b->events_n * sizeof *b->events }, { b->links, (size_t)b->links_n * sizeof *b->links },
		{ b->resources, (size_t)b->resources_n * sizeof *b->resources }, { b->scopes, (size_t)b->scopes_n * sizeof *b->scopes },
		{ text.p, text.n },
	};
	for (int i = 1; i < 8; i++) {
		f.bytes += v[i].iov_len;
		f.hash = hash_bytes(v[i].iov_base, v[i].iov_len, f.hash);
	}
	f.own = hash_bytes(&f, offsetof(struct frame, own), 0);
	uint64_t bytes = sizeof f + f.bytes;
	int rc = write_all(w->fd, v, 8);
	buf_finish(&text);
	if (rc < 0) {
		wal_cut(w, w->size);
		return rc;
	}
	w->size += bytes;
	return 0;
}

static bool ranged(struct attr_range r, uint32_t n) { return r.n == 0 || (uint64_t)r.off + r.n <= n; }

static bool nested_ok(const struct batch *b, struct attr_range r, int depth, uint64_t *budget)
{
	if (!ranged(r, b->attrs_n) || depth > WAL_DEPTH || r.n > *budget)
		return false;
	*budget -= r.n;
	for (uint32_t i = 0; i < r.n; i++) {
		const struct attr *a = b->attrs + r.off + i;
		if (a->type > ATTR_KVLIST)
			return false;
		if ((a->type == ATTR_ARRAY || a->type == ATTR_KVLIST) && !nested_ok(b, (struct attr_range){ a->list.off, a->list.n }, depth + 1, budget))
			return false;
	}
	return true;
}

/* No index leads out of its array; the nesting ends. The budget stops lists that share or contain one another. */
static bool batch_ok(const struct batch *b)
{
	uint64_t budget = (uint64_t)b->attrs_n * 4 + 1024;
	for (uint32_t i = 0; i < b->n; i++) {
		const struct span *s = b->spans + i;
		if (!nested_ok(b, s->attrs, 0, &budget) || (s->events_n && (uint64_t)s->events_off + s->events_n > b->events_n) ||
			(s->links_n && (uint64_t)s->links_off + s->links_n > b->links_n))
			return false;
	}
	for (uint32_t i = 0; i < b->events_n; i++)
		if (!nested_ok(b, b->events[i].attrs, 0, &budget))
			return false;
	for (uint32_t i = 0; i < b->links_n; i++)
		if (!nested_ok(b, b->links[i].attrs, 0, &budget))
			return false;
	for (uint32_t i = 0; i < b->resources_n; i++)
		if (!nested_ok(b, b->resources[i].attrs, 0, &budget))
			return false;
	for (uint32_t i = 0; i < b->scopes_n; i++)
		if (!nested_ok(b, b->scopes[i].attrs, 0, &budget))
			return false;
	return true;
}

static bool thaw(const struct frame *f, const uint8_t *p, const uint8_t *end, struct batch *b)
{
#define ARRAY(field, count, cnt, capf) do { \
		size_t bytes = (size_t)(cnt) * sizeof *b->field; \
		if ((size_t)(end - p) < bytes) \
			return false; \
		b->field = base_alloc(bytes + 1); \
		memcpy(b->field, p, bytes); \
		b->count = b->capf = (cnt); \
		p += bytes; \
	} while (0)
	ARRAY(spans, n, f->spans, cap);
	ARRAY(attrs, attrs_n, f->attrs, attrs_cap);
	ARRAY(events, events_n, f->events, events_cap);
	ARRAY(links, links_n, f->links, links_cap);
	ARRAY(resources, resources_n, f->resources, resources_cap);
	ARRAY(scopes, scopes_n, f->scopes, scopes_cap);
#undef ARRAY
	if ((uint64_t)(end - p) < (uint64_t)f->strs * 4)
		return false;
	const uint8_t *text = p + (size_t)f->strs * 4;
	for (uint32_t i = 0; i < f->strs; i++, p += 4) {
		uint32_t n;
		memcpy(&n, p, 4);
		if ((size_t)(end - text) < n || strtab_add(&b->strs, (struct str){ (const char *)text, n }) != i)
			return false;
		text += n;
	}
	return text == end && batch_ok(b);
}

int wal_replay(const char *path, wal_record_fn fn, void *arg, uint64_t *ret_damaged)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0)
		return err_from_errno(errno);
	if (fstat(fd, &st) < 0) {
		close(fd);
		return KLIEG_E_IO;
	}
	uint64_t at = 0, size = (uint64_t)st.st_size, damaged = 0;
	struct buf body = { 0 };
	struct frame f;
	while (size - at >= sizeof f && pread(fd, &f, sizeof f, (off_t)at) == (ssize_t)sizeof f) {
		if (!f.magic)
			break; /* space that a crash left unwritten */
		if (f.magic != WAL_MAGIC || f.own != hash_bytes(&f, offsetof(struct frame, own), 0) || f.layout != LAYOUT) {
			damaged++; /* without a frame there is no telling where the next one is */
			break;
		}
		if (f.bytes > size - at - sizeof f)
			break; /* torn: it was never acknowledged */
		buf_clear(&body);
		buf_reserve(&body, f.bytes + 1);
		size_t got = 0;
		while (got < f.bytes) {
			ssize_t k = pread(fd, body.p + got, f.bytes - got, (off_t)(at + sizeof f + got));
			if (k <= 0)
				break;
			got += (size_t)k;
		}
		size_t sizes[6] = { (size_t)f.spans * sizeof(struct span), (size_t)f.attrs * sizeof(struct attr), (size_t)f.events * sizeof(struct span_event),
			(size_t)f.links * sizeof(struct span_link), (size_t)f.resources * sizeof(struct resource), (size_t)f.scopes * sizeof(struct scope) };
		uint64_t h = 0, off = 0;
		bool whole = got == f.bytes;
		for (int i = 0; i < 6 && whole; i++) {
			whole = sizes[i] <= f.bytes - off;
			if (whole)
				h = hash_bytes(body.p + off, sizes[i], h);
			off += sizes[i];
		}
		if (whole)
			h = hash_bytes(body.p + off, f.bytes - off, h);
		struct batch *b = batch_create();
		if (whole && h == f.hash && thaw(&f, body.p, body.p + f.bytes, b)) {
			fn(arg, b, f.now_ns);
		} else {
			batch_destroy(b);
			damaged++;
		}
		at += sizeof f + f.bytes;
	}
	buf_finish(&body);
	close(fd);
	*ret_damaged = damaged;
	return 0;
}
