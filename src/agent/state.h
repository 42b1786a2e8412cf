/* What the agent's modules share. Everything here is owned by the agent thread unless a comment says otherwise. */
#pragma once
#include "agent/agent.h"
#include "agent/clock.h"
#include "agent/ring.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/priority.h"
#include "policy/policy.h"
#include "symbols/symbols.h"
#include "traceql/traceql.h"
#include "wire/wire.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#define SECOND 1000000000ll
#define EXITED_KEEP (600 * SECOND) /* how long `ps` still shows a process that is gone */
#define STAT_SECONDS 64
#define STAT_HISTS 5               /* histograms of 15 s each: the last minute and the one being filled */
#define STAT_SITES_MAX 20000       /* sites of a host with a histogram: 24 KiB each */

struct process;

/* All since somebody first asked (vitals.c), so that who looks twice knows exactly what was in between. seen: spans and calls, without weights. */
struct site_total { double calls, errors, seen, carry; uint64_t bucket[KW_BUCKETS]; };
/* Sums are weighted by adjusted counts: what was kept stands for what was not. kept: the spans themselves. */
struct site_stat {
	struct site_total *total;  /* NULL: nobody has asked for it */
	struct { int64_t sec; double calls, errors, ticks, self, cpu, cpu_calls; uint64_t max, kept; int64_t value; bool has_self; } s[STAT_SECONDS];
	struct { int64_t epoch; uint32_t *bucket; double carry; } h[STAT_HISTS];
};
/* What a site's probes do and cost; governor.c and rate.c. Only of sites that were on. */
struct load {
	double calls, recorded, unsampled; /* since the last tick: counted exactly; records that came through; hits that those stand for besides */
	double units;             /* of those records */
	double kept, estimated;   /* for rate.c: spans kept, and what they stand for, since its last look */
	double per_s, ns;         /* hits a second, lately; ns of one, lately */
	double units_avg;         /* of a record */
	int64_t on_since; double predicted_per_s; int64_t predicted_at; /* when it came on; 0 = nothing was known, or it was compared already */
	double offered_per_s, kept_per_s; bool rated; /* rate.c: smoothed */
	/* the governor's */
	uint8_t state;            /* enum guard_state */
	uint64_t how;             /* it was on when it was last looked at; 0 = not looked at yet */
	double shed_per_s;        /* hits a second when it was last shed */
	int64_t retry_at, backoff_ns, restored_at, trial_at;
	double trial_calls;
};

struct site_key { uint32_t name; char type; bool sensitive; };

struct site {
	uint64_t id;              /* hash of component, name, base name of the file: 0 = index not (or no longer) described */
	uint64_t addr, target;    /* in the traced process */
	uint32_t name, component, file; /* string ids of process->strs */
	uint32_t line;
	uint16_t module;
	uint8_t kind, flags;
	uint8_t level;            /* what the rules want, capped: the highest that a request gets here; what state[] says */
	uint8_t always;           /* what every request gets; level is for those that carry one, or that a rule's `request` matched */
	uint8_t wanted, limit;    /* the level before caps; the limit rules' cap */
	bool redacts;             /* a rule hides some attributes: site_redacts() says which */
	uint8_t hides;            /* as in kw_site_state: redact.c */
	uint16_t hide;
	uint8_t cap;              /* the governor's: 0 = none, else the highest level + 1 */
	uint8_t peek;             /* level wanted by a running cost estimate */
	uint8_t patched;          /* the byte is on */
	uint8_t bad;              /* its bytes are not those of a site: never touched */
	uint8_t classifies;       /* its attributes decide on requests, by these rules (kw_site_state.asks): on, whatever its level; 0: they do not */
	uint8_t where;            /* every rule that records here has a `where`: spans must pass one of them */
	uint32_t function;        /* string id, 0 = not looked up or unknown */
	uint64_t threshold;
	double keep;              /* granted without a rate: the share of traces begun here */
	double rate_keep;         /* granted with a rate: at most this share */
	double rate, floor_per_s; /* spans/s per process that rules ask for, 0 = none; rate.c sets adaptive to keep it */
	double adaptive;          /* the share that gives the rate; 0 = not known yet: all */
	double ceiling;           /* a limit's spans/s allow at most this share; 0 = not limited */
	int64_t on_since; double on_calls; /* monotonic; calls of that second that came before */
	int64_t seen_at; double seen_per_s, seen_factor, seen_times; /* how often it was hit when it was last on, 0 = not known; what predictions taught; governor_times then */
	struct site_key *keys;
	uint32_t nkeys;
	uint64_t batch_gen;       /* of the batch that these ids belong to */
	uint32_t batch_name, batch_scope;
	struct site_stat *stat;
	struct load *load;        /* NULL: never on */
	struct trigger_feed *feeds; uint32_t nfeeds; /* triggers.c: whose measurements it is part of */
	bool root;                /* a function that begins a request */
	bool says_waits;          /* one of its spans has said how long it had waited (klieg.queue_nano) */
	uint64_t plugin;          /* a function that a plugin knows: address of its struct klieg_plugin_hook in the process */
	uint64_t min_ns;          /* shorter spans are only counted */
	uint32_t probe_ns;        /* what the kernel's probe costs a call, where it is one */
	uint32_t watched;         /* watch.c: a caller is looked for; index + 1 of its place. Not on, whatever `patched` says */
	uint8_t unwatchable;      /* called so often that it would cost too much, or it cannot be */
	uint8_t nwhere;           /* conditions on arguments, evaluated in the process (function sites) */
	struct kw_where arg_where[KW_HOOK_WHERE];
};

struct module {
	uint8_t known, gone;
	uint64_t addr;
	uint32_t first, n;
	uint32_t path;            /* string id, 0 = unknown */
	bool resolved;            /* functions were looked up */
};

struct thread {
	uint64_t epoch;           /* of the slot's claim that this belongs to */
	bool live;
	struct ring_ctx ctx;
	struct { uint32_t seq; uint64_t ticks; } child[128]; /* time of finished children, for self time */
	uint64_t *cell_base;      /* per cell: calls, errors, ticks, value as last read */
	uint32_t **cell_bucket;
	struct switches *switches; /* NULL: not followed, or not permitted */
	uint32_t switches_tid;    /* the thread they are, or were to be, of */
};

/* Records that wait for the end of their span. */
struct pending {
	uint64_t span_id;
	int32_t next;
	uint32_t bytes;
	uint32_t site;
	uint8_t type;
	uint8_t data[];
};
#define PENDING_MAX 4096
#define PENDING_HEADS 1024

/* The consumer's line of a slot (kw_thread.agent_*) outlives the agent: the next one goes on from there. */
struct counters {
	uint64_t made, passed, events_passed;
	uint64_t carried;         /* of passed: by a former agent */
	uint64_t ring_full, depth, reentrant, abandoned, no_slot, corrupt, where, spool_full, pending, too_short;
	uint64_t unsampled, no_site;
};

enum { PROCESS_REDACTING = 7 };
struct process {
	struct agent *agent;
	pid_t pid;
	uid_t uid;
	int pidfd, memfd, mem;    /* mem: /proc/PID/mem, opened at the handshake: never another process's */
	uint8_t *map;
	size_t map_bytes;
	ino_t ino; dev_t dev;
	struct kw_region reg;     /* the validated copy: the only one whose numbers are believed */
	struct kw_control *control;
	struct kw_module *modules_shm;
	struct kw_site_state *state;
	uint32_t modules_gen;
	struct strtab strs;
	struct module *modules;
	struct site *sites;
	uint32_t nsites, sites_cap, sites_alive;
	struct thread **threads;  /* by slot */
	uint32_t nthreads;
	uint32_t next_slot;       /* where the next slice of draining begins */
	char *exe, *cmdline, *user, *service;
	int64_t started_ns, attached_ns, exited_ns; /* exited_ns != 0: gone */
	bool abnormal, denied, lease;
	json_t *resource;         /* {k: v} */
	json_t *last_in_flight;
	uint32_t resource_seq;
	uint64_t batch_gen; uint32_t batch_resource;
	struct counters c;        /* banked: threads that are gone, and everything counted on this side */
	struct pending *pending[PENDING_MAX];
	int32_t pending_head[PENDING_HEADS];
	int32_t pending_free;
	uint32_t pending_n, pending_hand;
	uint32_t forks;           /* of the control page, as last looked at */
	struct uprobe *uprobe;    /* NULL: libklieg is in it */
	struct functions *fns;    /* functions.c; NULL = never attached to */
	struct grant *grants; uint32_t ngrants, grants_cap;
	bool grants_changed;      /* levels do not follow from them yet */
	struct touched { uint32_t site; uint8_t was; } *touched; uint32_t ntouched, touched_cap; /* sites that the last levels_set() looked at, in order, and their level before */
	bool classifying;         /* there are programs in its table of requests */
	bool hiding;              /* there are names in its table of what is hidden, */
	uint32_t redacting[PROCESS_REDACTING]; /* of these rules (handle + 1; 0: none), bit by bit of kw_site_state.hides */
	const char *request_problem; /* NULL: none */
	bool has_ends;            /* explicit ends: they follow their begins, and are looked at all */
	bool touch_all;           /* the next levels_set() looks at all sites: their states are not known */
	uint32_t *active, nactive; /* those of them that something wants on */
	double instance;          /* [0,1): hash of host, pid and start */
	double limit_overhead, limit_spans; /* of the limit rules, percent and spans/s; 0 = none */
	double asked_cost;        /* percent of a core that somebody said a deep rule may cost here, for as long as it lasts */
	uint32_t detail_n;        /* sites on at detail */
	int64_t ends_due;         /* end sites wait for their open spans until then, 0 = none */
	double spent_ns;          /* by the probes that were hit, ever */
	double overhead;          /* percent of its CPU time, over the last second */
	struct guard *guard;      /* governor.c; NULL: nothing was on yet */
	uint32_t sites_gen;       /* counts the changes of its sites and its resource */
};

/* What is wanted on: a toggle, or a rule of a policy (docs/agent-protocol.md "rule"). `trace` rules grant, `limit` rules cap. */
struct rule {
	char *id, *selector, *where_text, *owner, *reason, *scope;
	char *policy, *name;      /* NULL: a toggle */
	int64_t version;
	bool limit, marked;
	struct traceql *site, *request, *where; /* which sites; in which requests (NULL: all); which finished spans (NULL: all) */
	uint8_t level;
	uint8_t raised;           /* by its trigger, or by the server: the level in force is the higher one */
	uint8_t raised_by_server;
	double keep, rate, floor_per_s; /* rate: spans/s per process, 0 = none */
	double overhead, spans_per_s; /* limit: percent, spans/s; 0 = none */
	double share;
	char **hosts; uint32_t nhosts;
	char **redact; uint32_t nredact; /* globs of attributes whose values are not to leave this host */
	struct { char *host; pid_t pid; } *only; uint32_t nonly;
	bool except;              /* all but those */
	struct policy_trigger *trigger; struct trigger_state trigger_state; /* triggers.c; NULL: none */
	int64_t expires_ns;       /* as it was said, wall clock; 0 = never */
	int64_t ends_at;          /* the same by the clock that nobody sets: a jump of the other one neither ends a rule nor prolongs it */
	struct condition *args;   /* the part of `where` that is about arguments */
	uint32_t depth;           /* level deep: how far into the callees */
	double max_cost;          /* level deep: of all callees together in one process, percent of a core */
	uint32_t max_functions;   /* that it may intercept in one process */
	int64_t max_pause_ns;
	uint64_t *dropped;        /* site ids of callees that are not worth it (level deep) */
	uint32_t ndropped;
	bool too_many;            /* it would have, somewhere: there it does nothing */
	json_t *predicted;
	uint32_t handle;          /* in the index; a->rules[] may move, this does not */
	uint32_t group;           /* request rules: which bit of a matched request */
	uint64_t text_hash;       /* of what it was parsed from */
	bool dead, kept;          /* gone but for grants; given again, by the change that is being made */
};
/* One rule means something for one site. In p->grants, in order of site. */
struct grant { uint32_t site; uint8_t callee /* so many calls down from what was asked for */; struct rule *r; };
static inline unsigned rule_level(const struct rule *r) { return r->raised > r->level ? r->raised : r->level; }

struct request {
	struct request *next;
	char *method;
	json_t *params;
	agent_reply_fn reply; void *arg;
	int64_t due;              /* an `on` that waits for its estimate */
	struct rule **peek; uint32_t npeek;
	bool peek_functions;      /* few enough to be intercepted for an estimate */
	int64_t peek_started;
	uint64_t peek_calls;
};

struct spool { struct spool *next; struct batch *b; };
#define SPOOL_MAX 64

struct agent {
	struct agent_config cfg;
	char *socket, *host;
	pthread_t thread, waker;
	int epfd, listen_fd, lock_fd, request_fd, wake_fd;
	atomic_bool stop, waker_stop;
	pthread_mutex_t lock;     /* guards the request queue, and `wake words` (waker) */
	struct request *queue, **queue_end, *waiting;
	struct process **procs;
	uint32_t nprocs, procs_cap;
	uint32_t *wake_words[128]; uint32_t nwake; /* under lock */
	atomic_uint wake_gen;     /* futex: the set above changed */
	struct clock_map clock;
	struct batch *batch;
	uint64_t batch_gen;
	int64_t batch_since;
	uint64_t key_gen; uint32_t key_thread, key_cpu, key_off, key_queue;
	struct spool *spool, **spool_end; uint32_t spool_n;
	struct rule **rules;
	uint32_t nrules;
	struct match_index *index; /* of their site queries */
	uint32_t rules_cap, ndead;
	struct rule **by_handle; uint32_t nhandles, *free_handles, nfree_handles;
	uint32_t *ids, nids, nids_used; /* open addressing over the rules' ids: handle + 1 */
	bool changed;             /* next_expiry is to be looked for again */
	uint8_t token_key[16]; bool token_on; /* the master key of capture tokens, of the server */
	int64_t generation;       /* of the set of rules, as the server counts; 0 = none yet */
	int64_t next_expiry;      /* monotonic; 0 = nothing runs out */
	bool dirty;               /* levels are to be computed again: rules_dirty() */
	uint32_t stat_sites;
	int64_t born;             /* clock_mono(): which agent of this host counted something */
	struct priority_pace pace;
	int64_t next_second, cpu_at, cpu_ns; double cpu_percent;
	uint64_t drained;
	double floor_ns;          /* cost.c */
	int64_t next_tick, rated_at; /* governor, triggers, rates; the latter's last */
	struct host_load *host_load; /* governor.c */
	struct trigger_group *groups; uint64_t groups_of; /* triggers.c: what is measured; of which sites and rules */
	uint32_t rules_gen;       /* counts the changes of the set of rules */
	struct seen *seen; uint64_t seen_gen;
	uint32_t switches_n, switches_bpf; int switches_errno; bool switches_over; /* threads followed, of them by BPF; why not (said once); there were more than may be */
	struct offcpu *offcpu; bool offcpu_asked; /* NULL: not asked for yet, or not permitted */
	struct counters gone;     /* of processes forgotten */
	struct symbols_cache *symbols; /* functions.c; under lock */
	struct attach_job *jobs;  /* attach.c; under lock */
};

/* hello.c */
int hello_listen(struct agent *a, struct err *e);
void hello_accept(struct agent *a);
void hello_close(struct agent *a);
void discover(struct agent *a);
void discover_children(struct process *p); /* it has forked, and the child has a region */
/* process.c */
enum adopt { ADOPT_HELLO, ADOPT_FOUND, ADOPT_UPROBE /* the region is ours: the kernel's events fill it, the process does not map it */ };
int process_adopt(struct agent *a, pid_t pid, uid_t uid, int memfd, enum adopt how); /* takes memfd */
void process_exited(struct process *p);
void process_destroy(struct process *p);
bool process_alive(struct process *p);
void process_read_resource(struct process *p);
void process_token(struct process *p); /* the key of its service, into its control page */
void process_name(struct process *p); /* again, since what it is called by default depends on whether it is attached to */
bool process_lease(struct process *p, int64_t lease_ns); /* 0 = let it lapse now */
static inline struct kw_thread *process_slot(const struct process *p, uint32_t i)
{
	return (struct kw_thread *)(p->map + p->reg.threads_off + (uint64_t)i * p->reg.thread_stride);
}
uint32_t process_slots(const struct process *p);
json_t *process_in_flight(struct process *p, const struct traceql *q, uint32_t limit);
/* Flags of an open span, of the library's (src/probe/internal.h): */
#define OPEN_ENDED (1u << 18)  /* whoever sets it reports the span */
#define OPEN_OVER (7u << 16)   /* count-only, sampled out, or ended on another thread: no span is to come of it */
void process_count(struct process *p, struct counters *ret_c, uint64_t *ret_open);
/* sites.c */
bool sites_refresh(struct process *p);      /* true: something came or went */
void sites_resolve(struct process *p, uint32_t index); /* module path and function, lazily */
void site_source_get(void *ctx, const struct tq_field *f, struct tq_value *ret_v);
struct site_ref { struct process *p; uint32_t i; char id[17]; };
bool site_match(struct process *p, uint32_t i, const struct traceql *q);
json_t *site_json(struct process *p, uint32_t i);
/* patch.c */
void patch_apply(struct process *p);        /* makes bytes and state[] what the sites' levels say */
void patch_ends(struct process *p, bool force);
/* drain.c */
uint32_t drain_process(struct process *p, uint32_t budget); /* records taken */
void drain_all(struct process *p);
int drain_flush(struct agent *a);
void pending_clear(struct process *p);
/* mask.c: cards, e-mail addresses, tokens and keys become <masked:card> and the like. false: nothing to mask. */
bool mask_text(struct str s, struct buf *ret_b);
/* cells.c */
void cells_read(struct process *p);
const struct site_total *stat_total(struct process *p, struct site *s);  /* kept from the first time on; NULL: there are too many */
/* weight: adjusted count, how many the span stands for */
void stat_span(struct process *p, struct site *s, int64_t sec, uint64_t ticks, bool error, uint64_t self, bool has_self, double weight);
void stat_cpu(struct process *p, struct site *s, int64_t sec, uint64_t cpu_ticks, double weight); /* of a span already counted, where it is known */
json_t *stats_json(struct agent *a, const struct traceql *q, int64_t window_ns);
void stat_free(struct agent *a, struct site *s);
double stat_calls(const struct site *s, int64_t from_sec);
/* rules.c: the set of rules */
int rule_parse(const json_t *j, struct rule **ret_r, struct err *e);
void rule_destroy(struct rule *r);
json_t *rules_json(struct agent *a);
void rule_raise(struct agent *a, struct rule *r, uint8_t level); /* its trigger has; KW_OFF: what it says itself */
void rules_add(struct agent *a, struct rule *r);    /* takes r; one of the same id is replaced */
bool rules_remove(struct agent *a, const char *id);
void rules_clear(struct agent *a);
struct rule *rules_find(struct agent *a, const char *id);
bool rules_expire(struct agent *a);
int rules_replace(struct agent *a, const json_t *list, struct err *e); /* by these: all or nothing */
int rules_change(struct agent *a, const json_t *params, json_t **ret_o, struct err *e); /* the method `change` */
void rules_bury(struct agent *a);                   /* frees what no grant refers to any more */
void rules_finish(struct agent *a);
const char *level_name(unsigned level);
/* grants.c: what they mean. Grants follow from rules and sites; levels from grants, limits and caps; bytes from levels: patch_apply() */
bool rule_covers(const struct rule *r, const struct process *p);
void grants_make(struct agent *a, struct process *p);      /* all: its sites, resource or callees have changed */
void grants_add(struct process *p, struct rule *r);
void grants_again(struct process *p, struct rule *r);
void grants_sweep(struct agent *a);                        /* those of dead rules go */
void levels_set(struct agent *a, struct process *p);       /* of the sites with grants, and of those that were on: p->touched */
void site_threshold(struct site *s);                       /* from keep, rate, adaptive, ceiling */
void rules_dirty(struct agent *a);                         /* something was raised, capped or paced: levels again, before the agent sleeps */
void rules_apply(struct agent *a);                         /* now: levels and bytes of all processes whose grants have changed; of all when dirty */
bool rules_narrow(struct agent *a);                        /* once a second: true: something is to be switched off */
bool site_redacts(const struct process *p, uint32_t site, struct str key);
bool rules_where(struct agent *a, struct process *p, uint32_t site, const struct batch *b, uint32_t span);
/* switches.c: ret_off in ticks; false = unknown */
void switches_follow(struct process *p, struct thread *th, uint32_t tid);
bool switches_off(const struct thread *th, uint64_t start, uint64_t ticks, uint64_t *ret_off);
void switches_close(struct agent *a, struct thread *th);
void switches_end(struct agent *a);
json_t *switches_health(const struct agent *a);
/* functions.c: the functions of an attached process as sites; hooks.c: the jumps at their entries; attach.c: how it came to be */
#include "agent/functions.h"
/* cost.c */
void cost_calibrate(struct agent *a);
double cost_ns(const struct agent *a, unsigned level, double keep); /* of one hit; keep: share of the traces that are kept */
/* What recording so many calls per second costs, as the protocol's `cost`. */
double cost_of(const struct process *p, const struct site *s, unsigned level, double keep); /* of one hit of this site */
/* The same, of so many a second, by what was timed in this process, or lately in another of the service. */
double cost_expected(const struct process *p, const struct site *s, unsigned level, double keep, double per_s);
/* besides_ns: what the sites cost on top of the level, on average. */
json_t *cost_json(const struct agent *a, unsigned level, double keep, double besides_ns, bool known, double calls_per_s, const char *basis);
/* What a prediction rests on, in words. */
void cost_basis(bool known, int64_t age_ns, int64_t window_ns, char ret_text[64]);
double cost_rate(const struct site *s, int64_t now, int64_t *ret_window, int64_t *ret_age);
void cost_seen(struct process *p, uint32_t site); /* it is about to be switched off */
void cost_recall(struct process *p, struct site *s); /* it has just been found */
struct load *load_of(struct site *s);
double cost_unit_ns(const struct agent *a);      /* of 32 bytes more in a record: attributes */
void cost_compare(struct process *p, struct site *s, int64_t now); /* what was predicted with what came */
/* governor.c: keeps what the probes cost under the limit */
void governor_tick(struct agent *a);             /* four times a second */
void governor_forget(struct process *p);
bool governor_saturated(const struct agent *a);
double governor_allows(const struct process *p); /* percent of its CPU time; 0 = none */
double governor_limit(const struct process *p);  /* of that, what it may have at this moment */
/* What was timed there costs so many times what cost_of says, of hits as far apart as so many a second are; 0: not known. */
double governor_times(const struct process *p, unsigned level, double per_s);
double governor_cpu(const struct process *p);    /* percent of one core that it uses, as last looked at */
json_t *governor_json(struct agent *a);          /* the method `overhead` */
/* triggers.c: rules that raise themselves */
void triggers_follow(struct agent *a); /* the rules, or the sites, are others: what is measured where */
void triggers_tick(struct agent *a);
void triggers_forget(struct agent *a);
void triggers_span(struct site *s, uint64_t ticks, double weight, bool error);
void triggers_wait(struct site *s, uint64_t ticks, double weight, bool error, bool said, uint64_t wait_ns);
json_t *triggers_json(struct agent *a, int64_t window_ns); /* the method `triggers` */
void triggers_calls(struct site *s, uint32_t bucket, double calls, double error_share);
/* rate.c: shares of traces that give the spans/s that rules ask for */
void rate_tick(struct agent *a);
/* vitals.c */
json_t *vitals_json(struct agent *a, const struct traceql *q, int64_t window_ns, bool totals);
/* control.c */
void control_run(struct agent *a);
void control_reply(struct request *r, int rc, json_t *result, const struct err *e); /* takes r and result */
void control_waiting(struct agent *a);
void agent_emit(struct agent *a, const char *type, json_t *more);
/* agent.c */
void agent_wake_words(struct agent *a);
