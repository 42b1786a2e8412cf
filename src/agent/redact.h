/* Attributes whose values rules hide: before they are written. */
#pragma once
struct process;
struct site;
struct rule;

void redact_install(struct process *p);                                                 /* the names that p's grants hide, into the region */
void redact_site(const struct process *p, struct site *s, const struct rule *r);        /* adds what r hides at s; after redact_install */
