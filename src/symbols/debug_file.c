/* Finds the file that has a program's symbols and DWARF: the one the user names, or one installed under /usr/lib/debug, by build-id or by
 * the program's .gnu_debuglink. Runs once, while opening. The path in a link comes from the program, so only its last part is used. */
#include "symbols/debug_file.h"
#include "base/buf.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define CRC_MAX (1ull << 30) /* bytes of a debug file whose checksum is worth computing */

static int open_regular(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
		close(fd);
		errno = EINVAL;
		return -1;
	}
	return fd;
}

static bool crc_is(int fd, uint64_t size, uint32_t crc)
{
	uint8_t part[65536];
	uLong sum = crc32(0, NULL, 0);
	for (uint64_t off = 0; off < size && size <= CRC_MAX;) {
		ssize_t n = pread(fd, part, sizeof part, (off_t)off);
		if (n <= 0)
			return false;
		sum = crc32(sum, part, (uInt)n);
		off += (uint64_t)n;
	}
	return sum == crc;
}

/* An installed file that does not fit is no error: there is just none. */
static int try_installed(const char *path, const char *build_id, const uint32_t *crc, struct image *ret_debug)
{
	struct image im;
	char id[2 * 64 + 1];
	int fd = open_regular(path);
	if (fd < 0)
		return -1;
	if (image_open(fd, false, &im, NULL) < 0) {
		close(fd);
		return -1;
	}
	image_build_id(&im, id);
	if (*build_id ? strcmp(id, build_id) : !crc || !crc_is(fd, im.size, *crc)) {
		image_finish(&im);
		close(fd);
		return -1;
	}
	*ret_debug = im;
	return fd;
}

static int by_link(struct image *im, const char *build_id, struct image *ret_debug)
{
	const Elf64_Shdr *sh = image_section(im, ".gnu_debuglink");
	const uint8_t *p = sh && sh->sh_type != SHT_NOBITS ? image_bytes(im, sh->sh_offset, sh->sh_size) : NULL;
	const char *name = p ? image_string(p, sh->sh_size, 0) : NULL;
	char link[64], path[PATH_MAX], *slash;
	uint32_t crc;
	if (!name || !*name || strchr(name, '/') || strlen(name) > NAME_MAX)
		return -1;
	uint64_t at = (strlen(name) + 4) & ~3ull;
	if (at + 4 > sh->sh_size)
		return -1;
	memcpy(&crc, p + at, 4);
	snprintf(link, sizeof link, "/proc/self/fd/%d", im->fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n <= 0)
		return -1;
	path[n] = 0;
	if (!(slash = strrchr(path, '/')))
		return -1;
	*slash = 0;
	static const char *const places[] = { "%s/.debug/%s", "/usr/lib/debug%s/%s", "%s/%s" };
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		char *there;
		if (asprintf(&there, places[i], path, name) < 0)
			return -1;
		int fd = try_installed(there, build_id, &crc, ret_debug);
		free(there);
		if (fd >= 0)
			return fd;
	}
	return -1;
}

int debug_file_find(struct image *im, const char *build_id, struct image *ret_debug)
{
	if (strlen(build_id) > 2) {
		char path[PATH_MAX];
		snprintf(path, sizeof path, "/usr/lib/debug/.build-id/%.2s/%s.debug", build_id, build_id + 2);
		int fd = try_installed(path, build_id, NULL, ret_debug);
		if (fd >= 0)
			return fd;
	}
	return by_link(im, build_id, ret_debug);
}

int debug_file_open(const char *path, const char *build_id, uint16_t machine, struct image *ret_debug, struct err *e)
{
	struct image im;
	struct err why = { 0 };
	char id[2 * 64 + 1];
	int fd = open_regular(path);
	if (fd < 0)
		return err_set(e, errno == ENOENT ? KLIEG_E_NOT_FOUND : errno == EINVAL ? KLIEG_E_BAD_DATA : err_from_errno(errno), "debug file %.200s: %s", path,
			errno == EINVAL ? "not a regular file" : strerror(errno));
	int rc = image_open(fd, false, &im, &why);
	if (rc < 0) {
		close(fd);
		return err_set(e, rc, "debug file %.200s: %.150s", path, why.msg);
	}
	image_build_id(&im, id);
	if (strcmp(id, build_id) || im.head.e_machine != machine) {
		rc = err_set(e, KLIEG_E_BAD_DATA, "debug file %.150s is of another build: its build-id is %.40s, that of the program %.40s", path,
			*id ? id : "missing", *build_id ? build_id : "missing");
		err_hint(e, "install the debug symbols of the very package that runs, or build the file with --build-id");
		image_finish(&im);
		close(fd);
		return rc;
	}
	*ret_debug = im;
	return fd;
}
