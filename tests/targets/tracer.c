/* Another tracer: holds process argv[1] by ptrace (it runs on) until stdin closes. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char c;
	if (argc < 2 || ptrace(PTRACE_SEIZE, atoi(argv[1]), 0, 0)) {
		perror("tracer");
		return 1;
	}
	printf("ready %s\n", argv[1]);
	fflush(stdout);
	return read(0, &c, 1) < 0;
}
