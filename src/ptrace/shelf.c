/* Puts a file into a target's root directory and takes it away again. That directory belongs to the target, which may have laid symbolic links there that
 * lead elsewhere: every look-up stays beneath it (openat2, RESOLVE_IN_ROOT), the file is new, and nothing is followed at its end. */
#include "ptrace/shelf.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

static const char *const folders[] = { "/tmp", "/dev/shm", "/var/tmp", "/run", "/var/run", "/" };
enum { FOLDERS = sizeof folders / sizeof *folders };

static int open_root(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/root", pid);
	return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static int open_within(int root, const char *path)
{
	struct open_how how = { .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

bool shelf_needed(pid_t pid)
{
	struct statfs fs;
	int root = open_root(pid), proc = root < 0 ? -1 : open_within(root, "/proc");
	bool needed = root >= 0 && (proc < 0 || fstatfs(proc, &fs) || fs.f_type != PROC_SUPER_MAGIC);
	if (proc >= 0)
		close(proc);
	if (root >= 0)
		close(root);
	return needed;
}

static bool usable(int folder)
{
	struct statvfs fs;
	return fstatvfs(folder, &fs) == 0 && !(fs.f_flag & (ST_NOEXEC | ST_RDONLY));
}

bool shelf_found(pid_t pid)
{
	int root = open_root(pid);
	bool found = false;
	for (unsigned i = 0; root >= 0 && i < FOLDERS && !found; i++) {
		int folder = open_within(root, folders[i]);
		found = folder >= 0 && usable(folder);
		if (folder >= 0)
			close(folder);
	}
	if (root >= 0)
		close(root);
	return found;
}

static int put_in(int folder, const char *name, const void *p, size_t n)
{
	int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0755);
	if (fd < 0)
		return -errno;
	size_t done = 0;
	for (ssize_t wrote; done < n && (wrote = write(fd, (const char *)p + done, n - done)) > 0;)
		done += (size_t)wrote;
	int error = done == n && fchmod(fd, 0755) == 0 ? 0 : -errno; /* for its user, whatever our umask is */
	close(fd);
	if (error)
		unlinkat(folder, name, 0);
	return error;
}

int shelf_put(pid_t pid, const char *name, const void *p, size_t n, char *ret_path, size_t path_n, struct err *e)
{
	int root = open_root(pid), error = -ENOENT;
	for (unsigned i = 0; root >= 0 && i < FOLDERS && error; i++) {
		int folder = open_within(root, folders[i]);
		if (folder < 0)
			continue;
		if (usable(folder)) {
			error = put_in(folder, name, p, n);
			snprintf(ret_path, path_n, "%s/%s", strcmp(folders[i], "/") ? folders[i] : "", name);
		}
		close(folder);
	}
	if (root >= 0)
		close(root);
	return error ? err_set(e, KLIEG_E_UNSUPPORTED, "process %d sees no /proc, and its root directory has no folder where a library could be put: %s", pid,
		strerror(-error)) : 0;
}

void shelf_remove(pid_t pid, const char *path)
{
	char folder_path[64];
	const char *slash = strrchr(path, '/');
	snprintf(folder_path, sizeof folder_path, "%.*s", slash == path ? 1 : (int)(slash - path), path);
	int root = open_root(pid), folder = root < 0 ? -1 : open_within(root, folder_path);
	if (folder >= 0) {
		unlinkat(folder, slash + 1, 0);
		close(folder);
	}
	if (root >= 0)
		close(root);
}
