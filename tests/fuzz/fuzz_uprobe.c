/* What a probed file may hold: the bytes of a function's first instruction, and the file as a whole. */
#include "uprobe/internal.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = size < 16 ? size : 16;
	uint8_t *first = malloc(n ? n : 1); /* so that a read past its end is seen */
	memcpy(first, data, n);
	struct uprobe_cost c = uprobe_cost(first, n);
	if (!c.text || c.both_ns < c.entry_ns || (!n && !c.refusal))
		abort();
	free(first);
	int fd = memfd_create("file", MFD_CLOEXEC);
	struct inspect_why why;
	struct err e;
	if (fd >= 0 && write(fd, data, size) == (ssize_t)size)
		inspect_file(fd, &why, &e);
	if (fd >= 0)
		close(fd);
	return 0;
}
