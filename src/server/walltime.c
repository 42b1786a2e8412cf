/* The wall clock can be set: by hours, by a person, by a machine that wakes up. What ends by time was granted for a time, so its end moves with the clock and it
 * lasts as long as it was to; agents count by the clock that nobody sets. Looked at every second and before anything is compared with the clock. Loop thread. */
#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"
#include <stdlib.h>

#define JUMP_NS 1000000000ll  /* less is the clock being corrected, and nobody's minutes depend on it */

void server_clock(struct server *s)
{
	int64_t mono = clock_mono(), offset = clock_wall() - mono, by = offset - s->clock_offset;
	if (!s->clock_offset || llabs(by) < JUMP_NS) {
		s->clock_offset = offset;
		return;
	}
	s->clock_offset = offset;
	s->clock_jump = by;
	s->clock_jumped_at = mono;
	log_warn("server", "the clock was set %s by %.1f s; what ends by time lasts as long as it was to", by > 0 ? "forward" : "back", (double)llabs(by) / 1e9);
	toggles_shift(s, by);
	desired_shift(s, by);
	policies_shift(s, by);
}
