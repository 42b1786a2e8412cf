/* Sockets and files: the calls of libc in which a thread waits for the kernel. One plugin for both, since read() and write()
 * serve both; io.kind says which it was. At detail: the peer of a socket, the path of a file, and how many bytes went through.
 * Results below 0 are errors, but for EAGAIN on a non-blocking descriptor, which is only an answer. */
#include <klieg/plugin.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int filtered; /* by seccomp: no system calls of ours */

/* What a descriptor is. file.path by /proc: the kernel's word, whatever it was opened as. */
static void describe(struct klieg_call *c, int fd, char path[512])
{
	struct stat st;
	if (filtered || fstat(fd, &st))
		return;
	const char *kind = S_ISSOCK(st.st_mode) ? "socket" : S_ISREG(st.st_mode) ? "file" : S_ISFIFO(st.st_mode) ? "pipe" : S_ISCHR(st.st_mode) ? "device" : "other";
	klieg_set_text(c, "io.kind", kind);
	klieg_set_int(c, "io.fd", fd);
	if (S_ISSOCK(st.st_mode)) {
		struct sockaddr_storage ss;
		socklen_t n = sizeof ss;
		if (!getpeername(fd, (struct sockaddr *)&ss, &n))
			c->host->address(c, "network.peer", &ss, n);
	} else if (S_ISREG(st.st_mode)) {
		char link[32];
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, path, 511);
		if (n > 0)
			klieg_set_textn(c, "file.path", path, (size_t)n);
	}
}

static void fd_begin(struct klieg_call *c)
{
	char path[512];
	describe(c, klieg_arg_int(c, 0), path);
}

static void failed(struct klieg_call *c)
{
	if (errno != EAGAIN && errno != EINPROGRESS && errno != EINTR) {
		char text[64];
		c->host->status(c, 1, strerror_r(errno, text, sizeof text));
	}
}

static void bytes_leave(struct klieg_call *c)
{
	if ((int64_t)c->result >= 0)
		klieg_set_int(c, "io.bytes", (int64_t)c->result);
	else
		failed(c);
}

static void int_leave(struct klieg_call *c)
{
	if (klieg_result_int(c) < 0)
		failed(c);
}

/* For requests whose server is not known here: how long what is read has waited. */
static int reads(struct klieg_call *c)
{
	if (!filtered && c->host->size >= sizeof *c->host)
		c->host->reading(c, klieg_arg_int(c, 0));
	return KLIEG_TRACE;
}

static void connect_begin(struct klieg_call *c)
{
	c->host->address(c, "network.peer", klieg_arg(c, 1), (size_t)klieg_arg_int(c, 2));
}

static void accept_leave(struct klieg_call *c)
{
	char path[512];
	if (klieg_result_int(c) >= 0)
		describe(c, klieg_result_int(c), path);
	else
		failed(c);
}

static void open_begin(struct klieg_call *c) { klieg_set_text(c, "file.path", klieg_arg(c, 0)); }
static void openat_begin(struct klieg_call *c) { klieg_set_text(c, "file.path", klieg_arg(c, 1)); }

#define LIBC "libc.so.6"
#define BYTES(name) { .library = LIBC, .function = name, .site = "io." name, .level = KLIEG_LEVEL_SPAN, .begin = fd_begin, \
	.leave = bytes_leave }
#define READS(name) { .library = LIBC, .function = name, .site = "io." name, .level = KLIEG_LEVEL_SPAN, .enter = reads, .begin = fd_begin, \
	.leave = bytes_leave }
#define INT(name, start) { .library = LIBC, .function = name, .site = "io." name, .level = KLIEG_LEVEL_SPAN, .begin = start, \
	.leave = int_leave }
static const struct klieg_plugin_hook hooks[] = {
	{ .library = LIBC, .function = "connect", .site = "io.connect", .kind = KLIEG_KIND_CLIENT, .level = KLIEG_LEVEL_SPAN,
		.begin = connect_begin, .leave = int_leave },
	{ .library = LIBC, .function = "accept", .site = "io.accept", .level = KLIEG_LEVEL_SPAN, .leave = accept_leave },
	{ .library = LIBC, .function = "accept4", .site = "io.accept", .level = KLIEG_LEVEL_SPAN, .leave = accept_leave },
	BYTES("send"), BYTES("sendto"), BYTES("sendmsg"), READS("recv"), READS("recvfrom"), READS("recvmsg"), BYTES("sendfile"),
	READS("read"), BYTES("write"), READS("readv"), BYTES("writev"), BYTES("pread"), BYTES("pwrite"),
	INT("fsync", fd_begin), INT("fdatasync", fd_begin), INT("open", open_begin), INT("openat", openat_begin),
};

static const struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "io", "1.0", "glibc 2.17 and later", NULL,
	KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	filtered = host->filtered();
	return &plugin;
}
