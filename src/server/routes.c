/* One table of the API, from which routing, validation of parameters and bodies, and /openapi.json are derived. A new endpoint is one line here and
 * a handler in the api_*.c of its resource. */
#include "server/internal.h"
#include "model/duration.h"
#include <stdio.h>
#include <stdlib.h>

#define P(...) (const struct field[]){ __VA_ARGS__, { 0 } }
#define SEL { "sel", F_SELECTOR, "", .about = "selector of sites" }
#define Q { "q", F_QUERY, "", .about = "TraceQL filter" }
#define RANGE { "since", F_DURATION, NULL, 1e6, 3.2e17 }, { "from", F_INT, NULL, 0, 9.2e18 }, { "to", F_INT, NULL, 0, 9.2e18 }
#define LEVELS "off|count|span|detail|deep"
#define REACH { "hosts", F_TEXTS, NULL, 64, 200 }, { "share", F_NUMBER, NULL, 0, 1, .about = "of processes" }, \
	{ "rate", F_NUMBER, NULL, .001, 1e7, .nullable = true, .about = "spans per second and process" }
#define WHY { "reason", F_TEXT, "", 0, 500 }, { "owner", F_TEXT, "", 0, 100 }    /* for the audit log */
#define WHO { "reason", F_TEXT, "", 0, 500 }, { "author", F_TEXT, "api", 0, 100 }
#define TEXT { "text", F_TEXT, NULL, .required = true, .about = "YAML" }, { "estimate", F_DURATION, "300ms", 0, 10e9 }
#define TEXT_MAX (4u << 20)               /* a policy is at most 1 MiB, and escaped in JSON */
#define HOST { "host", F_TEXT, NULL, 0, 80, .about = "of which host, where several are connected" }
#define MAX_PAUSE { "max_pause", F_DURATION, NULL, 1e5, 1e10, .about = "longest stop of a process while functions are patched" }

/* What an answer looks like, for /openapi.json (tests hold real answers to it): `name:type` with type s(tring) i(nteger) n(umber) b(oolean) *(anything)
 * {object} [array] <map of> @shape, `?` after a type: may be null, after a name: may be absent. More keys than listed may come. */
static const struct { const char *name, *fields; } shapes[] = {
	{ "account", "made:i,stored:i,open:i,queued:i,dropped:<i>,balanced:b" },
	{ "store", "spans:i,bytes:i,files:i,wal_bytes:i,queue_bytes:i,queue_age_nano:i,recovered:i,expired:i,last_error:s" },
	{ "process", "pid:i,service:s,exe:s,cmdline:s,user:s,started_unix_nano:i,attached_unix_nano:i,state:s,threads:i,rings:i,modules:i,sites:i,on:i,made:i,passed:i,"
		"open:i,dropped:<i>,overhead_percent:n,lease:b,patch:s,resource:<*>,last_in_flight?:[@open],plugins?:[s]" },
	{ "open", "pid:i,service:s,tid:i,trace_id:s,span_id:s,parent_span_id:s,name:s,start_unix_nano:i,elapsed_nano:i,depth:i" },
	{ "site", "id:s,name:s,component:s,kind:s,span_kind:s,service:s,pids:[i],module:s,file:s,line:i,function:s,"
		"attributes:[{key:s,type:s,sensitive:b}],level:s,instances:i,hookable?:b,why?:s,address?:*,size?:i,source?:s" },
	{ "site_stats", "id:s,name:s,component:s,service:s,level:s,calls:i,errors:i,calls_per_s:n,errors_per_s:n,p50_nano:i?,p95_nano:i?,p99_nano:i?,max_nano:i,"
		"mean_nano:i,total_nano:i,self_nano:i?,value:i,cpu_percent:n?,overhead_percent:n" },
	{ "cost", "known:b,calls_per_s:n,spans_per_s:n,bytes_per_s:n,cpu_percent:n,basis:s" },
	{ "plan", "sites:i,instances:i,processes:i,services:[s],sample:[@site],predicted:@cost?,warning?:s,pause_nano?:i" },
	{ "toggle", "id:s,selector:s,level:s,keep:n,scope:s,where:s?,owner:s,reason:s,created_unix_nano:i,expires_unix_nano:i,state:s,ended_by?:s,ended_unix_nano?:i,"
		"sites?:i,instances?:i,processes?:i,predicted?:@cost?,measured?:@cost,hosts?:[s],share?:n,rate?:n,depth?:i,max_pause_nano?:i,"
		"max_functions?:i,max_cost?:n,dropped?:i,observed?:[s],observing?:<i>" },
	{ "span", "trace_id:s,span_id:s,parent_span_id:s,service:s,name:s,kind:s,start_unix_nano:i,duration_nano:i,status:s,status_message:s,adjusted_count:n?,"
		"attributes:<*>" },
	{ "full_span", "trace_id:s,span_id:s,parent_span_id:s,service:s,name:s,kind:s,start_unix_nano:i,duration_nano:i,status:s,status_message:s,adjusted_count:n?,"
		"attributes:<*>,resource:<*>,scope:s,events:[{name:s,time_unix_nano:i,attributes:<*>}],links:[{trace_id:s,span_id:s,attributes:<*>}]" },
	{ "hot_row", "service:s,name:s,calls:i,errors:i,total_nano:i,self_nano:i,self_share:n,mean_nano:i,p50_nano:i,p99_nano:i,max_nano:i,spans_per_trace:n,"
		"findings:[{kind:s,text:s}],example_trace_id:s" },
	{ "call_node", "service:s,name:s,calls:i,errors:i,total_nano:i,self_nano:i,p50_nano:i,p99_nano:i,max_nano:i,share:n,example_trace_id:s,"
		"other:@call_other,children:[@call_node]" },
	{ "call_other", "callees:i,calls:i,total_nano:i" },
	{ "attachment",
	"pid:i,service?:s,already?:b,functions?:i,hookable?:i,modules?:[{path:s,build_id?:s,functions:i,hookable:i,source:s}],pause_nano?:i,load_nano?:i,"
		"plugins?:[*],notes?:[s],mechanism?:s,attachable?:b,why?:s" },
	{ "refused", "pid:i,name:s,code:s,detail:s,hint:s" },
	{ "candidate", "pid:i,name:s,comm?:s,exe?:s,user?:s,cpu_percent?:n,cpu_seconds?:n,cmdline?:s,attached?:b,attachable:b,why?:s" },
	{ "callee", "name:s,module:s,kind:s,hookable:b,why?:s" },
	{ "diagnostic", "severity:s,line:i,column:i,end_column:i,code:s,message:s,hint:s" },
	{ "policy_doc", "name:s,rules:[<*>],limits:[<*>]" },
	{ "policy_rule", "name:s,match:s,level:s,keep:n,rate?:n,sites:i,processes:i,measured?:@cost,predicted?:@cost?,raised?:s,expires_unix_nano?:i" },
	{ "policy", "name:s,version:i,in_force:i,state:s,author:s,reason:s,updated_unix_nano:i,why?:s,rules:[@policy_rule],limits:[<*>],rollout?:@rollout" },
	{ "vitals", "overhead_percent:n,p50_nano?:i?,p99_nano:i?,error_share:n?,processes:i,calls:n,errors?:n,past?:b" },
	{ "evidence", "at:i,canary:@vitals?,rest:@vitals?,verdict:s,why:s" },
	{ "rollout", "name:s,version:i,base:i,state:s,step:i,steps:[{share?:n,processes?:i,state:s,started?:i,until?:i,why?:s,not_compared?:s}],"
		"soak_nano:i,slower?:n,failing?:n,evidence:[@evidence],why?:s,"
		"canary?:[{host:s,pid:i}]" },
	{ "policy_version", "name:s,version:i,change:s,author:s,reason:s,created_unix_nano:i,text:s,before:i,evidence?:[@evidence],rollout?:@rollout" },
	{ "policy_plan",
	"ok:b,diagnostics:[@diagnostic],policy:@policy_doc,changes:[{op:s,host?:s,pid:i,service:s,site:s,name:s,from:s,to:s}],changed:i,sites:i,processes:i,"
		"predicted:@cost,predicted_percent:n,bytes_per_day:i,rules:[{name:s,op:s,sites:i,processes:i,predicted:@cost?,"
		"replay?:{traces:i,kept:i,spans:i,bytes_per_day:i,window_nano:i,partial:b}}],fits:b?,budget_percent:n,over_on?:s,warnings:[s],"
		"suggestion?:{keep:n?,text:s,predicted_percent:n},unchanged?:b" },
	{ "policy_changed", "policy:@policy,version:i,state:s,ack_nano:i?,plan?:@policy_plan,rollout?:@rollout,warning?:s" },
	{ "cause", "query:s,text?:s,value:n,threshold:n,over_nano:i" },
	{ "firing",
	"id:s,at_unix_nano:i,host:s,policy:s,rule:s,rule_id:s,service:s,agent?:s,cause:@cause,from:s,to:s,state:s,owner:s,match:s,version:i,ended_unix_nano?:i,traces:[s]" },
	{ "alert", "id:s,severity:s,title:s,text:s,since_unix_nano:i,value:*,limit:*,link:s,cli:s" },
	{ "audit", "id:s,number:i,at_unix_nano:i,who:s,what:s,object:s,why:s,before:<*>?,after:<*>?,outcome:s,detail?:s,code?:s,objects?:[s],"
		"evidence?:@evidence,ack_nano?:i,revert?:{text:s,cli:s,method:s,path:s,who:s,body:<*>}" },
	{ "check", "name:s,ok:b,value:*,limit:*,what:s,next:s" },
};

static const struct route routes[] = {
	{ "GET", "/status", "view", "state of the server", NULL, NULL,
		"version:s,http:s,uptime_nano:i,mode:s,host:s,counts:{processes:i,sites:i,on:i,toggles:i,policies:i},next_expiry_unix_nano:i?,"
		"panic:{at:i,owner:s,reason:s}?,"
		"account:@account,overhead_percent:n,agent_cpu_percent:n,budget_percent:n,spans_per_s:n,store:@store", api_status },
	{ "GET", "/processes", "view", "traced processes", NULL, NULL, "processes:[@process]", api_processes },
	{ "GET", "/sites", "view", "sites that can be switched", P(SEL, { "limit", F_INT, "1000", 1, 100000 }, { "offset", F_INT, "0", 0, 1e9 }), NULL,
		"sites:[@site],matched:i,instances:i,processes:i", api_sites },
	{ "GET", "/sites/stats", "view", "what the sites counted", P(SEL, { "window", F_DURATION, "10s", 1e8, 3.6e12 }), NULL,
		"window_nano:i,sites:[@site_stats]", api_stats },
	{ "GET", "/toggles", "view", "toggles", P({ "all", F_BOOL, "false" }), NULL, "toggles:[@toggle]", api_toggles },
	{ "POST", "/toggles", "operate", "switch on", NULL, P({ "selector", F_SELECTOR, NULL, 1 }, { "level", F_TEXT, "span", .choices = LEVELS },
		{ "keep", F_NUMBER, "1", 0, 1 }, { "ttl", F_DURATION, "5m", 1e9, 86400e9 }, { "reason", F_TEXT, "", 0, 500 }, { "owner", F_TEXT, "api", 0, 100 },
		{ "where", F_WHERE, NULL, 0, 2000, .nullable = true }, { "scope", F_TEXT, "all", .choices = "all|marked" }, { "dry_run", F_BOOL, "false" },
		{ "depth", F_INT, NULL, 0, 16 }, MAX_PAUSE, { "max_functions", F_INT, NULL, 1, 1000000 }, { "max_cost", F_NUMBER, NULL, .001, 100 },
		REACH,
		{ "estimate", F_DURATION, "100ms", 0, 10e9 }), "toggle:@toggle?,plan:@plan,ack_nano:i?", api_toggle_on },
	{ "DELETE", "/toggles", "operate", "switch off", P({ "sel", F_SELECTOR, NULL }, { "all", F_BOOL, "false" }, WHY), NULL,
		"removed:[s],sites:i,ack_nano:i?", api_toggles_off },
	{ "POST", "/toggles/undo", "operate", "restore what the last DELETE removed", P(WHY), NULL, "toggles:[@toggle]", api_toggles_undo },
	{ "PATCH", "/toggles/{id}", "operate", "change a toggle", NULL, P({ "ttl", F_DURATION, NULL, 1e9, 86400e9 }, { "level", F_TEXT, NULL, .choices = LEVELS },
		{ "keep", F_NUMBER, NULL, 0, 1 }, { "selector", F_SELECTOR, NULL, .nullable = true }, { "where", F_WHERE, NULL, 0, 2000,
		.nullable = true }, REACH, WHY), "@toggle",
		api_toggle_patch },
	{ "DELETE", "/toggles/{id}", "operate", "switch off", P(WHY), NULL, "removed:[s],sites:i,ack_nano:i?", api_toggle_off },
	{ "GET", "/policies", "view", "policies, with what their rules come to", NULL, NULL, "policies:[@policy]", api_policies },
	{ "POST", "/policies/check", "view", "what is wrong with a text", NULL, P({ "text", F_TEXT, NULL, .required = true, .about = "YAML" }),
		"ok:b,diagnostics:[@diagnostic],policy?:@policy_doc", api_policies_check, TEXT_MAX },
	{ "POST", "/policies/plan", "view", "what a text would do", NULL, P(TEXT, { "replay", F_DURATION, NULL, 1e9, 2.6e15,
	.about = "try it on the stored traces of this time" }),
		"@policy_plan", api_policies_plan, TEXT_MAX },
	{ "GET", "/policies/{name}", "view", "one version of a policy", P({ "version", F_INT, NULL, 1, 1e15 }), NULL,
		"name:s,version:i,text:s,state:s,change:s,author:s,reason:s,created_unix_nano:i,policy:@policy_doc?", api_policy },
	{ "PUT", "/policies/{name}", "operate", "a new version comes into force", NULL, P(TEXT, WHO,
		{ "expected_version", F_INT, NULL, 0, 1e15, .about = "the newest version that you know, 0 for a new policy" }, { "rollout", F_TEXT,
		"", .choices = "|steps|now" },
		{ "soak", F_DURATION, "30s", 1e8, 86400e9, .about = "how long each step is watched" },
		{ "slower", F_NUMBER, "20", 1, 1000, .about = "percent that the canary's requests may take longer than the rest's" },
		{ "failing", F_NUMBER, "2", .1, 100, .about = "points by which its share of failing requests may be higher" }, { "force", F_BOOL, "false",
		.about = "over the budget all the same" }),
		"@policy_changed", api_policy_put, TEXT_MAX },
	{ "DELETE", "/policies/{name}", "operate", "switch a policy off", P(WHO), NULL, "@policy_changed", api_policy_off },
	{ "GET", "/policies/{name}/versions", "view", "history, newest first", P({ "limit", F_INT, "50", 1, 1000 }), NULL, "name:s,versions:[@policy_version]",
		api_policy_versions },
	{ "GET", "/policies/{name}/diff", "view", "two versions", P({ "from", F_INT, NULL, 0, 1e15 }, { "to", F_INT, NULL, 1, 1e15 }), NULL,
		"name:s,from:i,to:i,lines:[{op:s,text:s}],rules:[{op:s,name:s,fields:[{field:s,before:*,after:*}]}]", api_policy_diff },
	{ "POST", "/policies/{name}/rollback", "operate", "an earlier version comes into force again", NULL, P({ "to", F_INT, NULL, 1, 1e15 }, WHO), "@policy_changed",
		api_policy_rollback },
	{ "GET", "/policies/{name}/rollout", "view", "how far a version has got, and what was seen", NULL, NULL, "@rollout", api_policy_rollout },
	{ "POST", "/policies/{name}/rollout", "operate", "go on, stop or go back", NULL, P({ "action", F_TEXT, NULL, .required = true,
	.choices = "promote|stop|rollback" }, WHO),
		"state:s,version:i", api_policy_rollout_change },
	{ "GET", "/policy.schema.json", "view", "JSON Schema of policies, for editors", NULL, NULL, "$schema:s,title:s,properties:<*>", api_policy_schema },
	{ "GET", "/firings", "view", "triggers that fired", P({ "since", F_DURATION, "1h", 1e6, 3.2e17 }, { "policy", F_TEXT, "", 0, 64 }), NULL,
	"firings:[@firing]", api_firings },
	{ "GET", "/alerts", "view", "what somebody should know now", NULL, NULL, "alerts:[@alert]", api_alerts },
	{ "GET", "/overhead", "view", "measured overhead against the budget", NULL, NULL,
	"budget_percent:n,saturated:b,processes:[*],sites:[*],rules:[*],next_expiry_unix_nano:i?",
		api_overhead },
	{ "POST", "/panic", "operate", "everything off everywhere", NULL, P({ "reason", F_TEXT, "", 0, 500 }, { "owner", F_TEXT, "api", 0, 100 }),
		"panic:{at:i,owner:s,reason:s},toggles:i,policies:i,ack_nano:i,sites:i,agents:i,unreachable?:[s],warning?:s", api_panic },
	{ "POST", "/panic/undo", "operate", "as it was before", NULL, P({ "reason", F_TEXT, "", 0, 500 }, { "owner", F_TEXT, "api", 0, 100 }),
		"toggles:[@toggle],policies:i,ack_nano:i,sites:i,agents:i,unreachable?:[s],warning?:s", api_panic_undo },
	{ "POST", "/tokens", "operate", "a header that has single requests traced", NULL, P({ "service", F_TEXT, NULL, 1, 200, .required = true },
		{ "level", F_TEXT, "detail", .choices = "span|detail|deep" }, { "ttl", F_DURATION, "5m", 1e9, 900e9 }, { "reason", F_TEXT, "", 0, 500 },
		{ "owner", F_TEXT, "api", 0, 100 }), "header:s,value:s,expires_unix_nano:i,service:s,level:s,curl:s", api_tokens },
	{ "GET", "/spans", "view", "search", P(Q, RANGE, { "limit", F_INT, "100", 1, 10000 }), NULL,
		"version:i,spans:[@span],matched:i,partial:b,scanned:{spans:i,blocks:i,skipped_blocks:i}", api_spans },
	{ "GET", "/spans/tail", "view", "spans as they come, as server-sent events", P(Q), NULL, NULL, api_tail },
	{ "GET", "/traces/{id}", "view", "one trace", NULL, NULL, "trace_id:s,spans:[@full_span],matched:i", api_trace },
	{ "GET", "/heatmap", "view", "latency over time", P(Q, RANGE, { "columns", F_INT, "60", 1, 1000 }), NULL, "from:i,to:i,step_nano:i,bounds:[i],"
		"columns:[[i]],max:i,matched:i,exemplars:[{column:i,row:i,trace_id:s,duration_nano:i,errors:i}]", api_heatmap },
	{ "GET", "/hot", "view", "hotspots", P(Q, RANGE, { "limit", F_INT, "50", 1, 1000 }, { "by", F_TEXT, "operation", .choices = "operation" }), NULL,
		"rows:[@hot_row],traces:i,spans:i,window_nano:i", api_hot },
	{ "GET", "/callgraph", "view", "calls by their paths, from the roots of traces or from `root` down",
		P(Q, RANGE, { "root", F_SELECTOR, "", .about = "where paths begin" },
		{ "min_share", F_NUMBER, "0.01", 0, 1 }, { "limit", F_INT, "2000", 1, 20000 }, { "depth", F_INT, "32", 1, 64 }), NULL,
		"roots:[@call_node],other:@call_other,calls:i,total_nano:i,nodes:i,cut:i,bounded:b,traces:i,spans:i,orphans:i,skipped:i,kept:n,"
		"window_nano:i", api_callgraph },
	{ "GET", "/attachments", "view", "processes that were attached to", NULL, NULL, "attachments:[@process]", api_attachments },
	{ "POST", "/attachments", "operate", "attach to a running process", NULL, P({ "pid", F_INT, NULL, 1, 4194304 }, { "name", F_TEXT, NULL, 0, 200 }, HOST,
		{ "all", F_BOOL, "false" }, { "check", F_BOOL, "false" }, { "libraries", F_TEXTS, NULL, 64, 200 }, { "debug_file", F_TEXT, NULL, 0, 4096 }, MAX_PAUSE,
		{ "roots", F_TEXTS, NULL, 64, 500 }, { "plugins", F_TEXTS, NULL, 64, 500 }, { "uprobes", F_BOOL, NULL }, WHY),
		"attachments:[@attachment],refused:[@refused]", api_attach },
	{ "DELETE", "/attachments", "operate", "detach from processes by name, or from all", P({ "name", F_TEXT, NULL, 0, 200 }, { "all", F_BOOL, "false" }, WHY), NULL,
		"detached:[<*>],refused:[@refused]", api_detach_all },
	{ "DELETE", "/attachments/{pid}", "operate", "detach", P(HOST, WHY), NULL, "pid:i,restored:i,text_identical:b,parked:b,pause_nano:i", api_detach },
	{ "GET", "/candidates", "view", "processes that could be attached to", NULL, NULL, "candidates:[@candidate]", api_candidates },
	{ "GET", "/processes/{pid}/callees", "view", "what a function calls", P({ "function", F_TEXT, "", 0, 500 }, HOST), NULL,
		"callees:[@callee],indirect:i", api_callees },
	{ "GET", "/inflight", "view", "open spans", P(SEL, { "limit", F_INT, "1000", 1, 100000 }), NULL, "spans:[@open]", api_inflight },
	{ "GET", "/audit", "view", "what was changed, by whom and why, newest first", P({ "who", F_TEXT, "", 0, 100 }, { "what", F_TEXT, "", 0, 40 },
		{ "object", F_TEXT, "", 0, 200, .about = "a name or a pattern: t-x1y2z3, policy:*" }, RANGE,
		{ "before", F_INT, NULL, 1, 1e15, .about = "the number of an entry: those before it" },
		{ "limit", F_INT, "100", 1, 1000 }), NULL, "entries:[@audit],matched:i,total:i,let_go:i,next?:i", api_audit },
	{ "GET", "/plugins", "view", "instrumentors that attaching finds by name", NULL, NULL, "plugins:[{name:s,path:s,host?:s}]", api_plugins },
	{ "GET", "/agents", "view", "the agents, and whether they have the rules in force", NULL, NULL,
		"generation:i,agents:[{host:s,agent:s,local:b,generation:i,behind:b,reachable:b,seen_unix_nano:i,spans:i,budget_percent:n}]", api_agents },
	{ "GET", "/events", "view", "changes, as server-sent events", NULL, NULL, NULL, api_events },
	{ "GET", "/doctor", "view", "health and the account of spans", NULL, NULL, "ok:b,checks:[@check],account:@account", api_doctor },
	{ "GET", "/openapi.json", "view", "this table", NULL, NULL, "openapi:s,info:<*>,paths:<*>,components:<*>", api_openapi },
};
enum { NROUTES = sizeof(routes) / sizeof(*routes) };

static bool in_choices(const char *choices, struct str v)
{
	for (const char *p = choices; *p;) {
		size_t n = strcspn(p, "|");
		if (str_eq((struct str){ p, n }, v))
			return true;
		p += n + (p[n] == '|');
	}
	return false;
}

/* Checks one value; *ret_v is what the handler sees (durations as integer nanoseconds). */
static int check(const struct field *f, json_t *v, json_t **ret_v, struct err *e)
{
	double d = 0;
	int64_t ns;
	struct traceql *q = NULL;
	struct str s = json_is_string(v) ? (struct str){ json_string_value(v), json_string_length(v) } : (struct str){ 0 };
	if (json_is_null(v) && f->nullable) {
		*ret_v = json_null();
		return 0;
	}
	switch (f->type) {
	case F_TEXT: case F_SELECTOR: case F_QUERY: case F_WHERE: case F_DURATION:
		if (!json_is_string(v))
			return err_set(e, KLIEG_E_TYPE, "'%s' must be a string", f->name);
		break;
	case F_INT:
		if (!json_is_integer(v))
			return err_set(e, KLIEG_E_TYPE, "'%s' must be an integer", f->name);
		d = (double)json_integer_value(v);
		break;
	case F_NUMBER:
		if (!json_is_number(v))
			return err_set(e, KLIEG_E_TYPE, "'%s' must be a number", f->name);
		d = json_number_value(v);
		break;
	case F_TEXTS:
		if (!json_is_array(v) || json_array_size(v) > f->min)
			return err_set(e, json_is_array(v) ? KLIEG_E_LIMIT : KLIEG_E_TYPE, "'%s' must be an array of at most %g strings", f->name, f->min);
		for (size_t i = 0; i < json_array_size(v); i++) {
			size_t n = json_string_length(json_array_get(v, i));
			if (!n || n > f->max)
				return err_set(e, KLIEG_E_TYPE, "'%s' must have strings of 1 to %g bytes", f->name, f->max);
		}
		break;
	case F_BOOL:
		if (!json_is_boolean(v))
			return err_set(e, KLIEG_E_TYPE, "'%s' must be true or false", f->name);
	}
	if (f->type == F_DURATION) {
		if (duration_parse(s, &ns) < 0) {
			err_set(e, KLIEG_E_SYNTAX, "'%s': '%.60s' is not a duration", f->name, s.p);
			return err_hint(e, "write it like 250ms, 30s, 5m or 1h30m");
		}
		d = (double)ns;
		if ((f->max && d > f->max) || d < f->min)
			return err_set(e, KLIEG_E_LIMIT, "'%s' must be from %.10gs to %.10gs", f->name, f->min / 1e9, f->max / 1e9);
		*ret_v = json_integer(ns);
		return 0;
	}
	if ((f->type == F_INT || f->type == F_NUMBER) && (d < f->min || d > f->max))
		return err_set(e, KLIEG_E_LIMIT, "'%s' must be from %.10g to %.10g", f->name, f->min, f->max);
	if ((f->type == F_TEXT || f->type == F_WHERE) && f->max && s.n > f->max)
		return err_set(e, KLIEG_E_LIMIT, "'%s' must have at most %g bytes", f->name, f->max);
	if (f->choices && !in_choices(f->choices, s))
		return err_set(e, KLIEG_E_USAGE, "'%s' must be one of %s", f->name, f->choices);
	if (f->type == F_SELECTOR || (f->type == F_QUERY && s.n) ||
		(f->type == F_WHERE && memchr(s.p, '{', s.n))) {                                  /* else on arguments: 'arg.2 > 4096', the agent's to parse */
		int rc = f->type != F_SELECTOR ? traceql_parse(s, &q, e) : traceql_parse_selector(s, &q, e);
		if (rc < 0)
			return rc;
		traceql_destroy(q);
	}
	*ret_v = json_incref(v);
	return 0;
}

static json_t *from_text(const struct field *f, struct str s)
{
	char *end, t[64];
	if (f->type == F_BOOL && (str_is(s, "true") || str_is(s, "1") || !s.n))
		return json_true();
	if (f->type == F_BOOL && (str_is(s, "false") || str_is(s, "0")))
		return json_false();
	if ((f->type == F_INT || f->type == F_NUMBER) && s.n && s.n < sizeof(t)) {
		snprintf(t, sizeof(t), "%.*s", (int)s.n, s.p);
		json_t *v = f->type == F_INT ? json_integer(strtoll(t, &end, 10)) : json_real(strtod(t, &end));
		if (!*end)
			return v;
		json_decref(v);
	}
	return json_stringn(s.p, s.n) ?: json_null();  /* not UTF-8: refused by its type */
}

static int fill(const struct field *fields, json_t *given, bool text, json_t *out, struct err *e)
{
	const char *key;
	json_t *v;
	json_object_foreach(given, key, v) {
		const struct field *f = fields, *near = NULL;
		for (; f && f->name && strcmp(f->name, key); f++)
			if (str_distance(str_of(f->name), str_of(key)) <= 2)
				near = f;
		if (!f || !f->name) {
			err_set(e, KLIEG_E_USAGE, "unknown %s '%.60s'", text ? "parameter" : "field", key);
			return near ? err_hint(e, "did you mean: %s", near->name) : e->code;
		}
		json_t *typed = text ? from_text(f, (struct str){ json_string_value(v), json_string_length(v) }) : json_incref(v), *ok = NULL;
		int rc = check(f, typed, &ok, e);
		json_decref(typed);
		if (rc < 0)
			return rc;
		json_object_set_new(out, key, ok);
	}
	for (const struct field *f = fields; f && f->name; f++) {
		if (json_object_get(out, f->name))
			continue;
		if (f->fallback) {
			json_t *typed = from_text(f, str_of(f->fallback)), *ok = NULL;
			if (check(f, typed, &ok, e) == 0)
				json_object_set_new(out, f->name, ok);
			json_decref(typed);
		} else if (f->required || (!text && f->type == F_SELECTOR && !f->nullable))
			return err_set(e, KLIEG_E_USAGE, "'%s' is required", f->name);
	}
	return 0;
}

static int query_object(struct str q, json_t *out, struct err *e)
{
	for (size_t i = 0; i < q.n;) {
		const char *amp = memchr(q.p + i, '&', q.n - i);
		size_t len = amp ? (size_t)(amp - q.p) - i : q.n - i;
		const char *eq = memchr(q.p + i, '=', len);
		size_t kn = eq ? (size_t)(eq - q.p) - i : len;
		struct buf k = { 0 }, v = { 0 };
		bool ok = http_unescape((struct str){ q.p + i, kn }, true, &k) && (!eq || http_unescape((struct str){ eq + 1, len - kn - 1 }, true, &v));
		json_t *s = ok ? json_stringn(v.n ? (char *)v.p : "", v.n) : NULL;
		buf_byte(&k, 0);
		if (len && (!s || json_object_get(out, (char *)k.p) || json_object_set(out, (char *)k.p, s) < 0))
			ok = false;
		json_decref(s);
		buf_finish(&k);
		buf_finish(&v);
		if (!ok)
			return err_set(e, KLIEG_E_BAD_DATA, "the query string is malformed, not UTF-8, or repeats a parameter");
		i += len + 1;
	}
	return 0;
}

void call_free(struct call *c)
{
	if (c->s->acting == c)
		c->s->acting = NULL;
	json_decref(c->audited);
	json_decref(c->params);
	json_decref(c->body);
	json_decref(c->result);
	free(c);
}
void call_json(struct call *c, int status, json_t *body)
{
	audit_answered(c, status, body, NULL);
	char *t = json_dumps(body, JSON_COMPACT);
	http_reply(c->r, status, "application/json", str_of(t), "Cache-Control: no-store\r\n");
	free(t);
	json_decref(body);
	call_free(c);
}
void call_text(struct call *c, struct buf *body)
{
	http_reply(c->r, 200, "application/json", buf_str(body), "Cache-Control: no-store\r\n");
	buf_finish(body);
	call_free(c);
}
static void problem(struct http_req *r, int status, const struct err *e, const json_t *more)
{
	json_t *o = json_pack("{ss ss si ss ss}", "type", "about:blank", "title", err_title(e->code), "status", status, "detail", e->msg, "code", err_name(e->code));
	if (!o)  /* the message is not UTF-8 */
		o = json_pack("{ss ss si ss ss}", "type", "about:blank", "title", err_title(e->code), "status", status, "detail",
			"the input is not UTF-8", "code", err_name(e->code));
	if (e->hint[0])
		json_object_set_new(o, "hint", json_string(e->hint));
	if (e->column) {
		json_object_set_new(o, "line", json_integer(e->line ? e->line : 1));
		json_object_set_new(o, "column", json_integer(e->column));
	}
	if (more)
		json_object_update(o, (json_t *)more);
	char *t = json_dumps(o, JSON_COMPACT);
	http_reply(r, status, "application/problem+json", str_of(t), status == 503 ? "Retry-After: 1\r\n" : NULL);
	free(t);
	json_decref(o);
}
void reply_problem(struct http_req *r, const struct err *e) { problem(r, err_http(e->code), e, NULL); }
void call_refuse(struct call *c, int status, const struct err *e, json_t *more)
{
	struct err copy = *e;
	struct http_req *r = c->r;
	audit_answered(c, status, more, &copy);
	call_free(c);
	problem(r, status, &copy, more);
	json_decref(more);
}
void call_fail(struct call *c, const struct err *e) { call_refuse(c, err_http(e->code), e, NULL); }

static void work(void *arg) { struct call *c = arg; c->work(c); }
static void run(struct call *c, void (*fn)(struct call *))
{
	struct server *s = c->s;
	struct call *outer = s->acting, *mine = c->route ? c : NULL;    /* without a route: the server asks by itself */
	s->acting = mine;
	fn(c);
	if (mine && s->acting == mine)
		audit_waits(mine);
	if (outer != c)                     /* else call_free has seen to it */
		s->acting = outer;
}
void call_resume(struct call *c) { run(c, c->then); }
static void then(void *arg) { call_resume(arg); }
void call_work(struct call *c, void (*w)(struct call *), void (*t)(struct call *))
{
	c->work = w;
	c->then = t;
	loop_work(c->s->c.loop, work, then, c);
}
static void agents_answered(void *arg, int rc, json_t *result, const struct err *e)
{
	struct call *c = arg;
	c->rc = rc;
	json_decref(c->result);
	c->result = json_incref(result);
	if (e)
		c->e = *e;
	call_resume(c);
}
void call_agent(struct call *c, const char *method, json_t *params, void (*t)(struct call *))
{
	c->then = t;
	fleet_ask(c->s, method, params, agents_answered, c);
}

static bool path_matches(const char *pattern, const char *path, char id[72])
{
	size_t n = strcspn(pattern, "{");
	if (!pattern[n])
		return !strcmp(pattern, path);
	if (strncmp(pattern, path, n))
		return false;
	size_t len = strcspn(path + n, "/");
	if (!len || len >= 72 || strcmp(path + n + len, strchr(pattern, '}') + 1))
		return false;
	memcpy(id, path + n, len);
	id[len] = 0;
	return true;
}

void routes_dispatch(struct server *s, struct http_req *r)
{
	const char *path = r->path.p + strlen("/api/v1"), *method = r->is_head ? "GET" : r->method;
	struct err e = { 0 };
	struct buf allow = { 0 };
	char id[72] = "";
	const struct route *found = NULL;
	for (int i = 0; i < NROUTES && !found; i++)
		if (path_matches(routes[i].path, path, id)) {
			if (!strcmp(routes[i].method, method))
				found = &routes[i];
			else
				buf_printf(&allow, "%s%s", allow.n ? ", " : "Allow: ", routes[i].method);
		}
	if (!found) {
		buf_add(&allow, "\r\n", 3);
		bool known = allow.n > 3;
		if (known)
			http_reply(r, !strcmp(method, "OPTIONS") ? 204 : 405, NULL, (struct str){ 0 }, (char *)allow.p);
		else {
			err_set(&e, KLIEG_E_NOT_FOUND, "there is no %.100s in this API", r->path.p);
			err_hint(&e, "GET /api/v1/openapi.json lists what there is");
			reply_problem(r, &e);
		}
		buf_finish(&allow);
		return;
	}
	buf_finish(&allow);
	if (strcmp(method, "GET"))
		priority_await(&s->pace);
	struct call *c = base_calloc(1, sizeof(*c));
	json_t *given = json_object();
	*c = (struct call){ .s = s, .r = r, .route = found, .params = json_object(), .body = json_object() };
	memcpy(c->id, id, sizeof(c->id));
	int rc = query_object(r->query, given, &e);
	if (rc == 0)
		rc = fill(found->params, given, true, c->params, &e);
	json_decref(given);
	if (rc == 0 && found->body) {
		json_error_t je;
		size_t most = found->body_max ? found->body_max : 1 << 20;
		json_t *body = r->body.n > most ? NULL : json_loadb((char *)r->body.p, r->body.n, JSON_REJECT_DUPLICATES, &je);
		if (r->body.n > most)
			rc = err_set(&e, KLIEG_E_TOO_LARGE, "the body is larger than %zu MiB", most >> 20);
		else if (!json_is_object(body))
			rc = body ? err_set(&e, KLIEG_E_TYPE, "the body must be a JSON object") :
				err_at(&e, KLIEG_E_SYNTAX, je.line, je.column, "the body is not JSON: %s", je.text);
		else
			rc = fill(found->body, body, false, c->body, &e);
		json_decref(body);
	}
	if (rc < 0)
		call_fail(c, &e);
	else
		run(c, found->handler);
}

static json_t *schema(const struct field *f)
{
	static const char *const types[] = { "string", "integer", "boolean", "number", "string", "string", "string", "string", "array" };
	json_t *o = json_pack("{ss}", "type", types[f->type]);
	if (f->type == F_TEXTS)
		json_object_set_new(o, "items", json_pack("{ss}", "type", "string")), json_object_set_new(o, "maxItems", json_integer((json_int_t)f->min));
	if (f->nullable)
		json_object_set_new(o, "type", json_pack("[ss]", types[f->type], "null"));
	if (f->type == F_INT || f->type == F_NUMBER)
		json_object_set_new(o, "minimum", json_real(f->min)), json_object_set_new(o, "maximum", json_real(f->max));
	if (f->fallback)
		json_object_set_new(o, "default", from_text(f, str_of(f->fallback)));
	if (f->choices) {
		json_t *a = json_array();
		for (const char *p = f->choices; *p;) {
			size_t n = strcspn(p, "|");
			json_array_append_new(a, json_stringn(p, n));
			p += n + (p[n] == '|');
		}
		json_object_set_new(o, "enum", a);
	}
	return o;
}

static json_t *shape(const char **p);
static json_t *shape_object(const char **p)          /* up to the `}` or the end */
{
	json_t *props = json_object(), *required = json_array();
	while (**p && **p != '}') {
		size_t n = strcspn(*p, ":?");
		json_t *key = json_stringn(*p, n);
		*p += n;
		if (**p == '?')
			++*p;
		else
			json_array_append(required, key);
		++*p;
		json_object_set_new(props, json_string_value(key), shape(p));
		json_decref(key);
		*p += **p == ',';
	}
	return json_pack("{ss so so}", "type", "object", "properties", props, "required", required);
}
static json_t *shape(const char **p)
{
	char c = *(*p)++, ref[80];
	json_t *o, *type;
	if (c == '@') {
		size_t n = strcspn(*p, ",]}>?");
		snprintf(ref, sizeof(ref), "#/components/schemas/%.*s", (int)n, *p);
		*p += n;
		o = json_pack("{ss}", "$ref", ref);
	} else if (c == '{') {
		o = shape_object(p);
		++*p;
	} else if (c == '[') {
		o = json_pack("{ss so}", "type", "array", "items", shape(p));
		++*p;
	} else if (c == '<') {
		o = json_pack("{ss so}", "type", "object", "additionalProperties", shape(p));
		++*p;
	} else if (c == '*') {
		o = json_object();
	} else {
		o = json_pack("{ss}", "type", c == 's' ? "string" : c == 'i' ? "integer" : c == 'n' ? "number" : "boolean");
	}
	if (**p != '?')
		return o;
	++*p;
	if ((type = json_object_get(o, "type"))) {
		json_object_set_new(o, "type", json_pack("[Os]", type, "null"));
		return o;
	}
	return json_pack("{s[o{ss}]}", "anyOf", o, "type", "null");
}
static json_t *answer_schema(const struct route *rt)
{
	const char *p = rt->answers;
	return *p == '@' ? shape(&p) : shape_object(&p);
}

void api_openapi(struct call *c)
{
	json_t *paths = json_object(), *schemas = json_object();
	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
		const char *p = shapes[i].fields;
		json_object_set_new(schemas, shapes[i].name, shape_object(&p));
	}
	const char *problem = "type:s,title:s,status:i,detail:s,code:s,hint?:s,line?:i,column?:i";
	json_object_set_new(schemas, "problem", shape_object(&problem));
	for (int i = 0; i < NROUTES; i++) {
		const struct route *rt = &routes[i];
		char path[80], method[8] = "";
		snprintf(path, sizeof(path), "/api/v1%s", rt->path);
		for (int k = 0; rt->method[k]; k++)
			method[k] = rt->method[k] | 32;
		json_t *item = json_object_get(paths, path), *params = json_array(), *op;
		if (!item)
			json_object_set_new(paths, path, item = json_object());
		const char *in = strchr(rt->path, '{');
		if (in)
			json_array_append_new(params, json_pack("{ss% ss sb s{ss}}", "name", in + 1, strcspn(in + 1, "}"), "in", "path", "required",
				1, "schema", "type", "string"));
		for (const struct field *f = rt->params; f && f->name; f++)
			json_array_append_new(params, json_pack("{ss ss so}", "name", f->name, "in", "query", "schema", schema(f)));
		json_t *ok = json_object(), *responses;
		if (rt->answers)
			json_object_set_new(ok, "application/json", json_pack("{so}", "schema", answer_schema(rt)));
		else
			json_object_set_new(ok, "text/event-stream", json_pack("{s{ss}}", "schema", "type", "string"));
		responses = json_pack("{s{ss so} s{ss s{s{s{ss}}}}}", rt->handler == api_toggle_on ? "201" : "200", "description", rt->about, "content", ok,
			"default", "description", "what was wrong", "content", "application/problem+json", "schema", "$ref", "#/components/schemas/problem");
		if (rt->handler == api_toggle_on)
			json_object_set_new(responses, "200", json_pack("{ss sO}", "description", "dry_run", "content", ok));
		op = json_pack("{ss ss so so}", "summary", rt->about, "x-permission", rt->permission, "parameters", params, "responses", responses);
		if (rt->body) {
			json_t *props = json_object(), *body;
			for (const struct field *f = rt->body; f->name; f++)
				json_object_set_new(props, f->name, schema(f));
			body = json_pack("{ss so sb}", "type", "object", "properties", props, "additionalProperties", 0);
			for (const struct field *f = rt->body; f->name; f++)
				if (f->required || (f->type == F_SELECTOR && !f->fallback && !f->nullable)) {     /* as fill() has it */
					json_t *required = json_object_get(body, "required");
					if (!required)
						json_object_set_new(body, "required", required = json_array());
					json_array_append_new(required, json_string(f->name));
				}
			json_object_set_new(op, "requestBody", json_pack("{s{s{so}}}", "content", "application/json", "schema", body));
		}
		json_object_set_new(item, method, op);
	}
	call_json(c, 200, json_pack("{ss s{ss ss} so s{so}}", "openapi", "3.1.0", "info", "title", "Klieg", "version", "1", "paths", paths,
		"components", "schemas", schemas));
}
