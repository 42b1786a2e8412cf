/* The argument parser: what was typed, checked against a command's option table. Pure: no output, no environment, no exit; argv is permuted
 * in place so that the positional arguments stand together. Unknown words get the nearest known one as a hint. */
#include "cli/cli.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>

void cli_nearest_offer(struct cli_nearest *n, const char *candidate)
{
	unsigned d = str_distance(str_of(n->word), str_of(candidate));
	unsigned limit = strlen(n->word) <= 3 ? 1 : strlen(n->word) <= 6 ? 2 : 3;
	if (d <= limit && (!n->best || d < n->distance))
		n->best = candidate, n->distance = d;
}

static const struct cli_option *find(const struct cli_option *list, const char *name, size_t n, char letter, int *ret_i)
{
	for (int i = 0; list && list[i].name; i++)
		if (letter ? list[i].letter == letter : strlen(list[i].name) == n && !memcmp(list[i].name, name, n)) {
			*ret_i = i;
			return &list[i];
		}
	return NULL;
}

static int unknown(const struct cli_command *cmd, const char *word, size_t n, struct err *e)
{
	char *name = str_dup((struct str){ word, n });
	struct cli_nearest near = { .word = name };
	for (const struct cli_option *o = cmd->options; o && o->name; o++)
		cli_nearest_offer(&near, o->name);
	for (const struct cli_option *o = cli_common_options; o->name; o++)
		cli_nearest_offer(&near, o->name);
	err_set(e, KLIEG_E_USAGE, "klieg %s has no option '--%s'", cmd->name, name);
	if (near.best)
		err_hint(e, "did you mean: --%s\nklieg %s --help", near.best, cmd->name);
	else
		err_hint(e, "klieg %s --help", cmd->name);
	free(name);
	return KLIEG_E_USAGE;
}

int cli_parse(const struct cli_command *cmd, int argc, char **argv, struct cli_args *ret, struct err *e)
{
	struct cli_args a = { .cmd = cmd, .pos = argv + 1 };
	bool ended = false;
	for (int i = 1; i < argc; i++) {
		char *w = argv[i];
		if (ended || w[0] != '-' || !w[1]) {
			a.pos[a.npos++] = w;
			if (cmd->rest)
				ended = true;
			continue;
		}
		if (!strcmp(w, "--")) {
			ended = true;
			continue;
		}
		const struct cli_option *o;
		const char **values = a.values, *value = NULL;
		int at = 0;
		if (w[1] == '-') {
			const char *eq = strchr(w, '=');
			size_t n = eq ? (size_t)(eq - w) - 2 : strlen(w) - 2;
			if (!(o = find(cmd->options, w + 2, n, 0, &at)) && (values = a.common, !(o = find(cli_common_options, w + 2, n, 0, &at))))
				return unknown(cmd, w + 2, n, e);
			value = eq ? eq + 1 : NULL;
			if (value && !o->arg)
				return err_set(e, KLIEG_E_USAGE, "--%s takes no value", o->name);
		} else {
			if (!(o = find(cmd->options, NULL, 0, w[1], &at)) && (values = a.common, !(o = find(cli_common_options, NULL, 0, w[1], &at)))) {
				err_set(e, KLIEG_E_USAGE, "klieg %s has no option '-%c'", cmd->name, w[1]);
				return err_hint(e, "klieg %s --help", cmd->name);
			}
			if (w[2] && !o->arg)
				return err_set(e, KLIEG_E_USAGE, "-%c takes no value; write switches apart", w[1]);
			value = w[2] ? w + 2 : NULL;
		}
		if (o->arg && !value) {
			if (++i >= argc) {
				err_set(e, KLIEG_E_USAGE, "--%s needs a value: %s", o->name, o->arg);
				return err_hint(e, "klieg %s --help", cmd->name);
			}
			value = argv[i];
		}
		values[at] = o->arg ? value : "";
		if (values == a.values && o->arg) {
			if (a.ngiven == CLI_MAX_OPTIONS)
				return err_set(e, KLIEG_E_USAGE, "more than %d options", CLI_MAX_OPTIONS);
			a.given[a.ngiven].at = at;
			a.given[a.ngiven++].value = value;
		}
	}
	bool help = a.common[0] != NULL;  /* --help is the first of the common options and forgives everything else */
	if (!help && a.npos < cmd->min_args) {
		err_set(e, KLIEG_E_USAGE, "klieg %s needs %s", cmd->name, cmd->args);
		return err_hint(e, "klieg %s --help", cmd->name);
	}
	if (!help && cmd->max_args >= 0 && a.npos > cmd->max_args) {
		err_set(e, KLIEG_E_USAGE, "klieg %s: '%.80s' is one argument too many", cmd->name, a.pos[cmd->max_args]);
		return err_hint(e, "quote selectors, so that the shell does not expand them: klieg %s --help", cmd->name);
	}
	*ret = a;
	return 0;
}

const char *cli_opt(const struct cli_args *a, const char *name)
{
	int at;
	if (find(a->cmd->options, name, strlen(name), 0, &at))
		return a->values[at];
	return find(cli_common_options, name, strlen(name), 0, &at) ? a->common[at] : NULL;
}

const char *cli_opt_next(const struct cli_args *a, const char *name, int *next)
{
	int at;
	if (find(a->cmd->options, name, strlen(name), 0, &at))
		while (*next < a->ngiven)
			if (a->given[(*next)++].at == at)
				return a->given[*next - 1].value;
	return NULL;
}

int cli_parse_duration(const char *s, int64_t *ret_ns, struct err *e)
{
	static const struct { const char *unit; double ns; } units[] = { { "ns", 1 }, { "us", 1e3 }, { "µs", 1e3 }, { "ms", 1e6 }, { "s", 1e9 },
		{ "m", 60e9 }, { "h", 3600e9 }, { "d", 86400e9 } };
	double sum = 0;
	const char *p = s;
	while (*p) {
		char *end;
		if (!((*p >= '0' && *p <= '9') || *p == '.'))
			goto bad;
		double v = strtod(p, &end);
		if (end == p || !isfinite(v))
			goto bad;
		size_t n = 0, best = 0;
		for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
			size_t l = strlen(units[i].unit);
			if (!strncmp(end, units[i].unit, l) && l > n)
				n = l, best = i;
		}
		if (!n)
			goto bad;
		sum += v * units[best].ns;
		p = end + n;
	}
	if (p == s || sum <= 0 || sum > 3650 * 86400e9)
		goto bad;
	*ret_ns = (int64_t)(sum + 0.5);
	return 0;
bad:
	err_set(e, KLIEG_E_USAGE, "'%.60s' is not a duration", s);
	return err_hint(e, "write it like 250ms, 30s, 5m, 1h30m or 7d");
}

int cli_parse_keep(const char *s, double *ret_keep, struct err *e)
{
	char *end;
	double v = strtod(s, &end);
	if (end != s && *end == '%' && !end[1])
		v /= 100;
	else if (end == s || *end)
		v = -1;
	if (!(v > 0 && v <= 1)) {
		err_set(e, KLIEG_E_USAGE, "'%.60s' is not a share of traces to keep", s);
		return err_hint(e, "write it like 10%% or 0.1; more than nothing, at most 100%%");
	}
	*ret_keep = v;
	return 0;
}

int cli_parse_budget(const char *s, double *ret_percent, struct err *e)
{
	char *end;
	double v = strtod(s, &end);
	if (end == s || (*end && strcmp(end, "%")) || !(v >= 0 && v <= 100)) {
		err_set(e, KLIEG_E_USAGE, "'%.60s' is not a budget", s);
		return err_hint(e, "write it like 1%% or 0.5: percent of a process's CPU time; 0 switches the governor off");
	}
	*ret_percent = v;
	return 0;
}

int cli_parse_rate(const char *s, double *ret_per_s, struct err *e)
{
	char *end;
	double v = strtod(s, &end);
	if (end != s && !strcmp(end, "/m"))
		v /= 60;
	else if (end == s || (*end && strcmp(end, "/s")))
		v = -1;
	if (!(v > 0 && v <= 1e9)) {
		err_set(e, KLIEG_E_USAGE, "'%.60s' is not a rate", s);
		return err_hint(e, "write it like 50/s or 600/m: spans that each process keeps");
	}
	*ret_per_s = v;
	return 0;
}

int cli_parse_count(const char *s, int64_t min, int64_t max, int64_t *ret_n, struct err *e)
{
	char *end;
	errno = 0;
	long long v = strtoll(s, &end, 10);
	if (errno || end == s || *end || v < min || v > max)
		return err_set(e, KLIEG_E_USAGE, "'%.60s' is not a number between %lld and %lld", s, (long long)min, (long long)max);
	*ret_n = v;
	return 0;
}
