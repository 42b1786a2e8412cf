/* Statements of any client through the normaliser of db.query.text: no byte past its room, no literal that survives, the same again from its own output. */
#include "probe/plugin_sql.h"
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char verb[24], again[1025];
	for (size_t room = 1; room <= 1025; room += room < 8 ? 1 : room) {
		char *out = malloc(room);
		size_t n = klieg__sql_normalise((const char *)data, size, out, room, verb);
		assert(n < room && out[n] == 0 && strlen(out) == n && strlen(verb) < sizeof verb);
		assert(!strchr(out, '\'') || strpbrk(out, "\"`")); /* each begins or ends a literal, but in a quoted name */
		free(out);
	}
	char out[1025];
	size_t n = klieg__sql_normalise((const char *)data, size, out, sizeof out, verb);
	size_t m = klieg__sql_normalise(out, n, again, sizeof again, verb);
	assert(m <= n);
	return 0;
}
