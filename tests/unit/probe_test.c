/* What libklieg promises to the program it is in: nothing when off, the right records when on, and no harm ever. The test acts as the agent,
 * through the same memory and the same byte writes. */
#define KLIEG_COMPONENT "unit"
#include "klieg/klieg.h"
#include "probe_harness.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include "wire/siphash.h"

static int evaluated;
static int expensive(void) { return ++evaluated; }

__attribute__((noinline)) static void failing(void) { KLIEG_SPAN_AS(span, "inner"); KLIEG_ERROR(span, "no such order"); }
__attribute__((noinline)) static void inner(void) { KLIEG_SPAN("inner", KLIEG_INT("n", expensive()), KLIEG_STR("s", "text"), KLIEG_SENSITIVE(KLIEG_STR("secret", "hunter2"))); }
__attribute__((noinline)) static void outer(void)
{
	KLIEG_SPAN_AS(s, "outer");
	inner();
	inner();
	KLIEG_ERROR(s, "bad luck");
	KLIEG_SET(s, KLIEG_DOUBLE("late", 2.5));
}
__attribute__((noinline)) static void calm(void)
{
	KLIEG_SPAN_AS(s, "calm");
	inner();
	inner();
}
static struct kw_thread *me(void) { return slot_of((unsigned)syscall(SYS_gettid)); }

static int setup(void **state)
{
	(void)state;
	harness_find();
	unsigned off = 0;
	for (uint32_t m = 0; m < H.c->modules_n; m++)
		for (uint32_t i = 0; H.modules[m].state == KW_MODULE_LIVE && i < H.modules[m].nsites; i++)
			switch_one((const struct kw_site *)H.modules[m].sites + i, H.modules[m].first + i, &off);
	skip_records(me());
	evaluated = 0;
	return 0;
}

static void off_evaluates_and_records_nothing(void **state)
{
	(void)state;
	outer();
	assert_int_equal(evaluated, 0);
	struct any_record r;
	assert_true(!me() || !next_record(me(), &r));
}

static void nested_spans_are_parent_and_children_of_one_trace(void **state)
{
	(void)state;
	switch_site("inner", KW_SPAN);
	switch_site("outer", KW_SPAN);
	outer();
	struct any_record r;
	assert_true(next_record(me(), &r));
	assert_int_equal(r.r.type, KW_REC_CTX);
	assert_true(r.ctx.trace_hi && r.ctx.trace_lo);
	assert_int_equal(r.ctx.parent_id, 0);
	uint32_t parent = 0;
	for (int i = 0; i < 2; i++) {
		assert_true(next_record(me(), &r));
		assert_int_equal(r.r.type, KW_REC_SPAN);
		parent = r.span.parent_seq;
		assert_true(parent != 0);
	}
	assert_true(next_record(me(), &r));
	assert_int_equal(r.r.type, KW_REC_STATUS);
	assert_true(next_record(me(), &r));
	assert_int_equal(r.r.type, KW_REC_SPAN);
	assert_int_equal(r.span.seq, parent);
	assert_int_equal(r.span.parent_seq, 0);
	assert_true(r.r.flags & KW_REC_ERROR);
	assert_int_equal(evaluated, 0); /* attributes belong to detail */
	assert_false(next_record(me(), &r));
}

static void each_root_is_a_trace_of_its_own(void **state)
{
	(void)state;
	switch_site("inner", KW_SPAN);
	inner();
	inner();
	struct any_record a, b, r;
	assert_true(next_record(me(), &a) && next_record(me(), &r) && next_record(me(), &b));
	assert_int_equal(a.r.type, KW_REC_CTX);
	assert_int_equal(b.r.type, KW_REC_CTX);
	assert_true(a.ctx.trace_lo != b.ctx.trace_lo);
}

static void detail_adds_attributes_and_hides_sensitive_ones(void **state)
{
	(void)state;
	switch_site("inner", KW_DETAIL);
	inner();
	assert_int_equal(evaluated, 1);
	struct any_record r;
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_CTX);
	assert_true(next_record(me(), &r));
	assert_int_equal(r.r.type, KW_REC_ATTR);
	assert_int_equal(r.r.flags >> KW_REC_NATTR_SHIFT, 3);
	const uint8_t *p = r.b + sizeof(struct kw_rec_event);
	const struct kw_attr *a = (const void *)p;
	assert_int_equal(a->type, KW_INT);
	int64_t v;
	memcpy(&v, p + 8, 8);
	assert_int_equal(v, 1);
	a = (const void *)(p + 16);
	assert_int_equal(a->len, 4);
	assert_memory_equal(p + 24, "text", 4);
	a = (const void *)(p + 32);
	assert_int_equal(a->len, 0);
	assert_true(a->flags & KW_ATTR_MASKED);
	for (unsigned i = 0; i + 7 <= H.r->ring_bytes; i++)
		assert_memory_not_equal((uint8_t *)me() + H.r->ring_off + i, "hunter2", 7);
}

static void count_keeps_numbers_and_writes_no_record(void **state)
{
	(void)state;
	switch_site("inner", KW_COUNT);
	for (int i = 0; i < 1000; i++)
		inner();
	struct any_record r;
	assert_false(next_record(me(), &r));
	struct kw_cell *cells = (struct kw_cell *)((uint8_t *)me() + H.r->cells_off);
	uint64_t calls = 0, in_buckets = 0;
	for (unsigned i = 1; i <= me()->cells_used; i++) {
		calls += cells[i].calls;
		for (unsigned b = 0; b < KW_BUCKETS; b++)
			in_buckets += cells[i].bucket[b];
	}
	assert_int_equal(calls, 1000);
	assert_int_equal(in_buckets, 1000);
}

static void histogram_error_is_at_most_two_percent(void **state)
{
	(void)state;
	for (uint64_t v = 1; v < 1ull << 40; v += v / 97 + 1) {
		double mid = kw_bucket_mid(kw_bucket(v)), off = mid > (double)v ? mid - (double)v : (double)v - mid;
		assert_true(off <= 0.02 * (double)v + 0.001);
	}
}

static void sampling_is_a_function_of_the_trace_id(void **state)
{
	(void)state;
	switch_site("calm", KW_SPAN);
	switch_site("inner", KW_SPAN);
	uint64_t threshold = (1ull << 56) / 4 * 3;
	for (uint32_t i = 0; i < H.c->sites_n; i++)
		H.states[i].threshold = threshold;
	uint64_t unsampled = me()->unsampled;
	int kept = 0, spans = 0;
	struct any_record r;
	for (int i = 0; i < 400; i++) {
		calm();
		while (next_record(me(), &r)) {
			if (r.r.type == KW_REC_CTX) {
				kept++;
				assert_true((r.ctx.trace_lo & 0xffffffffffffffull) >= threshold);
				assert_int_equal(r.r.site >> 8, threshold >> 32);
			}
			spans += r.r.type == KW_REC_SPAN;
		}
	}
	for (uint32_t i = 0; i < H.c->sites_n; i++)
		H.states[i].threshold = 0;
	assert_true(kept > 50 && kept < 150);
	assert_int_equal(spans, kept * 3);
	assert_int_equal(me()->unsampled - unsampled, (400 - kept) * 3);
}

/* A rule on requests at a site, as the agent writes it: attribute 0 is this text. */
static void ask(const struct kw_site *s, uint32_t index, void *want)
{
	(void)s;
	struct kw_requests *q = (struct kw_requests *)((char *)H.r + H.r->requests_off);
	struct kw_request_op op = { .op = KW_REQ_EQ, .key = 0, .type = KW_STR, .len = (uint8_t)strlen(want) };
	memcpy(op.text, want, op.len);
	q->site[q->n] = index + 1;
	q->request[q->n++] = (struct kw_request){ .level = KW_SPAN, .nops = 1, .rule = 1, .op = { op } };
	set_flags(index, KW_STATE_GATED | KW_STATE_CLASSIFIES);
	H.states[index].asks = 1;
}

static void ask_no_more(void)
{
	((struct kw_requests *)((char *)H.r + H.r->requests_off))->n = 0;
	for (uint32_t i = 0; i < H.c->sites_n; i++)
		set_flags(i, H.states[i].asks = 0);
}

static void hide_here(const struct kw_site *s, uint32_t index, void *keys)
{
	(void)s;
	H.states[index].hide = *(uint16_t *)keys;
	H.states[index].hides = *(uint16_t *)keys ? 1 : 0;
}

static bool in_ring(const char *text)
{
	return memmem((uint8_t *)me() + H.r->ring_off, H.r->ring_bytes, text, strlen(text)) != NULL;
}

__attribute__((noinline)) static void secretive(const char *a, const char *b)
{
	KLIEG_SPAN_AS(span, "secretive", KLIEG_STR("first", a), KLIEG_STR("second", b));
	KLIEG_SET(span, KLIEG_STR("third", a), KLIEG_STR("other", b));
}

/* What a rule hides is never in the memory that others read: attributes of the site by their keys, those that are set later by their names. */
static void what_a_rule_hides_is_never_written(void **state)
{
	(void)state;
	static const struct { const char *glob; bool third, other; } cases[] = { { "third", true, false }, { "th*", true, false }, { "*r*", true, true }, { "o?her", false, true },
		{ "*d", true, false }, { "thir", false, false }, { "?third", false, false }, { "*", true, true }, { "t*h*i*d*", true, false }, { "t*x*d", false, false } };
	struct kw_requests *q = (struct kw_requests *)((char *)H.r + H.r->requests_off);
	char first[40], second[40];
	uint16_t keys = 1;
	switch_site("secretive", KW_DETAIL);
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		snprintf(first, sizeof first, "first-%u-%x", i, getpid());
		snprintf(second, sizeof second, "second-%u-%x", i, getpid());
		sites_named("secretive", hide_here, &keys);
		q->redact_n = 2;
		q->redact[0] = (struct kw_redact){ 2, 1, "*" }; /* another rule's, which is not about this site */
		q->redact[1] = (struct kw_redact){ 1, (uint8_t)strlen(cases[i].glob), "" };
		memcpy(q->redact[1].glob, cases[i].glob, strlen(cases[i].glob));
		secretive(first, second);
		assert_int_equal(in_ring(first), !cases[i].third);
		assert_true(in_ring(second)); /* the key beside the hidden one */
		snprintf(second, sizeof second, "other-%u-%x", i, getpid());
		keys = 2;
		sites_named("secretive", hide_here, &keys);
		secretive(first, second);
		assert_int_equal(in_ring(second), !cases[i].other);
		keys = 1;
	}
	keys = 3;
	sites_named("secretive", hide_here, &keys);
	q->redact_n = 0;
	q->redact_seq++; /* the agent writes, or died writing */
	secretive(first, "not-yet-known");
	q->redact_seq++;
	assert_false(in_ring("not-yet-known"));
	secretive(first, "known-by-now");
	assert_true(in_ring("known-by-now"));
	keys = 0;
	sites_named("secretive", hide_here, &keys);
}

static const char *tenant(const char *of) { evaluated++; return of; }
__attribute__((noinline)) static void handle(const char *of, int calls)
{
	KLIEG_SERVER_SPAN_AS(span, "handle", KLIEG_STR("tenant", tenant(of)));
	while (calls-- > 0)
		handle(of, 0);
}

static int spans(void)
{
	int n = 0;
	struct any_record r;
	while (next_record(me(), &r))
		n += r.r.type == KW_REC_SPAN || r.r.type == KW_REC_SPANX;
	return n;
}

static void a_request_is_asked_once_what_it_is_about(void **state)
{
	(void)state;
	switch_site("handle", KW_SPAN);
	sites_named("handle", ask, "7");
	for (int traced = 0; traced < 2; traced++) {
		struct klieg_ctx ctx = { .trace_hi = 1, .trace_lo = 2, .span_id = 3, .flags = KW_CTX_SAMPLED }, none = { 0 };
		klieg_set_current(traced ? &ctx : &none, NULL);
		evaluated = 0;
		handle("8", 5);
		assert_int_equal(evaluated, 1);
		assert_int_equal(spans(), 0);
		klieg_set_current(traced ? &ctx : &none, NULL); /* the next one */
		handle("8", 5);
		assert_int_equal(evaluated, 2);
		klieg_set_current(traced ? &ctx : &none, NULL);
		handle("7", 5);
		assert_int_equal(evaluated, 3);
		assert_int_equal(spans(), 6);
		klieg_set_current(&none, NULL);
	}
	evaluated = 0;
	for (int i = 0; i < 4; i++) /* nobody says where a request begins but its first span */
		handle(i == 2 ? "7" : "8", 2);
	assert_int_equal(evaluated, 4);
	assert_int_equal(spans(), 3);
	ask_no_more();
}

static char *page;
static void rewrite_table(int sig)
{
	(void)sig;
	mprotect(page, 4096, PROT_READ | PROT_WRITE);
	H.c->requests_seq++;
	sites_named("handle_page", ask, "page");
	H.c->requests_seq++;
}
__attribute__((noinline)) static void handle_page(void) { KLIEG_SERVER_SPAN_AS(span, "handle_page", KLIEG_STRN("tenant", page, 4)); }

/* The agent writes new rules while a request is judged: to be sure of the moment, at the first look at its attribute. */
static void rules_that_change_while_they_are_read_are_read_again(void **state)
{
	(void)state;
	struct sigaction act = { .sa_handler = rewrite_table }, was;
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(page, "page", 4);
	switch_site("handle_page", KW_SPAN);
	sites_named("handle_page", ask, "none");
	handle_page();
	assert_int_equal(spans(), 0);
	sigaction(SIGSEGV, &act, &was);
	mprotect(page, 4096, PROT_NONE);
	handle_page();
	sigaction(SIGSEGV, &was, NULL);
	assert_int_equal(spans(), 1);
	H.c->requests_seq++; /* an agent that died while it wrote: nothing waits for it */
	handle_page();
	assert_int_equal(spans(), 0);
	H.c->requests_seq++;
	handle_page();
	assert_int_equal(spans(), 1);
	ask_no_more();
	munmap(page, 4096);
}

static const char *headers[8][2];
static const char *get_header(void *arg, const char *name)
{
	(void)arg;
	for (int i = 0; i < 8 && headers[i][0]; i++)
		if (!strcmp(headers[i][0], name))
			return headers[i][1];
	return NULL;
}

static void a_request_is_continued_from_its_headers_and_passed_on(void **state)
{
	(void)state;
	switch_site("inner", KW_SPAN);
	memset(headers, 0, sizeof headers);
	headers[0][0] = "traceparent";
	headers[0][1] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
	headers[1][0] = "tracestate";
	headers[1][1] = "other=x,klieg=l:3,ot=k1:v;th:4";
	struct klieg_ctx c, previous;
	assert_int_equal(klieg_extract(get_header, NULL, &c), 1);
	klieg_set_current(&c, &previous);
	struct klieg_headers h;
	klieg_inject(&h); /* nothing was decided here yet */
	assert_string_equal(h.tracestate, "klieg=l:3,ot=th:4;k1:v,other=x");
	inner();
	klieg_inject(&h);
	klieg_restore(&previous);
	assert_memory_equal(h.traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", 54);
	assert_string_equal(h.tracestate, "klieg=l:3,ot=th:0;k1:v,other=x");
	struct any_record r;
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_CTX);
	assert_int_equal(r.ctx.trace_hi, 0x0af7651916cd43ddull);
	assert_int_equal(r.ctx.parent_id, 0xb7ad6b7169203331ull);
	assert_int_equal(r.r.flags >> KW_CTX_LEVEL_SHIFT & 7, 3);
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_SPAN && r.span.parent_seq == 0);
	klieg_inject(&h);
	assert_string_equal(h.traceparent, "");
}

static void set_thresholds(uint64_t threshold)
{
	for (uint32_t i = 0; i < H.c->sites_n; i++)
		H.states[i].threshold = threshold;
}

/* What a service sends on, by what it got and what it keeps itself. R of the trace id is 0x48eb211c80319c. */
static void a_decision_is_sent_on_with_its_threshold_and_randomness(void **state)
{
	(void)state;
	static const struct { const char *flags, *in; uint64_t keep_from; const char *out_flags, *out; } cases[] = {
		{ "01", "ot=th:4", 0, "01", "ot=th:0" },                                  /* all that come are kept here, so each stands for itself */
		{ "01", "ot=th:4", 0x48000000000000, "01", "ot=th:48" },
		{ "01", "ot=th:4", 0x49000000000000, "00", "" },                          /* fewer are kept here */
		{ "01", "ot=th:4;rv:f0000000000000", 0xe0000000000000, "01", "ot=th:e;rv:f0000000000000" },
		{ "01", "ot=th:4;rv:50000000000000", 0xe0000000000000, "00", "ot=rv:50000000000000" },
		{ "00", "ot=rv:10000000000000", 0x40000000000000, "00", "ot=rv:10000000000000" },
		{ "00", "ot=rv:80000000000000;th:9", 0x40000000000000, "01", "ot=th:4;rv:80000000000000" },
		{ "01", "ot=th:c", 0xf0000000000000, "01", "" },                          /* the flag says kept, R says not: kept, for how many is unknown */
		{ "01", "ot=th:4;rv:30000000000000", 0, "01", "ot=rv:30000000000000" },
		{ "01", "", 0xf0000000000000, "01", "" },
		{ "01", "ot=th:4zz", 0xf0000000000000, "01", "" }, { "01", "ot=th:4A", 0xf0000000000000, "01", "" }, { "01", "ot=th:", 0xf0000000000000, "01", "" },
		{ "01", "ot=th:400000000000000", 0xf0000000000000, "01", "" },            /* fifteen digits */
		{ "01", "ot=th:40000000000000", 0x40000000000000, "01", "ot=th:4" },
		{ "01", "ot=rv:F0000000000000;th:4", 0x40000000000000, "01", "ot=th:4" }, { "01", "ot=rv:f0;th:4", 0x40000000000000, "01", "ot=th:4" },
		{ "01", "a=1,ot=p:8;th:4;rv:f0000000000000;q:r,b=2", 0, "01", "ot=th:0;rv:f0000000000000;p:8;q:r,a=1,b=2" },
		{ "01", "xot=th:4", 0xf0000000000000, "01", "xot=th:4" },
	};
	switch_site("inner", KW_SPAN);
	memset(headers, 0, sizeof headers);
	headers[0][0] = "traceparent";
	headers[1][0] = "tracestate";
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		char parent[56];
		snprintf(parent, sizeof parent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-%s", cases[i].flags);
		headers[0][1] = parent;
		headers[1][1] = cases[i].in;
		set_thresholds(cases[i].keep_from);
		struct klieg_ctx c, kept, previous, outer;
		assert_int_equal(klieg_extract(get_header, NULL, &c), 1);
		klieg_set_current(&c, &previous);
		inner();
		klieg_current(&kept);
		klieg_set_current(&previous, &outer); /* other work, and back; then a queue, and another turn */
		klieg_restore(&outer);
		klieg_restore(&previous);
		klieg_set_current(&kept, &previous);
		struct klieg_headers h;
		klieg_inject(&h);
		klieg_restore(&previous);
		if (strcmp(h.tracestate, cases[i].out) || strncmp(h.traceparent + 53, cases[i].out_flags, 2))
			fail_msg("%s %s at %llx: %s %s", cases[i].flags, cases[i].in, (unsigned long long)cases[i].keep_from, h.traceparent + 53, h.tracestate);
		bool recorded = false;
		struct any_record r;
		while (next_record(me(), &r))
			recorded |= r.r.type == KW_REC_SPAN;
		assert_int_equal(recorded, cases[i].out_flags[1] == '1');
	}
	set_thresholds(0);
}

/* Requests come from a sender that keeps some, to a service that keeps some: what its spans stand for is how many came. */
static void counts_agree_whatever_share_sender_and_service_keep(void **state)
{
	(void)state;
	enum { N = 20000 };
	static const double shares[] = { 1, .5, .1 };
	uint64_t x = 1;
	switch_site("inner", KW_SPAN);
	memset(headers, 0, sizeof headers);
	headers[0][0] = "traceparent";
	headers[1][0] = "tracestate";
	for (int i = 0; i < 18; i++) {
		double theirs = shares[i % 3], ours = shares[i / 3 % 3], sum = 0;
		bool explicit = i >= 9, fails = i % 2; /* the randomness is given, and says another thing than the trace id */
		uint64_t sender = (uint64_t)((1 - theirs) * 0x1p24) << 32, service = (uint64_t)((1 - ours) * 0x1p24) << 32;
		set_thresholds(service);
		for (int n = 0; n < N; n++) {
			uint64_t id = kw_mix(++x), given = explicit ? kw_mix(++x) >> 8 : id & KW_RANDOMNESS;
			bool kept = given >= sender;
			char parent[56], st[80], digits[24];
			snprintf(parent, sizeof parent, "00-0af7651916cd43dd%016llx-b7ad6b7169203331-0%d", (unsigned long long)(explicit ? id | 1ull << 55 : id), kept);
			snprintf(digits, sizeof digits, "th:%014llx", (unsigned long long)sender);
			snprintf(st, sizeof st, explicit ? "ot=%s;rv:%014llx" : "ot=%s", kept ? digits : "k:v", (unsigned long long)given);
			headers[0][1] = parent;
			headers[1][1] = st;
			struct klieg_ctx c, previous;
			assert_int_equal(klieg_extract(get_header, NULL, &c), 1);
			klieg_set_current(&c, &previous);
			if (fails && n % 3 == 0)
				failing(); /* always kept */
			else
				inner();
			klieg_restore(&previous);
			struct any_record r;
			double stands_for = 0;
			while (next_record(me(), &r)) {
				if (r.r.type == KW_REC_CTX)
					stands_for = 0x1p24 / (0x1p24 - (r.r.site >> 8));
				else if (r.r.type == KW_REC_SPAN)
					sum += r.r.flags & KW_REC_ALONE ? 1 : stands_for;
			}
		}
		double variance = N * (1 - ours) / ours, off = sum - N;
		if (off * off > 16 * variance + 1e-4)
			fail_msg("the sender keeps %g, the service %g: %g of %d", theirs, ours, sum, N);
	}
	set_thresholds(0);
}

static void foreign_and_broken_headers(void **state)
{
	(void)state;
	static const struct { const char *name, *value; int found; uint64_t lo; } cases[] = {
		{ "b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90", 1, 0x64fe8b2a57d3eff7ull },
		{ "b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1", 1, 0x64fe8b2a57d3eff7ull },
		{ "b3", "0", 0, 0 },
		{ "uber-trace-id", "abc:12:0:1", 1, 0xabc },
		{ "traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01", 0, 0 },
		{ "traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 0, 0 },
		{ "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x", 0, 0 },
		{ "traceparent", "00-0af7651916cd43dd8448eb211c80319", 0, 0 },
		{ "traceparent", "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future", 1, 0x8448eb211c80319cull },
	};
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		memset(headers, 0, sizeof headers);
		headers[0][0] = cases[i].name;
		headers[0][1] = cases[i].value;
		struct klieg_ctx c;
		assert_int_equal(klieg_extract(get_header, NULL, &c), cases[i].found);
		assert_int_equal(c.trace_lo, cases[i].lo);
	}
}

static void make_token(char *ret, const char *what, int64_t seconds)
{
	uint8_t tag[16];
	int n = snprintf(ret, 80, "%s.%llx", what, (unsigned long long)(time(NULL) + seconds));
	siphash128(H.c->token_key, ret, (size_t)n, tag);
	ret[n++] = '.';
	for (unsigned i = 0; i < 16; i++)
		n += snprintf(ret + n, 3, "%02x", tag[i]);
}

static void the_keyed_hash_is_the_published_one(void **state)
{
	(void)state;
	static const uint8_t of_nothing[16] = { 0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93 };
	uint8_t key[16], tag[16];
	for (unsigned i = 0; i < 16; i++)
		key[i] = (uint8_t)i;
	siphash128(key, "", 0, tag);
	assert_memory_equal(tag, of_nothing, 16);
	siphash128(key, key, 1, tag);
	assert_int_equal(tag[0] << 8 | tag[1], 0xda87);
}

static void a_request_that_fails_is_kept(void **state)
{
	(void)state;
	switch_site("inner", KW_SPAN);
	set_thresholds(UINT64_MAX);
	struct any_record r;
	inner();
	assert_false(next_record(me(), &r));
	failing();
	set_thresholds(0);
	bool found = false, said = false;
	while (next_record(me(), &r)) {
		found |= r.r.type == KW_REC_SPAN && r.r.flags & KW_REC_ALONE && r.r.flags & KW_REC_ERROR;
		said |= r.r.type == KW_REC_STATUS;
	}
	assert_true(found && said);
}

/* The way down to the failure, in a trace that is not kept: each span in its parent, and none of those that have nothing to do with it. */
__attribute__((noinline)) static void way_down(int how)
{
	KLIEG_SPAN_AS(top, "way_top");
	inner();
	{
		KLIEG_SPAN_AS(middle, "way_middle");
		inner();
		{
			KLIEG_SPAN_AS(bottom, "way_bottom", KLIEG_INT("n", expensive()));
			if (how)
				KLIEG_ERROR(bottom, "no");
			inner();
			KLIEG_SET(bottom, KLIEG_INT("late", 1));
			if (how == 2)
				KLIEG_OK(bottom);
		}
		inner();
	}
	inner();
}

static void the_way_to_a_failure_is_kept_at_any_depth(void **state)
{
	(void)state;
	struct klieg_ctx remote = { .trace_hi = 5, .trace_lo = 6, .span_id = 7, .flags = KW_CTX_REMOTE | 1u << 17 }; /* its sender did not keep it */
	switch_site("inner", KW_SPAN);
	switch_site("way_top", KW_SPAN);
	switch_site("way_middle", KW_SPAN);
	switch_site("way_bottom", KW_DETAIL);
	for (int i = 0; i < 6; i++) {
		int how = i % 3;
		struct klieg_ctx previous;
		struct any_record r;
		uint32_t seq[3] = { 0 }, parents[3] = { 0 }, n = 0, attributes = 0;
		klieg_set_current(&(struct klieg_ctx){ 0 }, &previous);
		if (i >= 3)
			klieg_set_current(&remote, NULL);
		uint32_t made = me() ? me()->seq : 0;
		set_thresholds(UINT64_MAX);
		evaluated = 0;
		way_down(how);
		set_thresholds(0);
		klieg_restore(&previous);
		while (next_record(me(), &r)) {
			if (r.r.type == KW_REC_CTX && i >= 3)
				assert_true(r.ctx.trace_hi == 5 && r.ctx.trace_lo == 6 && r.ctx.parent_id == 7);
			attributes += r.r.type == KW_REC_ATTR;
			if (r.r.type != KW_REC_SPAN)
				continue;
			assert_true(n < 3 && r.r.flags & KW_REC_ALONE);
			assert_int_equal(r.r.flags & (KW_REC_ERROR | KW_REC_OK), n ? 0 : how == 2 ? KW_REC_OK : KW_REC_ERROR);
			seq[n] = r.span.seq;
			parents[n++] = r.span.parent_seq;
		}
		assert_int_equal(n, how ? 3 : 0); /* innermost first */
		assert_int_equal(evaluated, 0);
		assert_int_equal(attributes, how ? 1 : 0); /* what was set after it had failed */
		assert_true(!how || (parents[0] == seq[1] && parents[1] == seq[2] && parents[2] == 0));
		assert_int_equal(me()->seq - made, n);
		assert_int_equal(me()->depth, 0);
	}
}

static klieg_span given;
static void *fail_it(void *arg) { KLIEG_ERROR(given, "too late"); KLIEG_END(given, "given"); return arg; }
static void *give_back(void *arg) { KLIEG_END(given, "given"); return arg; }
__attribute__((noinline)) static void within(void) { KLIEG_SPAN_AS(span, "within"); KLIEG_ERROR(span, "no"); }

/* A span that one thread began and another ends, in a trace that is not kept: the failure is seen there, or was in something that this thread did in it. */
static void a_failure_is_kept_also_of_a_span_that_is_handed_on(void **state)
{
	(void)state;
	switch_site("calm", KW_COUNT);
	switch_site("given", KW_SPAN);
	switch_site("within", KW_SPAN);
	for (int how = 0; how < 4; how++) { /* no failure; there; here; both */
		pthread_t thread;
		struct any_record r;
		uint64_t depth_before = me() ? me()->depth : 0;
		int made_before = 0;
		for (uint32_t i = 0; i < H.r->max_threads; i++) {
			struct kw_thread *t = (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride);
			made_before += t->state != KW_THREAD_FREE ? (int)t->seq : 0;
		}
		set_thresholds(UINT64_MAX);
		KLIEG_BEGIN(given, "given");
		if (how & 2)
			within();
		assert_int_equal(pthread_create(&thread, NULL, how & 1 ? fail_it : give_back, NULL), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		int alone = 0, failed = 0, made = 0;
		for (uint32_t i = 0; i < H.r->max_threads; i++) {
			struct kw_thread *t = (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride);
			if (t->state != KW_THREAD_FREE)
				made += (int)t->seq;
			while (t->state != KW_THREAD_FREE && next_record(t, &r)) {
				alone += (r.r.type == KW_REC_SPAN || r.r.type == KW_REC_SPANX) && r.r.flags & KW_REC_ALONE;
				failed += (r.r.type == KW_REC_SPAN || r.r.type == KW_REC_SPANX) && r.r.flags & KW_REC_ERROR;
			}
		}
		set_thresholds(0);
		assert_int_equal(made - made_before, alone);
		assert_int_equal(alone, how == 0 ? 0 : how == 1 ? 1 : 2);
		assert_int_equal(failed, how == 0 ? 0 : how == 3 ? 2 : 1);
		assert_int_equal(given.open, 0);
		calm(); /* takes what has ended off the stack */
		assert_int_equal(me()->depth, depth_before);
	}
}

static void a_forked_child_without_room_for_a_region_goes_on(void **state)
{
	(void)state;
	struct rlimit was, none;
	switch_site("inner", KW_DETAIL);
	inner();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	for (int gated = 0; gated < 2; gated++) {
		for (uint32_t i = 0; i < H.c->sites_n; i++)
			set_flags(i, gated ? KW_STATE_GATED : 0);
		none = was;
		none.rlim_cur = 3; /* no descriptor for a memfd */
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
		pid_t child = fork();
		if (!child) {
			inner();
			_exit(0);
		}
		setrlimit(RLIMIT_NOFILE, &was);
		int status;
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
	}
	for (uint32_t i = 0; i < H.c->sites_n; i++)
		set_flags(i, 0);
	struct any_record r;
	while (next_record(me(), &r)) {}
}

/* This thread's cell of a counter, NULL if it has counted nothing. */
static void find_counter(const struct kw_site *s, uint32_t index, void *ret)
{
	uint16_t k = ((uint16_t *)((uint8_t *)me() + H.r->cellmap_off))[index];
	if (s->kind == KW_SITE_COUNT && k)
		*(struct kw_cell **)ret = (struct kw_cell *)((uint8_t *)me() + H.r->cells_off) + k;
}
static struct kw_cell *counted(const char *name)
{
	struct kw_cell *c = NULL;
	sites_named(name, find_counter, &c);
	return c;
}

/* Requests that a site is not on for find that out without a call (klieg.h). What the site remembers must not outlive a change: not here, not in a child. */
static void remembering(void)
{
	KLIEG_SPAN("remembering", KLIEG_INT("evaluated", evaluated++));
	KLIEG_EVENT("remembering");
	KLIEG_EVENT("remembering", KLIEG_INT("evaluated", evaluated++));
	KLIEG_COUNT("remembering", 1);
}
static unsigned remembered_calls(void)
{
	unsigned n = 0;
	struct any_record r;
	while (next_record(me(), &r))
		n += r.r.type == KW_REC_SPAN || r.r.type == KW_REC_EVENT;
	return n + (counted("remembering") ? (unsigned)counted("remembering")->calls : 0);
}
static void gate_all_of_it(bool gated, bool said)
{
	uint32_t changes = H.c->changes;
	for (uint32_t i = 0; i < H.c->sites_n; i++)
		set_flags(i, gated ? KW_STATE_GATED : 0);
	if (!said)
		H.c->changes = changes;
}
static void a_site_that_is_on_for_others_remembers_it_until_that_changes(void **state)
{
	(void)state;
	struct klieg_ctx asks = { 0 }, previous;
	switch_site("remembering", KW_DETAIL);
	remembering(); /* this thread gets its slot and cells */
	unsigned all = 4, before = remembered_calls(), now;
	assert_int_equal(before, all);
	before = 1; /* the counter goes on */
	for (int round = 0; round < 3; round++) {
		int was = evaluated;
		gate_all_of_it(true, true);
		for (int i = 0; i < 3; i++)
			remembering();
		assert_int_equal(remembered_calls(), before);
		assert_int_equal(evaluated, was);
#if defined(__x86_64__)
		gate_all_of_it(false, false); /* nobody says so: it is what the sites remember that holds */
		remembering();
		assert_int_equal(remembered_calls(), before);
#endif
		gate_all_of_it(true, true);
		remembering();
		if (round == 1) { /* a request that asks for it */
			asks.flags = KW_SPAN << KW_CTX_LEVEL_SHIFT;
			klieg_set_current(&asks, &previous);
			remembering();
			klieg_restore(&previous);
			now = remembered_calls();
			assert_int_equal(now - before, all);
			before++;
			remembering();
			assert_int_equal(remembered_calls(), before);
		}
		if (round == 2) { /* a child: its agent has not said anything yet */
			pid_t child = fork();
			if (!child) {
				harness_find();
				unsigned on = KW_DETAIL;
				sites_named("remembering", switch_one, &on);
				remembering();
				_exit(me() && remembered_calls() == all ? 0 : 1);
			}
			int status;
			assert_int_equal(waitpid(child, &status, 0), child);
			assert_int_equal(status, 0);
		}
		gate_all_of_it(false, true);
		remembering();
		assert_int_equal(remembered_calls(), before + all);
		before++;
	}
}

static void a_gated_site_follows_only_requests_that_ask_for_it(void **state)
{
	(void)state;
	switch_site("inner", KW_DETAIL);
	for (uint32_t i = 0; i < H.c->sites_n; i++)
		set_flags(i, KW_STATE_GATED);
	struct any_record r;
	inner();
	assert_false(next_record(me(), &r));
	memset(headers, 0, sizeof headers);
	headers[0][0] = "klieg-level";
	char good[80], bad[80];
	for (unsigned i = 0; i < 16; i++)
		H.c->token_key[i] = (uint8_t)(17 * i);
	H.c->token_on = 1;
	struct klieg_ctx c, previous;
	make_token(good, "v1.3", 60);
	const char *wrong[] = { "detail", "", "v1.3.", "v1.3.ffffffffffff.00000000000000000000000000000000", bad, bad, bad, bad, bad };
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		if (wrong[i] == bad && i < 7) {
			memcpy(bad, good, strlen(good) + 1);
			bad[i == 4 ? 3 : i == 5 ? strlen(bad) - 1 : 10] ^= 1; /* another level, tag, expiry */
		} else if (wrong[i] == bad) {
			make_token(bad, "v1.3", i == 7 ? -2 : 100000); /* over; good for too long */
		}
		headers[0][1] = wrong[i];
		klieg_extract(get_header, NULL, &c);
		assert_int_equal(c.flags, 0);
	}
	headers[0][1] = good;
	klieg_extract(get_header, NULL, &c);
	klieg_set_current(&c, &previous);
	inner();
	klieg_restore(&previous);
	for (uint32_t i = 0; i < H.c->sites_n; i++)
		set_flags(i, 0);
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_CTX && r.r.flags & KW_CTX_FORCED);
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_ATTR);
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_SPAN);
}

static void an_expired_lease_silences_everything(void **state)
{
	(void)state;
	switch_site("inner", KW_DETAIL);
	H.c->lease_tsc = 1;
	inner();
	struct any_record r;
	assert_false(next_record(me(), &r));
	assert_int_equal(evaluated, 0);
}

static klieg_span handed;
static void *end_it(void *arg)
{
	KLIEG_END(handed, "handed");
	return arg;
}

static void a_span_may_end_on_another_thread(void **state)
{
	(void)state;
	switch_site("handed", KW_SPAN);
	switch_site("outer", KW_SPAN);
	uint32_t depth = me()->depth;
	KLIEG_BEGIN(handed, "handed");
	assert_int_equal(me()->depth, depth + 1);
	uint32_t seq = me()->seq;
	uint64_t id = kw_span_id(me()->seed, seq);
	pthread_t t;
	pthread_create(&t, NULL, end_it, NULL);
	pthread_join(t, NULL);
	int found = 0;
	for (uint32_t i = 0; i < H.r->max_threads; i++) { /* the other thread is gone; its slot is DEAD and not yet drained */
		struct kw_thread *s = (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride);
		struct any_record r;
		while (s->state == KW_THREAD_DEAD && next_record(s, &r))
			found += r.r.type == KW_REC_SPANX && r.spanx.span_id == id;
	}
	assert_int_equal(found, 1);
	outer(); /* and this thread goes on as if nothing had been */
	assert_true(me()->depth <= 1);
	KLIEG_END(handed, "handed"); /* a second end is nothing */
}

static void end_of_garbage_is_harmless(void **state)
{
	(void)state;
	switch_site("garbage", KW_SPAN);
	klieg_span s;
	memset(&s, 0xa5, sizeof s);
	uint64_t head = me()->head;
	KLIEG_END(s, "garbage");
	assert_int_equal(me()->head, head);
}

static sigjmp_buf jump;
__attribute__((noinline)) static void jumps(void) { KLIEG_SPAN("jumps"); siglongjmp(jump, 1); }

static void longjmp_over_spans_is_counted_and_mended(void **state)
{
	(void)state;
	switch_site("jumps", KW_SPAN);
	switch_site("outer", KW_SPAN);
	uint64_t abandoned = me()->abandoned;
	uint32_t seq = me()->seq;
	{
		KLIEG_SPAN_AS(s, "outer");
		if (!sigsetjmp(jump, 0))
			jumps();
	}
	assert_int_equal(me()->abandoned - abandoned, 1);
	assert_int_equal(me()->depth, 0);
	assert_int_equal(me()->seq - seq, 2);
}

static void handler(int sig) { (void)sig; inner(); errno = 77; errno = 0; }

static void signal_handlers_may_use_probes(void **state)
{
	(void)state;
	switch_site("inner", KW_DETAIL);
	switch_site("outer", KW_SPAN);
	signal(SIGUSR1, handler);
	uint32_t seq = me()->seq;
	uint64_t reentrant = me()->lost_reentrant;
	for (int i = 0; i < 1000; i++) {
		KLIEG_SPAN("outer");
		raise(SIGUSR1);
		skip_records(me());
	}
	assert_int_equal(me()->seq - seq + (me()->lost_reentrant - reentrant), 2000);
}

static void a_full_ring_loses_and_counts(void **state)
{
	(void)state;
	switch_site("inner", KW_SPAN);
	uint32_t seq = me()->seq;
	uint64_t lost = me()->lost_full;
	enum { N = 20000 };
	for (int i = 0; i < N; i++)
		inner();
	struct any_record r;
	uint64_t got = 0;
	while (next_record(me(), &r))
		got += r.r.type == KW_REC_SPAN;
	assert_int_equal(me()->seq - seq, N);
	assert_int_equal(got + (me()->lost_full - lost), N);
	assert_true(got >= H.r->ring_bytes / 64 - 2);
	inner();
	assert_true(next_record(me(), &r));
}

static void a_wrapping_ring_keeps_every_record(void **state)
{
	(void)state;
	switch_site("inner", KW_DETAIL);
	struct any_record r;
	int spans = 0, attrs = 0;
	for (int i = 0; i < 30000; i++) {
		inner();
		while (next_record(me(), &r)) {
			spans += r.r.type == KW_REC_SPAN;
			attrs += r.r.type == KW_REC_ATTR;
		}
	}
	assert_int_equal(spans, 30000);
	assert_int_equal(attrs, 30000);
}

/* What probes take is known from where they run: some of all events are timed, whether they make records or not. */
static void some_events_are_timed_and_none_is_lost_by_it(void **state)
{
	(void)state;
	switch_site("inner", KW_SPAN);
	struct any_record r;
	int spans = 0;
	inner();
	struct kw_thread was = *me();
	for (int i = 0; i < 20000; i++) {
		inner();
		while (next_record(me(), &r))
			spans += r.r.type == KW_REC_SPAN;
	}
	uint32_t timed = me()->timed[1] - was.timed[1]; /* a span and its context are 64 bytes: 156 looks, four events each */
	assert_int_equal(spans, 20001);
	assert_in_range(timed, 400, 640); /* those that were interrupted are left out */
	assert_in_range(me()->timed_ticks[1] - was.timed_ticks[1], timed, timed * 131072ull);
	assert_in_range(me()->timed[0] - was.timed[0], 0, 4);
	switch_site("inner", KW_COUNT);
	was = *me();
	for (int i = 0; i < 10000; i++)
		inner();
	assert_false(next_record(me(), &r));
	assert_in_range(me()->timed[0] - was.timed[0], 100, 160);
	assert_in_range(me()->timed[1] - was.timed[1], 0, 4);
	assert_int_equal(me()->lost_full, was.lost_full);
}

static void deep_recursion_is_counted(int n)
{
	KLIEG_SPAN("deep");
	if (n)
		deep_recursion_is_counted(n - 1);
}
static void nesting_deeper_than_the_stack_is_counted(void **state)
{
	(void)state;
	switch_site("deep", KW_SPAN);
	uint64_t lost = me()->lost_depth;
	deep_recursion_is_counted(99);
	assert_int_equal(me()->lost_depth - lost, 100 - KW_OPEN_MAX);
	assert_int_equal(me()->depth, 0);
}

static void a_forked_child_has_a_region_of_its_own(void **state)
{
	(void)state;
	switch_site("inner", KW_SPAN);
	inner();
	uint64_t head = me()->head;
	struct kw_region *parents = H.r;
	pid_t pid = fork();
	if (!pid) {
		for (int i = 0; i < 100; i++) /* on in the text it shares, but nobody leased its new region: nothing happens */
			inner();
		harness_find();
		_exit(H.r != parents && H.r->pid == (uint32_t)getpid() && H.c->sites_n > 0 ? 0 : 1);
	}
	int status;
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(me()->head, head);
	/* A clone that runs no atfork handler still never writes its parent's ring. */
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (!pid) {
		inner();
		syscall(SYS_exit_group, 0);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(me()->head, head);
}

static void *one_span(void *arg)
{
	inner();
	return arg;
}
static void a_thousand_threads(void **state)
{
	(void)state;
	switch_site("inner", KW_SPAN);
	for (uint32_t i = 0; i < H.r->max_threads; i++) { /* as the agent does: give back what is drained */
		struct kw_thread *t = (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride);
		if (t->state == KW_THREAD_DEAD)
			skip_records(t), t->state = KW_THREAD_FREE;
	}
	enum { N = 1000 };
	static pthread_t t[N];
	pthread_attr_t a;
	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, 65536);
	for (int i = 0; i < N; i++)
		assert_int_equal(pthread_create(&t[i], &a, one_span, NULL), 0);
	for (int i = 0; i < N; i++)
		pthread_join(t[i], NULL);
	uint64_t spans = 0;
	for (uint32_t i = 0; i < H.r->max_threads; i++) {
		struct kw_thread *s = (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride);
		struct any_record r;
		while (s->state == KW_THREAD_DEAD && next_record(s, &r))
			spans += r.r.type == KW_REC_SPAN;
	}
	assert_int_equal(spans + H.c->lost_no_slot, N);
}

static void events_links_and_counters(void **state)
{
	(void)state;
	switch_site("outer2", KW_DETAIL);
	switch_site("tick", KW_DETAIL);
	switch_site("bytes", KW_COUNT);
	{
		KLIEG_SPAN_AS(s, "outer2");
		KLIEG_EVENT("tick", KLIEG_BOOL("yes", 1));
		KLIEG_COUNT("bytes", 7);
		struct klieg_ctx other = { .trace_hi = 1, .trace_lo = 2, .span_id = 3 };
		KLIEG_LINK(s, &other);
	}
	struct any_record r;
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_CTX);
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_EVENT && r.event.seq == me()->seq && r.event.tsc);
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_LINK && r.link.trace_lo == 2 && r.link.span_id == 3);
	assert_true(next_record(me(), &r) && r.r.type == KW_REC_SPAN);
	assert_int_equal(counted("bytes")->value, 7);
}

/* ---- contexts and explicit spans ---- */

static void *in_thread(void *(*fn)(void *), void *arg)
{
	pthread_t t;
	void *ret;
	assert_int_equal(pthread_create(&t, NULL, fn, arg), 0);
	pthread_join(t, &ret);
	return ret;
}
static klieg_span root;
static void *end_root(void *arg) { KLIEG_END(root, "root"); return arg; }
static void *begin_root(void *arg) { KLIEG_BEGIN(root, "root"); return arg; }

/* The records of all slots, taken out; the account closes over all of them. */
struct tally { uint64_t span, spanx, seq, lost, abandoned, open; struct any_record last_spanx; };
static struct tally tally(void)
{
	static struct any_record r;
	struct tally n = { 0 };
	for (uint32_t i = 0; i < __atomic_load_n(&H.c->threads_hint, __ATOMIC_ACQUIRE); i++) {
		struct kw_thread *t = (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride);
		while (next_record(t, &r)) {
			n.span += r.r.type == KW_REC_SPAN;
			n.spanx += r.r.type == KW_REC_SPANX;
			if (r.r.type == KW_REC_SPANX)
				n.last_spanx = r;
		}
		n.seq += t->seq;
		n.lost += t->lost_full + t->lost_depth;
		n.abandoned += t->abandoned;
		for (uint32_t k = 0; k < t->depth; k++)
			n.open += t->open[k].seq && !(t->open[k].flags & (7u << 16)); /* not: count, unsampled, ended */
	}
	return n;
}
static struct tally before;
static void account_closes(void)
{
	static uint64_t span, spanx; /* counted since `before` */
	struct tally now = tally();
	span = now.span;
	spanx = now.spanx;
	assert_int_equal(now.seq - before.seq + before.open, span + spanx + (now.lost - before.lost) + (now.abandoned - before.abandoned) + now.open);
}

static void a_root_ended_elsewhere_ends_its_trace_here(void **state)
{
	(void)state;
	char a[33], b[33], none[33];
	switch_site("root", KW_SPAN);
	before = tally();
	KLIEG_BEGIN(root, "root");
	klieg_trace_id(a);
	in_thread(end_root, NULL);
	klieg_trace_id(none);
	assert_string_equal(none, "");
	KLIEG_BEGIN(root, "root");
	klieg_trace_id(b);
	in_thread(end_root, NULL);
	assert_string_not_equal(a, b);
	account_closes();
}

static void a_root_may_end_before_its_children(void **state)
{
	(void)state;
	char a[33], b[33];
	switch_site("root", KW_SPAN);
	switch_site("inner", KW_SPAN);
	switch_site("outer", KW_SPAN);
	before = tally();
	KLIEG_BEGIN(root, "root");
	klieg_trace_id(a);
	{
		KLIEG_SPAN("outer");
		in_thread(end_root, NULL);
		inner(); /* still below outer, so in its trace */
		klieg_trace_id(b);
		assert_string_equal(a, b);
	}
	klieg_trace_id(b);
	assert_string_equal(b, "");
	assert_int_equal(me()->depth, 0);
	account_closes();
}

static void a_span_left_open_in_a_scope_is_no_parent_of_what_follows(void **state)
{
	(void)state;
	char a[33], b[33];
	switch_site("root", KW_SPAN);
	switch_site("outer", KW_SPAN);
	before = tally();
	{
		KLIEG_SPAN("outer");
		klieg_trace_id(a);
		KLIEG_BEGIN(root, "root"); /* the job goes to another thread */
	}
	klieg_trace_id(b);
	assert_string_equal(b, "");
	{
		KLIEG_SPAN("outer");
		klieg_trace_id(b);
		assert_string_not_equal(a, b);
	}
	uint64_t hi = root.trace_hi, parent = root.parent;
	in_thread(end_root, NULL);
	struct tally n = tally();
	assert_int_equal(n.spanx, 1);
	assert_int_equal(n.last_spanx.spanx.trace_hi, hi);
	assert_int_equal(n.last_spanx.spanx.parent_id, parent);
	assert_true(parent != 0);
	outer();
	assert_int_equal(me()->depth, 0);
}

static void a_span_whose_thread_exited_still_ends(void **state)
{
	(void)state;
	switch_site("root", KW_SPAN);
	before = tally();
	in_thread(begin_root, NULL);
	account_closes(); /* written off with its thread */
	before = tally();
	KLIEG_ERROR(root, "late");
	KLIEG_END(root, "root");
	struct tally n = tally();
	assert_int_equal(n.spanx, 1);
	assert_true(n.last_spanx.r.flags & KW_REC_ERROR);
	assert_int_equal(n.abandoned, before.abandoned - 1);
	KLIEG_END(root, "root");
	assert_int_equal(tally().spanx, 0);
}

static void a_scoped_span_keeps_the_trace_it_was_begun_in(void **state)
{
	(void)state;
	switch_site("outer", KW_SPAN);
	switch_site("inner", KW_SPAN);
	struct klieg_ctx x = { .trace_hi = 1, .trace_lo = 2, .span_id = 3, .flags = 1 }, y = { .trace_hi = 9, .trace_lo = 9, .span_id = 9, .flags = 1 }, first, second;
	before = tally();
	klieg_set_current(&x, &first);
	{
		KLIEG_SPAN("outer");
		klieg_set_current(&y, &second);
		inner();
	}
	struct any_record r;
	uint64_t trace = 0;
	int n = 0;
	while (next_record(me(), &r)) {
		if (r.r.type == KW_REC_CTX)
			trace = r.ctx.trace_lo;
		if (r.r.type == KW_REC_SPAN)
			assert_int_equal(trace, 9), n++;
		if (r.r.type == KW_REC_SPANX) {
			assert_int_equal(r.spanx.trace_lo, 2);
			assert_int_equal(r.spanx.parent_id, 3);
			n++;
		}
	}
	assert_int_equal(n, 2);
	klieg_set_current(&x, NULL);
	{ /* there and back: an ordinary record in the right trace */
		KLIEG_SPAN("outer");
		klieg_set_current(&y, &second);
		inner();
		klieg_restore(&second);
	}
	for (n = 0; next_record(me(), &r); n += r.r.type == KW_REC_SPAN)
		if (r.r.type == KW_REC_CTX)
			trace = r.ctx.trace_lo;
	assert_int_equal(n, 2);
	assert_int_equal(trace, 2);
	klieg_restore(&first);
	inner();
	while (next_record(me(), &r))
		assert_true(r.r.type != KW_REC_CTX || (r.ctx.trace_lo != 2 && r.ctx.trace_lo != 9));
}

static void a_restored_trace_whose_root_has_ended_is_none(void **state)
{
	(void)state;
	char a[33];
	struct klieg_ctx y = { .trace_hi = 9, .trace_lo = 9, .span_id = 9, .flags = 1 }, previous;
	switch_site("root", KW_SPAN);
	before = tally();
	KLIEG_BEGIN(root, "root");
	klieg_set_current(&y, &previous);
	KLIEG_END(root, "root");
	klieg_restore(&previous);
	klieg_trace_id(a);
	assert_string_equal(a, "");
	account_closes();
}

static void explicit_spans_that_overlap_without_end_do_not_fill_the_stack(void **state)
{
	(void)state;
	switch_site("slide", KW_SPAN);
	static klieg_span s[2];
	before = tally();
	KLIEG_BEGIN(s[0], "slide");
	for (int i = 1; i < 1000; i++) {
		KLIEG_BEGIN(s[i & 1], "slide");
		KLIEG_END(s[~i & 1], "slide");
	}
	KLIEG_END(s[1], "slide");
	assert_int_equal(me()->depth, 0);
	struct tally n = tally();
	assert_int_equal(n.lost, before.lost);
	assert_int_equal(n.span + n.spanx, 1000);
}

static void a_begin_that_does_nothing_leaves_a_closed_handle(void **state)
{
	(void)state;
	switch_site("root", KW_SPAN);
	klieg_span s;
	memset(&s, 0x5a, sizeof s);
	H.c->lease_tsc = 1;
	KLIEG_BEGIN(s, "root");
	assert_int_equal(s.open, 0);
	memset(&s, 0x5a, sizeof s);
	struct klieg__slot unregistered = { 0 };
	klieg__begin_explicit(&unregistered, &s);
	assert_int_equal(s.open, 0);
}

static void a_root_jumped_over_is_replaced(void **state)
{
	(void)state;
	char a[33];
	switch_site("jumps", KW_SPAN);
	before = tally();
	for (volatile int i = 0; i < 200; i++)
		if (!sigsetjmp(jump, 0))
			jumps();
	assert_int_equal(me()->depth, 1); /* nobody can know yet that the last one is gone */
	account_closes();
	klieg_trace_id(a);
	struct klieg_ctx none = { 0 };
	klieg_set_current(&none, NULL);
}

static void a_forked_child_may_ask_about_its_parents_span(void **state)
{
	(void)state;
	switch_site("outer", KW_DETAIL);
	KLIEG_SPAN_AS(s, "outer");
	struct klieg_ctx here;
	klieg_current(&here);
	pid_t pid = fork();
	if (!pid) {
		struct klieg_ctx there;
		KLIEG_SET(s, KLIEG_INT("n", 1));
		KLIEG_ERROR(s, "no");
		klieg_current(&there);
		_exit(there.trace_lo == here.trace_lo && there.span_id == here.span_id ? 0 : 1);
	}
	int status;
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void other_vendors_members_are_passed_on_whole_or_not_at_all(void **state)
{
	(void)state;
	static char big[512], expected[512];
	memset(headers, 0, sizeof headers);
	headers[0][0] = "traceparent";
	headers[0][1] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
	headers[1][0] = "tracestate";
	struct klieg_ctx c, previous, none = { 0 };
	struct klieg_headers h;
	static const struct { const char *in, *out; } cases[] = {
		{ "a=1, b=2 ,klieg=l:9,c@d=3", "a=1,b=2,c@d=3" }, { "", "" }, { ",,=x,novalue, ,z=1", "z=1" }, { "a=1\r\nx: y,b=2", "b=2" },
	};
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		headers[1][1] = cases[i].in;
		assert_int_equal(klieg_extract(get_header, NULL, &c), 1);
		klieg_set_current(&c, &previous);
		klieg_inject(&h);
		assert_string_equal(h.tracestate, cases[i].out);
		klieg_set_current(&none, NULL);
		klieg_inject(&h);
		assert_string_equal(h.tracestate, "");
		c.trace_lo++;
		klieg_set_current(&c, NULL); /* another trace */
		klieg_inject(&h);
		assert_string_equal(h.tracestate, "");
		klieg_restore(&previous);
	}
	memset(big, 'v', sizeof big - 1);
	memcpy(big, "big=", 4);
	memcpy(big + 300, ",s=1", 4);
	memcpy(big + 304, ",t=", 3);
	big[310] = 0;
	snprintf(expected, sizeof expected, "s=1,%s", big + 305);
	headers[1][1] = big;
	klieg_extract(get_header, NULL, &c);
	klieg_set_current(&c, &previous);
	klieg_inject(&h);
	assert_string_equal(h.tracestate, expected);
	klieg_restore(&previous);
}

/* A service that faces the world: what the environment says holds from the start, so in a program of its own. */
static const char *self;
static void a_strangers_level_is_not_taken_where_strangers_come(void **state)
{
	(void)state;
	for (int trusts = 0; trusts < 2; trusts++) {
		pid_t child = fork();
		if (!child) {
			setenv("KLIEG_TRUST_LEVEL", trusts ? "1" : "0", 1);
			execl(self, self, "extract", (char *)NULL);
			_exit(127);
		}
		int status;
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), trusts ? 3 : 0);
	}
}

static int extract_level(void)
{
	struct klieg_ctx c;
	headers[0][0] = "traceparent";
	headers[0][1] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
	headers[1][0] = "tracestate";
	headers[1][1] = "klieg=l:3,ot=th:4";
	return klieg_extract(get_header, NULL, &c) && c.threshold == 0x40000000000000 ? (int)(c.flags >> KW_CTX_LEVEL_SHIFT & 7) : 99;
}

/* An event loop has many requests open at once, most of them in traces that are not kept: those take nobody's place, and still are kept when they fail. */
static void many_open_requests_that_are_not_kept_leave_room_for_one_that_is(void **state)
{
	(void)state;
	enum { N = 200 };
	static klieg_span s[N];
	struct klieg_ctx ctx = { .trace_hi = 1, .trace_lo = 1, .span_id = 3, .flags = KW_CTX_REMOTE }, none = { 0 };
	switch_site("slide", KW_SPAN);
	switch_site("inner", KW_SPAN);
	for (int i = 0; i < N; i++) {
		ctx.trace_lo++;
		klieg_set_current(&ctx, NULL);
		KLIEG_BEGIN(s[i], "slide");
	}
	ctx.flags |= KW_CTX_SAMPLED;
	klieg_set_current(&ctx, NULL);
	inner();
	assert_int_equal(spans(), 1);
	klieg_set_current(&none, NULL);
	for (int i = 0; i < N; i++) {
		if (i == 7 || i == N - 1) /* one of those that are not on the stack any more, one that is */
			KLIEG_ERROR(s[i], "no");
		KLIEG_END(s[i], "slide");
	}
	struct any_record r;
	int found = 0;
	while (next_record(me(), &r))
		if (r.r.type == KW_REC_SPAN || r.r.type == KW_REC_SPANX) {
			assert_int_equal(r.r.type, KW_REC_SPANX);
			assert_true(r.r.flags & KW_REC_ERROR && r.r.flags & KW_REC_ALONE);
			assert_int_equal(r.spanx.parent_id, 3);
			found += r.spanx.trace_lo == 9 ? 1 : r.spanx.trace_lo == N + 1 ? 10 : 100;
		}
	assert_int_equal(found, 11);
	inner();
	assert_int_equal(me()->depth, 0);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "extract"))
		return extract_level();
	self = argv[0];
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup(f, setup)
		T(off_evaluates_and_records_nothing), T(nested_spans_are_parent_and_children_of_one_trace), T(each_root_is_a_trace_of_its_own),
		T(detail_adds_attributes_and_hides_sensitive_ones), T(count_keeps_numbers_and_writes_no_record), T(histogram_error_is_at_most_two_percent),
		T(sampling_is_a_function_of_the_trace_id), T(a_request_is_continued_from_its_headers_and_passed_on), T(foreign_and_broken_headers),
		T(a_request_is_asked_once_what_it_is_about), T(what_a_rule_hides_is_never_written), T(rules_that_change_while_they_are_read_are_read_again),
		T(a_strangers_level_is_not_taken_where_strangers_come), T(a_decision_is_sent_on_with_its_threshold_and_randomness), T(counts_agree_whatever_share_sender_and_service_keep),
		T(a_gated_site_follows_only_requests_that_ask_for_it), T(a_site_that_is_on_for_others_remembers_it_until_that_changes),
		T(the_keyed_hash_is_the_published_one), T(a_forked_child_without_room_for_a_region_goes_on),
		T(a_request_that_fails_is_kept), T(the_way_to_a_failure_is_kept_at_any_depth),
		T(many_open_requests_that_are_not_kept_leave_room_for_one_that_is), T(a_failure_is_kept_also_of_a_span_that_is_handed_on),
		T(an_expired_lease_silences_everything), T(a_span_may_end_on_another_thread),
		T(end_of_garbage_is_harmless), T(longjmp_over_spans_is_counted_and_mended), T(signal_handlers_may_use_probes), T(a_full_ring_loses_and_counts),
		T(a_wrapping_ring_keeps_every_record), T(some_events_are_timed_and_none_is_lost_by_it), T(nesting_deeper_than_the_stack_is_counted), T(events_links_and_counters),
		T(other_vendors_members_are_passed_on_whole_or_not_at_all), T(a_root_ended_elsewhere_ends_its_trace_here),
		T(a_root_may_end_before_its_children), T(a_span_left_open_in_a_scope_is_no_parent_of_what_follows),
		T(a_span_whose_thread_exited_still_ends), T(a_scoped_span_keeps_the_trace_it_was_begun_in), T(a_restored_trace_whose_root_has_ended_is_none),
		T(explicit_spans_that_overlap_without_end_do_not_fill_the_stack), T(a_begin_that_does_nothing_leaves_a_closed_handle),
		T(a_forked_child_may_ask_about_its_parents_span), T(a_root_jumped_over_is_replaced),
		T(a_forked_child_has_a_region_of_its_own), T(a_thousand_threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
