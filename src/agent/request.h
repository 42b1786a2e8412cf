/* Rules on what is known when a request comes (`.tenant = "7"`), compiled for one process: request.c. Agent thread. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct process;
struct traceql;
/* Can it be decided in a process? KLIEG_E_UNSUPPORTED with a hint: it takes a regular expression that is more than beginnings, ends and alternatives, or arithmetic. */
int request_check(const struct traceql *q, struct err *e);
/* From the grants of p: which sites classify (site.classifies), and their programs into the region. True: other sites classify than before. */
bool requests_install(struct process *p);
