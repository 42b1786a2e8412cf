/* The current trace context of a thread, and what travels between processes: W3C traceparent/tracestate, B3, Jaeger's uber-trace-id on input.
 * Parsers of foreign headers: bounded, allocation-free, and a malformed header is no header. */
#include "probe/internal.h"
#include "wire/siphash.h"
#include <stdlib.h>
#include <time.h>

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static struct klieg__thread *settled(void)
{
	struct klieg__thread *me = &klieg__thread;
	if (!me->busy && klieg__slot_now(me))
		klieg__settle(me);
	return me;
}

static void forget(struct klieg__thread *me)
{
	me->trace_hi = me->trace_lo = me->parent = 0;
	me->ctx_flags = me->seq = me->root_depth = 0;
}

KLIEG_PUBLIC void klieg_current(struct klieg_ctx *ret)
{
	struct klieg__thread *me = settled();
	memset(ret, 0, sizeof *ret);
	if (!(me->trace_hi | me->trace_lo))
		return;
	ret->trace_hi = me->trace_hi;
	ret->trace_lo = me->trace_lo;
	ret->span_id = me->seq && klieg__slot_now(me) ? kw_span_id(me->t->seed, me->seq) : me->parent;
	ret->threshold = me->threshold;
	ret->flags = me->ctx_flags & ~(uint32_t)CTX_LOCAL_ROOT;
	if (me->ctx_flags & CTX_RV)
		ret->home = me->rv;
}

/* What a struct klieg_ctx has beside the trace. With CTX_RV that trace came from elsewhere, so it has no root here: `home` is its randomness then, and `seq` the
 * generation, for klieg_restore; which finds the innermost open span by that. Else `home` is root and generation. */
static struct klieg_ctx saved(const struct klieg__thread *me)
{
	bool rv = me->ctx_flags & CTX_RV;
	return (struct klieg_ctx){ me->trace_hi, me->trace_lo, me->parent, me->threshold, me->ctx_flags, rv ? me->generation : me->seq,
		rv ? me->rv : (uint64_t)me->generation << 32 | me->root_depth };
}

KLIEG_PUBLIC void klieg_set_current(const struct klieg_ctx *ctx, struct klieg_ctx *ret_previous)
{
	struct klieg__thread *me = settled();
	struct klieg_ctx to = *ctx; /* may be the same as *ret_previous */
	if (ret_previous)
		*ret_previous = saved(me);
	klieg__turn(me);
	me->trace_hi = to.trace_hi;
	me->trace_lo = to.trace_lo;
	me->parent = to.span_id;
	me->threshold = to.threshold;
	me->ctx_flags = to.flags;
	me->rv = to.home;
	me->seq = 0;
	me->root_depth = 0;
}

KLIEG_PUBLIC void klieg_restore(const struct klieg_ctx *p)
{
	struct klieg__thread *me = settled();
	bool rv = p->flags & CTX_RV;
	uint32_t root = rv ? 0 : (uint32_t)p->home, generation = rv ? p->seq : (uint32_t)(p->home >> 32);
	struct kw_thread *t = klieg__slot_now(me);
	klieg__turn(me);
	/* Its root, begun here, may have ended while the thread was elsewhere: then that trace is over. */
	if (root && (!t || root > t->depth || t->generation[root - 1] != generation || klieg__load(&t->open[root - 1].flags, ACQUIRE) & OPEN_ENDED)) {
		forget(me);
		return;
	}
	me->trace_hi = p->trace_hi;
	me->trace_lo = p->trace_lo;
	me->parent = p->span_id;
	me->threshold = p->threshold;
	me->ctx_flags = p->flags;
	me->rv = p->home;
	me->seq = t && !rv ? p->seq : 0;
	me->root_depth = root;
	me->generation = generation; /* the same context again: what was begun in it ends in it */
	if (t && rv)
		klieg__find_parent(me);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static char *put_hex(char *to, uint64_t v, int digits)
{
	for (int i = digits - 1; i >= 0; i--, v >>= 4)
		to[i] = "0123456789abcdef"[v & 15];
	return to + digits;
}

/* Exactly n hex digits; false if there are fewer. */
static bool get_hex(const char *s, int n, uint64_t *ret_v)
{
	uint64_t v = 0;
	for (int i = 0; i < n; i++) {
		char c = s[i];
		unsigned d = c >= '0' && c <= '9' ? (unsigned)(c - '0') : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10) : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10) : 16;
		if (d > 15)
			return false;
		v = v << 4 | d;
	}
	*ret_v = v;
	return true;
}

/* Lower-case hex digits, all n of them: what OpenTelemetry's sub-keys are made of. */
static bool get_lower(const char *s, size_t n, uint64_t *ret_v)
{
	uint64_t v = 0;
	for (size_t i = 0; i < n; i++) {
		if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f')))
			return false;
		v = v << 4 | (uint64_t)(s[i] <= '9' ? s[i] - '0' : s[i] - 'a' + 10);
	}
	*ret_v = v;
	return true;
}

/* Hex digits up to a character that is none; at most 32. Returns how many. */
static int get_hex_run(const char *s, uint64_t *ret_hi, uint64_t *ret_lo)
{
	uint64_t hi = 0, lo = 0, d;
	int n = 0;
	for (; n < 32 && get_hex(s + n, 1, &d); n++) {
		hi = hi << 4 | lo >> 60;
		lo = lo << 4 | d;
	}
	*ret_hi = hi;
	*ret_lo = lo;
	return n;
}

static bool traceparent(const char *s, struct klieg_ctx *c)
{
	uint64_t version, flags;
	if (!s || strnlen(s, 55) < 55 || !get_hex(s, 2, &version) || version == 0xff || s[2] != '-' || s[35] != '-' || s[52] != '-')
		return false;
	if (!get_hex(s + 3, 16, &c->trace_hi) || !get_hex(s + 19, 16, &c->trace_lo) || !get_hex(s + 36, 16, &c->span_id) || !get_hex(s + 53, 2, &flags))
		return false;
	if (!(c->trace_hi | c->trace_lo) || !c->span_id || (s[55] && (version == 0 || s[55] != '-')))
		return false;
	c->flags = KW_CTX_REMOTE | (flags & 1 ? KW_CTX_SAMPLED : (uint32_t)CTX_UNDECIDED) | (flags & 2 ? KW_CTX_RANDOM : 0);
	return true;
}

static void force(struct klieg_ctx *c, uint32_t level)
{
	if (level < KW_SPAN || level > KW_DEEP)
		return;
	c->flags = (c->flags & ~(7u << KW_CTX_LEVEL_SHIFT | (uint32_t)CTX_UNDECIDED)) | level << KW_CTX_LEVEL_SHIFT | KW_CTX_FORCED | KW_CTX_SAMPLED | CTX_TH;
	c->threshold = 0; /* whatever the sender's dice said: it stands for itself */
}

/* klieg-level: v1.LEVEL.EXPIRY.TAG, signed with the key of this service. Nothing is said of one that does not hold. */
static void token(const char *s, struct klieg_ctx *c)
{
	const struct kw_control *control = klieg__process.control;
	uint64_t expiry, ignored, hi, lo;
	uint8_t key[16], tag[16];
	if (!control || !klieg__load(&control->token_on, ACQUIRE) || strncmp(s, "v1.", 3) || s[3] < '0' + KW_SPAN || s[3] > '0' + KW_DEEP || s[4] != '.')
		return;
	int n = get_hex_run(s + 5, &ignored, &expiry);
	struct timespec now;
	if (n < 1 || n > 12 || s[5 + n] != '.' || get_hex_run(s + 6 + n, &hi, &lo) != 32 || s[38 + n] || clock_gettime(CLOCK_REALTIME_COARSE, &now) ||
		expiry <= (uint64_t)now.tv_sec || expiry > (uint64_t)now.tv_sec + 3601) /* an hour, and the server rounds up to the second */
		return;
	memcpy(key, (const void *)control->token_key, sizeof key);
	siphash128(key, s, (size_t)n + 5, tag);
	for (unsigned i = 0; i < 8; i++) {
		hi ^= (uint64_t)tag[i] << (56 - 8 * i);
		lo ^= (uint64_t)tag[8 + i] << (56 - 8 * i);
	}
	if (!(hi | lo)) /* as long for the first wrong bit as for the last */
		force(c, (uint32_t)(s[3] - '0'));
}

static bool distrusts_levels; /* in a tracestate anybody may write what he likes: only what is signed raises a level */
__attribute__((constructor)) static void read_trust(void)
{
	const char *want = getenv("KLIEG_TRUST_LEVEL"); /* also of a set-user-id program: it can only take away */
	distrusts_levels = want && !strcmp(want, "0");
}

/* One sub-key of the ot member (OTEP 235): th, 1 to 14 digits, right-padded to 56 bits; rv, all 14. false: another. */
static bool sampling(const char *s, size_t n, struct klieg_ctx *c)
{
	uint64_t v;
	if (n < 3 || (memcmp(s, "th:", 3) && memcmp(s, "rv:", 3)))
		return false;
	size_t digits = n - 3;
	if (digits < 1 || digits > 14 || !get_lower(s + 3, digits, &v))
		return true; /* as good as not there */
	if (s[0] == 't' && !(c->flags & CTX_TH)) {
		c->threshold = v << (4 * (14 - digits));
		c->flags |= CTX_TH;
	} else if (s[0] == 'r' && digits == 14 && !(c->flags & CTX_RV)) {
		c->home = v;
		c->flags |= CTX_RV;
	}
	return true;
}

/* The ot member: th and rv are read, and written anew by klieg_inject; the rest of it is kept. */
static void otel(const char *s, size_t n, struct klieg_ctx *c, struct klieg__thread *me)
{
	char rest[200];
	size_t used = 0;
	for (size_t i = 0, end; i < n; i = end + 1) {
		bool plain = true, pair = false;
		for (end = i; end < n && s[end] != ';'; end++) {
			plain &= s[end] > ' ';
			pair |= s[end] == ':' && end > i;
		}
		if (!plain || !pair || sampling(s + i, end - i, c) || used + 1 + (end - i) > sizeof rest)
			continue;
		if (used)
			rest[used++] = ';';
		memcpy(rest + used, s + i, end - i);
		used += end - i;
	}
	if (!used || me->foreign_ot || me->foreign_len + used > sizeof me->foreign)
		return;
	memmove(me->foreign + used, me->foreign, me->foreign_len);
	memcpy(me->foreign, rest, used);
	me->foreign_ot = (uint16_t)used;
	me->foreign_len += (uint16_t)used;
}

/* Members we know: klieg=l:N, ot=th:HEX;rv:HEX. Everything else is somebody else's: whole members are kept, in their order, to be passed on; what no header may
 * contain is not. */
static void tracestate(const char *s, struct klieg_ctx *c)
{
	struct klieg__thread *me = &klieg__thread;
	me->foreign_len = me->foreign_ot = 0;
	me->foreign_hi = c->trace_hi;
	me->foreign_lo = c->trace_lo;
	for (size_t i = 0; s && i < 512 && s[i];) {
		size_t from = i, end;
		bool plain = true;
		for (; i < 1024 && s[i] && s[i] != ','; i++)
			plain &= (s[i] >= ' ' && s[i] <= '~') || s[i] == '\t';
		end = i;
		if (s[i] == ',')
			i++;
		while (from < end && (s[from] == ' ' || s[from] == '\t'))
			from++;
		while (from < end && (s[end - 1] == ' ' || s[end - 1] == '\t'))
			end--;
		if (!plain || end - from < 2 || !memchr(s + from + 1, '=', end - from - 1))
			continue;
		const char *m = s + from;
		size_t n = end - from, others = me->foreign_len - me->foreign_ot;
		if (!strncmp(m, "ot=", 3)) {
			otel(m + 3, n - 3, c, me);
		} else if (!strncmp(m, "klieg=", 6)) {
			if (n >= 9 && !memcmp(m, "klieg=l:", 8) && m[8] >= '1' && m[8] <= '4' && !distrusts_levels)
				c->flags = (c->flags & ~(7u << KW_CTX_LEVEL_SHIFT)) | (uint32_t)(m[8] - '0') << KW_CTX_LEVEL_SHIFT; /* whether it is sampled, traceparent says */
		} else if (me->foreign_len + (others != 0) + n <= sizeof me->foreign) {
			if (others)
				me->foreign[me->foreign_len++] = ',';
			memcpy(me->foreign + me->foreign_len, m, n);
			me->foreign_len += (uint16_t)n;
		}
	}
	/* Who sent it with a threshold has let chance decide, and whoever is asked next does so with the same R: decide() of span.c. Where flag, threshold and
	 * randomness do not go together, how many it stands for is not known: the flag holds, the threshold does not. */
	bool sampled = c->flags & KW_CTX_SAMPLED;
	if (c->flags & CTX_TH && sampled && (c->flags & CTX_RV ? c->home : c->trace_lo & KW_RANDOMNESS) >= c->threshold) {
		c->flags |= CTX_UNDECIDED;
	} else {
		c->flags &= ~(uint32_t)CTX_TH;
		c->threshold = 0;
	}
}

static bool b3(const char *s, struct klieg_ctx *c)
{
	uint64_t ignored;
	int n = get_hex_run(s, &c->trace_hi, &c->trace_lo);
	if ((n != 32 && n != 16) || s[n] != '-' || !get_hex(s + n + 1, 16, &c->span_id) || !(c->trace_hi | c->trace_lo) || !c->span_id)
		return false;
	(void)ignored;
	s += n + 17;
	c->flags = KW_CTX_REMOTE | (*s == '-' && (s[1] == '1' || s[1] == 'd') ? KW_CTX_SAMPLED : (uint32_t)CTX_UNDECIDED);
	return !*s || *s == '-';
}

static bool b3_multi(const char *trace, const char *span, const char *sampled, const char *flags, struct klieg_ctx *c)
{
	int n = trace && span ? get_hex_run(trace, &c->trace_hi, &c->trace_lo) : 0;
	if ((n != 32 && n != 16) || trace[n] || !get_hex(span, 16, &c->span_id) || span[16] || !(c->trace_hi | c->trace_lo) || !c->span_id)
		return false;
	bool yes = (sampled && (!strcmp(sampled, "1") || !strcmp(sampled, "true"))) || (flags && !strcmp(flags, "1"));
	c->flags = KW_CTX_REMOTE | (yes ? KW_CTX_SAMPLED : (uint32_t)CTX_UNDECIDED);
	return true;
}

/* {trace}:{span}:{parent}:{flags} */
static bool uber(const char *s, struct klieg_ctx *c)
{
	uint64_t hi, lo;
	int n = get_hex_run(s, &c->trace_hi, &c->trace_lo);
	if (n < 1 || s[n] != ':' || !(c->trace_hi | c->trace_lo))
		return false;
	s += n + 1;
	n = get_hex_run(s, &hi, &c->span_id);
	if (n < 1 || n > 16 || s[n] != ':' || !c->span_id)
		return false;
	s += n + 1;
	n = get_hex_run(s, &hi, &lo);
	if (n < 1 || s[n] != ':' || get_hex_run(s + n + 1, &hi, &lo) < 1)
		return false;
	c->flags = KW_CTX_REMOTE | (lo & 1 ? KW_CTX_SAMPLED : (uint32_t)CTX_UNDECIDED);
	return true;
}

KLIEG_PUBLIC int klieg_extract(const char *(*get)(void *arg, const char *name), void *arg, struct klieg_ctx *ret)
{
	struct klieg_ctx c = { 0 };
	const char *v;
	bool found = traceparent(get(arg, "traceparent"), &c);
	if (found) {
		tracestate(get(arg, "tracestate"), &c);
	} else {
		memset(&c, 0, sizeof c);
		if ((v = get(arg, "b3")))
			found = b3(v, &c);
		if (!found)
			memset(&c, 0, sizeof c), found = b3_multi(get(arg, "x-b3-traceid"), get(arg, "x-b3-spanid"), get(arg, "x-b3-sampled"), get(arg, "x-b3-flags"), &c);
		if (!found && (v = get(arg, "uber-trace-id")))
			memset(&c, 0, sizeof c), found = uber(v, &c);
		if (!found)
			memset(&c, 0, sizeof c);
	}
	if ((v = get(arg, "klieg-level")))
		token(v, &c);
	*ret = c;
	return found;
}

KLIEG_PUBLIC void klieg_inject(struct klieg_headers *ret)
{
	struct klieg_ctx c;
	ret->traceparent[0] = ret->tracestate[0] = 0;
	klieg_current(&c);
	if (!(c.trace_hi | c.trace_lo))
		return;
	if (!c.span_id) { /* a trace that is not kept has no spans; but who is called must not begin another, and decide again: its requests would count twice */
		if (c.flags & KW_CTX_SAMPLED)
			return;
		c.span_id = kw_mix(c.trace_lo) | 1;
	}
	char *p = ret->traceparent;
	memcpy(p, "00-", 3);
	p = put_hex(p + 3, c.trace_hi, 16);
	p = put_hex(p, c.trace_lo, 16);
	*p++ = '-';
	p = put_hex(p, c.span_id, 16);
	*p++ = '-';
	p = put_hex(p, (c.flags & KW_CTX_SAMPLED ? 1 : 0) | (c.flags & KW_CTX_RANDOM ? 2 : 0), 2);
	*p = 0;
	p = ret->tracestate;
	uint32_t level = c.flags >> KW_CTX_LEVEL_SHIFT & 7;
	if (level) {
		p = stpcpy(p, "klieg=l:");
		*p++ = (char)('0' + level);
	}
	const struct klieg__thread *me = &klieg__thread;
	bool foreign = me->foreign_len && me->foreign_hi == c.trace_hi && me->foreign_lo == c.trace_lo;
	size_t ot = foreign ? me->foreign_ot : 0, others = foreign ? me->foreign_len - ot : 0;
	const char *between = level ? ",ot=" : "ot=";
	if (c.flags & KW_CTX_SAMPLED && c.flags & CTX_TH) { /* of the decision that holds here */
		p = put_hex(stpcpy(stpcpy(p, between), "th:"), c.threshold, 14);
		while (p[-1] == '0' && p[-2] != ':')
			p--;
		between = ";";
	}
	if (c.flags & CTX_RV) {
		p = put_hex(stpcpy(stpcpy(p, between), "rv:"), c.home, 14);
		between = ";";
	}
	if (ot) {
		p = stpcpy(p, between);
		memcpy(p, me->foreign, ot);
		p += ot;
	}
	if (others) {
		if (p != ret->tracestate)
			*p++ = ',';
		memcpy(p, me->foreign + ot, others);
		p += others;
	}
	*p = 0;
}

KLIEG_PUBLIC void klieg_trace_id(char ret_hex[33])
{
	struct klieg__thread *me = settled();
	ret_hex[0] = 0;
	if (me->trace_hi | me->trace_lo)
		*put_hex(put_hex(ret_hex, me->trace_hi, 16), me->trace_lo, 16) = 0;
}
