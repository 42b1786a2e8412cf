/* Arguments and lines from DWARF. */
#include "symbols/internal.h"
void dwarf_names(struct symbols *s) { }
void dwarf_finish(struct symbols *s) { }
int symbols_signature(const struct symbols *s, const struct symbols_function *f, struct symbols_signature *ret_sig)
{
	*ret_sig = (struct symbols_signature){ .known = false };
	return 0;
}
bool symbols_line(const struct symbols *s, uint64_t addr, const char **ret_file, uint32_t *ret_line)
{
	return false;
}
