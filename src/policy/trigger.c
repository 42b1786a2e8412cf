/* When a trigger raises and lowers. Only streaks count: of breach, of calm; between the two (the hysteresis) both are broken, so a value that swings
 * moves nothing. Pure. */
#include "policy/policy.h"
#include <math.h>

#define GAP_MAX_NS 10000000000ll /* between two measurements no more than this is taken as proven */

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
		return TRIGGER_STAY;
	}
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
	if (calm && s->level > s->base && now_ns - s->since_ns >= t->decay_ns) {
		s->level--;
		s->since_ns = now_ns;
		s->quiet_until_ns = now_ns + t->cooldown_ns;
		return TRIGGER_DOWN;
	}
	return TRIGGER_STAY;
}
