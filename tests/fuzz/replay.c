/* Feeds every file of the directories (or files) in argv to a fuzz target, so that `make test` replays its corpus without a fuzzer. */
#include "base/buf.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int files;

static void feed(const char *path)
{
	DIR *d = opendir(path);
	if (d) {
		for (struct dirent *e; (e = readdir(d));) {
			if (e->d_name[0] == '.')
				continue;
			char sub[4096];
			snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
			feed(sub);
		}
		closedir(d);
		return;
	}
	struct buf b = { 0 };
	if (buf_read_file(path, 64u << 20, &b) < 0) {
		fprintf(stderr, "cannot read %s\n", path);
		exit(2);
	}
	/* An exact-size copy, so that a sanitizer sees a read past the end. */
	uint8_t *copy = base_alloc(b.n);
	if (b.n)
		memcpy(copy, b.p, b.n);
	LLVMFuzzerTestOneInput(copy, b.n);
	free(copy);
	buf_finish(&b);
	files++;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		feed(argv[i]);
	printf("replayed %d inputs\n", files);
	return files ? 0 : 1;
}
