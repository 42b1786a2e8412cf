/* Any bytes as a policy: what is wrong is told, with places within the text and in valid UTF-8; or it is a policy whose JSON and rules can be made and
 * whose selectors parse again. Of every value every byte can be located. */
#include "policy/doc.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void locate_all(const struct doc *d, const struct doc_node *n)
{
	for (; n; n = n->next) {
		locate_all(d, n->first);
		size_t step = 1 + n->text.n / 200;
		for (size_t i = 0; n->kind == DOC_TEXT && i <= n->text.n; i += step)
			if (doc_locate(d, n, i) > d->source.n)
				abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = { (const char *)data, size };
	struct policy *p = NULL;
	struct policy_diags diags;
	int rc = policy_parse(text, &p, &diags);
	if ((rc < 0) != (diags.errors > 0) || (rc == 0) != (p != NULL))
		abort();
	json_t *j = policy_diags_json(&diags);
	if (json_array_size(j) != diags.n)
		abort();
	for (uint32_t i = 0; i < diags.n; i++) {
		const struct policy_diag *g = diags.list + i;
		if (g->line < 1 || g->column < 1 || g->end_column <= g->column || !g->message[0] || g->code[0] != 'P')
			abort();
	}
	json_decref(j);
	policy_diags_finish(&diags);
	if (p) {
		json_decref(policy_json(p));
		json_t *rules = policy_wire(p, 1, "a", "r", 0), *r;
		size_t i;
		json_array_foreach(rules, i, r) {
			const char *selector = json_string_value(json_object_get(r, "selector"));
			struct traceql *q;
			struct err e;
			if (!selector || (strlen(selector) < 64 * 1024 && traceql_parse(str_of(selector), &q, &e) < 0))
				abort();
			if (strlen(selector) < 64 * 1024)
				traceql_destroy(q);
		}
		json_decref(rules);
		policy_destroy(p);
	}
	struct doc d;
	if (doc_parse(&d, text, &diags) >= 0)
		locate_all(&d, d.root);
	doc_finish(&d);
	policy_diags_finish(&diags);
	return 0;
}
