/* When a trigger raises and lowers. Only streaks count: of breach, of calm; between the two (the hysteresis) both are broken, so a value that swings
 * moves nothing. Silence is no breach: what nobody measures any more is lowered, too, so that nothing stays raised for ever. Pure. */
#include "policy/policy.h"
#include <math.h>
#include <stdio.h>

#define GAP_MAX_NS 10000000000ll /* between two measurements no more than this is taken as proven */

static enum trigger_move lower(const struct policy_trigger *t, struct trigger_state *s, int64_t now_ns)
{
	s->level--;
	s->since_ns = now_ns;
	s->silent_ns = 0;
	s->quiet_until_ns = now_ns + t->cooldown_ns;
	return TRIGGER_DOWN;
}

enum trigger_move trigger_step(const struct policy_trigger *t, struct trigger_state *s, int64_t now_ns, bool known, double value)
{
	struct tq_metric m;
	if (!traceql_metric(t->q, &m) || !m.compared)
		return TRIGGER_STAY;
	s->level = s->level < s->base ? s->base : s->level;
	int64_t gap = now_ns - s->last_ns;
	bool first = !s->last_ns;
	s->last_ns = now_ns;
	if (!first && gap < 0) { /* the clock was set back: nothing that was measured says how long it lasted */
		s->since_ns = now_ns;
		s->quiet_until_ns = s->quiet_until_ns > now_ns + t->cooldown_ns ? now_ns + t->cooldown_ns : s->quiet_until_ns;
		gap = 0;
	}
	if (!known || isnan(value)) { /* this time counts neither way */
		s->since_ns += first ? 0 : gap;
		s->silent_ns += first ? 0 : gap > GAP_MAX_NS ? GAP_MAX_NS : gap;
		return s->silent_ns >= t->decay_ns && s->level > s->base ? lower(t, s, now_ns) : TRIGGER_STAY;
	}
	s->silent_ns = 0;
	if (!first && gap > GAP_MAX_NS)
		s->since_ns += gap - GAP_MAX_NS;
	bool above = m.cmp[0] == '>', equal = m.cmp[1] == '=';
	double off = above ? value - m.threshold : m.threshold - value, band = fabs(m.threshold) * .1;
	bool breached = equal ? off >= 0 : off > 0, calm = !breached && (off < -band || m.threshold == 0);
	if (breached != s->breached || calm != s->calm) {
		s->since_ns = now_ns;
		s->breached = breached;
		s->calm = calm;
	}
	if (breached && s->level < t->to && (!s->quiet_until_ns || now_ns >= s->quiet_until_ns) && now_ns - s->since_ns >= t->over_ns) {
		s->level++;
		s->since_ns = now_ns;
		return TRIGGER_UP;
	}
	return calm && s->level > s->base && now_ns - s->since_ns >= t->decay_ns ? lower(t, s, now_ns) : TRIGGER_STAY;
}

static void amount(double v, bool time, const char *unit, char ret[40])
{
	if (!time)
		snprintf(ret, 40, "%.4g%s", v, unit);
	else if (fabs(v) < 1e3)
		snprintf(ret, 40, "%.4g ns", v);
	else if (fabs(v) < 1e6)
		snprintf(ret, 40, "%.4g us", v / 1e3);
	else if (fabs(v) < 1e9)
		snprintf(ret, 40, "%.4g ms", v / 1e6);
	else
		snprintf(ret, 40, "%.4g s", v / 1e9);
}

void trigger_words(const struct policy_trigger *t, double value, bool up, char *ret_text, size_t n)
{
	static const char *const fns[] = { [TQ_MIN] = "the least", [TQ_MAX] = "the greatest", [TQ_AVG] = "the mean", [TQ_SUM] = "the sum" };
	struct tq_metric m;
	char what[80], is[40], limit[40], lasted[40];
	if (!traceql_metric(t->q, &m) || !m.compared) {
		snprintf(ret_text, n, "%s", "");
		return;
	}
	const char *of = traceql_metric_waits(&m) ? "of what requests waited" : "of the durations";
	bool time = m.fn != TQ_RATE && m.fn != TQ_COUNT, above = (m.cmp[0] == '>') == up;
	if (m.fn == TQ_QUANTILE)
		snprintf(what, sizeof what, "the p%.6g %s", m.quantile * 100, of);
	else if (time)
		snprintf(what, sizeof what, "%s %s", fns[m.fn] ? fns[m.fn] : "the metric", of);
	else
		snprintf(what, sizeof what, "%s", m.fn == TQ_RATE ? "the rate" : "the number of calls");
	const char *unit = m.baseline_ns ? " times as usual" : m.fn == TQ_RATE ? "/s" : "";
	amount(value, time && !m.baseline_ns, unit, is);
	amount(m.threshold, time && !m.baseline_ns, unit, limit);
	amount((double)(up ? t->over_ns : t->decay_ns), true, "", lasted);
	if (isnan(value)) {
		snprintf(ret_text, n, "nothing was measured for %s", lasted);
		return;
	}
	snprintf(ret_text, n, "%s is %s, %s %s for %s", what, is, above ? "over" : "under", limit, lasted);
}
