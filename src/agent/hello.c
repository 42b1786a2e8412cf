/* Where libraries meet the agent: an AF_UNIX SOCK_SEQPACKET listener in a private directory, one message with a memfd per process.
 * Also finds processes that were there first: their maps name the memfd. Agent thread; owns the listening socket and its lock file. */
#include "agent/state.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int make_dir(const char *socket, struct err *e)
{
	char *copy = str_dup(str_of(socket)), *dir = dirname(copy);
	int rc = 0;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		rc = err_set(e, err_from_errno(errno), "cannot create %s: %s", dir, strerror(errno));
	free(copy);
	return rc;
}

/* The lock file decides who owns the socket: the kernel drops it with its owner, so a stale socket is one nobody holds the lock of. */
int hello_listen(struct agent *a, struct err *e)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (strlen(a->socket) >= sizeof to.sun_path)
		return err_set(e, KLIEG_E_LIMIT, "the socket path %s is longer than %zu bytes", a->socket, sizeof to.sun_path - 1);
	memcpy(to.sun_path, a->socket, strlen(a->socket) + 1);
	int rc = make_dir(a->socket, e);
	if (rc < 0)
		return rc;
	char lock[160];
	snprintf(lock, sizeof lock, "%s.lock", a->socket);
	a->lock_fd = open(lock, O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (a->lock_fd < 0)
		return err_set(e, err_from_errno(errno), "cannot open %s: %s", lock, strerror(errno));
	if (flock(a->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		err_set(e, KLIEG_E_CONFLICT, "another agent owns %s", a->socket);
		return err_hint(e, "use that one, or another --dir / KLIEG_SOCKET");
	}
	struct stat st;
	if (lstat(a->socket, &st) == 0) {
		if (!S_ISSOCK(st.st_mode))
			return err_set(e, KLIEG_E_CONFLICT, "%s exists and is not a socket", a->socket);
		unlink(a->socket);
	}
	a->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t before = umask(0177);
	int bound = a->listen_fd < 0 ? -1 : bind(a->listen_fd, (struct sockaddr *)&to, sizeof to);
	int saved = errno;
	umask(before);
	if (bound < 0)
		return err_set(e, err_from_errno(saved), "cannot bind %s: %s", a->socket, strerror(saved));
	if (listen(a->listen_fd, 1024) < 0)
		return err_set(e, KLIEG_E_IO, "cannot listen on %s: %s", a->socket, strerror(errno));
	return 0;
}

void hello_close(struct agent *a)
{
	if (a->listen_fd >= 0) {
		close(a->listen_fd);
		unlink(a->socket);
	}
	if (a->lock_fd >= 0)
		close(a->lock_fd);
	a->listen_fd = a->lock_fd = -1;
}

/* One message, already there or not worth waiting for: the library sends before it closes, and a silent peer must not hold us up. */
static void one(struct agent *a, int fd)
{
	struct ucred peer;
	socklen_t n = sizeof peer;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
		return;
	if (peer.uid != geteuid() && peer.uid != 0 && geteuid() != 0) {
		log_warn("agent", "refused a handshake from uid %u, pid %d", peer.uid, peer.pid);
		return;
	}
	struct kw_hello hello;
	struct iovec v = { &hello, sizeof hello };
	union { struct cmsghdr h; char b[CMSG_SPACE(4 * sizeof(int))]; } c;
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = c.b, .msg_controllen = sizeof c.b };
	struct timeval wait = { 0, 20000 };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	ssize_t got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	if (got < 0)
		return;
	int memfd = -1;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		size_t fds = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < fds; i++) {
			int x;
			memcpy(&x, CMSG_DATA(h) + i * sizeof x, sizeof x);
			if (memfd < 0)
				memfd = x;
			else
				close(x);
		}
	}
	if (got != sizeof hello || hello.magic != KW_MAGIC || hello.version != KW_VERSION || memfd < 0) {
		log_warn("agent", "refused a malformed handshake from pid %d", peer.pid);
		if (memfd >= 0)
			close(memfd);
		return;
	}
	process_adopt(a, peer.pid, peer.uid, memfd, ADOPT_HELLO); /* owns memfd */
}

void hello_accept(struct agent *a)
{
	for (int i = 0; i < 64; i++) {
		int fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return;
		one(a, fd);
		close(fd);
	}
}

/* The memfd's number in a process, or -1. map_files needs root; the library keeps a descriptor open for the others. */
static int open_memfd(pid_t pid, const char *maps_line)
{
	char path[128];
	unsigned long long from, to, off;
	if (sscanf(maps_line, "%llx-%llx %*s %llx", &from, &to, &off) != 3)
		return -1;
	snprintf(path, sizeof path, "/proc/%d/map_files/%llx-%llx", pid, from, to);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	DIR *d = opendir(path);
	for (struct dirent *e; d && fd < 0 && (e = readdir(d));) {
		char link[512], target[64] = "";
		snprintf(link, sizeof link, "/proc/%d/fd/%s", pid, e->d_name);
		if (readlink(link, target, sizeof target - 1) > 0 && !strncmp(target, "/memfd:" KW_MEMFD_NAME " ", 8 + strlen(KW_MEMFD_NAME)))
			fd = open(link, O_RDWR | O_CLOEXEC);
	}
	if (d)
		closedir(d);
	return fd;
}

/* Adopts a process whose maps show a region, unless it is known. */
static void look_at(struct agent *a, pid_t pid)
{
	for (uint32_t i = 0; i < a->nprocs; i++)
		if (a->procs[i]->pid == pid && !a->procs[i]->exited_ns)
			return;
	char path[64], line[512];
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *f = fopen(path, "re");
	struct stat st;
	if (!f)
		return;
	while (fgets(line, sizeof line, f))
		if (strstr(line, "/memfd:" KW_MEMFD_NAME " ")) {
			int fd = open_memfd(pid, line);
			if (fd >= 0 && fstat(fileno(f), &st) == 0)
				process_adopt(a, pid, st.st_uid, fd, ADOPT_FOUND);
			break;
		}
	fclose(f);
}

void discover(struct agent *a)
{
	DIR *d = opendir("/proc");
	for (struct dirent *e; d && (e = readdir(d));) {
		pid_t pid = atoi(e->d_name);
		if (pid > 0 && pid != getpid())
			look_at(a, pid);
	}
	if (d)
		closedir(d);
}

void discover_children(struct process *p)
{
	struct agent *a = p->agent;
	char path[64], name[64];
	bool any = false;
	snprintf(path, sizeof path, "/proc/%d/task", p->pid);
	DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));) {
		int child;
		snprintf(name, sizeof name, "%.40s/%.10s/children", path, e->d_name);
		FILE *f = e->d_name[0] != '.' ? fopen(name, "re") : NULL;
		any |= f != NULL;
		while (f && fscanf(f, "%d", &child) == 1)
			look_at(a, child);
		if (f)
			fclose(f);
	}
	if (d)
		closedir(d);
	if (!any) /* a kernel without that file */
		discover(a);
}
