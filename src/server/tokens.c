/* Tokens: a header that makes one service trace the requests that carry it, for some minutes. Nobody needs to be asked when it is used: it is signed
 * with the service's key, which is derived from the master key that the agents have (docs/agent-protocol.md). Loop thread; keeps nothing. */
#include "base/clock.h"
#include "base/log.h"
#include "server/policies.h"
#include "wire/siphash.h"
#include <stdio.h>

void api_tokens(struct call *c)
{
	const char *service = jtext(c->body, "service");
	uint8_t master[16], key[16], tag[16], level = 0;
	char value[80], curl[200], object[100];
	int64_t expires_s = (clock_wall() + jint(c->body, "ttl") + 999999999) / 1000000000;
	if (!*service) {
		err_set(&c->e, KLIEG_E_USAGE, "'service' is required: the one that the request comes to first");
		err_hint(&c->e, "klieg ps lists them");
		call_fail(c, &c->e);
		return;
	}
	const char *hex = desired_token_key(c->s);
	for (unsigned i = 0; i < sizeof(master); i++)
		sscanf(hex + 2 * i, "%2hhx", &master[i]);
	policy_level_parse(str_of(jtext(c->body, "level")), &level);
	siphash128(master, service, strlen(service), key);
	int n = snprintf(value, sizeof(value), "v1.%u.%llx", level, (unsigned long long)expires_s);
	siphash128(key, value, (size_t)n, tag);
	value[n++] = '.';
	for (unsigned i = 0; i < sizeof(tag); i++)
		n += snprintf(value + n, sizeof(value) - (size_t)n, "%02x", tag[i]);
	snprintf(curl, sizeof(curl), "curl -H 'klieg-level: %s' URL", value);
	log_info("server", "a token for requests to %s at level %s, by %s: %s", service, jtext(c->body, "level"), jtext(c->body, "owner"), jtext(c->body, "reason"));
	snprintf(object, sizeof(object), "token:%.80s", service);
	audit_call(c, "token", object, NULL, json_pack("{ss ss sI}", "service", service, "level", jtext(c->body, "level"), "expires_unix_nano",
		(json_int_t)expires_s * 1000000000));
	call_json(c, 200, json_pack("{ss ss sI ss ss ss}", "header", "klieg-level", "value", value, "expires_unix_nano",
		(json_int_t)expires_s * 1000000000, "service", service,
		"level", jtext(c->body, "level"), "curl", curl));
}
