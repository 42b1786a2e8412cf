/* The executable: the command line, with the subcommands that serve (cli/up.c) linked in. Only here do agent and server meet. */
#include "cli/cli.h"

int main(int argc, char **argv) { return cli_main(argc, argv); }
