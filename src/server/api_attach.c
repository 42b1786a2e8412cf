/* Attaching to processes that were never built for it, and detaching. The agent does it, one process a time; this file finds out which processes are meant
 * (by pid, by name, all), asks for each in turn, and puts the answers together, so that one that refuses does not hide the others. Loop thread, but for
 * complete(), which reads /proc on a thread of the pool. */
#include "server/internal.h"
#include <ctype.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>

struct rounds {
	const char *method;      /* "attach" or "detach" */
	json_t *todo;            /* [{pid,name}] */
	json_t *done, *refused;
	json_t *options;         /* what else goes with each pid */
	size_t i;
	struct err first;        /* the first refusal */
};

static const char *text(const json_t *o, const char *k) { return json_string_value(json_object_get(o, k)) ?: ""; }
static const char *base(const char *path) { const char *s = strrchr(path, '/'); return s ? s + 1 : path; }

static struct rounds *rounds_create(const char *method)
{
	struct rounds *r = base_calloc(1, sizeof(*r));
	*r = (struct rounds){ .method = method, .todo = json_array(), .done = json_array(), .refused = json_array(), .options = json_object() };
	return r;
}
static void rounds_destroy(struct rounds *r)
{
	json_decref(r->todo);
	json_decref(r->done);
	json_decref(r->refused);
	json_decref(r->options);
	free(r);
}
static void refuse(struct rounds *r, const json_t *target, const struct err *e)
{
	if (!r->first.code)
		r->first = *e;
	json_array_append_new(r->refused, json_pack("{sO ss ss ss ss}", "pid", json_object_get(target, "pid"), "name", text(target, "name"), "code",
		err_name(e->code), "detail", e->msg, "hint", e->hint));
}

/* What was done to one process, for the audit log. That it was attached already, or would be, is no change. */
static void noted(struct call *c, bool attach)
{
	char object[140];
	if (json_is_true(json_object_get(c->result, "already")) || json_is_true(json_object_get(c->body, "check")))
		return;
	snprintf(object, sizeof(object), "process:%.80s/%lld", text(c->result, "host"), (long long)jint(c->result, "pid"));
	json_t *is = json_pack("{ss ss}", "service", text(c->result, "service"), "state", "attached");
	if (attach && json_is_array(json_object_get(c->result, "plugins")))
		json_object_set(is, "plugins", json_object_get(c->result, "plugins"));
	audit_call(c, attach ? "attach" : "detach", object, attach ? NULL : is, attach ? is : NULL);
}

static void next(struct call *c);
static void answered(struct call *c)
{
	struct rounds *r = c->data;
	const json_t *target = json_array_get(r->todo, r->i++);
	if (c->rc < 0)
		refuse(r, target, &c->e);
	else {
		json_array_append(r->done, c->result);
		noted(c, !strcmp(r->method, "attach"));
	}
	next(c);
}
static void next(struct call *c)
{
	struct rounds *r = c->data;
	if (r->i < json_array_size(r->todo)) {
		json_t *params = json_deep_copy(r->options);
		const json_t *target = json_array_get(r->todo, r->i);
		json_object_set_new(params, "pid", json_integer(json_integer_value(json_object_get(target, "pid"))));
		if (*text(target, "host"))
			json_object_set_new(params, "host", json_string(text(target, "host")));
		c->e = (struct err){ 0 };
		call_agent(c, r->method, params, answered);
		return;
	}
	struct err first = r->first;
	bool nothing = !json_array_size(r->done) && json_array_size(r->refused), attach = !strcmp(r->method, "attach");
	json_t *out = json_pack("{sO sO}", attach ? "attachments" : "detached", r->done, "refused", r->refused);
	rounds_destroy(r);
	if (nothing) {
		json_decref(out);
		call_fail(c, &first);
	} else
		call_json(c, 200, out);
}

/* "101 (nginx: master), 102 (nginx: worker)", as many as fit. */
static void list(const json_t *targets, char *s, size_t n)
{
	size_t i, at = 0;
	json_t *t;
	*s = 0;
	json_array_foreach(targets, i, t) {
		if (at + 60 > n) {
			snprintf(s + at, n - at, ", ...");
			return;
		}
		const char *what = *text(t, "cmdline") ? text(t, "cmdline") : text(t, "exe");
		at += (size_t)snprintf(s + at, n - at, "%s%lld (%.30s)", i ? ", " : "", (long long)json_integer_value(json_object_get(t, "pid")), what);
	}
}

/* What was found by name -> what to do, or the error that says what there is. near: a name that is like it, or NULL. */
static void chosen(struct call *c, const json_t *params, const char *name, const char *near)
{
	struct rounds *r = c->data;
	size_t n = json_array_size(r->todo);
	bool attach = !strcmp(r->method, "attach");
	if (n == 1 || (n > 1 && json_is_true(json_object_get(params, "all")))) {
		next(c);
		return;
	}
	struct err e;
	if (!n) {
		err_set(&e, KLIEG_E_NO_TARGET, attach ? "no process is called '%.100s'" : "no process that was attached to is called '%.100s'", name);
		if (near)
			err_hint(&e, "did you mean: %.100s", near);
		else
			err_hint(&e, attach ? "give its pid, or the name that `ps -e` shows" : "klieg ps shows what is attached");
	} else {
		char s[300];
		list(r->todo, s, sizeof(s));
		err_set(&e, KLIEG_E_CONFLICT, "%zu processes are called '%.60s': %s", n, name, s);
		err_hint(&e, "klieg %s PID for one of them, klieg %s %.60s --all for all", r->method, r->method, name);
	}
	rounds_destroy(r);
	call_fail(c, &e);
}

static void offer(const char *word, const char *candidate, const char **best, unsigned *distance)
{
	unsigned d = *candidate ? str_distance(str_of(word), str_of(candidate)) : UINT32_MAX;
	if (d < *distance)
		*distance = d, *best = candidate;
}

/* What a process calls itself and was started as, where the agent does not say so: an executable may have several names (redis-server is a link to
 * redis-check-rdb). Only of those of this host. */
static void complete(struct call *c)
{
	size_t i;
	json_t *p;
	json_array_foreach(json_object_get(c->result, "processes"), i, p) {
		static const char *const files[] = { "comm", "cmdline" };
		char path[64], user[1024];
		struct passwd pw, *found = NULL;
		if (strcmp(text(p, "host"), fleet_local_host(c->s) ?: ""))
			continue;
		json_int_t pid = json_integer_value(json_object_get(p, "pid")), uid = json_integer_value(json_object_get(p, "uid"));
		for (int k = 0; k < 2; k++) {
			struct buf b = { 0 };
			snprintf(path, sizeof(path), "/proc/%lld/%s", (long long)pid, files[k]);
			if (json_object_get(p, files[k]) || buf_read_file(path, 1 << 20, &b) < 0)
				continue;
			while (b.n && (b.p[b.n - 1] == '\n' || !b.p[b.n - 1]))
				b.n--;
			b.n = b.n > 200 ? 200 : b.n;
			for (size_t n = 0; n < b.n; n++)
				b.p[n] = b.p[n] < 0x20 || b.p[n] >= 0x7f ? ' ' : b.p[n];   /* a title, for people */
			json_object_set_new(p, files[k], json_stringn(b.n ? (char *)b.p : "", b.n));
			buf_finish(&b);
		}
		if (!json_object_get(p, "user") && json_object_get(p, "uid") && getpwuid_r((uid_t)uid, &pw, user, sizeof(user), &found) == 0 && found)
			json_object_set_new(p, "user", json_string(pw.pw_name));
	}
}
static void with_candidates(struct call *c, void (*then)(struct call *))
{
	if (c->rc >= 0 && c->s->c.with_agent)
		call_work(c, complete, then);
	else
		then(c);
}

static void named_complete(struct call *c)
{
	struct rounds *r = c->data;
	const char *name = text(c->body, "name"), *near = NULL;
	unsigned distance = (unsigned)strlen(name) / 3 + 2;
	size_t i;
	json_t *p;
	if (c->rc < 0) {
		rounds_destroy(r);
		call_fail(c, &c->e);
		return;
	}
	json_array_foreach(json_object_get(c->result, "processes"), i, p) {
		const char *exe = base(text(p, "exe")), *comm = text(p, "comm");
		bool cut = strlen(comm) == 15;   /* the kernel keeps no more of it */
		if (*text(c->body, "host") && strcmp(text(c->body, "host"), text(p, "host")))
			continue;
		if (!strcmp(text(p, "name"), name) || (*exe && !strcmp(exe, name)) || (*comm && !strncmp(comm, name, cut ? 15 : SIZE_MAX)))
			json_array_append(r->todo, p);
		offer(name, text(p, "name"), &near, &distance);
		offer(name, text(p, "comm"), &near, &distance);
	}
	chosen(c, c->body, name, near);
}
static void named(struct call *c) { with_candidates(c, named_complete); }

void api_attach(struct call *c)
{
	const json_t *b = c->body, *pid = json_object_get(b, "pid"), *name = json_object_get(b, "name"), *v;
	static const char *const same[] = { "libraries", "debug_file", "roots", "plugins", "uprobes" };
	if (!pid == !name || (name && !json_string_length(name))) {
		err_set(&c->e, KLIEG_E_USAGE, "say either pid or name");
		call_fail(c, &c->e);
		return;
	}
	struct rounds *r = c->data = rounds_create("attach");
	for (unsigned i = 0; i < sizeof(same) / sizeof(*same); i++)
		if ((v = json_object_get(b, same[i])))
			json_object_set_new(r->options, same[i], json_deep_copy(v));
	if ((v = json_object_get(b, "max_pause")))
		json_object_set_new(r->options, "max_pause_nano", json_integer(json_integer_value(v)));
	if (json_is_true(json_object_get(b, "check")))
		json_object_set_new(r->options, "check", json_true());
	if (pid) {
		json_array_append_new(r->todo, json_pack("{sI ss ss}", "pid", json_integer_value(pid), "name", "", "host", text(b, "host")));
		next(c);
	} else
		call_agent(c, "candidates", NULL, named);
}

static bool attached(const json_t *process)
{
	return json_is_true(json_object_get(process, "attached")) && strcmp(text(process, "state"), "exited");
}

static void named_attached(struct call *c)
{
	struct rounds *r = c->data;
	const char *name = text(c->params, "name"), *near = NULL;
	unsigned distance = (unsigned)strlen(name) / 3 + 2;
	bool all = !*name;
	size_t i;
	json_t *p;
	if (c->rc < 0) {
		rounds_destroy(r);
		call_fail(c, &c->e);
		return;
	}
	json_array_foreach(json_object_get(c->result, "processes"), i, p) {
		if (!attached(p))
			continue;
		const char *exe = base(text(p, "exe"));
		if (all || !strcmp(text(p, "service"), name) || !strcmp(exe, name))
			json_array_append(r->todo, p);
		offer(name, exe, &near, &distance);
		offer(name, text(p, "service"), &near, &distance);
	}
	if (all)
		next(c);
	else
		chosen(c, c->params, name, near);
}

void api_detach_all(struct call *c)
{
	const char *name = text(c->params, "name");
	if (!*name && !json_is_true(json_object_get(c->params, "all"))) {
		err_set(&c->e, KLIEG_E_USAGE, "say either name= or all=true");
		call_fail(c, &c->e);
		return;
	}
	c->data = rounds_create("detach");
	call_agent(c, "ps", NULL, named_attached);
}

/* Fails the call when the {pid} of the path is none. */
static bool pid_of(struct call *c, json_int_t *ret_pid)
{
	char *end;
	*ret_pid = isdigit((unsigned char)c->id[0]) ? strtoll(c->id, &end, 10) : 0;
	if (*ret_pid >= 1 && *ret_pid <= 4194304 && !*end)
		return true;
	err_set(&c->e, KLIEG_E_USAGE, "'%s' is not a process id", c->id);
	call_fail(c, &c->e);
	return false;
}

/* A pid alone is enough where one agent can be meant. */
static json_t *at_host(struct call *c, json_t *params)
{
	if (*text(c->params, "host"))
		json_object_set_new(params, "host", json_string(text(c->params, "host")));
	return params;
}

static void detached(struct call *c)
{
	if (c->rc >= 0)
		noted(c, false);
	call_pass_on(c);
}
void api_detach(struct call *c)
{
	json_int_t pid;
	if (pid_of(c, &pid))
		call_agent(c, "detach", at_host(c, json_pack("{sI}", "pid", pid)), detached);
}

static void list_attached(struct call *c)
{
	json_t *out = json_array(), *p;
	size_t i;
	json_array_foreach(json_object_get(c->result, "processes"), i, p)
		if (attached(p))
			json_array_append(out, p);
	if (c->rc < 0) {
		json_decref(out);
		call_fail(c, &c->e);
	} else
		call_json(c, 200, json_pack("{so}", "attachments", out));
}
void api_attachments(struct call *c) { call_agent(c, "ps", NULL, list_attached); }

static void candidates_complete(struct call *c)
{
	if (c->rc < 0)
		call_fail(c, &c->e);
	else
		call_json(c, 200, json_pack("{sO}", "candidates", json_object_get(c->result, "processes")));
}
static void list_candidates(struct call *c) { with_candidates(c, candidates_complete); }
void api_candidates(struct call *c) { call_agent(c, "candidates", NULL, list_candidates); }

void api_plugins(struct call *c) { call_agent(c, "plugins", NULL, call_pass_on); }

void api_callees(struct call *c)
{
	json_int_t pid;
	const char *function = text(c->params, "function");
	if (!pid_of(c, &pid))
		return;
	if (!*function) {
		err_set(&c->e, KLIEG_E_USAGE, "'function' is required");
		call_fail(c, &c->e);
		return;
	}
	call_agent(c, "callees", at_host(c, json_pack("{sI ss}", "pid", pid, "function", function)), call_pass_on);
}
